//! Bad input gets one clear sentence with what to do, and nothing half done. Each test runs the binary,
//! reads its exit code and its stderr, and compares the database before and after.

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use curio_harmony::testing::TestDb;
use rstest::rstest;

use support::{Runner, any_port, api_info, chain, contains_all, contents, curio, layer, miner, refused, run};

/// Address of the server of a test database with something of it replaced.
fn altered(db: &TestDb, change: impl FnOnce(&mut url::Url)) -> String {
    let mut url = url::Url::parse(db.url()).expect("the address of a test database is a URL");
    change(&mut url);
    url.to_string()
}

#[tokio::test]
async fn without_a_database_address_the_sentence_says_where_to_give_one() {
    let sentence = refused(&run(curio(None).args(["machine", "list"])).await);
    contains_all(&sentence, &["no database is named", "--db", "CURIO_DB_URL"]);
}

#[rstest]
#[case("nonsense", &["not understood", "postgres://"])]
#[case("postgres://curio:s3cret@127.0.0.1:1/curio", &["127.0.0.1:1", "check that PostgreSQL runs"])]
#[case("postgres://curio:s3cret@no-such-host.invalid/curio", &["no-such-host.invalid"])]
#[tokio::test]
async fn a_wrong_or_unreachable_database_is_named_without_its_password(#[case] url: &str, #[case] parts: &[&str]) {
    let sentence = refused(&run(curio(Some(url)).args(["machine", "list"])).await);
    contains_all(&sentence, parts);
    assert!(!sentence.contains("s3cret"), "{sentence}");
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_named() {
    let db = TestDb::new().await;
    let url = altered(&db, |url| url.set_path("/no_such_database"));
    let sentence = refused(&run(curio(Some(&url)).args(["sector", "list"])).await);
    contains_all(&sentence, &["no_such_database", "createdb"]);
}

#[tokio::test]
async fn a_database_without_the_schema_asks_for_migrate() {
    let db = TestDb::new().await;
    let url = altered(&db, |url| url.set_path("/postgres"));
    let sentence = refused(&run(curio(Some(&url)).args(["sector", "list"])).await);
    contains_all(&sentence, &["curio migrate"]);
}

#[rstest]
#[case(&["config", "interpret", "--layers", "seall"])]
#[case(&["run", "--layers", "seall", "--name", "m", "--listen", "127.0.0.1:0"])]
#[case(&["seal", "start", "--actor", "f01000", "--now", "--layers", "seall"])]
#[tokio::test]
async fn a_missing_layer_is_named_with_the_nearest_one(#[case] line: &[&str]) {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    let sentence = refused(&run(curio(Some(db.url())).env("FULLNODE_API_INFO", "http://127.0.0.1:1").args(line)).await);
    contains_all(&sentence, &["no configuration layer 'seall'", "did you mean 'seal'?", "seal-snark"]);
    assert_eq!(contents(&db).await, before);
}

#[rstest]
#[case("[Subsystems]\nEnableSealSdr = true\n", &["unknown key Subsystems.EnableSealSdr", "'seal'", "did you mean EnableSealSDR?"])]
#[case("[Subsystems]\nEnableSealSDR = 'yes'\n", &["Subsystems.EnableSealSDR", "'seal'", "must be true or false"])]
#[case("[Subsystems\n", &["'seal'", "not valid TOML", "line 1"])]
#[case("[Apis]\nStorageRPCSecret = 'c2VjcmV0LXNlY3JldA=='\n", &["Apis.StorageRPCSecret", "clear text", "file:/path"])]
#[case("[Apis]\nChainApiInfo = ['eyJzZWNyZXQ.x.y:http://127.0.0.1:1234']\n", &["Apis.ChainApiInfo", "clear text", "env:NAME"])]
#[tokio::test]
async fn a_wrong_layer_is_refused_and_the_old_one_stays(#[case] text: &str, #[case] parts: &[&str]) {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("layer.toml");
    std::fs::write(&file, text).expect("the layer can be written");
    let sentence = refused(&run(curio(Some(db.url())).args(["config", "set", "seal"]).arg(&file)).await);
    contains_all(&sentence, parts);
    contains_all(&sentence, &["nothing was stored"]);
    assert!(!sentence.contains("c2VjcmV0") && !sentence.contains("eyJzZWNyZXQ"), "{sentence}");
    assert_eq!(contents(&db).await, before);
}

#[tokio::test]
async fn a_misspelt_key_that_came_into_the_database_by_another_way_stops_the_start() {
    let db = TestDb::new().await;
    layer(&db, "hand", "[Subsystems]\nEnablePorepProof = true").await;
    let before = contents(&db).await;
    let line = ["run", "--layers", "seal,hand", "--name", "m", "--listen", "127.0.0.1:0"];
    let sentence = refused(&run(curio(Some(db.url())).env("FULLNODE_API_INFO", "http://127.0.0.1:1").args(line)).await);
    contains_all(
        &sentence,
        &["Subsystems.EnablePorepProof", "'hand'", "did you mean EnablePoRepProof?", "curio config set hand"],
    );
    assert_eq!(contents(&db).await, before);
}

#[rstest]
#[case(&["run", "--layers", "seal", "--name", "m", "--listen", "127.0.0.1:0"])]
#[case(&["seal", "start", "--actor", "f01000", "--now"])]
#[tokio::test]
async fn without_any_chain_node_the_sentence_says_where_to_name_one(#[case] line: &[&str]) {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    let sentence = refused(&run(curio(Some(db.url())).args(line)).await);
    contains_all(&sentence, &["no chain node is configured", "FULLNODE_API_INFO", "Apis.ChainApiInfo"]);
    assert_eq!(contents(&db).await, before);
}

#[tokio::test]
async fn a_text_that_is_no_chain_address_is_refused_without_its_token() {
    let db = TestDb::new().await;
    let output = run(curio(Some(db.url()))
        .env("FULLNODE_API_INFO", "eyJzZWNyZXQ.x.y:somewhere")
        .args(["seal", "start", "--actor", "f01000", "--now"]))
    .await;
    let sentence = refused(&output);
    contains_all(&sentence, &["FULLNODE_API_INFO", "TOKEN:/ip4/127.0.0.1/tcp/1234/http"]);
    assert!(!sentence.contains("eyJzZWNyZXQ"), "{sentence}");
}

#[tokio::test]
async fn an_unreachable_chain_node_queues_nothing() {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    let output = run(curio(Some(db.url()))
        .env("FULLNODE_API_INFO", "http://127.0.0.1:1")
        .args(["seal", "start", "--actor", "f01000", "--now", "--count", "3"]))
    .await;
    contains_all(&refused(&output), &["chain node", "127.0.0.1:1"]);
    assert_eq!(contents(&db).await, before);
}

#[rstest]
#[case("no-such-folder", &["does not exist"])]
#[case("a-file", &["not a directory"])]
#[tokio::test]
async fn a_storage_path_that_is_no_directory_is_not_attached(#[case] name: &str, #[case] parts: &[&str]) {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("a-file"), "x").expect("the file can be written");
    contains_all(&refused(&attach(&db, &dir.path().join(name), &["--init", "--seal"]).await), parts);
    assert_eq!(contents(&db).await, before);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing was made");
}

#[tokio::test]
async fn a_read_only_storage_path_is_not_attached() {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    // The kernel lets nobody create files here, whatever the user.
    let sentence = refused(&attach(&db, Path::new("/sys/kernel"), &["--init", "--store"]).await);
    contains_all(&sentence, &["/sys/kernel", "cannot be written", "writable"]);
    assert_eq!(contents(&db).await, before);
}

#[tokio::test]
async fn a_storage_path_without_a_use_is_not_attached() {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    let dir = tempfile::tempdir().expect("a folder");
    contains_all(&refused(&attach(&db, dir.path(), &["--init"]).await), &["--seal", "--store"]);
    contains_all(&refused(&attach(&db, dir.path(), &[]).await), &["--init"]);
    assert_eq!(contents(&db).await, before);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "nothing was made");
}

