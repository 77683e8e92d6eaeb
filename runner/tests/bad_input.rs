//! Bad input gets one clear sentence with what to do, and nothing half done. Each test runs the binary,
//! reads its exit code and its stderr, and compares the database before and after.

use std::path::Path;
use std::process::{Command, Output};

use curio_harmony::testing::TestDb;
use rstest::rstest;
use sqlx::Row;

/// `curio` without anything of the caller's surroundings.
fn curio(db: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curio"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CURIO_") || name == "FULLNODE_API_INFO" || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    if let Some(url) = db {
        command.env("CURIO_DB_URL", url);
    }
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

/// Asserts exit code 1 and one sentence on stderr, and gives the sentence.
#[track_caller]
fn refused(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "stderr: {stderr}\nstdout: {stdout}");
    let sentences: Vec<&str> = stderr.lines().filter(|line| line.starts_with("curio: ")).collect();
    assert_eq!(sentences.len(), 1, "one sentence is expected: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    sentences[0].trim_start_matches("curio: ").to_owned()
}

#[track_caller]
fn contains_all(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(sentence.contains(part), "'{part}' is not in: {sentence}");
    }
}

/// Everything that a command could have changed, as text.
async fn contents(db: &TestDb) -> String {
    let tables = [
        "harmony_task",
        "harmony_task_machines",
        "harmony_config",
        "storage_path",
        "storage_path_machines",
        "sectors_sdr_pipeline",
        "sectors_sdr_initial_pieces",
        "sectors_allocated_numbers",
        "message_sends",
    ];
    let mut text = String::new();
    for table in tables {
        // The table names are the constants above.
        let statement = sqlx::AssertSqlSafe(format!("SELECT t::text AS line FROM curio.{table} t ORDER BY 1"));
        for row in sqlx::query(statement).fetch_all(db.db().pool()).await.expect("the table can be read") {
            text.push_str(&format!("{table}: {}\n", row.get::<String, _>("line")));
        }
    }
    text
}

/// Address of the server of a test database with something of it replaced.
fn altered(db: &TestDb, change: impl FnOnce(&mut url::Url)) -> String {
    let mut url = url::Url::parse(&db.url()).expect("the address of a test database is a URL");
    change(&mut url);
    url.to_string()
}

#[test]
fn without_a_database_address_the_sentence_says_where_to_give_one() {
    let sentence = refused(&run(curio(None).args(["machine", "list"])));
    contains_all(&sentence, &["no database is named", "--db", "CURIO_DB_URL"]);
}

