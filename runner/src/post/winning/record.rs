//! The rows of elections: `mining_tasks`, with the parents of each in `mining_base_block`.
//!
//! Whatever an attempt writes names the state that it expects, under the claim of its task: a row that was decided stays
//! decided.

mod attempt;
mod wins;

use std::collections::HashMap;
use std::time::Duration;

use curio_chain::Cid;
use curio_chain::types::{BlockMsg, TipSetKey};
use curio_core::{Classify, Epoch, Failure, SpId};
use curio_harmony::{Db, DbError, TaskId, Tx, TxError, tasks};
use curio_pipeline::kind;
use serde_json::Value;

pub use self::attempt::{Kept, Made, drop_block, is_to_be_submitted, keep_block, keep_in, lose, submitted, win};
pub use self::wins::{Unlooked, Verdict, looked, prune, unlooked};
use super::round::{Election, State};

/// Why no block came of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The draw was not low enough. What becomes of nearly all elections.
    NotWon,
    /// The chain lets the miner not take part: it has no power yet, or a fault.
    NotEligible,
    /// The chain was beyond the epoch before the block was there, or the miner had a block beneath that its base lacks.
    Late,
    /// No attempt was left.
    GivenUp,
    /// The node did not take the block.
    Refused,
    /// The block was submitted, and is not in the chain.
    NotIncluded,
}

impl Lost {
    /// The word in the database and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Lost::NotWon => "not-won",
            Lost::NotEligible => "not-eligible",
            Lost::Late => "late",
            Lost::GivenUp => "given-up",
            Lost::Refused => "refused",
            Lost::NotIncluded => "not-included",
        }
    }

    fn of(word: &str) -> Lost {
        const ALL: [Lost; 6] =
            [Lost::NotWon, Lost::NotEligible, Lost::Late, Lost::GivenUp, Lost::Refused, Lost::NotIncluded];
        ALL.into_iter().find(|lost| lost.as_str() == word).unwrap_or(Lost::NotIncluded)
    }
}

/// A row that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the election of {sp} for epoch {epoch}: its {column} is not of the expected form")]
struct RowError {
    sp: SpId,
    epoch: Epoch,
    column: &'static str,
}

impl Classify for RowError {
    fn classify(self) -> Failure {
        // The row was written by a program, not by chance: no further attempt reads it better.
        Failure::Permanent { reason: "bad-row", cause: Box::new(self) }
    }
}

/// Asks for an election on a base of this height. None when there is one for the epoch already, or one on a parent of this
/// base that may still give a block: somebody else was faster. None, too, when the miner made a block for the base's epoch
/// that is not in the base: to build on such a base is to choose parents, which is a fault. Elections of the base's epoch and
/// older ones that are still held are late, and store no block from here on.
///
/// # Errors
/// Database trouble.
pub async fn ask(db: &Db, sp: SpId, epoch: Epoch, height: Epoch, base: &TipSetKey) -> Result<Option<TaskId>, TxError> {
    let id = id(sp);
    let parents = texts(base);
    let asked = db
        .transaction("ask for an election", move |tx| {
            let parents = parents.clone();
            Box::pin(async move {
                close_older(tx, id, height).await?;
                // After that: a block that an attempt stored in the meantime is seen here.
                if has_block_beside(tx, id, height, &parents).await? {
                    return Err(TxError::Rollback);
                }
                let task = tasks::add(tx, kind::WIN_POST).await?;
                if !insert(tx, task, id, epoch).await? {
                    return Err(TxError::Rollback);
                }
                insert_parents(tx, task, id, &parents).await?;
                Ok(task)
            })
        })
        .await;
    match asked {
        Ok(task) => Ok(Some(task)),
        Err(TxError::Rollback) => Ok(None),
        Err(error) if error.is_unique_violation() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn close_older(tx: &mut Tx, sp: i64, height: Epoch) -> Result<(), TxError> {
    let closed = sqlx::query_scalar!(
        "UPDATE mining_tasks SET lost_because = $3
         WHERE sp_id = $1 AND epoch <= $2 AND lost_because IS NULL AND mined_block IS NULL
         RETURNING task_id",
        sp,
        height.0,
        Lost::Late.as_str()
    )
    .fetch_all(&mut *tx)
    .await?;
    for task in closed {
        free_parents(tx, task).await?;
    }
    Ok(())
}

/// Whether the miner has a block for the epoch of a base that is none of the base's.
async fn has_block_beside(tx: &mut Tx, sp: i64, height: Epoch, parents: &[String]) -> Result<bool, TxError> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM mining_tasks
                          WHERE sp_id = $1 AND epoch = $2 AND mined_block IS NOT NULL AND mined_cid <> ALL ($3)) AS "found!""#,
        sp,
        height.0,
        parents
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(found)
}

