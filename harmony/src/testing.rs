//! A database of its own for each test, copied from a template that holds the migrated schema.
//!
//! The server is named by `CURIO_TEST_DATABASE_URL`; its user must be allowed to create databases.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::db::Db;
use crate::migrate::MIGRATOR;

/// Environment variable with the address of a database on the test server.
pub const URL_VARIABLE: &str = "CURIO_TEST_DATABASE_URL";
/// Key of the lock under which the template is made; any number that nobody else uses.
const TEMPLATE_LOCK: i64 = 0x6375_7269_6f74_6d70;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh, migrated database; dropped at the end.
pub struct TestDb {
    db: Db,
    url: String,
    name: String,
    admin_url: String,
}

impl TestDb {
    /// Creates a database.
    ///
    /// # Panics
    /// When there is no test server, with a sentence that says what to set.
    pub async fn new() -> TestDb {
        let admin_url = server_url();
        let template = ensure_template(&admin_url).await;
        let name = unique_name();
        let mut admin = connect(&admin_url).await;
        run(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        let _ = admin.close().await;
        let url = with_database(&admin_url, &name);
        let db = Db::connect(&url, "curio-test").await.expect("the database was just created");
        TestDb { db, url, name, admin_url }
    }

    /// Creates a database without any schema.
    pub async fn empty() -> TestDb {
        let admin_url = server_url();
        let name = unique_name();
        let mut admin = connect(&admin_url).await;
        run(&mut admin, format!("CREATE DATABASE {name}")).await;
        let _ = admin.close().await;
        let url = with_database(&admin_url, &name);
        let db = Db::connect(&url, "curio-test").await.expect("the database was just created");
        TestDb { db, url, name, admin_url }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Another handle with connections of its own, as another process would have.
    pub async fn connect(&self) -> Db {
        Db::connect(&self.url, "curio-test").await.expect("the database is there")
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (name, admin_url) = (self.name.clone(), self.admin_url.clone());
        // A runtime of its own: the test's may be gone, and must not be blocked. Failure leaves a database
        // on a test server, which is no reason to fail a test.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                if let Ok(mut admin) = PgConnection::connect(&admin_url).await {
                    let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                    let _ = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await;
                    let _ = admin.close().await;
                }
            });
        });
        let _ = dropper.join();
    }
}

/// Address of the test server.
///
/// # Panics
/// When the variable is not set.
pub fn server_url() -> String {
    std::env::var(URL_VARIABLE).unwrap_or_else(|_| {
        panic!(
            "these tests need a PostgreSQL: set {URL_VARIABLE}=postgres://USER@HOST:PORT/postgres, \
             or run `cargo xtask test`, which starts one"
        )
    })
}

fn unique_name() -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    format!("curio_test_{}_{}_{nanos}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap_or_else(|error| {
        panic!("the PostgreSQL of {URL_VARIABLE} does not answer ({error}); start it, or run `cargo xtask test`")
    })
}

async fn run(connection: &mut PgConnection, statement: String) {
    let shown = statement.clone();
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("test server refused `{shown}`: {error}"));
}

/// Makes the template once for each set of migrations, also when several processes begin at once.
async fn ensure_template(admin_url: &str) -> String {
    let mut hasher = DefaultHasher::new();
    for file in MIGRATOR.iter() {
        (file.version, file.checksum.as_ref()).hash(&mut hasher);
    }
    let template = format!("curio_template_{:016x}", hasher.finish());
    let mut admin = connect(admin_url).await;
    // Tests run on PostgreSQL only, so an advisory lock is fine here.
    sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut admin).await.expect("a lock");
    let present: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&template)
        .fetch_one(&mut admin)
        .await
        .expect("the catalogue can be read");
    if !present {
        let building = format!("{template}_new");
        run(&mut admin, format!("DROP DATABASE IF EXISTS {building} WITH (FORCE)")).await;
        run(&mut admin, format!("CREATE DATABASE {building}")).await;
        let db = Db::connect(&with_database(admin_url, &building), "curio-test").await.expect("just created");
        db.migrate().await.unwrap_or_else(|error| panic!("migrations fail on an empty database: {error:?}"));
        db.close().await;
        run(&mut admin, format!("ALTER DATABASE {building} RENAME TO {template}")).await;
    }
    let _ = admin.close().await;
    template
}

/// The same server and settings, another database.
fn with_database(url: &str, name: &str) -> String {
    let mut url = url::Url::parse(url).unwrap_or_else(|error| panic!("{URL_VARIABLE} is not an address: {error}"));
    url.set_path(name);
    url.to_string()
}
