//! This machine in the database: registration, heartbeat, and the release of what dead machines held.

use std::time::Duration;

use curio_core::Resources;
use sqlx::PgPool;
use sqlx::types::chrono::{DateTime, Utc};

use crate::machines::ReleasedTask;
use crate::pick::Identity;
use crate::registry::Registry;
use crate::slots::Running;
use crate::task::Class;
use crate::transaction::Tx;

/// Who this machine is and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// Stable over restarts, and different from all other machines of the cluster.
    pub name: String,
    /// `host:port` at which the others reach us.
    pub address: String,
    pub resources: Resources,
    /// Configuration layers, in order.
    pub layers: Vec<String>,
    pub version: String,
    pub labels: Vec<String>,
    /// What the process runs in and dies with, such as the UID of a pod; empty when nobody said.
    pub instance: String,
    /// By the clock of the node that the process runs on.
    pub process_started_at: DateTime<Utc>,
}

/// The kinds that a machine tells others it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) kinds: Vec<String>,
    /// Those of them whose work has a deadline.
    pub(crate) deadline_kinds: Vec<String>,
}

impl Offered {
    pub(crate) fn of(registry: &Registry) -> Offered {
        let names = |wanted: &dyn Fn(Class) -> bool| {
            let kinds = registry.kinds.iter().filter(|kind| wanted(kind.spec.class));
            kinds.map(|kind| kind.name.as_str().to_owned()).collect()
        };
        Offered { kinds: names(&|_| true), deadline_kinds: names(&|class| class == Class::Deadline) }
    }
}

/// Makes this process the one that has the name. A process that had it before is shut out: its claims
/// find nothing and its next heartbeat tells it.
///
/// A cordon stays as long as the instance does: a container that starts again in a pod that is about to leave
/// still takes nothing new. Another instance of the name, such as the next pod of a slot, starts without one.
pub(crate) async fn register(pool: &PgPool, spec: &MachineSpec, offered: &Offered) -> Result<Identity, sqlx::Error> {
    let Offered { kinds, deadline_kinds } = offered;
    let MachineSpec { name, address, resources, layers, version, labels, instance, process_started_at } = spec;
    let Resources { cpu, ram_bytes, gpu_milli } = *resources;
    sqlx::query_as!(
        Identity,
        r#"
        INSERT INTO harmony_task_machines AS m
            (name, host_and_port, cpu, ram, gpu_milli, kinds, layers, labels, version, instance, process_started_at,
            deadline_kinds)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        -- The incarnation shuts out whoever had the name before.
        ON CONFLICT (name) DO UPDATE
        SET incarnation = m.incarnation + 1, host_and_port = excluded.host_and_port, cpu = excluded.cpu,
            ram = excluded.ram, gpu_milli = excluded.gpu_milli, kinds = excluded.kinds, layers = excluded.layers,
            labels = excluded.labels, version = excluded.version, started_at = now(), last_contact = now(),
            running = 0, stopped_at = NULL, evicted_at = NULL, instance = excluded.instance,
            process_started_at = excluded.process_started_at, deadline_kinds = excluded.deadline_kinds,
            cordoned_at = CASE WHEN m.instance = excluded.instance THEN m.cordoned_at END
        RETURNING id AS machine, incarnation
        "#,
        name,
        address,
        i32::try_from(cpu).unwrap_or(i32::MAX),
        i64::try_from(ram_bytes).unwrap_or(i64::MAX),
        i32::try_from(gpu_milli).unwrap_or(i32::MAX),
        kinds,
        layers,
        labels,
        version,
        instance,
        process_started_at,
        deadline_kinds,
    )
    .fetch_one(pool)
    .await
}

/// What a heartbeat says and by what it judges others.
pub(crate) struct Beating<'a> {
    pub(crate) running: &'a [Running],
    pub(crate) lease: Duration,
    pub(crate) deadline_lease: Duration,
}

/// What a heartbeat found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    /// Our row is there and ours; false after an eviction or when another process has the name.
    pub(crate) alive: bool,
    /// Machines that this heartbeat declared lost.
    pub(crate) evicted: Vec<String>,
    /// Machines that were silent for longer than deadline work may wait; the rest of their work is still theirs.
    pub(crate) silent: Vec<String>,
    /// Tasks that were taken from lost and silent machines.
    pub(crate) released: usize,
    /// Attempts of ours that are not ours any more.
    pub(crate) lost: Vec<i64>,
}