async fn attach(db: &TestDb, path: &Path, flags: &[&str]) -> Output {
    run(curio(Some(db.url())).args(["storage", "attach", "--machine", "m"]).args(flags).arg(path)).await
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let db = TestDb::new().await;
    for (line, parts) in [
        (["sector", "status", "f01000:9"], ["no sector f01000:9", "curio sector list"]),
        (["task", "retry", "12345"], ["no open task 12345", "curio task list"]),
        (["config", "get", "sael"], ["no configuration layer 'sael'", "did you mean 'seal'?"]),
        (["config", "remove", "sael"], ["no configuration layer 'sael'", "did you mean 'seal'?"]),
        (["config", "remove", "base"], ["'base'", "cannot be removed"]),
    ] {
        contains_all(&refused(&run(curio(Some(db.url())).args(line)).await), &parts);
    }
}

/// Asks for the 2 KiB parameters in a folder.
async fn fetch(dir: &Path, flags: &[&str]) -> Output {
    run(curio(None).env("FIL_PROOFS_PARAMETER_CACHE", dir).args(["fetch-params", "2KiB"]).args(flags)).await
}

/// Makes the verifying key in a folder and answers where it lies.
async fn verifying_key(dir: &Path) -> PathBuf {
    let made = fetch(dir, &["--verifying-key-only"]).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut files =
        std::fs::read_dir(dir).expect("the folder can be read").map(|entry| entry.expect("an entry").path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "vk")).expect("a key was made")
}

#[tokio::test]
async fn a_verifying_key_with_a_flipped_byte_is_found_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = verifying_key(dir.path()).await;
    let mut bytes = std::fs::read(&key).expect("the key can be read");
    bytes[100] ^= 1;
    std::fs::write(&key, &bytes).expect("the key can be written");

    let sentence = refused(&fetch(dir.path(), &["--verifying-key-only"]).await);
    contains_all(&sentence, &[&key.display().to_string(), "damaged", "delete the file", "curio fetch-params"]);
    assert_eq!(std::fs::read(&key).expect("the key can be read"), bytes, "the file was left alone");
}

