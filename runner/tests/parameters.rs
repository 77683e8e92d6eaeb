//! Proof parameters over HTTP: fetching with resume and digest check, serving a folder, and what a runner
//! says while its parameters are on their way. The files are small ones with digests of their own; the
//! real set of a gigabyte is fetched by the story on the cluster.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use curio_core::SealProof;
use curio_harmony::testing::TestDb;
use curio_proofs::params::{self, Circuit, ParamsFile, Set};
use curio_runner::parameters::{FetchError, Index, Pace, Source, Step, fetch, fetch_file};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use support::{BOUND, Runner, any_port, api_info, chain, curio, run};

const TEST_SIZE: SealProof = SealProof::StackedDrg2KiBV1_1;

/// What a small stand-in for a parameter file contains.
fn content() -> Vec<u8> {
    (0..100_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// A file whose right content is [`content`].
fn small_file() -> ParamsFile {
    // First 128 bits of BLAKE2b-512 of the content above.
    let digests = vec![digest_of(&content())];
    ParamsFile { name: "v0-test.params".to_owned(), digests, sector_size: 2048, can_be_made: false }
}

/// The digest as a server of files computes it: asked of the check itself, which names what it found.
fn digest_of(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let file = ParamsFile { name: "f".to_owned(), digests: Vec::new(), sector_size: 2048, can_be_made: false };
    std::fs::write(file.path(dir.path()), bytes).expect("a file");
    match file.check(dir.path()) {
        Err(params::ParamsError::Damaged { actual, .. }) => actual,
        other => panic!("nothing is right for a file without digests: {other:?}"),
    }
}

/// A server that knows one file and cuts each connection after some bytes. It is a fake: it reads no request further
/// than its range.
struct FakeCuttingServer {
    address: std::net::SocketAddr,
    /// Ranges that were asked for: first byte of each request.
    asked: Arc<std::sync::Mutex<Vec<u64>>>,
    /// Bytes that were sent in all.
    sent: Arc<AtomicU64>,
}

impl FakeCuttingServer {
    /// Sends at most `cut_after` bytes of `content` on each connection. From the `change_after`th request on it has
    /// `later`, under another tag.
    async fn start(content: Vec<u8>, cut_after: usize, change_after: usize, later: Vec<u8>) -> FakeCuttingServer {
        let listener = TcpListener::bind(any_port()).await.expect("a port");
        let address = listener.local_addr().expect("it has an address");
        let (asked, sent) = (Arc::new(std::sync::Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (log, count) = (Arc::clone(&asked), Arc::clone(&sent));
        tokio::spawn(async move {
            for request in 0.. {
                let Ok((mut socket, _)) = listener.accept().await else { return };
                let (body, tag) = if request < change_after { (&content, "\"a\"") } else { (&later, "\"b\"") };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if socket.read_exact(&mut byte).await.is_err() {
                        break;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let header = |name: &str| {
                    head.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
                };
                let range = header("range: bytes=").filter(|_| header("if-range:").as_deref() == Some(tag));
                let from: usize = range.and_then(|range| range.trim_end_matches('-').parse().ok()).unwrap_or(0);
                log.lock().expect("nobody panics").push(from as u64);
                let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
                let (total, rest) = (body.len(), &body[from..]);
                let head = format!(
                    "HTTP/1.1 {status}\r\nETag: {tag}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{total}\r\n\
                     Connection: close\r\n\r\n",
                    rest.len(),
                    total - 1,
                );
                let part = &rest[..rest.len().min(cut_after)];
                if socket.write_all(head.as_bytes()).await.is_ok() && socket.write_all(part).await.is_ok() {
                    count.fetch_add(part.len() as u64, Ordering::Relaxed);
                    let _ = socket.shutdown().await;
                }
            }
        });
        FakeCuttingServer { address, asked, sent }
    }

    fn source(&self) -> Source {
        let pace = Pace { first: Duration::from_millis(1), longest: Duration::from_millis(5), fruitless_tries: 3 };
        source(&format!("http://{}", self.address)).with_pace(pace)
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().expect("nobody panics").clone()
    }
}

fn source(url: &str) -> Source {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Source::new(url).expect("an address")
}

/// Fetches the small file, and tells the steps.
async fn fetched(source: &Source, dir: &Path, file: &ParamsFile) -> (Result<(), FetchError>, Vec<Step>) {
    let mut steps = Vec::new();
    let mut told = |step| steps.push(step);
    let outcome = tokio::time::timeout(BOUND, fetch_file(source, dir, file, &mut told)).await;
    (outcome.expect("it ends"), steps)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_transfer_that_is_cut_goes_on_where_it_was() {
    let server = FakeCuttingServer::start(content(), 150_000, usize::MAX, Vec::new()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let (outcome, steps) = fetched(&server.source(), dir.path(), &small_file()).await;
    outcome.expect("it arrives");
    assert_eq!(server.asked(), [0, 150_000, 300_000]);
    assert_eq!(server.sent.load(Ordering::Relaxed), 400_000, "no byte comes twice");
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::TriesAgain { .. })).count(), 2);
    assert_eq!(names(dir.path()), ["v0-test.params", "v0-test.params.checked", "v0-test.params.lock"]);
    assert_eq!(std::fs::read(small_file().path(dir.path())).expect("it is there"), content());
}

#[tokio::test]
async fn what_arrived_before_a_process_ended_is_not_fetched_again() {
    let server = FakeCuttingServer::start(content(), 150_000, usize::MAX, Vec::new()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let file = small_file();
    // The process ends when the first bytes are on disk: its future is dropped at the next try.
    let source_of_first = server.source();
    let (at_retry, retried) = tokio::sync::oneshot::channel();
    let mut at_retry = Some(at_retry);
    let mut told = |step: Step| {
        if matches!(step, Step::TriesAgain { .. }) {
            at_retry.take().map(|sender| sender.send(()));
        }
    };
    tokio::select! {
        biased;
        _ = retried => {}
        outcome = fetch_file(&source_of_first, dir.path(), &file, &mut told) => panic!("it arrived: {outcome:?}"),
    }
    let asked_before = server.asked().len();
    let (outcome, _) = fetched(&server.source(), dir.path(), &file).await;
    outcome.expect("it arrives");
    assert!(server.asked()[asked_before..].iter().all(|from| *from >= 150_000), "{:?}", server.asked());
}

#[tokio::test]
async fn a_file_that_changes_at_the_source_is_fetched_anew() {
    let old = vec![7; 400_000];
    let server = FakeCuttingServer::start(old, 150_000, 1, content()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let (outcome, _) = fetched(&server.source(), dir.path(), &small_file()).await;
    outcome.expect("it arrives");
    assert_eq!(server.asked(), [0, 0, 150_000, 300_000], "the old bytes are given up");
}

#[tokio::test]
async fn a_wrong_file_is_not_kept_and_said_in_a_sentence() {
    let server = FakeCuttingServer::start(vec![7; 1000], 1000, usize::MAX, Vec::new()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let (outcome, _) = fetched(&server.source(), dir.path(), &small_file()).await;
    let error = outcome.expect_err("it is wrong");
    assert!(error.is_lasting());
    let text = error.to_string();
    assert!(text.starts_with(&format!("http://{}/v0-test.params has a file with digest ", server.address)), "{text}");
    assert!(text.ends_with("nothing of it was kept; correct the source"), "{text}");
    assert_eq!(names(dir.path()), ["v0-test.params.lock"]);
}

#[tokio::test]
async fn a_source_that_sends_nothing_is_given_up_after_some_tries() {
    let server = FakeCuttingServer::start(content(), 0, usize::MAX, Vec::new()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let (outcome, _) = fetched(&server.source(), dir.path(), &small_file()).await;
    assert!(outcome.is_err());
    assert_eq!(server.asked(), [0, 0, 0]);
}

#[tokio::test]
async fn two_that_share_a_folder_fetch_a_file_once() {
    let server = FakeCuttingServer::start(content(), usize::MAX, usize::MAX, Vec::new()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let (source, file) = (server.source(), small_file());
    let (one, other) = tokio::join!(fetched(&source, dir.path(), &file), fetched(&source, dir.path(), &file));
    one.0.and(other.0).expect("both have it");
    assert_eq!(server.asked(), [0]);
}

/// A folder with the verifying key of 2 KiB sectors, which is small, and other files beside it.
fn folder_to_serve() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let machine = params::default_dir();
    params::ensure_verifying_keys(&machine, TEST_SIZE).expect("the keys are made");
    let key = Set { circuit: Circuit::Porep, proof: TEST_SIZE }.verifying_key();
    std::fs::copy(key.path(&machine), key.path(dir.path())).expect("a copy");
    std::fs::write(dir.path().join("secret.txt"), "not for others").expect("a file");
    dir
}

/// `curio params serve` on a folder.
async fn serving(dir: &Path, arguments: &[&str]) -> (Runner, String) {
    let mut command = curio(None);
    command.args(["params", "serve", "--listen", "127.0.0.1:0", "--dir"]).arg(dir).args(arguments);
    let mut server = Runner::start(command);
    let line = server.says("serves ").await;
    let address = line.rsplit(' ').next().expect("the line names the address").to_owned();
    (server, format!("http://{address}"))
}

async fn get(url: &str) -> reqwest::Response {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::time::timeout(BOUND, reqwest::get(url)).await.expect("it answers").expect("it is reached")
}

#[tokio::test]
async fn a_served_folder_shows_nothing_but_parameters() {
    let dir = folder_to_serve();
    let (mut server, url) = serving(dir.path(), &[]).await;
    assert_eq!(get(&format!("{url}/healthz")).await.status(), 200);
    assert_eq!(get(&format!("{url}/readyz")).await.status(), 200, "nothing is to be made");
    let index: Index = get(&format!("{url}/index.json")).await.json().await.expect("an index");
    assert_eq!(index, Index::default(), "a key without its parameters is no set");
    for path in ["secret.txt", "..%2fsecret.txt", "%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "a/b", ""] {
        assert_eq!(get(&format!("{url}/{path}")).await.status(), 404, "{path}");
    }
    let posted = reqwest::Client::new().post(format!("{url}/secret.txt")).send().await.expect("it answers");
    assert_eq!(posted.status(), 405, "it is read-only");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.ends().await, Some(0), "{}", server.log);
}

#[tokio::test]
async fn files_that_are_not_made_yet_are_promised_and_not_sent() {
    // A folder that cannot be made: below a file.
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let (mut server, url) = serving(&file.join("params"), &["--make", "2KiB"]).await;
    server.says("failed to").await;
    let ready = get(&format!("{url}/readyz")).await;
    assert_eq!(ready.status(), 503);
    let sentence = ready.text().await.expect("text");
    assert!(sentence.starts_with("parameters for window PoSt of 2 KiB sectors: failed to"), "{sentence}");
    let index: Index = get(&format!("{url}/index.json")).await.json().await.expect("an index");
    assert_eq!((index.sets(), index.sectors[0].ready), (Set::all_of(TEST_SIZE).to_vec(), false));
    for file in Set::all_of(TEST_SIZE).into_iter().flat_map(Set::files) {
        let early = get(&format!("{url}/{}", file.name)).await;
        assert_eq!(
            (early.status().as_u16(), early.headers().contains_key("retry-after")),
            (503, true),
            "{}",
            file.name
        );
    }
}

#[tokio::test]
async fn a_machine_gets_the_set_of_one_circuit_from_a_server_that_has_no_other() {
    let window = Set { circuit: Circuit::WindowPost, proof: TEST_SIZE };
    let (machine, served, fetching) = (params::default_dir(), tempfile::tempdir(), tempfile::tempdir());
    let (served, fetching) = (served.expect("a folder"), fetching.expect("a folder"));
    params::ensure(&machine, window, &mut |_| ()).expect("the set is made");
    for file in window.files() {
        std::fs::copy(file.path(&machine), file.path(served.path())).expect("a copy");
    }
    let (_server, url) = serving(served.path(), &[]).await;
    let source = source(&url);
    let listed = || async { source.index().await.expect("it answers").expect("it has an index").sets() };
    let found = async { while listed().await != [window] {} };
    tokio::time::timeout(BOUND, found).await.expect("the set is found whole, and is the only one");

    let mut told = |_| ();
    let fetched = fetch(&source, fetching.path(), window, &mut told);
    tokio::time::timeout(BOUND, fetched).await.expect("it ends").expect("it arrives");
    params::check(fetching.path(), window).expect("it is whole");
}

#[tokio::test]
async fn fetch_params_says_what_is_wrong_with_a_source() {
    let dir = tempfile::tempdir().expect("a folder");
    for (url, words) in [
        ("nonsense", "the address of the parameter source is not understood"),
        ("http://127.0.0.1:1", "failed to fetch http://127.0.0.1:1/v28-"),
    ] {
        let mut command = curio(None);
        command.args(["fetch-params", "2KiB", "--from", url]).env("FIL_PROOFS_PARAMETER_CACHE", dir.path());
        let sentence = support::refused(&run(&mut command).await);
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[tokio::test]
async fn a_runner_is_not_ready_for_porep_before_its_source_answered() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind(any_port()).expect("a port");
    let address = taken.local_addr().expect("the port has a number");
    drop(taken);
    let mut command = curio(Some(db.url()));
    command.args(["run", "--layers", "seal-snark", "--name", "snark-0", "--listen", "127.0.0.1:0"]);
    command.env("FULLNODE_API_INFO", api_info(&chain)).env("FIL_PROOFS_PARAMETER_CACHE", dir.path());
    command.env("CURIO_PARAMETERS_URL", format!("http://{address}/"));
    let mut runner = Runner::start(command);
    let url = runner.url().await;
    runner.says("the parameter source does not answer").await;
    let readiness: serde_json::Value = get(&format!("{url}/readyz")).await.json().await.expect("JSON");
    assert_eq!(readiness["checks"]["parameters"]["ok"], false, "{readiness}");
    let said = readiness["checks"]["parameters"]["message"].as_str().expect("a sentence");
    assert!(said.contains(&format!("does not answer at http://{address}/index.json")), "{said}");

    // Any web server will do, also one without an index: then sectors in flight say what is needed.
    let empty = axum::Router::new();
    let listener = TcpListener::bind(address).await.expect("the port is free again");
    let serving = tokio::spawn(async move { axum::serve(listener, empty).await });
    runner.says("the parameter source answers").await;
    assert_eq!(get(&format!("{url}/readyz")).await.status(), 200);
    serving.abort();
}

#[tokio::test]
async fn a_runner_that_proves_what_is_stored_brings_the_sets_of_that_and_not_those_of_porep() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    sqlx::query(
        "INSERT INTO sectors_meta (sp_id, sector_num, reg_seal_proof, ticket_epoch, ticket_value, orig_sealed_cid,
                                   orig_unsealed_cid, cur_sealed_cid, cur_unsealed_cid, seed_epoch, is_cc)
         VALUES (1000, 0, $1, 0, '', '', '', '', '', 0, true)",
    )
    .bind(i32::try_from(TEST_SIZE.number()).expect("a small number"))
    .execute(db.db().pool())
    .await
    .expect("a sector is stored");
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = curio(Some(db.url()));
    command.args(["run", "--layers", "post", "--name", "post-0", "--listen", "127.0.0.1:0"]);
    command.env("FULLNODE_API_INFO", api_info(&chain)).env("FIL_PROOFS_PARAMETER_CACHE", dir.path());
    let mut runner = Runner::start(command);
    let url = runner.url().await;
    runner.says("window PoSt of 2 KiB sectors: parameters are ready").await;
    runner.says("winning PoSt of 2 KiB sectors: parameters are ready").await;
    let readiness: serde_json::Value = get(&format!("{url}/readyz")).await.json().await.expect("JSON");
    assert_eq!(readiness["checks"]["parameters"]["ok"], true, "{readiness}");
    for set in Set::all_of(TEST_SIZE) {
        let is_porep = set.circuit == Circuit::Porep;
        assert_eq!(set.params().path(dir.path()).exists(), !is_porep, "{set:?}");
    }
}

#[tokio::test]
async fn a_runner_waits_for_its_database_and_says_so() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    let mut unmigrated = url::Url::parse(db.url()).expect("the address is a URL");
    unmigrated.set_path("/postgres");
    let mut command = curio(Some(unmigrated.as_str()));
    command.args(["run", "--layers", "sdr", "--name", "m", "--listen", "127.0.0.1:0"]);
    command.env("FULLNODE_API_INFO", api_info(&chain));
    let mut runner = Runner::start(command);
    let url = runner.url().await;
    runner.says("no task is taken before").await;
    assert_eq!(get(&format!("{url}/healthz")).await.status(), 200, "the process lives");
    let answer = get(&format!("{url}/readyz")).await;
    assert_eq!(answer.status(), 503);
    let readiness: serde_json::Value = answer.json().await.expect("JSON");
    let said = readiness["checks"]["database"]["message"].as_str().expect("a sentence");
    assert!(said.contains("run `curio migrate`"), "{said}");
    runner.signal(rustix::process::Signal::TERM);
    assert_eq!(runner.ends().await, Some(0), "{}", runner.log);
}

#[tokio::test]
async fn migrate_waits_for_a_database_only_as_long_as_it_is_told() {
    let mut command = curio(Some("postgres://curio:s3cret@127.0.0.1:1/curio"));
    let output = run(command.args(["migrate", "--wait", "1s"])).await;
    let sentence = support::refused(&output);
    assert!(sentence.contains("127.0.0.1:1"), "{sentence}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("asking again"), "it asked more than once");
}

#[tokio::test]
async fn a_runner_attaches_its_directories_itself() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let (seal, store) = (dir.path().join("scratch"), dir.path().join("store"));
    for path in [&seal, &store] {
        std::fs::create_dir(path).expect("a folder");
    }
    let started = |kinds: [&str; 2]| {
        let mut command = curio(Some(db.url()));
        command.args(["run", "--layers", "sdr", "--name", "m", "--listen", "127.0.0.1:0", "--grace", "1s"]);
        command.args(["--attach", &format!("{}={}", kinds[0], seal.display())]);
        command.args(["--attach", &format!("{}={}", kinds[1], store.display())]);
        command.env("FULLNODE_API_INFO", api_info(&chain));
        Runner::start(command)
    };
    for _ in 0..2 {
        let mut runner = started(["seal", "store"]);
        runner.says("runs SDR").await;
        runner.signal(rustix::process::Signal::TERM);
        assert_eq!(runner.ends().await, Some(0), "{}", runner.log);
    }
    let output = run(curio(Some(db.url())).args(["storage", "list", "--json"])).await;
    let paths: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("paths are JSON");
    let mut uses: Vec<_> = paths.iter().map(|path| (path["seal"].clone(), path["store"].clone())).collect();
    uses.sort_by_key(|uses| uses.0.to_string());
    assert_eq!(uses, [(false.into(), true.into()), (true.into(), false.into())], "two paths, made once");

    let mut wrong = started(["store", "seal"]);
    assert_eq!(wrong.ends().await, Some(1));
    assert!(wrong.log.contains("is a storage path for sealing (its sectorstore.json says so)"), "{}", wrong.log);
}
