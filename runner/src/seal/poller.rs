//! The SealPoller: reads every open row of the pipeline and does what is due. It creates the tasks of
//! ready stages (whoever may run them), takes note of executed messages, ends sectors whose task has no
//! attempt left, and creates vanished tasks again.
//!
//! Every machine that seals runs one; each change names the state it expects, so they do not disturb
//! each other. Two statements read everything, however many sectors there are.

use std::collections::HashMap;

use curio_core::epoch::EpochDelta;
use curio_core::{Epoch, Failure, SectorRef, SpId};
use curio_harmony::{Db, DbError, TaskId};
use curio_pipeline::act;
use curio_pipeline::stage::{Progress, Stage, Step, Steps, TaskColumn, ready};
use tracing::{info, warn};

use super::landing;
use super::outcome::{Answer, Purpose};
use super::pipeline;
use super::queue;
use crate::deps::Deps;

/// Reads the pipeline and moves it on.
pub struct SealPoller {
    deps: Deps,
}

/// One open row, with its messages.
#[derive(Clone, Debug)]
pub struct OpenRow {
    pub progress: Progress,
    pub sealed_cid: Option<String>,
    pub generations: Generations,
    /// The message that is awaited, if one is.
    pub precommit: Option<Sent>,
    pub commit: Option<Sent>,
}

/// How often things were given up so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    pub ticket: i64,
    pub precommit: i64,
    pub porep: i64,
    pub commit: i64,
}

/// A message in the outbox and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub send_id: i64,
    pub task: Option<TaskId>,
    pub signed_cid: Option<String>,
    pub success: Option<bool>,
    pub error: Option<String>,
    pub exit_code: Option<i64>,
    pub executed: Option<Executed>,
}

/// Where and how a message was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    pub epoch: Epoch,
    pub exit_code: i64,
    /// The tipset that holds the result, as `message_waits.executed_tsk`.
    pub tsk: Vec<u8>,
}

impl Sent {
    /// What the chain or the node said, once it said something.
    pub fn answer(&self) -> Option<Answer> {
        if let Some(executed) = &self.executed {
            return Some(Answer::Executed(executed.exit_code));
        }
        let text = || self.error.clone().unwrap_or_default();
        match (self.success, self.exit_code) {
            (Some(false), Some(exit_code)) => Some(Answer::Refused { exit_code, text: text() }),
            (Some(false), None) => Some(Answer::NotSent { text: text() }),
            _ => None,
        }
    }
}

/// What the queue says of a task; tasks that it does not know have vanished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    Open,
    /// No attempt is left.
    Failed {
        reason: String,
        error: String,
    },
}

/// One thing to do for a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Queue(Stage),
    /// The task is gone without its result: forget it, so that it is created again.
    Forget {
        stage: Stage,
        task: TaskId,
    },
    /// The task ran out of attempts: the sector fails.
    Fail {
        task: TaskId,
        reason: String,
        message: String,
    },
    /// A message got its answer.
    Answered {
        purpose: Purpose,
        answer: Answer,
    },
}

/// What to do for a row. Pure: `tasks` holds the state of every task that the queue knows.
pub fn decide(
    row: &OpenRow,
    tasks: &HashMap<TaskId, TaskState>,
    head: Option<Epoch>,
    seed_confidence: EpochDelta,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for column in TaskColumn::ALL {
        let Some(task) = row.progress.task(column) else {
            continue;
        };
        let stage = Stage::of_column(column);
        let action = match tasks.get(&task) {
            Some(TaskState::Open) => continue,
            Some(TaskState::Failed { reason, error }) => failed(stage.row().task.as_str(), task, reason, error),
            None => Action::Forget { stage, task },
        };
        // TreeRC stands in two columns.
        if !actions.contains(&action) {
            actions.push(action);
        }
    }
    for (purpose, sent) in [(Purpose::PreCommit, &row.precommit), (Purpose::Commit, &row.commit)] {
        let Some(sent) = sent else {
            continue;
        };
        if let Some(answer) = sent.answer() {
            actions.push(Action::Answered { purpose, answer });
        } else if let Some((task, TaskState::Failed { reason, error })) =
            sent.task.and_then(|task| Some((task, tasks.get(&task)?)))
        {
            actions.push(failed("SendMessage", task, reason, error));
        }
    }
    // One thing at a time: after a failure nothing new is started.
    if !actions.iter().any(|action| matches!(action, Action::Fail { .. })) {
        actions.extend(ready(&row.progress, head, seed_confidence).into_iter().map(Action::Queue));
    }
    actions
}

