//! The connection to HarmonyDB: two small pools, one for everybody and one for the engine, so that
//! heartbeats and completions get through while tasks use up the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use curio_core::{Classify, Failure};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;

use crate::metrics::DbMetrics;

/// Schema of all tables; set as the search path of every connection.
pub(crate) const SCHEMA: &str = "curio";

/// How long a first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a free connection, or for the database to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A statement that takes longer is logged as a warning.
const SLOW_STATEMENT: Duration = Duration::from_secs(5);
const POOL_SIZE: u32 = 12;
const ENGINE_POOL_SIZE: u32 = 4;

/// A handle on HarmonyDB; cloning it is cheap and shares the connections.
#[derive(Clone)]
pub struct Db {
    pool: PgPool,
    engine_pool: PgPool,
    shared: Arc<Shared>,
}

/// What all clones of a handle know together.
pub(crate) struct Shared {
    /// Machine that this process registered as; 0 before and without an engine.
    machine: AtomicI64,
    /// Whether wake-ups go through the database.
    pub(crate) hints: bool,
    /// Counts committed transactions that added tasks.
    pub(crate) added: watch::Sender<u64>,
    pub(crate) metrics: DbMetrics,
}

/// The database cannot be used. Each is one sentence that says what to do and holds no password.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the database address is not understood ({0}); write it like postgres://USER:PASSWORD@HOST:PORT/NAME")]
    Address(String),
    #[error("no database answers at {place}: {cause}; check that PostgreSQL runs there and that the address is right")]
    Unreachable { place: String, cause: String },
    #[error("the database at {place} refuses user '{user}': {cause}; check the user and the password")]
    Refused { place: String, user: String, cause: String },
    #[error("there is no database '{name}' at {place}; create it (createdb {name}) or correct the address")]
    NoDatabase { place: String, name: String },
    #[error("failed to connect to the database at {place}: {cause}")]
    Other { place: String, cause: String },
}

impl Classify for ConnectError {
    fn classify(self) -> Failure {
        Failure::Unavailable(Box::new(self))
    }
}

impl Db {
    /// Connects, once and for real, and keeps pools for later. `application` is the name that the
    /// database shows for our connections.
    ///
    /// `url` is `postgres://USER:PASSWORD@HOST:PORT/NAME`, further settings as `?options=-c...`;
    /// `curio.hints=off` among them turns wake-ups through the database off.
    ///
    /// # Errors
    /// One clear sentence, within five seconds, without the password.
    pub async fn connect(url: &str, application: &str) -> Result<Db, ConnectError> {
        let options: PgConnectOptions = parse(url)?.application_name(application);
        let place = format!("{}:{}", options.get_host(), options.get_port());
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, sqlx::PgConnection::connect_with(&options)).await;
        let mut first = match attempt {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(explain(&options, place, &error)),
            Err(_) => {
                let cause = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
                return Err(ConnectError::Unreachable { place, cause });
            }
        };
        let version: String = match sqlx::query_scalar("SELECT version()").fetch_one(&mut first).await {
            Ok(version) => version,
            Err(error) => return Err(explain(&options, place, &error)),
        };
        // Closing politely only saves the server a log line.
        let _ = first.close().await;
        // YugabyteDB has LISTEN and NOTIFY only when told to, and a refused NOTIFY would undo the add it is
        // part of. The poll alone is correct there.
        let hints = !version.contains("-YB-") && !url.contains("curio.hints");
        let options = if hints { options.options([("curio.hints", "on")]) } else { options };
        let pool = pool_options(POOL_SIZE).connect_lazy_with(options.clone());
        // The engine's statements go by key or by the index of runnable rows. A plan that was cached while
        // the queue was empty must not scan the table when it is full.
        let engine_pool =
            pool_options(ENGINE_POOL_SIZE).connect_lazy_with(options.options([("enable_seqscan", "off")]));
        let shared =
            Shared { hints, machine: AtomicI64::new(0), added: watch::Sender::new(0), metrics: DbMetrics::default() };
        Ok(Db { pool, engine_pool, shared: Arc::new(shared) })
    }

    /// For reads, and for statements that need no transaction.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Closes all connections; waits for those in use to be given back.
    pub async fn close(&self) {
        self.engine_pool.close().await;
        self.pool.close().await;
    }

    pub(crate) fn engine_pool(&self) -> &PgPool {
        &self.engine_pool
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Counters of this handle's transactions.
    pub fn metrics(&self) -> &DbMetrics {
        &self.shared.metrics
    }
}

impl Shared {
    pub(crate) fn machine(&self) -> Option<i64> {
        match self.machine.load(Ordering::Relaxed) {
            0 => None,
            id => Some(id),
        }
    }

    pub(crate) fn set_machine(&self, id: i64) {
        self.machine.store(id, Ordering::Relaxed);
    }
}

fn pool_options(size: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(size)
        .min_connections(0)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(Duration::from_secs(300))
        .max_lifetime(Duration::from_secs(3600))
}