async fn insert(tx: &mut Tx, task: TaskId, sp: i64, epoch: Epoch) -> Result<bool, TxError> {
    let done = sqlx::query!(
        "INSERT INTO mining_tasks (task_id, sp_id, epoch, base_compute_time) VALUES ($1, $2, $3, now())
         ON CONFLICT (sp_id, epoch) DO NOTHING",
        task.0,
        sp,
        epoch.0
    )
    .execute(&mut *tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The order of a tipset's blocks is part of its name, so the ids keep it.
async fn insert_parents(tx: &mut Tx, task: TaskId, sp: i64, parents: &[String]) -> Result<(), TxError> {
    sqlx::query!(
        "INSERT INTO mining_base_block (task_id, sp_id, block_cid)
         SELECT $1, $2, block_cid FROM unnest($3::text[]) WITH ORDINALITY AS parent (block_cid, place) ORDER BY place",
        task.0,
        sp,
        parents
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// The elections of these miners for `from` and later, and older ones that are not decided; by miner, the earliest first.
///
/// # Errors
/// Database trouble; a row that cannot be read.
pub async fn near(db: &Db, sps: &[SpId], from: Epoch) -> Result<HashMap<SpId, Vec<Election>>, Failure> {
    let ids: Vec<i64> = sps.iter().map(|sp| id(*sp)).collect();
    let rows = sqlx::query!(
        r#"SELECT m.sp_id, m.epoch, m.mined_cid, m.lost_because IS NOT NULL AS "lost!",
                  t.id IS NOT NULL AND t.failed_at IS NULL AS "has_task!",
                  array(SELECT b.block_cid FROM mining_base_block b WHERE b.task_id = m.task_id ORDER BY b.id) AS "parents!"
           FROM mining_tasks m LEFT JOIN harmony_task t ON t.id = m.task_id
           WHERE m.sp_id = ANY ($1) AND (m.epoch >= $2 OR (m.lost_because IS NULL AND m.mined_block IS NULL))
           ORDER BY m.sp_id, m.epoch"#,
        &ids,
        from.0
    )
    .fetch_all(db.pool())
    .await
    .map_err(DbError::from)?;
    let mut elections: HashMap<SpId, Vec<Election>> = HashMap::new();
    for row in rows {
        let (sp, epoch) = (SpId(row.sp_id.unsigned_abs()), Epoch(row.epoch));
        let state = match (row.mined_cid, row.lost, row.has_task) {
            (Some(text), _, _) => State::Made(cid(&text, RowError { sp, epoch, column: "mined_cid" })?),
            (None, true, _) => State::Lost,
            (None, false, true) => State::Open,
            (None, false, false) => State::Abandoned,
        };
        let parents = cids(&row.parents, sp, epoch)?;
        elections.entry(sp).or_default().push(Election { epoch, parents, state });
    }
    Ok(elections)
}

/// Writes off an election whose task is gone or has no attempt left: nothing was stored, so nothing can be submitted. Whether
/// it was so, and whether the election had been won.
///
/// # Errors
/// Database trouble.
pub async fn write_off(db: &Db, sp: SpId, epoch: Epoch) -> Result<Option<bool>, TxError> {
    let id = id(sp);
    db.transaction("write off an election", move |tx| {
        Box::pin(async move {
            let row = sqlx::query!(
                "UPDATE mining_tasks m SET lost_because = $3
                 WHERE sp_id = $1 AND epoch = $2 AND lost_because IS NULL AND mined_block IS NULL
                   AND NOT EXISTS (SELECT FROM harmony_task t WHERE t.id = m.task_id AND t.failed_at IS NULL)
                 RETURNING task_id, won",
                id,
                epoch.0,
                Lost::GivenUp.as_str()
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else {
                return Ok(None);
            };
            free_parents(tx, row.task_id).await?;
            // A failed task of an epoch that is over is of no use to anybody; why it failed is in the history.
            tasks::remove_in(tx, TaskId(row.task_id)).await?;
            Ok(Some(row.won))
        })
    })
    .await
}

async fn free_parents(tx: &mut Tx, task: i64) -> Result<(), TxError> {
    sqlx::query!("UPDATE mining_base_block SET no_win = TRUE WHERE task_id = $1", task).execute(&mut *tx).await?;
    Ok(())
}

/// What a task needs to know of its election.
#[derive(Clone, Debug)]
pub struct Job {
    pub sp: SpId,
    pub epoch: Epoch,
    pub base: TipSetKey,
    /// Since the base was chosen.
    pub base_age: Duration,
    pub stage: Stage,
}

/// How far an election has come.
#[derive(Clone, Debug)]
pub enum Stage {
    Undecided,
    /// Won, and nothing is signed that counts.
    Won,
    /// This block, and no other, may be submitted.
    Made(Box<BlockMsg>),
    Over,
}

/// The election of a task; none when the row is gone.
///
/// # Errors
/// Database trouble; a row that cannot be read.
pub async fn of_task(db: &Db, task: TaskId) -> Result<Option<Job>, Failure> {
    let row = sqlx::query!(
        r#"SELECT m.sp_id, m.epoch, m.won, m.lost_because IS NOT NULL OR m.submitted_at IS NOT NULL AS "over!", m.mined_block,
                  extract(epoch FROM now() - m.base_compute_time)::float8 AS "base_age_s!",
                  array(SELECT b.block_cid FROM mining_base_block b WHERE b.task_id = m.task_id ORDER BY b.id) AS "parents!"
           FROM mining_tasks m WHERE m.task_id = $1"#,
        task.0
    )
    .fetch_optional(db.pool())
    .await
    .map_err(DbError::from)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let (sp, epoch) = (SpId(row.sp_id.unsigned_abs()), Epoch(row.epoch));
    let stage = match (row.over, row.mined_block, row.won) {
        (true, _, _) => Stage::Over,
        (false, Some(json), _) => Stage::Made(Box::new(block(json, sp, epoch)?)),
        (false, None, true) => Stage::Won,
        (false, None, false) => Stage::Undecided,
    };
    let base_age = Duration::try_from_secs_f64(row.base_age_s).unwrap_or_default();
    Ok(Some(Job { sp, epoch, base: TipSetKey(cids(&row.parents, sp, epoch)?), base_age, stage }))
}

fn texts(key: &TipSetKey) -> Vec<String> {
    key.0.iter().map(Cid::to_string).collect()
}

fn id(sp: SpId) -> i64 {
    sp.0 as i64
}

fn cid(text: &str, error: RowError) -> Result<Cid, RowError> {
    Cid::try_from(text).map_err(|_| error)
}

fn cids(texts: &[String], sp: SpId, epoch: Epoch) -> Result<Vec<Cid>, RowError> {
    texts.iter().map(|text| cid(text, RowError { sp, epoch, column: "base" })).collect()
}

fn block(json: Value, sp: SpId, epoch: Epoch) -> Result<BlockMsg, RowError> {
    serde_json::from_value(json).map_err(|_| RowError { sp, epoch, column: "mined_block" })
}
