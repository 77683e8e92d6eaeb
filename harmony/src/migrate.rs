//! Migrations: forward only, each file once, also when two programs start at the same time.
//!
//! The lock is a row lock, because YugabyteDB's advisory locks are optional. It is held on a connection of
//! its own, because there a schema change commits the transaction it runs in.

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use crate::db::{Db, DbError, Trouble, trouble};

/// The numbered files of `migrations/`, embedded.
pub static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// Runs of the whole procedure when other migrators get in the way.
const MAX_RUNS: u32 = 20;

/// What a migration run did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MigrationReport {
    /// Number of the newest migration that the database now has.
    pub version: i64,
    /// Names of the migrations applied by this run, in order.
    pub applied: Vec<String>,
}

/// The schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("failed to read or write the migration ledger")]
    Ledger(#[source] DbError),
    #[error("failed to apply migration {version} ({name}); nothing of it was kept")]
    Apply {
        version: i64,
        name: String,
        #[source]
        source: DbError,
    },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// The schema in the database is not the one this program was built for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("the database has no curio schema yet; run `curio migrate`")]
    Missing,
    #[error("the database schema is at version {found} and this program needs {needed}; run `curio migrate`")]
    Old { found: i64, needed: i64 },
    #[error("the database schema is at version {found}, newer than this program knows ({needed}); run a newer program")]
    New { found: i64, needed: i64 },
    #[error(
        "migration {version} was changed after it was applied to this database; restore the file as it was shipped"
    )]
    Changed { version: i64 },
    #[error("failed to read the schema version: {0}")]
    Unreadable(String),
}

struct Applied {
    version: i64,
    checksum: Vec<u8>,
}

impl Db {
    /// Brings the schema up to date. Two that run at the same time wait for each other.
    pub async fn migrate(&self) -> Result<MigrationReport, MigrateError> {
        let mut run = 1;
        loop {
            match self.migrate_once().await {
                // Two migrators that create the ledger at the same moment collide in the catalogue.
                Err(MigrateError::Ledger(error)) if run < MAX_RUNS && collided(&error) => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    run += 1;
                }
                other => return other,
            }
        }
    }

    async fn migrate_once(&self) -> Result<MigrationReport, MigrateError> {
        let ledger = |error: sqlx::Error| MigrateError::Ledger(DbError::from(error));
        let mut work = self.pool().acquire().await.map_err(ledger)?;
        create_ledger(&mut work).await.map_err(ledger)?;

        let mut guard = self.pool().acquire().await.map_err(ledger)?;
        let mut held = guard.begin().await.map_err(ledger)?;
        // The other migrator may take minutes, and so may we.
        sqlx::raw_sql("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
            .execute(&mut *held)
            .await
            .map_err(ledger)?;
        sqlx::query("SELECT id FROM curio.migration_lock WHERE id = 1 FOR UPDATE")
            .execute(&mut *held)
            .await
            .map_err(ledger)?;

        let applied = read_ledger(&mut work).await.map_err(ledger)?;
        let needed = newest();
        for row in &applied {
            let file = MIGRATOR.iter().find(|file| file.version == row.version);
            match file {
                None => return Err(SchemaError::New { found: row.version, needed }.into()),
                Some(file) if file.checksum.as_ref() != row.checksum => {
                    return Err(SchemaError::Changed { version: row.version }.into());
                }
                Some(_) => {}
            }
        }
        let mut done = Vec::new();
        for file in MIGRATOR.iter().filter(|file| applied.iter().all(|row| row.version != file.version)) {
            apply(&mut work, file).await.map_err(|source| MigrateError::Apply {
                version: file.version,
                name: file.description.to_string(),
                source: source.into(),
            })?;
            done.push(format!("{:04}_{}", file.version, file.description.replace(' ', "_")));
        }
        held.commit().await.map_err(ledger)?;
        Ok(MigrationReport { version: needed, applied: done })
    }

    /// Says whether the schema fits this program; changes nothing.
    pub async fn check_schema(&self) -> Result<(), SchemaError> {
        let unreadable = |error: sqlx::Error| SchemaError::Unreadable(error.to_string());
        let present: bool = sqlx::query_scalar("SELECT to_regclass('curio.migration') IS NOT NULL")
            .fetch_one(self.pool())
            .await
            .map_err(unreadable)?;
        if !present {
            return Err(SchemaError::Missing);
        }
        let found: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM curio.migration")
            .fetch_one(self.pool())
            .await
            .map_err(unreadable)?;
        compare(found, newest())
    }
}

fn compare(found: Option<i64>, needed: i64) -> Result<(), SchemaError> {
    match found {
        None => Err(SchemaError::Missing),
        Some(found) if found < needed => Err(SchemaError::Old { found, needed }),
        Some(found) if found > needed => Err(SchemaError::New { found, needed }),
        Some(_) => Ok(()),
    }
}

fn newest() -> i64 {
    MIGRATOR.iter().map(|file| file.version).max().unwrap_or(0)
}

/// Unique violation in the catalogue, object exists already, or a change of the same object at once.
fn collided(error: &DbError) -> bool {
    let DbError::Statement(error) = error else { return false };
    let code = error.as_database_error().and_then(|error| error.code());
    let twice = matches!(code.as_deref(), Some("23505" | "42P06" | "42P07" | "42710"));
    let updated = error.as_database_error().is_some_and(|error| error.message().contains("concurrently updated"));
    twice || updated || trouble(error) == Trouble::Conflict
}

// Statements of this file cannot be checked at build time: the tables they use are made here.

async fn create_ledger(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "
        SET client_min_messages = warning;
        CREATE SCHEMA IF NOT EXISTS curio;
        CREATE TABLE IF NOT EXISTS curio.migration (
            version    bigint PRIMARY KEY,
            name       text NOT NULL,
            checksum   bytea NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE TABLE IF NOT EXISTS curio.migration_lock (id smallint PRIMARY KEY);
        INSERT INTO curio.migration_lock (id) VALUES (1) ON CONFLICT DO NOTHING;
        RESET client_min_messages;
        ",
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn read_ledger(connection: &mut PgConnection) -> Result<Vec<Applied>, sqlx::Error> {
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM curio.migration ORDER BY version").fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(version, checksum)| Applied { version, checksum }).collect())
}

/// One file and its ledger row, in one transaction.
async fn apply(connection: &mut PgConnection, file: &sqlx::migrate::Migration) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::raw_sql("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    sqlx::raw_sql(file.sql.clone()).execute(&mut *tx).await?;
    sqlx::query("INSERT INTO curio.migration (version, name, checksum) VALUES ($1, $2, $3)")
        .bind(file.version)
        .bind(file.description.as_ref())
        .bind(file.checksum.as_ref())
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_differs_says_what_to_do() {
        assert_eq!(compare(None, 4), Err(SchemaError::Missing));
        assert_eq!(compare(Some(3), 4), Err(SchemaError::Old { found: 3, needed: 4 }));
        assert_eq!(compare(Some(5), 4), Err(SchemaError::New { found: 5, needed: 4 }));
        assert_eq!(compare(Some(4), 4), Ok(()));
        for error in [SchemaError::Missing, SchemaError::Old { found: 3, needed: 4 }] {
            assert!(error.to_string().contains("run `curio migrate`"), "{error}");
        }
    }
}