/// The scheduler's word for attempts that ran out, as opposed to a task's own reason.
const EXHAUSTED: &str = "max-failures";

fn failed(kind: &str, task: TaskId, reason: &str, error: &str) -> Action {
    let reason = if reason == EXHAUSTED { "task-exhausted" } else { reason };
    Action::Fail {
        task,
        reason: reason.to_owned(),
        message: format!("{kind} task {task} has no attempt left: {error}"),
    }
}

impl SealPoller {
    pub fn new(deps: &Deps) -> SealPoller {
        SealPoller { deps: deps.clone() }
    }

    /// One round. `head` of `None` leaves what waits for the chain waiting. Returns how many things were
    /// done.
    ///
    /// # Errors
    /// Database or chain away; the next round tries again. What goes wrong with one sector is logged and
    /// does not hold up the others.
    pub async fn poll(&self, head: Option<Epoch>) -> Result<u64, Failure> {
        let revived = self
            .deps
            .db
            .transaction("revive retried sectors", |tx| Box::pin(async move { act::revive(tx).await }))
            .await?;
        let rows = open_rows(&self.deps.db).await?;
        let tasks = task_states(&self.deps.db, &rows).await?;
        let seed_confidence = EpochDelta::from(self.deps.config.seal.seed_confidence);
        let mut done = revived;
        for row in &rows {
            for action in decide(row, &tasks, head, seed_confidence) {
                match self.act(row, action).await {
                    Ok(changed) => done += u64::from(changed),
                    Err(failure @ Failure::Unavailable(_)) => return Err(failure),
                    Err(failure) => {
                        let sector = row.progress.sector;
                        warn!(sector.sp = %sector.sp, sector.number, "failed to move sector {sector} on: {failure}");
                    }
                }
            }
        }
        Ok(done)
    }

    async fn act(&self, row: &OpenRow, action: Action) -> Result<bool, Failure> {
        let sector = row.progress.sector;
        match action {
            Action::Queue(stage) => {
                let created = queue::create(&self.deps.db, sector, stage).await?;
                if created.is_some() {
                    let task = stage.row().task.as_str();
                    self.deps.counters.count(|counts| *counts.tasks_created.entry(task).or_default() += 1);
                }
                Ok(created.is_some())
            }
            Action::Forget { stage, task } => {
                let forgotten = queue::forget_vanished(&self.deps.db, sector, task).await?;
                if forgotten {
                    let name = stage.row().task.as_str();
                    self.deps.counters.count(|counts| *counts.tasks_recreated.entry(name).or_default() += 1);
                    warn!(sector.sp = %sector.sp, sector.number, task.id = task.0, "{name} task {task} of sector {sector} vanished without a result; it is created again");
                }
                Ok(forgotten)
            }
            Action::Fail { task, reason, message } => self.fail(sector, task, reason, message).await,
            Action::Answered { purpose, answer } => landing::answered(&self.deps, row, purpose, &answer).await,
        }
    }

    async fn fail(&self, sector: SectorRef, task: TaskId, reason: String, message: String) -> Result<bool, Failure> {
        let (word, sentence) = (reason.clone(), message.clone());
        let changed = self
            .deps
            .db
            .transaction("sector failed", move |tx| {
                let (word, sentence) = (word.clone(), sentence.clone());
                Box::pin(async move { pipeline::fail(tx, sector, &word, &sentence, Some(task)).await })
            })
            .await?;
        if changed == 1 {
            info!(sector.sp = %sector.sp, sector.number, "sector {sector} failed ({reason}): {message}");
            self.deps.counters.count(|counts| *counts.sectors_failed.entry(reason).or_default() += 1);
        }
        Ok(changed == 1)
    }
}