/// Says that this machine lives, and releases the tasks of machines that have not said so for a lease: their
/// deadline tasks after the shorter one, all of them after the other.
///
/// One transaction. Only a machine that was itself in touch lately judges others: after an outage of
/// the database everybody looks dead until everybody has spoken. A release counts as a failed attempt.
/// Machines that were evicted in the last ten minutes are looked at again, for a claim that was under way
/// when they were.
pub(crate) async fn heartbeat(pool: &PgPool, me: Identity, beating: &Beating<'_>) -> Result<Beat, sqlx::Error> {
    let (ids, attempts): (Vec<i64>, Vec<i32>) = beating
        .running
        .iter()
        .map(|running| (running.task.0, i32::try_from(running.attempt).unwrap_or(i32::MAX)))
        .unzip();
    let mut tx = pool.begin().await?;
    let row = sqlx::query!(
        r#"
        WITH me AS (
            UPDATE harmony_task_machines
            SET last_contact = now(), running = cardinality($3::bigint[])
            WHERE id = $1 AND incarnation = $2 AND evicted_at IS NULL
            RETURNING id
        ),
        -- All parts of the statement see the rows as they were before it, so this is the contact before now.
        trusted AS (
            SELECT id, now() - last_contact AS silence FROM harmony_task_machines
            WHERE id = $1 AND incarnation = $2 AND evicted_at IS NULL
                AND last_contact > now() - $5::bigint * interval '1 millisecond' / 2
        ),
        -- Waits for a heartbeat of the machine that is under way, and then finds it alive.
        evicted AS (
            UPDATE harmony_task_machines d
            SET evicted_at = now()
            FROM trusted
            WHERE d.id <> $1 AND d.evicted_at IS NULL AND d.stopped_at IS NULL
                AND d.last_contact < now() - $5::bigint * interval '1 millisecond'
            RETURNING d.id, d.name
        ),
        dead AS (
            SELECT id FROM evicted
            UNION ALL
            SELECT d.id FROM harmony_task_machines d CROSS JOIN trusted
            WHERE d.evicted_at > now() - interval '10 minutes'
                AND EXISTS (SELECT FROM harmony_task t WHERE t.owner_id = d.id)
        ),
        silent AS (
            SELECT d.id, d.name FROM harmony_task_machines d CROSS JOIN trusted
            WHERE d.id <> $1 AND d.evicted_at IS NULL AND d.stopped_at IS NULL AND d.deadline_kinds <> '{}'
                -- Three beats fit into this lease, so when we were heard last the other should have been, too.
                AND trusted.silence < $6::bigint * interval '1 millisecond' * 2 / 3
                AND d.last_contact < now() - $6::bigint * interval '1 millisecond'
                -- Silent for longer than that is evicted.
                AND d.last_contact >= now() - $5::bigint * interval '1 millisecond'
                AND EXISTS (SELECT FROM harmony_task t WHERE t.owner_id = d.id AND t.name = ANY (d.deadline_kinds))
        )
        SELECT EXISTS (SELECT FROM me) AS "alive!",
            ARRAY(SELECT name FROM evicted ORDER BY name) AS "evicted!",
            ARRAY(SELECT id FROM dead) AS "dead!",
            ARRAY(SELECT name FROM silent ORDER BY name) AS "silent_names!",
            ARRAY(SELECT id FROM silent) AS "silent!",
            ARRAY(
                SELECT r.id FROM unnest($3::bigint[], $4::int[]) AS r(id, attempt)
                WHERE NOT EXISTS (
                    SELECT FROM harmony_task t WHERE t.id = r.id AND t.owner_id = $1 AND t.attempt = r.attempt
                )
            ) AS "lost!",
            -- The listener of this machine expects to hear this; silence means that its connection is dead.
            CASE WHEN current_setting('curio.hints', true) = 'on'
                THEN pg_notify('curio_machine_' || $1::bigint, 'beat')::text END AS beat
        "#,
        me.machine,
        me.incarnation,
        &ids,
        &attempts,
        millis(beating.lease),
        millis(beating.deadline_lease),
    )
    .fetch_one(&mut *tx)
    .await?;
    let mut released = 0;
    for machine in row.dead {
        released += release(&mut tx, machine, Gone::Evicted).await?.len();
    }
    for machine in row.silent {
        released += release(&mut tx, machine, Gone::Silent { lease: beating.deadline_lease }).await?.len();
    }
    tx.commit().await?;
    Ok(Beat { alive: row.alive, evicted: row.evicted, silent: row.silent_names, released, lost: row.lost })
}

/// In which way a machine is gone, and with it what it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// All that it owns is released.
    Evicted,
    /// It said nothing for this long: its deadline tasks are released.
    Silent { lease: Duration },
}