#[tokio::test]
async fn a_parameter_file_with_other_bytes_is_found_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let params = verifying_key(dir.path()).await.with_extension("params");
    let bytes = vec![7; 1 << 20];
    std::fs::write(&params, &bytes).expect("the file can be written");
    let sentence = refused(&fetch(dir.path(), &[]).await);
    contains_all(&sentence, &[&params.display().to_string(), "damaged", "delete the file"]);
    assert_eq!(std::fs::read(&params).expect("the file can be read"), bytes, "the file was left alone");
}

#[tokio::test]
async fn a_wrong_token_ends_the_command_and_the_runner() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    let before = contents(&db).await;
    // Well formed, and signed by somebody else.
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJBbGxvdyI6WyJyZWFkIl19.c2lnbmF0dXJlIG9mIHNvbWVib2R5IGVsc2U";
    for line in [
        &["seal", "start", "--actor", "f01000", "--now"][..],
        &["run", "--layers", "seal", "--name", "m", "--listen", "127.0.0.1:0"],
    ] {
        let info = format!("{token}:{}", chain.url);
        let sentence = refused(&run(curio(Some(db.url())).env("FULLNODE_API_INFO", info).args(line)).await);
        contains_all(&sentence, &["refused the token", "127.0.0.1"]);
        assert!(!sentence.contains(token), "{sentence}");
    }
    assert_eq!(contents(&db).await, before);
}

#[tokio::test]
async fn sectors_that_cannot_be_are_not_queued() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    let miner = miner(&chain).await;
    let before = contents(&db).await;
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: usize| {
        std::fs::write(dir.path().join(name), vec![5; bytes]).expect("the piece can be written");
        dir.path().join(name).display().to_string()
    };
    let (fits, too_long, empty) = (file("fits", 1000), file("long", 3000), file("empty", 0));
    let missing = dir.path().join("missing").display().to_string();
    // The commP of 2 KiB of zeros.
    let other = "baga6ea4seaqpy7usqklokfx2vxuynmupslkeutzexe2uqurdg5vhtebhxqmpqmy";
    for (arguments, parts) in [
        (&["--actor", "f09999"][..], &["no actor f09999", "--actor"][..]),
        (&["--actor", "f01"], &["f01 is not a miner"]),
        (&["--actor", "somebody"], &["'somebody' is not an address", "--actor f01000"]),
        (&["--actor", &miner, "--sector-size", "32GiB"], &[&miner, "2 KiB", "32 GiB"]),
        (&["--actor", &miner, "--piece", &too_long], &["do not fit into one sector", "2048"]),
        (&["--actor", &miner, "--piece", &fits, "--piece-cid", other], &[&fits, other, "--piece-cid"]),
        (&["--actor", &miner, "--piece", &empty], &["empty"]),
        (&["--actor", &miner, "--piece", &missing], &[&missing, "No such file"]),
        (&["--actor", &miner, "--piece", "http://127.0.0.1:1/x"], &["http://127.0.0.1:1/x"]),
    ] {
        let mut command = curio(Some(db.url()));
        command.env("FULLNODE_API_INFO", api_info(&chain)).args(["seal", "start", "--now", "--count", "2"]);
        contains_all(&refused(&run(command.args(arguments)).await), parts);
        assert_eq!(contents(&db).await, before, "{arguments:?} changed something");
    }
}

#[tokio::test]
async fn a_full_storage_path_takes_no_sector_and_the_runner_says_why() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    let miner = miner(&chain).await;
    let dir = tempfile::tempdir().expect("a folder");
    let attached = attach(&db, dir.path(), &["--init", "--seal", "--max-storage", "1KiB"]).await;
    assert!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
    let mut command = curio(Some(db.url()));
    command.env("FULLNODE_API_INFO", api_info(&chain));
    command.args(["run", "--layers", "sdr", "--name", "m", "--listen", "127.0.0.1:0"]);
    let mut runner = Runner::start(command);
    runner.says("runs SDR").await;
    let queued = run(curio(Some(db.url()))
        .env("FULLNODE_API_INFO", api_info(&chain))
        .args(["seal", "start", "--now", "--actor", &miner]))
    .await;
    assert!(queued.status.success(), "{}", String::from_utf8_lossy(&queued.stderr));

    let line = runner.says("is not taken here").await;
    contains_all(&line, &[&format!("{miner}:0"), &dir.path().display().to_string()]);
    let paths = run(curio(Some(db.url())).args(["storage", "list"])).await;
    contains_all(&String::from_utf8_lossy(&paths.stdout), &["full"]);
    let cache = dir.path().join("cache").join(format!("s-t0{}-0", &miner[2..]));
    assert!(!cache.exists(), "nothing was begun");
}