#[rstest]
#[case("nonsense", &["not understood", "postgres://"])]
#[case("postgres://curio:s3cret@127.0.0.1:1/curio", &["127.0.0.1:1", "check that PostgreSQL runs"])]
#[case("postgres://curio:s3cret@no-such-host.invalid/curio", &["no-such-host.invalid"])]
fn a_wrong_or_unreachable_database_is_named_without_its_password(#[case] url: &str, #[case] parts: &[&str]) {
    let sentence = refused(&run(curio(Some(url)).args(["machine", "list"])));
    contains_all(&sentence, parts);
    assert!(!sentence.contains("s3cret"), "{sentence}");
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_named() {
    let db = TestDb::new().await;
    let url = altered(&db, |url| url.set_path("/no_such_database"));
    let sentence = refused(&run(curio(Some(&url)).args(["sector", "list"])));
    contains_all(&sentence, &["no_such_database", "createdb"]);
}

#[tokio::test]
async fn a_database_without_the_schema_asks_for_migrate() {
    let db = TestDb::new().await;
    let url = altered(&db, |url| url.set_path("/postgres"));
    let sentence = refused(&run(curio(Some(&url)).args(["sector", "list"])));
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
    let sentence = refused(&run(curio(Some(&db.url())).env("FULLNODE_API_INFO", "http://127.0.0.1:1").args(line)));
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
    let sentence = refused(&run(curio(Some(&db.url())).args(["config", "set", "seal"]).arg(&file)));
    contains_all(&sentence, parts);
    contains_all(&sentence, &["nothing was stored"]);
    assert!(!sentence.contains("c2VjcmV0") && !sentence.contains("eyJzZWNyZXQ"), "{sentence}");
    assert_eq!(contents(&db).await, before);
}

#[tokio::test]
async fn a_misspelt_key_that_came_into_the_database_by_another_way_stops_the_start() {
    let db = TestDb::new().await;
    sqlx::query(
        "INSERT INTO curio.harmony_config (title, config) VALUES ('hand', '[Subsystems]\nEnablePorepProof = true')",
    )
    .execute(db.db().pool())
    .await
    .expect("the row can be written");
    let before = contents(&db).await;
    let line = ["run", "--layers", "seal,hand", "--name", "m", "--listen", "127.0.0.1:0"];
    let sentence = refused(&run(curio(Some(&db.url())).env("FULLNODE_API_INFO", "http://127.0.0.1:1").args(line)));
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
    let sentence = refused(&run(curio(Some(&db.url())).args(line)));
    contains_all(&sentence, &["no chain node is configured", "FULLNODE_API_INFO", "Apis.ChainApiInfo"]);
    assert_eq!(contents(&db).await, before);
}

#[tokio::test]
async fn a_text_that_is_no_chain_address_is_refused_without_its_token() {
    let db = TestDb::new().await;
    let output = run(curio(Some(&db.url()))
        .env("FULLNODE_API_INFO", "eyJzZWNyZXQ.x.y:somewhere")
        .args(["seal", "start", "--actor", "f01000", "--now"]));
    let sentence = refused(&output);
    contains_all(&sentence, &["FULLNODE_API_INFO", "TOKEN:/ip4/127.0.0.1/tcp/1234/http"]);
    assert!(!sentence.contains("eyJzZWNyZXQ"), "{sentence}");
}

#[tokio::test]
async fn an_unreachable_chain_node_queues_nothing() {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    let output = run(curio(Some(&db.url()))
        .env("FULLNODE_API_INFO", "http://127.0.0.1:1")
        .args(["seal", "start", "--actor", "f01000", "--now", "--count", "3"]));
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
    contains_all(&refused(&attach(&db, &dir.path().join(name), &["--init", "--seal"])), parts);
    assert_eq!(contents(&db).await, before);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing was made");
}

#[tokio::test]
async fn a_read_only_storage_path_is_not_attached() {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    // The kernel lets nobody create files here, whatever the user.
    let sentence = refused(&attach(&db, Path::new("/sys/kernel"), &["--init", "--store"]));
    contains_all(&sentence, &["/sys/kernel", "cannot be written", "writable"]);
    assert_eq!(contents(&db).await, before);
}

#[tokio::test]
async fn a_storage_path_without_a_use_is_not_attached() {
    let db = TestDb::new().await;
    let before = contents(&db).await;
    let dir = tempfile::tempdir().expect("a folder");
    contains_all(&refused(&attach(&db, dir.path(), &["--init"])), &["--seal", "--store"]);
    contains_all(&refused(&attach(&db, dir.path(), &[])), &["--init"]);
    assert_eq!(contents(&db).await, before);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "nothing was made");
}

fn attach(db: &TestDb, path: &Path, flags: &[&str]) -> Output {
    run(curio(Some(&db.url())).args(["storage", "attach", "--machine", "m"]).args(flags).arg(path))
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
        contains_all(&refused(&run(curio(Some(&db.url())).args(line))), &parts);
    }
}

#[test]
fn a_verifying_key_with_a_flipped_byte_is_found_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let fetch = || {
        run(curio(None).env("FIL_PROOFS_PARAMETER_CACHE", dir.path()).args([
            "fetch-params",
            "2KiB",
            "--verifying-key-only",
        ]))
    };
    let made = fetch();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = std::fs::read_dir(dir.path())
        .expect("the folder can be read")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "vk"))
        .expect("a key was made");
    let mut bytes = std::fs::read(&key).expect("the key can be read");
    bytes[100] ^= 1;
    std::fs::write(&key, &bytes).expect("the key can be written");

    let sentence = refused(&fetch());
    contains_all(&sentence, &[&key.display().to_string(), "damaged", "delete the file", "curio fetch-params"]);
    assert_eq!(std::fs::read(&key).expect("the key can be read"), bytes, "the file was left alone");
}

#[test]
fn a_parameter_file_that_is_not_what_it_says_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let fetch = |flag: &[&str]| {
        run(curio(None).env("FIL_PROOFS_PARAMETER_CACHE", dir.path()).args(["fetch-params", "2KiB"]).args(flag))
    };
    assert!(fetch(&["--verifying-key-only"]).status.success());
    let key = std::fs::read_dir(dir.path())
        .expect("the folder can be read")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "vk"))
        .expect("a key was made");
    let params = key.with_extension("params");
    std::fs::write(&params, vec![7; 1 << 20]).expect("the file can be written");
    let sentence = refused(&fetch(&[]));
    contains_all(&sentence, &[&params.display().to_string(), "damaged", "delete the file"]);
}