/// Releases what a machine that is gone owns, as attempts that failed, and wakes the machines that run deadline kinds
/// among it. Nothing when the machine is not gone any more: it has registered anew, or spoken, meanwhile, and its tasks
/// are its own.
///
/// A statement of its own, after the one that judged: it sees the claims that were stored until then.
pub(crate) async fn release(tx: &mut Tx, machine: i64, gone: Gone) -> Result<Vec<ReleasedTask>, sqlx::Error> {
    let (silent_ms, story) = match gone {
        Gone::Evicted => (None, "the machine was lost during the attempt"),
        Gone::Silent { lease } => (Some(millis(lease)), "the machine was silent for too long during the attempt"),
    };
    sqlx::query_as!(
        ReleasedTask,
        r#"
        WITH dead AS (
            SELECT id, name, host_and_port, deadline_kinds FROM harmony_task_machines
            WHERE id = $1
                AND CASE WHEN $2::bigint IS NULL THEN evicted_at IS NOT NULL
                    ELSE evicted_at IS NULL AND last_contact < now() - $2::bigint * interval '1 millisecond' END
            -- A registration or heartbeat that is under way goes first, and the machine is then not dead.
            FOR UPDATE
        ),
        held AS (
            SELECT t.id, t.claimed_at, d.name, d.host_and_port
            FROM harmony_task t JOIN dead d ON d.id = t.owner_id
            WHERE $2::bigint IS NULL OR t.name = ANY (d.deadline_kinds)
            -- A completion that is being written goes first.
            FOR UPDATE OF t
        ),
        released AS (
            UPDATE harmony_task t
            SET owner_id = NULL, update_time = now(), run_after = now(), retries = t.retries + 1,
                failed_at = CASE WHEN t.retries + 1 >= t.max_failures THEN now() END,
                failed_reason = CASE WHEN t.retries + 1 >= t.max_failures THEN 'max-failures' ELSE '' END,
                failed_error = CASE WHEN t.retries + 1 >= t.max_failures
                    THEN 'the machine was lost during the last attempt' ELSE '' END
            FROM held h
            WHERE t.id = h.id AND t.owner_id IS NOT NULL
            RETURNING t.id, t.name, t.attempt, t.posted_time, t.failed_at, h.claimed_at, h.name AS machine,
                h.host_and_port
        ),
        history AS (
            INSERT INTO harmony_task_history (task_id, name, attempt, posted, work_start, result, err,
                completed_by_machine, completed_by_host_and_port)
            SELECT id, name, attempt, posted_time, coalesce(claimed_at, now()), false, $3, machine, host_and_port
            FROM released
        ),
        -- Work that has a deadline must not wait for the next poll of a machine that could do it.
        hint AS MATERIALIZED (
            SELECT pg_notify('curio_machine_' || m.id, 'deadline')::text AS sent FROM harmony_task_machines m
            WHERE m.deadline_kinds && ARRAY(SELECT name::text FROM released WHERE failed_at IS NULL)
                AND m.id <> $1 AND m.evicted_at IS NULL AND m.stopped_at IS NULL AND m.cordoned_at IS NULL
                AND current_setting('curio.hints', true) = 'on'
        )
        SELECT r.id AS "id!", r.name AS "kind!", r.attempt AS "attempt!", r.failed_at IS NOT NULL AS "failed!"
        FROM released r
        WHERE (SELECT count(sent) FROM hint) >= 0
        ORDER BY r.id
        "#,
        machine,
        silent_ms,
        story,
    )
    .fetch_all(tx)
    .await
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Whether another process has taken over the name since.
pub(crate) async fn is_replaced(pool: &PgPool, me: Identity) -> Result<bool, sqlx::Error> {
    let newer = sqlx::query_scalar!(
        "SELECT id FROM harmony_task_machines WHERE id = $1 AND incarnation > $2",
        me.machine,
        me.incarnation,
    )
    .fetch_optional(pool)
    .await?;
    Ok(newer.is_some())
}

/// Says goodbye, and gives back whatever is still ours: a claim that was cut off, for example.
pub(crate) async fn stop(pool: &PgPool, me: Identity) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        WITH me AS (
            UPDATE harmony_task_machines SET stopped_at = now(), running = 0
            WHERE id = $1 AND incarnation = $2 AND evicted_at IS NULL
            RETURNING id
        )
        UPDATE harmony_task t
        SET owner_id = NULL, update_time = now(), run_after = now()
        FROM me
        WHERE t.owner_id = me.id
        "#,
        me.machine,
        me.incarnation,
    )
    .execute(pool)
    .await?;
    Ok(())
}
