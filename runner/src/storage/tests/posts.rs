//! Vanilla PoSts of sectors that lie on several machines.

use std::time::Duration;

use curio_core::SpId;
use curio_proofs::PostKind;
use curio_proofs::child::{Message, Progress, Response, VanillaPost};
use reqwest::StatusCode;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::storage::remote::digest;
use crate::storage::remote::token::{Scope, sign};
use crate::storage::{ChallengedSector, PostLimits, VanillaPosts};

const LIMITS: PostLimits = PostLimits { parallel: 8, single: Duration::from_secs(20), whole: Duration::from_secs(40) };

/// A prover that answers these outcomes, whatever it is asked, and then does what the script says.
fn answering(cluster: &Cluster, outcomes: &[(u64, Result<Vec<u8>, String>)], then: &str) -> Prover {
    let lines = outcomes.iter().map(|(number, outcome)| {
        let post = VanillaPost { number: *number, outcome: outcome.clone() };
        format!("echo '{}';", serde_json::to_string(&Message::Progress(Progress::VanillaPost(post))).unwrap())
    });
    fake_prover(cluster.dir.path(), &format!("cat >/dev/null; {} {then}", lines.collect::<String>()))
}

fn done() -> String {
    format!("echo '{}'", serde_json::to_string(&Message::Done(Response::VanillaPosts)).unwrap())
}

fn request(numbers: &[u64]) -> VanillaPosts {
    let sectors =
        numbers.iter().map(|number| ChallengedSector { number: *number, comm_r: [1; 32], challenges: vec![3] });
    VanillaPosts { kind: PostKind::Window, proof: PROOF, sp: SpId(1000), sectors: sectors.collect() }
}

#[tokio::test]
async fn sectors_are_proven_on_the_machines_that_have_them() {
    let cluster = Cluster::new().await;
    let (here, there) = (cluster.machine("here"), cluster.machine("there"));
    let near = cluster.attach(&here, "near", storing()).await;
    let far = cluster.attach(&there, "far", storing()).await;
    cluster.finalized_sector(&here, &near, 1).await;
    cluster.finalized_sector(&there, &far, 2).await;
    cluster.finalized_sector(&there, &far, 3).await;
    let outcomes = [(3, Err("its cache is damaged".to_owned())), (2, Ok(vec![2]))];
    cluster.serve(&there, answering(&cluster, &outcomes, &done())).await;
    let prover = answering(&cluster, &[(1, Ok(vec![1]))], &done());

    let found = here.vanilla_posts(&prover, &request(&[1, 2, 3, 4]), &LIMITS, &CancellationToken::new()).await.unwrap();

    assert_eq!(found[&1], Ok(vec![1]));
    assert_eq!(found[&2], Ok(vec![2]));
    assert_eq!(found[&3], Err("its cache is damaged".to_owned()));
    assert_eq!(found[&4], Err("no running machine reaches a path with its sealed file and cache".to_owned()));
}

#[tokio::test]
async fn what_came_before_a_machine_fell_silent_counts() {
    let cluster = Cluster::new().await;
    let (here, there) = (cluster.machine("here"), cluster.machine("there"));
    let far = cluster.attach(&there, "far", storing()).await;
    cluster.finalized_sector(&there, &far, 1).await;
    cluster.finalized_sector(&there, &far, 2).await;
    cluster.serve(&there, answering(&cluster, &[(1, Ok(vec![1]))], "sleep 60")).await;
    let limits = PostLimits { single: Duration::from_millis(300), ..LIMITS };
    let prover = fake_prover(cluster.dir.path(), "exit 1");

    let found = here.vanilla_posts(&prover, &request(&[1, 2]), &limits, &CancellationToken::new()).await.unwrap();

    assert_eq!(found[&1], Ok(vec![1]));
    assert_eq!(found[&2], Err("there did not answer within 300ms".to_owned()));
}

#[tokio::test]
async fn a_token_is_good_for_its_own_request_only() {
    let cluster = Cluster::new().await;
    let there = cluster.machine("there");
    let address = cluster.serve(&there, fake_prover(cluster.dir.path(), "exit 1")).await;
    let post = async |body: &str, scope: Scope| {
        let token = sign(&cluster.secret, "test", scope);
        let url = format!("http://{address}/remote/vanilla/post");
        let request = reqwest::Client::new().post(url).bearer_auth(token).body(body.to_owned());
        request.send().await.unwrap().status()
    };
    let of = |body: &str| Scope::Posts { body: digest::of(body.as_bytes()) };
    assert_eq!(post("{}", of("{}")).await, StatusCode::BAD_REQUEST);
    assert_eq!(post("{}", of("{ }")).await, StatusCode::FORBIDDEN);
    assert_eq!(post("{}", Scope::Stat { path: "a".into() }).await, StatusCode::FORBIDDEN);
    let huge = " ".repeat(5 << 20);
    assert_eq!(post(&huge, of(&huge)).await, StatusCode::PAYLOAD_TOO_LARGE);
}