/// All rows that have something left to do.
///
/// # Errors
/// Database trouble.
pub async fn open_rows(db: &Db) -> Result<Vec<OpenRow>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT p.sp_id, p.sector_number,
                  p.after_sdr, p.after_tree_d, p.after_tree_c, p.after_tree_r, p.after_precommit_msg, p.after_precommit_msg_success,
                  p.after_porep, p.after_finalize, p.after_move_storage, p.after_commit_msg, p.after_commit_msg_success,
                  p.task_id_sdr, p.task_id_tree_d, p.task_id_tree_c, p.task_id_tree_r, p.task_id_precommit_msg, p.task_id_porep,
                  p.task_id_finalize, p.task_id_move_storage, p.task_id_commit_msg,
                  p.seed_epoch, coalesce(length(p.porep_proof), 0) > 0 AS "has_proof!", p.tree_r_cid,
                  p.ticket_generation, p.precommit_generation, p.porep_generation, p.commit_generation,
                  ps.send_id AS "precommit_send_id?", ps.send_task_id AS "precommit_task?", ps.signed_cid AS "precommit_cid?",
                  ps.send_success AS "precommit_success?", ps.send_error AS "precommit_error?", ps.send_exit_code AS "precommit_refused?",
                  pw.executed_tsk_epoch AS "precommit_epoch?", pw.executed_rcpt_exitcode AS "precommit_exit?", pw.executed_tsk AS "precommit_tsk?",
                  cs.send_id AS "commit_send_id?", cs.send_task_id AS "commit_task?", cs.signed_cid AS "commit_cid?",
                  cs.send_success AS "commit_success?", cs.send_error AS "commit_error?", cs.send_exit_code AS "commit_refused?",
                  cw.executed_tsk_epoch AS "commit_epoch?", cw.executed_rcpt_exitcode AS "commit_exit?", cw.executed_tsk AS "commit_tsk?"
           FROM sectors_sdr_pipeline p
           LEFT JOIN message_sends ps ON ps.send_id = p.precommit_send_id AND p.after_precommit_msg AND NOT p.after_precommit_msg_success
           LEFT JOIN message_waits pw ON pw.signed_message_cid = ps.signed_cid
           LEFT JOIN message_sends cs ON cs.send_id = p.commit_send_id AND p.after_commit_msg AND NOT p.after_commit_msg_success
           LEFT JOIN message_waits cw ON cw.signed_message_cid = cs.signed_cid
           WHERE NOT p.failed AND NOT (p.after_commit_msg_success AND p.after_move_storage)
           ORDER BY p.create_time, p.sp_id, p.sector_number"#
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| OpenRow {
        progress: Progress {
            sector: SectorRef::new(SpId(row.sp_id as u64), row.sector_number as u64),
            done: Steps::default()
                .with(Step::Sdr, row.after_sdr)
                .with(Step::TreeD, row.after_tree_d)
                .with(Step::TreeC, row.after_tree_c)
                .with(Step::TreeR, row.after_tree_r)
                .with(Step::PreCommitSent, row.after_precommit_msg)
                .with(Step::PreCommitLanded, row.after_precommit_msg_success)
                .with(Step::PoRep, row.after_porep)
                .with(Step::Finalize, row.after_finalize)
                .with(Step::MoveStorage, row.after_move_storage)
                .with(Step::CommitSent, row.after_commit_msg)
                .with(Step::CommitLanded, row.after_commit_msg_success),
            // In the order of TaskColumn::ALL.
            tasks: [
                row.task_id_sdr,
                row.task_id_tree_d,
                row.task_id_tree_c,
                row.task_id_tree_r,
                row.task_id_precommit_msg,
                row.task_id_porep,
                row.task_id_finalize,
                row.task_id_move_storage,
                row.task_id_commit_msg,
            ]
            .map(|task| task.map(TaskId)),
            seed_epoch: row.seed_epoch.map(Epoch),
            has_proof: row.has_proof,
            failed: false,
        },
        sealed_cid: row.tree_r_cid,
        generations: Generations {
            ticket: row.ticket_generation,
            precommit: row.precommit_generation,
            porep: row.porep_generation,
            commit: row.commit_generation,
        },
        precommit: row.precommit_send_id.map(|send_id| Sent {
            send_id,
            task: row.precommit_task.map(TaskId),
            signed_cid: row.precommit_cid,
            success: row.precommit_success,
            error: row.precommit_error,
            exit_code: row.precommit_refused,
            executed: executed(row.precommit_epoch, row.precommit_exit, row.precommit_tsk),
        }),
        commit: row.commit_send_id.map(|send_id| Sent {
            send_id,
            task: row.commit_task.map(TaskId),
            signed_cid: row.commit_cid,
            success: row.commit_success,
            error: row.commit_error,
            exit_code: row.commit_refused,
            executed: executed(row.commit_epoch, row.commit_exit, row.commit_tsk),
        }),
    });
    Ok(rows.collect())
}

fn executed(epoch: Option<i64>, exit_code: Option<i64>, tsk: Option<Vec<u8>>) -> Option<Executed> {
    Some(Executed { epoch: Epoch(epoch?), exit_code: exit_code?, tsk: tsk? })
}

