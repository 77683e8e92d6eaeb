//! The rival: the statement shapes of Curio's scheduler, second generation, on the same server.
//!
//! Each cycle of a machine asks for its flags, then for each kind reads the waiting ids and claims one;
//! a completion is a transaction of read, delete and history row; an add is a transaction of its own.
//! Written anew from a description of those statements; BEGIN and COMMIT count as statements, because each is
//! a round trip. The indexes are Curio's. Task bodies do nothing here either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use curio_harmony::testing::TestDb;
use futures::future::try_join_all;
use sqlx::{Connection, PgConnection};

use crate::kinds::KINDS;
use crate::server;

const MACHINES: u32 = 8;
/// Waiting tasks of each kind while measuring.
const DEPTH: u32 = 100;
const LIMIT: Duration = Duration::from_secs(120);

pub struct Rival {
    pub statements_per_task: f64,
    pub tasks_per_db_second: f64,
}

pub async fn measure(tasks: u32) -> Result<Rival> {
    let test = TestDb::empty().await;
    sqlx::raw_sql(
        "
        CREATE SCHEMA curio;
        CREATE TABLE curio.harmony_machines (
            id serial PRIMARY KEY, last_contact timestamptz NOT NULL DEFAULT now(), host_and_port varchar(300) NOT NULL,
            unschedulable boolean DEFAULT false, restart_request timestamptz
        );
        CREATE TABLE curio.harmony_task (
            id serial PRIMARY KEY, initiated_by integer, update_time timestamptz NOT NULL DEFAULT now(),
            posted_time timestamptz NOT NULL, owner_id integer REFERENCES curio.harmony_machines (id) ON DELETE SET NULL,
            added_by integer NOT NULL, previous_task integer, name varchar(16) NOT NULL, retries bigint NOT NULL DEFAULT 0
        );
        CREATE INDEX ON curio.harmony_task (name, update_time) WHERE owner_id IS NULL;
        CREATE TABLE curio.harmony_task_history (
            id serial PRIMARY KEY, task_id integer NOT NULL, name varchar(16) NOT NULL, posted timestamptz NOT NULL,
            work_start timestamptz NOT NULL, work_end timestamptz NOT NULL, result boolean NOT NULL, err varchar,
            completed_by_host_and_port varchar(300) NOT NULL
        );
        CREATE INDEX ON curio.harmony_task_history (task_id, result);
        CREATE INDEX ON curio.harmony_task_history (work_end DESC, completed_by_host_and_port, name, result);
        CREATE INDEX ON curio.harmony_task_history (work_end DESC, name, task_id, result);
        INSERT INTO curio.harmony_machines (host_and_port) SELECT 'machine-' || n FROM generate_series(1, 8) n;
        ",
    )
    .execute(test.db().pool())
    .await?;
    let names: Vec<String> = KINDS.iter().map(|kind| kind.as_str().to_owned()).collect();
    sqlx::query(
        "INSERT INTO curio.harmony_task (posted_time, added_by, name)
         SELECT now(), 1, name FROM unnest($1::text[]) AS k(name), generate_series(1, $2::int)",
    )
    .bind(&names)
    .bind(i32::try_from(DEPTH)?)
    .execute(test.db().pool())
    .await?;

    let postmaster = server::postmaster(test.db().pool()).await?;
    let cpu = server::cpu_seconds(postmaster)?;
    let done = Arc::new(AtomicU32::new(0));
    let statements = Arc::new(AtomicU64::new(0));
    let machines = (1..=MACHINES).map(|machine| {
        let (done, statements, url) = (done.clone(), statements.clone(), test.url().to_owned());
        async move {
            let connection = PgConnection::connect(&url).await?;
            let mut machine = Machine { id: i32::try_from(machine)?, connection, statements };
            machine.statement("SET search_path = curio").await?;
            while done.load(Ordering::Relaxed) < tasks {
                machine.cycle(&done).await?;
            }
            anyhow::Ok(())
        }
    });
    tokio::time::timeout(LIMIT, try_join_all(machines)).await.context("the rival did not finish in time")??;
    let cpu = server::cpu_seconds(postmaster)? - cpu;
    let done = done.load(Ordering::Relaxed);
    ensure!(done >= tasks, "{done} of {tasks} tasks were done");
    Ok(Rival {
        statements_per_task: statements.load(Ordering::Relaxed) as f64 / f64::from(done),
        tasks_per_db_second: f64::from(done) / cpu.max(0.01),
    })
}

struct Machine {
    id: i32,
    connection: PgConnection,
    statements: Arc<AtomicU64>,
}

impl Machine {
    fn count(&self, statements: u64) {
        self.statements.fetch_add(statements, Ordering::Relaxed);
    }

    async fn statement(&mut self, statement: &'static str) -> Result<()> {
        self.count(1);
        sqlx::query(statement).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn cycle(&mut self, done: &AtomicU32) -> Result<()> {
        self.count(1);
        sqlx::query("SELECT unschedulable, restart_request FROM harmony_machines WHERE id = $1")
            .bind(self.id)
            .fetch_one(&mut self.connection)
            .await?;
        for kind in KINDS {
            self.count(1);
            let ids: Vec<i32> = sqlx::query_scalar(
                "SELECT id FROM harmony_task WHERE owner_id IS NULL AND name = $1 ORDER BY update_time",
            )
            .bind(kind.as_str())
            .fetch_all(&mut self.connection)
            .await?;
            if ids.is_empty() {
                continue;
            }
            self.count(1);
            let mine: Vec<i32> = sqlx::query_scalar(
                "WITH candidates AS (
                     SELECT id FROM harmony_task WHERE owner_id IS NULL AND id = ANY ($1) LIMIT 1 FOR UPDATE SKIP LOCKED
                 )
                 UPDATE harmony_task t SET owner_id = $2 FROM candidates c WHERE t.id = c.id RETURNING t.id",
            )
            .bind(&ids)
            .bind(self.id)
            .fetch_all(&mut self.connection)
            .await?;
            for id in mine {
                self.complete(id).await?;
                self.add(kind.as_str()).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// BEGIN, SELECT, DELETE, INSERT, COMMIT.
    async fn complete(&mut self, id: i32) -> Result<()> {
        self.count(5);
        let mut tx = self.connection.begin().await?;
        sqlx::query("SELECT posted_time FROM harmony_task WHERE id = $1").bind(id).fetch_one(&mut *tx).await?;
        sqlx::query("DELETE FROM harmony_task WHERE id = $1").bind(id).execute(&mut *tx).await?;
        sqlx::query(
            "INSERT INTO harmony_task_history
                 (task_id, name, posted, work_start, work_end, result, completed_by_host_and_port, err)
             VALUES ($1, 'Kind', now(), now(), now(), true, 'machine', '') RETURNING id",
        )
        .bind(id)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// BEGIN, INSERT, COMMIT.
    async fn add(&mut self, kind: &str) -> Result<()> {
        self.count(3);
        let mut tx = self.connection.begin().await?;
        sqlx::query("INSERT INTO harmony_task (name, added_by, posted_time) VALUES ($1, $2, now()) RETURNING id")
            .bind(kind)
            .bind(self.id)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}
