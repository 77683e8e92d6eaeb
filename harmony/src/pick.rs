//! The statements that take tasks. All of them leave rows alone that somebody else is looking at.

use curio_core::Resources;
use sqlx::PgPool;
use sqlx::types::chrono::{DateTime, Utc};

/// One kind in a claim over all kinds; the place in the list is its rank.
pub(crate) struct Ask {
    pub(crate) name: &'static str,
    /// Most tasks to take; 0 to see candidates of a kind that has no room.
    pub(crate) cap: u32,
    pub(crate) cost: Resources,
    pub(crate) max_failures: Option<i32>,
    /// What tasks of the kind may use, those of higher ranks in the same claim included.
    pub(crate) usable: Resources,
    /// Candidates are only shown, and those after `after`.
    pub(crate) filtered: bool,
    pub(crate) after: Option<Place>,
}

/// A place in the queue of a kind.
pub(crate) type Place = (DateTime<Utc>, i64);

/// Most candidates shown of one filtered kind.
pub(crate) const PEEK: usize = 64;

/// A task that the claim saw.
pub(crate) struct Seen {
    /// Index into the asks, from 0.
    pub(crate) ask: i32,
    pub(crate) id: i64,
    pub(crate) run_after: DateTime<Utc>,
    /// Fencing number, when the task is ours now.
    pub(crate) attempt: Option<i32>,
    pub(crate) retries: i32,
    /// How long it could have been running, by the server's clock.
    pub(crate) waited_s: f64,
}

/// Machine and incarnation: who claims.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) machine: i64,
    pub(crate) incarnation: i64,
}