fn parse(url: &str) -> Result<PgConnectOptions, ConnectError> {
    // The message of the parser may quote the address, and with it the password.
    let scheme_is_known = url.starts_with("postgres://") || url.starts_with("postgresql://");
    if !scheme_is_known {
        return Err(ConnectError::Address("it does not start with postgres://".to_owned()));
    }
    let parsed = url::Url::parse(url).map_err(|error| ConnectError::Address(error.to_string()))?;
    let options =
        PgConnectOptions::from_url(&parsed).map_err(|_| ConnectError::Address("a part of it is wrong".into()))?;
    let mut settings = vec![
        ("search_path", SCHEMA),
        // No statement here is long; one that hangs must not hold its locks for ever.
        ("statement_timeout", "60s"),
        ("idle_in_transaction_session_timeout", "30s"),
        // Compiling a plan takes ten times as long as running any of these statements.
        ("jit", "off"),
    ];
    if !url.contains("default_transaction_isolation") {
        settings.push(("default_transaction_isolation", "read committed"));
    }
    let options = options.options(settings).statement_cache_capacity(256);
    Ok(options.log_statements(log::LevelFilter::Trace).log_slow_statements(log::LevelFilter::Warn, SLOW_STATEMENT))
}

fn explain(options: &PgConnectOptions, place: String, error: &sqlx::Error) -> ConnectError {
    let user = options.get_username().to_owned();
    match error {
        sqlx::Error::Io(io) => ConnectError::Unreachable { place, cause: io.to_string() },
        sqlx::Error::Database(database) => match database.code().as_deref() {
            Some("28P01" | "28000") => ConnectError::Refused { place, user, cause: database.message().to_owned() },
            Some("3D000") => {
                let name = options.get_database().unwrap_or(&user).to_owned();
                ConnectError::NoDatabase { place, name }
            }
            Some("57P03") => ConnectError::Unreachable { place, cause: database.message().to_owned() },
            _ => ConnectError::Other { place, cause: database.message().to_owned() },
        },
        other => ConnectError::Other { place, cause: other.to_string() },
    }
}

/// A statement failed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("failed to run a database statement")]
    Statement(#[from] sqlx::Error),
    #[error("failed to hear from the database within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection broke while the transaction was being committed. It may have happened or not, so it
    /// is not repeated; what the caller wrote under a unique key tells.
    #[error("failed to learn whether transaction '{name}' was committed")]
    CommitUnknown {
        name: &'static str,
        #[source]
        source: sqlx::Error,
    },
}

impl DbError {
    /// A row with the same unique key is there already.
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, DbError::Statement(sqlx::Error::Database(error)) if error.is_unique_violation())
    }

    /// The whole transaction may be run again: the server chose this one to give way, or the connection
    /// was lost before the commit.
    pub fn is_repeatable(&self) -> bool {
        match self {
            DbError::Statement(error) => matches!(trouble(error), Trouble::Conflict | Trouble::Away),
            DbError::Timeout(_) => true,
            DbError::CommitUnknown { .. } => false,
        }
    }

    /// The server chose this statement to give way to another; nothing of it happened.
    pub fn is_conflict(&self) -> bool {
        matches!(self, DbError::Statement(error) if trouble(error) == Trouble::Conflict)
    }

    /// The database is away or out of reach, which says nothing about the statement.
    pub fn is_away(&self) -> bool {
        match self {
            DbError::Statement(error) => trouble(error) == Trouble::Away,
            DbError::Timeout(_) | DbError::CommitUnknown { .. } => true,
        }
    }
}

impl Classify for DbError {
    fn classify(self) -> Failure {
        let away = self.is_away();
        let cause = Box::new(self);
        if away { Failure::Unavailable(cause) } else { Failure::Retry(cause) }
    }
}

/// What kind of trouble an error is, as far as repeating goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Serialisation failure or deadlock.
    Conflict,
    /// No connection, or the server goes or comes.
    Away,
    /// The statement itself.
    Statement,
}

pub(crate) fn trouble(error: &sqlx::Error) -> Trouble {
    match error {
        sqlx::Error::Database(database) => {
            trouble_of_code(database.code().as_deref().unwrap_or_default(), database.message())
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Trouble::Away,
        _ => Trouble::Statement,
    }
}

/// `code` is the SQLSTATE. The list is PostgreSQL's and YugabyteDB's.
fn trouble_of_code(code: &str, message: &str) -> Trouble {
    match code {
        "40001" | "40P01" => Trouble::Conflict,
        // Class 08: connection. 57P01-03: the server stops, crashed, starts. 25006: a standby answers.
        // 25P03: idle in transaction for too long. 53300: too many connections.
        "57P01" | "57P02" | "57P03" | "25006" | "25P03" | "53300" => Trouble::Away,
        _ if code.starts_with("08") => Trouble::Away,
        "XX000" if message.contains("schema version mismatch") => Trouble::Conflict,
        _ => Trouble::Statement,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("40001", "", Trouble::Conflict)]
    #[case("40P01", "", Trouble::Conflict)]
    #[case("08006", "", Trouble::Away)]
    #[case("57P01", "", Trouble::Away)]
    #[case("57P03", "", Trouble::Away)]
    #[case("25006", "", Trouble::Away)]
    #[case("XX000", "schema version mismatch for table", Trouble::Conflict)]
    #[case("XX000", "cache lookup failed", Trouble::Statement)]
    #[case("23505", "", Trouble::Statement)]
    #[case("57014", "", Trouble::Statement)]
    fn a_sqlstate_tells_whether_to_repeat(#[case] code: &str, #[case] message: &str, #[case] expected: Trouble) {
        assert_eq!(trouble_of_code(code, message), expected);
    }

    #[tokio::test]
    async fn an_address_of_another_kind_is_refused_without_showing_its_password() {
        let error = Db::connect("mysql://me:hunter2@localhost/x", "test").await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("postgres://USER"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let url = format!("postgres://me:hunter2@127.0.0.1:{port}/x");
        let error = Db::connect(&url, "test").await.map(|_| ()).unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
