//! `curio-operator check`: whether this installation works, one line per fact. `helm test` runs it.

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use crate::api::{CurioCluster, RunnerPool, SealingSector};
use crate::apply::FIELD_MANAGER;
use crate::context::Scope;

const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// One question takes at most this long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A lease that was renewed within this time is held by a process that lives, whatever the clocks' difference.
const LEASE_IS_FRESH: SignedDuration = SignedDuration::from_secs(30);

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address of the operator's Service, as in http://curio-operator:8080.
    #[arg(long)]
    operator: Url,
    /// The namespace that is watched; all of them when empty.
    #[arg(long, env = "CURIO_WATCH_NAMESPACE", default_value = "")]
    watch_namespace: String,
    /// The operator's own namespace, where its lease lies.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Longest wait until everything is well, in seconds.
    #[arg(long, default_value_t = 60)]
    wait_seconds: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("failed to reach the API server; run this in a pod, or with a kubeconfig")]
    Client(#[source] kube::Error),
    #[error("{failed} of {all} checks failed")]
    Failed { failed: usize, all: usize },
}

/// What was looked at, and either what is well or what is not and what to do.
struct Fact {
    about: &'static str,
    found: Result<String, String>,
}

/// Looks until everything is well or the time is up, and prints what was seen last.
///
/// # Errors
/// [`CheckError::Failed`] when something is not well, after it was printed.
pub async fn run(options: Options) -> Result<(), CheckError> {
    let client = Client::try_default().await.map_err(CheckError::Client)?;
    let due_by = Instant::now() + Duration::from_secs(options.wait_seconds);
    let facts = loop {
        let facts = look(&client, &options).await;
        if facts.iter().all(|fact| fact.found.is_ok()) || Instant::now() >= due_by {
            break facts;
        }
        sleep(BETWEEN_LOOKS).await;
    };
    for Fact { about, found } in &facts {
        match found {
            Ok(well) => println!("ok      {about}: {well}"),
            Err(wrong) => println!("FAILED  {about}: {wrong}"),
        }
    }
    match facts.iter().filter(|fact| fact.found.is_err()).count() {
        0 => Ok(()),
        failed => Err(CheckError::Failed { failed, all: facts.len() }),
    }
}

async fn look(client: &Client, options: &Options) -> Vec<Fact> {
    let scope = Scope::parse(Some(&options.watch_namespace));
    let leases: Api<Lease> = Api::namespaced(client.clone(), &options.namespace);
    let lease = in_time(async { leases.get_opt(FIELD_MANAGER).await.map_err(|error| in_words(&error)) });
    vec![
        Fact { about: "CurioCluster", found: listed::<CurioCluster>(client, &scope).await },
        Fact { about: "RunnerPool", found: listed::<RunnerPool>(client, &scope).await },
        Fact { about: "SealingSector", found: listed::<SealingSector>(client, &scope).await },
        Fact { about: "leader", found: lease.await.and_then(|lease| held(lease.as_ref(), Timestamp::now())) },
        Fact { about: "operator", found: in_time(ready(&options.operator)).await },
    ]
}

/// That the kind is served, that we may read it, and that what is stored can be read.
async fn listed<K>(client: &Client, scope: &Scope) -> Result<String, String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = match scope {
        Scope::AllNamespaces => Api::all(client.clone()),
        Scope::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
    };
    match in_time(async { Ok(api.list(&ListParams::default().limit(1)).await) }).await? {
        Ok(_) => Ok(format!("{} is served", K::api_version(&()))),
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            Err("the API server does not know this kind; install the chart with crds.install=true".to_owned())
        }
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            Err(format!("{}; install the chart with rbac.create=true, or bind those rules yourself", status.message))
        }
        Err(error) => Err(in_words(&error)),
    }
}

fn held(lease: Option<&Lease>, now: Timestamp) -> Result<String, String> {
    let spec =
        lease.and_then(|lease| lease.spec.as_ref()).ok_or("there is no lease yet; is the operator's pod running?")?;
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
    let holder = holder.ok_or("nobody holds the lease; is the operator's pod running?")?;
    let silence = spec.renew_time.as_ref().map(|renewed| now.duration_since(renewed.0));
    match silence {
        Some(silence) if silence <= LEASE_IS_FRESH => Ok(format!("{holder} leads")),
        Some(silence) => Err(format!("{holder} has not renewed its lease for {} s; see its log", silence.as_secs())),
        None => Err(format!("{holder} has never renewed its lease; see its log")),
    }
}

/// Asks `/readyz` with a request so small that it needs no client.
async fn ready(operator: &Url) -> Result<String, String> {
    let host = operator.host_str().ok_or("the operator's address names no host")?;
    let port = operator.port_or_known_default().ok_or("the operator's address names no port")?;
    let said = |error: std::io::Error| format!("{operator} does not answer: {error}");
    let mut stream = TcpStream::connect((host, port)).await.map_err(said)?;
    let request = format!("GET /readyz HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(said)?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer).await.map_err(said)?;
    match answer.split_whitespace().nth(1) {
        Some("200") => Ok(format!("{operator} is ready")),
        Some(code) => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
            Err(format!("{operator} is not ready ({code}): {body}"))
        }
        None => Err(format!("{operator} answers, but not in HTTP")),
    }
}

/// With its causes, which say what the API server's client only hints at.
fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

async fn in_time<T>(question: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
    timeout(ANSWER_TIMEOUT, question).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use tokio::net::TcpListener;

    use super::*;

    fn lease(holder: &str, renewed: Timestamp) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(renewed)),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_lease_counts_while_its_holder_renews_it() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let ago = |seconds| now - SignedDuration::from_secs(seconds);
        for (lease, expected) in [
            (None, Err("there is no lease yet; is the operator's pod running?")),
            (Some(lease("", now)), Err("nobody holds the lease; is the operator's pod running?")),
            (Some(lease("operator-1", ago(3))), Ok("operator-1 leads")),
            (Some(lease("operator-1", ago(-3))), Ok("operator-1 leads")),
            (Some(lease("operator-1", ago(90))), Err("operator-1 has not renewed its lease for 90 s; see its log")),
        ] {
            let found = held(lease.as_ref(), now);
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        }
    }

    #[tokio::test]
    async fn an_operator_that_is_not_ready_is_quoted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let serving = tokio::spawn(async move {
            for answer in ["HTTP/1.0 200 OK\r\n\r\nok", "HTTP/1.1 503 Service Unavailable\r\n\r\nno API server\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 256];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(ready(&url).await, Ok(format!("{url} is ready")));
        assert_eq!(ready(&url).await, Err(format!("{url} is not ready (503): no API server")));
        serving.await.unwrap();
        assert!(ready(&url).await.unwrap_err().contains("does not answer"));
    }
}