/// Claims tasks of all unfiltered kinds and shows candidates of the filtered ones, in one statement.
///
/// Within a kind the longest runnable task comes first. Over the kinds, costs are summed in rank order
/// and a task is taken while the sum stays within what its kind may use; candidates of a filtered kind weigh as many
/// as its cap, so that a lower rank does not eat what a higher one is about to take. What was seen but
/// has no attempt number was held back or is a candidate. A cordoned machine sees nothing.
pub(crate) async fn claim(
    pool: &PgPool,
    me: Identity,
    asks: &[Ask],
    excluded: &[i64],
) -> Result<Vec<Seen>, sqlx::Error> {
    let names: Vec<String> = asks.iter().map(|ask| ask.name.to_owned()).collect();
    let caps: Vec<i32> = asks.iter().map(|ask| i32::try_from(ask.cap).unwrap_or(i32::MAX)).collect();
    let cpus: Vec<i64> = asks.iter().map(|ask| ask.cost.cpu.into()).collect();
    let rams: Vec<i64> = asks.iter().map(|ask| bytes(ask.cost.ram_bytes)).collect();
    let gpus: Vec<i64> = asks.iter().map(|ask| ask.cost.gpu_milli.into()).collect();
    let usable_cpus: Vec<i64> = asks.iter().map(|ask| ask.usable.cpu.into()).collect();
    let usable_rams: Vec<i64> = asks.iter().map(|ask| bytes(ask.usable.ram_bytes)).collect();
    let usable_gpus: Vec<i64> = asks.iter().map(|ask| ask.usable.gpu_milli.into()).collect();
    let limits: Vec<i32> = asks.iter().map(|ask| ask.max_failures.unwrap_or(-1)).collect();
    let filtered: Vec<bool> = asks.iter().map(|ask| ask.filtered).collect();
    let after: Vec<DateTime<Utc>> =
        asks.iter().map(|ask| ask.after.map_or(DateTime::<Utc>::UNIX_EPOCH, |(time, _)| time)).collect();
    let after_id: Vec<i64> = asks.iter().map(|ask| ask.after.map_or(i64::MIN, |(_, id)| id)).collect();
    sqlx::query_as!(
        Seen,
        r#"
        WITH kind AS (
            SELECT * FROM unnest($3::text[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::int[],
                                 $9::bool[], $10::timestamptz[], $11::bigint[], $14::bigint[], $15::bigint[],
                                 $16::bigint[])
                WITH ORDINALITY AS k(name, cap, cpu, ram, gpu, max_failures, filtered, after, after_id, usable_cpu,
                                     usable_ram, usable_gpu, rank)
        ),
        -- A machine that was evicted or cordoned, or whose name another process took over, claims nothing.
        self AS (
            SELECT id FROM harmony_task_machines
            WHERE id = $1 AND incarnation = $2 AND evicted_at IS NULL AND cordoned_at IS NULL
        ),
        -- Locks at most cap rows of each kind and skips those that another machine has locked.
        locked AS (
            SELECT k.rank, k.cpu, k.ram, k.gpu, k.usable_cpu, k.usable_ram, k.usable_gpu, k.max_failures, t.id,
                t.run_after, t.retries
            FROM self CROSS JOIN kind k CROSS JOIN LATERAL (
                SELECT id, run_after, retries FROM harmony_task
                WHERE name = k.name AND owner_id IS NULL AND failed_at IS NULL
                    AND run_after <= now() AND id <> ALL ($12::bigint[])
                ORDER BY run_after, id
                LIMIT k.cap
                FOR UPDATE SKIP LOCKED
            ) t
            WHERE NOT k.filtered
        ),
        -- Looks at filtered kinds without a lock: most candidates will not be taken.
        peeked AS (
            SELECT k.rank, k.cap, k.cpu, k.ram, k.gpu, t.id, t.run_after, t.retries,
                row_number() OVER (PARTITION BY k.rank ORDER BY t.run_after, t.id) AS place
            FROM self CROSS JOIN kind k CROSS JOIN LATERAL (
                SELECT id, run_after, retries FROM harmony_task
                WHERE name = k.name AND owner_id IS NULL AND failed_at IS NULL
                    AND run_after <= now() AND id <> ALL ($12::bigint[])
                    AND (run_after, id) > (k.after, k.after_id)
                ORDER BY run_after, id
                LIMIT $13
            ) t
            WHERE k.filtered
        ),
        weighed AS (
            SELECT id, sum(cpu) OVER ranked AS cpu, sum(ram) OVER ranked AS ram, sum(gpu) OVER ranked AS gpu
            FROM (
                SELECT id, rank, run_after, cpu, ram, gpu FROM locked
                UNION ALL
                SELECT id, rank, run_after, cpu, ram, gpu FROM peeked WHERE place <= cap
            ) both_kinds
            WINDOW ranked AS (ORDER BY rank, run_after, id)
        ),
        claimed AS (
            UPDATE harmony_task t
            SET owner_id = $1, attempt = t.attempt + 1, claimed_at = now(), update_time = now(),
                max_failures = nullif(l.max_failures, -1)
            FROM locked l JOIN weighed w ON w.id = l.id
            WHERE t.id = l.id AND t.owner_id IS NULL
                AND w.cpu <= l.usable_cpu AND w.ram <= l.usable_ram AND w.gpu <= l.usable_gpu
            RETURNING t.id, t.attempt
        )
        SELECT (l.rank - 1)::int AS "ask!", l.id AS "id!", l.run_after AS "run_after!", c.attempt AS "attempt?",
            l.retries AS "retries!", extract(epoch FROM now() - l.run_after)::float8 AS "waited_s!"
        FROM locked l LEFT JOIN claimed c ON c.id = l.id
        UNION ALL
        SELECT (p.rank - 1)::int, p.id, p.run_after, NULL, p.retries,
            extract(epoch FROM now() - p.run_after)::float8
        FROM peeked p
        ORDER BY 1, 3, 2
        "#,
        me.machine,
        me.incarnation,
        &names,
        &caps,
        &cpus,
        &rams,
        &gpus,
        &limits,
        &filtered,
        &after,
        &after_id,
        excluded,
        PEEK as i64,
        &usable_cpus,
        &usable_rams,
        &usable_gpus,
    )
    .fetch_all(pool)
    .await
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A task that is ours.
pub(crate) struct Taken {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) attempt: i32,
    pub(crate) retries: i32,
    pub(crate) waited_s: f64,
}

/// Claims those of `ids`, all of one kind, that nobody else took meanwhile.
pub(crate) async fn claim_these(
    pool: &PgPool,
    me: Identity,
    ids: &[i64],
    max_failures: Option<i32>,
) -> Result<Vec<Taken>, sqlx::Error> {
    sqlx::query_as!(
        Taken,
        r#"
        WITH self AS (
            SELECT id FROM harmony_task_machines
            WHERE id = $1 AND incarnation = $2 AND evicted_at IS NULL AND cordoned_at IS NULL
        ),
        -- Skips rows that another machine is claiming at this moment.
        locked AS (
            SELECT t.id, t.run_after FROM harmony_task t
            WHERE t.id = ANY ($3) AND t.owner_id IS NULL AND t.failed_at IS NULL AND t.run_after <= now()
                AND EXISTS (SELECT FROM self)
            FOR UPDATE SKIP LOCKED
        )
        UPDATE harmony_task t
        SET owner_id = $1, attempt = t.attempt + 1, claimed_at = now(), update_time = now(), max_failures = $4
        FROM locked l
        WHERE t.id = l.id AND t.owner_id IS NULL
        RETURNING t.id AS "id!", t.name AS "name!", t.attempt AS "attempt!", t.retries AS "retries!",
            extract(epoch FROM now() - l.run_after)::float8 AS "waited_s!"
        "#,
        me.machine,
        me.incarnation,
        ids,
        max_failures,
    )
    .fetch_all(pool)
    .await
}

/// Takes back the tasks that this machine owns and is not running: all of them after a restart, those
/// whose claim was never heard of after a connection broke. A cordon does not matter: they are its own.
///
/// With `crashed`, the attempt that was under way counts as failed and gets its history row, and a task
/// whose attempts are used up is failed instead of taken. Each task gets a new fencing number, so whatever is left of the
/// attempt before can change nothing.
pub(crate) async fn take_back(
    pool: &PgPool,
    me: Identity,
    running: &[i64],
    crashed: bool,
) -> Result<Vec<Taken>, sqlx::Error> {
    sqlx::query_as!(
        Taken,
        r#"
        WITH self AS (
            SELECT id, name, host_and_port FROM harmony_task_machines
            WHERE id = $1 AND incarnation = $2 AND evicted_at IS NULL
        ),
        -- Waits for a completion of the attempt before, should one be on its way.
        mine AS (
            SELECT t.id, t.claimed_at, t.attempt FROM harmony_task t
            WHERE t.owner_id = $1 AND t.id <> ALL ($3::bigint[]) AND EXISTS (SELECT FROM self)
            FOR UPDATE
        ),
        taken AS (
            UPDATE harmony_task t
            SET attempt = t.attempt + 1, claimed_at = now(), update_time = now(),
                retries = t.retries + $4::bool::int,
                owner_id = CASE WHEN $4 AND t.retries + 1 >= t.max_failures THEN NULL ELSE t.owner_id END,
                failed_at = CASE WHEN $4 AND t.retries + 1 >= t.max_failures THEN now() END,
                failed_reason = CASE WHEN $4 AND t.retries + 1 >= t.max_failures THEN 'max-failures' ELSE '' END,
                failed_error = CASE WHEN $4 AND t.retries + 1 >= t.max_failures
                    THEN 'the runner ended during the last attempt' ELSE '' END
            FROM mine m
            WHERE t.id = m.id AND t.owner_id = $1 AND t.attempt = m.attempt
            RETURNING t.id, t.name, t.attempt, t.retries, t.failed_at, t.posted_time, m.claimed_at,
                m.attempt AS crashed_attempt
        ),
        history AS (
            INSERT INTO harmony_task_history (task_id, name, attempt, posted, work_start, result, counted, err,
                completed_by_machine, completed_by_host_and_port)
            SELECT t.id, t.name, t.crashed_attempt, t.posted_time, coalesce(t.claimed_at, now()), false, true,
                'the runner ended during the attempt', s.name, s.host_and_port
            FROM taken t CROSS JOIN self s
            WHERE $4
        )
        SELECT id AS "id!", name AS "name!", attempt AS "attempt!", retries AS "retries!", 0::float8 AS "waited_s!"
        FROM taken
        WHERE failed_at IS NULL
        ORDER BY claimed_at, id
        "#,
        me.machine,
        me.incarnation,
        running,
        crashed,
    )
    .fetch_all(pool)
    .await
}

/// Gives claims back as if they had not been made, except for the fencing number. `delay_ms` keeps a
/// task out of everybody's sight for a moment. Returns how many were still ours.
pub(crate) async fn give_back(
    pool: &PgPool,
    me: Identity,
    ids: &[i64],
    attempts: &[i32],
    delay_ms: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        r#"
        UPDATE harmony_task t
        SET owner_id = NULL, update_time = now(), run_after = now() + $4::bigint * interval '1 millisecond'
        FROM unnest($2::bigint[], $3::int[]) AS g(id, attempt)
        WHERE t.id = g.id AND t.owner_id = $1 AND t.attempt = g.attempt
        "#,
        me.machine,
        ids,
        attempts,
        delay_ms,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Releases everything that a machine owns which is no longer registered.
pub(crate) async fn release_all(pool: &PgPool, machine: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        r#"
        UPDATE harmony_task SET owner_id = NULL, update_time = now(), run_after = now()
        WHERE owner_id = $1 AND NOT EXISTS (SELECT FROM harmony_task_machines m WHERE m.id = $1)
        "#,
        machine,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