/// State of every task that the rows name and the queue knows.
async fn task_states(db: &Db, rows: &[OpenRow]) -> Result<HashMap<TaskId, TaskState>, DbError> {
    let of_row = |row: &OpenRow| {
        let sends =
            [&row.precommit, &row.commit].into_iter().flatten().filter_map(|sent| sent.task).collect::<Vec<_>>();
        row.progress.tasks.into_iter().flatten().chain(sends).map(|task| task.0).collect::<Vec<_>>()
    };
    let ids: Vec<i64> = rows.iter().flat_map(of_row).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT id, failed_at IS NOT NULL AS "failed!", failed_reason, failed_error FROM harmony_task WHERE id = ANY($1)"#,
        &ids
    )
    .fetch_all(db.pool())
    .await?;
    let state = |failed, reason, error| if failed { TaskState::Failed { reason, error } } else { TaskState::Open };
    Ok(rows.into_iter().map(|row| (TaskId(row.id), state(row.failed, row.failed_reason, row.failed_error))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> OpenRow {
        OpenRow {
            progress: Progress {
                sector: SectorRef::new(SpId(1000), 3),
                done: Steps::default(),
                tasks: [None; 9],
                seed_epoch: None,
                has_proof: false,
                failed: false,
            },
            sealed_cid: None,
            generations: Generations::default(),
            precommit: None,
            commit: None,
        }
    }

    fn with_task(column: TaskColumn, task: i64) -> OpenRow {
        let mut row = row();
        row.progress.tasks[column as usize] = Some(TaskId(task));
        row
    }

    #[test]
    fn a_new_sector_gets_its_first_task() {
        assert_eq!(decide(&row(), &HashMap::new(), None, 3), [Action::Queue(Stage::Sdr)]);
    }

    #[test]
    fn a_running_task_is_left_alone() {
        let tasks = HashMap::from([(TaskId(7), TaskState::Open)]);
        assert_eq!(decide(&with_task(TaskColumn::Sdr, 7), &tasks, None, 3), []);
    }

    #[test]
    fn a_vanished_task_is_forgotten_once_even_when_it_stands_in_two_columns() {
        let mut row = with_task(TaskColumn::TreeC, 7);
        row.progress.tasks[TaskColumn::TreeR as usize] = Some(TaskId(7));
        row.progress.done = [Step::Sdr, Step::TreeD].into_iter().collect();
        assert_eq!(decide(&row, &HashMap::new(), None, 3), [Action::Forget { stage: Stage::TreeRc, task: TaskId(7) }]);
    }

    #[test]
    fn an_exhausted_task_fails_its_sector_with_the_last_error() {
        let failed = |reason: &str| TaskState::Failed { reason: reason.to_owned(), error: "disk full".to_owned() };
        for (reason, expected) in [("max-failures", "task-exhausted"), ("piece-mismatch", "piece-mismatch")] {
            let tasks = HashMap::from([(TaskId(7), failed(reason))]);
            let actions = decide(&with_task(TaskColumn::TreeD, 7), &tasks, None, 3);
            let message = "TreeD task 7 has no attempt left: disk full".to_owned();
            assert!(
                actions.contains(&Action::Fail { task: TaskId(7), reason: expected.to_owned(), message }),
                "{actions:?}"
            );
        }
    }

    #[test]
    fn an_awaited_message_is_answered_by_its_receipt_or_its_refusal() {
        let executed = Executed { epoch: Epoch(9), exit_code: 0, tsk: Vec::new() };
        let table = [
            (Sent::default(), None),
            (Sent { success: Some(true), ..Sent::default() }, None),
            (Sent { executed: Some(executed), success: Some(true), ..Sent::default() }, Some(Answer::Executed(0))),
            (
                Sent {
                    success: Some(false),
                    exit_code: Some(16),
                    error: Some("batch empty".to_owned()),
                    ..Sent::default()
                },
                Some(Answer::Refused { exit_code: 16, text: "batch empty".to_owned() }),
            ),
            (
                Sent { success: Some(false), error: Some("signature".to_owned()), ..Sent::default() },
                Some(Answer::NotSent { text: "signature".to_owned() }),
            ),
        ];
        for (sent, expected) in table {
            assert_eq!(sent.answer(), expected, "{sent:?}");
        }
    }

    #[test]
    fn a_message_whose_task_gave_up_fails_the_sector() {
        let mut row = row();
        row.progress.done =
            [Step::Sdr, Step::TreeD, Step::TreeC, Step::TreeR, Step::PreCommitSent].into_iter().collect();
        row.precommit = Some(Sent { task: Some(TaskId(9)), ..Sent::default() });
        let tasks =
            HashMap::from([(TaskId(9), TaskState::Failed { reason: String::new(), error: "no key".to_owned() })]);
        assert!(matches!(decide(&row, &tasks, None, 3)[..], [Action::Fail { .. }]));
    }
}
