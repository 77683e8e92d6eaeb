//! Transactions that are repeated, undone and interrupted, and connections that cannot be made.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use curio_core::{Classify, Failure};
use curio_harmony::testing::TestDb;
use curio_harmony::{ConnectError, Db, DbError, TxError};
use rstest::rstest;
use sqlx::Executor;
use support::sql;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn values(db: &Db) -> Vec<String> {
    sqlx::query_scalar("SELECT value FROM thing ORDER BY value").fetch_all(db.pool()).await.expect("values")
}

async fn database() -> (TestDb, Db) {
    let (test, db) = support::database().await;
    sql(&db, "CREATE TABLE thing (value text PRIMARY KEY)").await;
    (test, db)
}

#[rstest]
#[case::serialization("40001")]
#[case::deadlock("40P01")]
#[case::server_stops("57P01")]
#[case::connection("08006")]
#[tokio::test]
async fn a_transaction_is_run_again_after(#[case] code: &'static str) {
    let (_test, db) = database().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = runs.clone();

    let result = db
        .transaction("test-repeat", move |tx| {
            let run = counter.fetch_add(1, Ordering::SeqCst) + 1;
            Box::pin(async move {
                sqlx::query("INSERT INTO thing VALUES ('once')").execute(&mut *tx).await?;
                if run < 3 {
                    let raise = format!("DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{code}'; END $$");
                    tx.execute(sqlx::AssertSqlSafe(raise)).await?;
                }
                Ok(run)
            })
        })
        .await;

    assert_eq!(result.expect("the third run succeeds"), 3);
    assert_eq!(values(&db).await, ["once"]);
    assert_eq!(db.metrics().retry_count("test-repeat"), 2);
}

#[tokio::test]
async fn repeating_has_an_end() {
    let (_test, db) = database().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = runs.clone();

    let result: Result<(), _> = db
        .transaction("test-endless", move |tx| {
            counter.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                tx.execute("DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '40001'; END $$").await?;
                Ok(())
            })
        })
        .await;

    assert!(matches!(result.map_err(Classify::classify), Err(Failure::Retry(_))));
    assert_eq!(runs.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn a_transaction_survives_the_loss_of_its_connection() {
    let (test, db) = database().await;
    let killer = test.connect().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = runs.clone();

    let result = db
        .transaction("test-lost", move |tx| {
            let (run, killer) = (counter.fetch_add(1, Ordering::SeqCst) + 1, killer.clone());
            Box::pin(async move {
                sqlx::query("INSERT INTO thing VALUES ('once')").execute(&mut *tx).await?;
                if run == 1 {
                    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await?;
                    sqlx::query("SELECT pg_terminate_backend($1, 10000)").bind(pid).execute(killer.pool()).await?;
                }
                sqlx::query("INSERT INTO thing VALUES ('twice')").execute(&mut *tx).await?;
                Ok(run)
            })
        })
        .await;

    assert_eq!(result.expect("the second run succeeds"), 2);
    assert_eq!(values(&db).await, ["once", "twice"]);
}

#[tokio::test]
async fn a_connection_lost_at_the_commit_is_reported_and_not_repeated() {
    let (test, db) = database().await;
    let killer = test.connect().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = runs.clone();

    let result: Result<(), _> = db
        .transaction("test-commit", move |tx| {
            let killer = killer.clone();
            counter.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await?;
                sqlx::query("SELECT pg_terminate_backend($1, 10000)").bind(pid).execute(killer.pool()).await?;
                Ok(())
            })
        })
        .await;

    let error = result.expect_err("nobody knows");
    assert!(matches!(error, TxError::Db(DbError::CommitUnknown { .. })), "{error:?}");
    assert!(matches!(error.classify(), Failure::Unavailable(_)));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_unique_violation_is_recognised_and_changes_nothing() {
    let (_test, db) = database().await;
    sql(&db, "INSERT INTO thing VALUES ('mine')").await;

    let result: Result<(), _> = db
        .transaction("test-unique", |tx| {
            Box::pin(async move {
                sqlx::query("INSERT INTO thing VALUES ('other')").execute(&mut *tx).await?;
                sqlx::query("INSERT INTO thing VALUES ('mine')").execute(&mut *tx).await?;
                Ok(())
            })
        })
        .await;

    assert!(result.expect_err("it is there").is_unique_violation());
    assert_eq!(values(&db).await, ["mine"]);
}

#[tokio::test]
async fn a_closure_can_undo_everything() {
    let (_test, db) = database().await;
    let result: Result<(), _> = db
        .transaction("test-undo", |tx| {
            Box::pin(async move {
                sqlx::query("INSERT INTO thing VALUES ('undone')").execute(&mut *tx).await?;
                Err(TxError::Rollback)
            })
        })
        .await;
    assert!(matches!(result, Err(TxError::Rollback)));
    assert!(values(&db).await.is_empty());
}

#[tokio::test]
async fn a_missing_database_is_named() {
    let test = TestDb::new().await;
    let url = test.url().replace(test.name(), "no_such_database_here");
    let error = Db::connect(&url, "test").await.map(|_| ()).expect_err("it is not there");
    assert!(matches!(error, ConnectError::NoDatabase { .. }), "{error:?}");
    assert!(error.to_string().contains("createdb no_such_database_here"), "{error}");
}

/// A server that answers every start with this error, as PostgreSQL writes it.
async fn refusing_server(code: &'static str, message: &'static str) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut start = [0u8; 1024];
        // The first packet asks for TLS; N declines. The second one is the start message.
        let _ = stream.read(&mut start).await?;
        stream.write_all(b"N").await?;
        let _ = stream.read(&mut start).await?;
        let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
        let length = u32::try_from(fields.len() + 4).expect("short");
        stream.write_all(b"E").await?;
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(fields.as_bytes()).await?;
        stream.shutdown().await
    });
    port
}

#[tokio::test]
async fn a_wrong_password_is_one_sentence_without_the_password() {
    let port = refusing_server("28P01", "password authentication failed for user \"me\"").await;
    let url = format!("postgres://me:hunter2@127.0.0.1:{port}/curio");
    let error = Db::connect(&url, "test").await.map(|_| ()).expect_err("it is refused");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("check the user and the password") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_server_that_is_starting_up_is_not_there_yet() {
    let port = refusing_server("57P03", "the database system is starting up").await;
    let url = format!("postgres://me@127.0.0.1:{port}/curio");
    let error = Db::connect(&url, "test").await.map(|_| ()).expect_err("it is refused");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}
