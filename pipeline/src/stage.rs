//! The sealing pipeline as a table: which task follows which, when it may start, and in which columns
//! of `sectors_sdr_pipeline` it leaves its mark. Everything here is pure; the poller acts on it.

use curio_core::epoch::EpochDelta;
use curio_core::{Epoch, SectorRef};
use curio_harmony::{TaskId, TaskName};

use crate::kind;

/// A piece of work of the pipeline that is one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Sdr,
    TreeD,
    TreeRc,
    PreCommit,
    PoRep,
    Finalize,
    MoveStorage,
    Commit,
}

/// Something that has happened to a sector: an `after_*` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Sdr,
    TreeD,
    TreeC,
    TreeR,
    /// `after_precommit_msg`: the message is in the outbox.
    PreCommitSent,
    /// `after_precommit_msg_success`: the message was executed with exit code 0.
    PreCommitLanded,
    PoRep,
    Finalize,
    MoveStorage,
    /// `after_commit_msg`: the message is in the outbox.
    CommitSent,
    /// `after_commit_msg_success`: the message was executed with exit code 0.
    CommitLanded,
}

/// A `task_id_*` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskColumn {
    Sdr,
    TreeD,
    TreeC,
    TreeR,
    PreCommit,
    PoRep,
    Finalize,
    MoveStorage,
    Commit,
}

impl TaskColumn {
    /// All of them, in pipeline order.
    pub const ALL: [TaskColumn; 9] = [
        TaskColumn::Sdr,
        TaskColumn::TreeD,
        TaskColumn::TreeC,
        TaskColumn::TreeR,
        TaskColumn::PreCommit,
        TaskColumn::PoRep,
        TaskColumn::Finalize,
        TaskColumn::MoveStorage,
        TaskColumn::Commit,
    ];
}

/// What must hold besides the steps before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// The head is far enough above the seed epoch for the seed to stay.
    SeedReached,
    /// The proof is there to be sent.
    ProofStored,
}

/// One row of the pipeline table.
#[derive(Debug)]
pub struct StageRow {
    pub stage: Stage,
    pub task: TaskName,
    /// Steps that must have happened.
    pub after: &'static [Step],
    pub gate: Gate,
    /// Columns that hold the task while it is open.
    pub task_columns: &'static [TaskColumn],
    /// Steps that the task's end sets.
    pub done: &'static [Step],
}

/// The pipeline. Commit runs beside Finalize and MoveStorage: the chain need not wait for a file copy.
pub const PIPELINE: [StageRow; 8] = [
    StageRow {
        stage: Stage::Sdr,
        task: kind::SDR,
        after: &[],
        gate: Gate::Open,
        task_columns: &[TaskColumn::Sdr],
        done: &[Step::Sdr],
    },
    StageRow {
        stage: Stage::TreeD,
        task: kind::TREE_D,
        after: &[Step::Sdr],
        gate: Gate::Open,
        task_columns: &[TaskColumn::TreeD],
        done: &[Step::TreeD],
    },
    StageRow {
        stage: Stage::TreeRc,
        task: kind::TREE_RC,
        after: &[Step::Sdr, Step::TreeD],
        gate: Gate::Open,
        task_columns: &[TaskColumn::TreeC, TaskColumn::TreeR],
        done: &[Step::TreeC, Step::TreeR],
    },
    StageRow {
        stage: Stage::PreCommit,
        task: kind::PRECOMMIT_SUBMIT,
        after: &[Step::TreeD, Step::TreeC, Step::TreeR],
        gate: Gate::Open,
        task_columns: &[TaskColumn::PreCommit],
        done: &[Step::PreCommitSent],
    },
    StageRow {
        stage: Stage::PoRep,
        task: kind::POREP,
        after: &[Step::PreCommitLanded],
        gate: Gate::SeedReached,
        task_columns: &[TaskColumn::PoRep],
        done: &[Step::PoRep],
    },
    StageRow {
        stage: Stage::Finalize,
        task: kind::FINALIZE,
        after: &[Step::PoRep],
        gate: Gate::Open,
        task_columns: &[TaskColumn::Finalize],
        done: &[Step::Finalize],
    },
    StageRow {
        stage: Stage::MoveStorage,
        task: kind::MOVE_STORAGE,
        after: &[Step::Finalize],
        gate: Gate::Open,
        task_columns: &[TaskColumn::MoveStorage],
        done: &[Step::MoveStorage],
    },
    StageRow {
        stage: Stage::Commit,
        task: kind::COMMIT_SUBMIT,
        after: &[Step::PoRep],
        gate: Gate::ProofStored,
        task_columns: &[TaskColumn::Commit],
        done: &[Step::CommitSent],
    },
];

impl Stage {
    /// The row of the table.
    pub fn row(self) -> &'static StageRow {
        &PIPELINE[self as usize]
    }

    /// The stage whose task is kept in this column.
    pub fn of_column(column: TaskColumn) -> Stage {
        match column {
            TaskColumn::Sdr => Stage::Sdr,
            TaskColumn::TreeD => Stage::TreeD,
            TaskColumn::TreeC | TaskColumn::TreeR => Stage::TreeRc,
            TaskColumn::PreCommit => Stage::PreCommit,
            TaskColumn::PoRep => Stage::PoRep,
            TaskColumn::Finalize => Stage::Finalize,
            TaskColumn::MoveStorage => Stage::MoveStorage,
            TaskColumn::Commit => Stage::Commit,
        }
    }

    /// Place in the pipeline for [`curio_harmony::Spec::order`]: further downstream is larger.
    pub const fn order(self) -> u16 {
        // Room between the stages, so that a later kind fits in without renumbering.
        (self as u16 + 1) * 10
    }
}

/// A set of [`Step`]s.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Steps(u16);

impl Steps {
    /// Adds `step` when its column is true.
    pub fn with(self, step: Step, happened: bool) -> Steps {
        Steps(self.0 | (u16::from(happened) << step as u16))
    }

    pub fn has(self, step: Step) -> bool {
        self.0 & (1 << step as u16) != 0
    }

    pub fn has_all(self, steps: &[Step]) -> bool {
        steps.iter().all(|step| self.has(*step))
    }
}

impl FromIterator<Step> for Steps {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Steps {
        steps.into_iter().fold(Steps::default(), |set, step| set.with(step, true))
    }
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = PIPELINE.iter().flat_map(|row| row.done);
        let landed = [Step::PreCommitLanded, Step::CommitLanded];
        f.debug_set().entries(all.chain(&landed).filter(|step| self.has(**step))).finish()
    }
}

/// How far a sector is: the row of `sectors_sdr_pipeline`, as far as decisions need it.
#[derive(Clone, Debug)]
pub struct Progress {
    pub sector: SectorRef,
    pub done: Steps,
    /// Open task of each column, in the order of [`TaskColumn::ALL`].
    pub tasks: [Option<TaskId>; TaskColumn::ALL.len()],
    pub seed_epoch: Option<Epoch>,
    pub has_proof: bool,
    pub failed: bool,
}

impl Progress {
    /// The open task of a column.
    pub fn task(&self, column: TaskColumn) -> Option<TaskId> {
        self.tasks[column as usize]
    }

    /// Whether nothing is left to do: proven on chain and its files in long-term storage.
    pub fn is_finished(&self) -> bool {
        self.done.has_all(&[Step::CommitLanded, Step::MoveStorage])
    }
}

/// The stages whose task may be created now.
///
/// A stage that is done, has an open task, or waits for another step or for the chain is not among
/// them; neither is anything of a failed sector. `head` of `None` keeps the gates that need it closed.
/// `seed_confidence` is how far, in epochs, the head must be above the seed epoch.
pub fn ready(progress: &Progress, head: Option<Epoch>, seed_confidence: EpochDelta) -> Vec<Stage> {
    if progress.failed {
        return Vec::new();
    }
    PIPELINE.iter().filter(|row| is_ready(row, progress, head, seed_confidence)).map(|row| row.stage).collect()
}

fn is_ready(row: &StageRow, progress: &Progress, head: Option<Epoch>, seed_confidence: EpochDelta) -> bool {
    let open = match row.gate {
        Gate::Open => true,
        Gate::ProofStored => progress.has_proof,
        Gate::SeedReached => match (progress.seed_epoch, head) {
            (Some(seed), Some(head)) => head >= seed + seed_confidence,
            _ => false,
        },
    };
    open && progress.done.has_all(row.after)
        && !progress.done.has_all(row.done)
        && row.task_columns.iter().all(|column| progress.task(*column).is_none())
}

#[cfg(test)]
mod tests {
    use curio_core::SpId;
    use curio_core::epoch::SEED_CONFIDENCE;

    use super::*;

    const TREES: [Step; 4] = [Step::Sdr, Step::TreeD, Step::TreeC, Step::TreeR];
    const SENT: [Step; 5] = [Step::Sdr, Step::TreeD, Step::TreeC, Step::TreeR, Step::PreCommitSent];

    fn progress(done: &[Step]) -> Progress {
        Progress {
            sector: SectorRef::new(SpId(1000), 1),
            done: done.iter().copied().collect(),
            tasks: [None; 9],
            seed_epoch: None,
            has_proof: false,
            failed: false,
        }
    }

    fn with(done: &[&[Step]]) -> Progress {
        progress(&done.concat())
    }

    #[test]
    fn every_step_makes_the_next_stage_ready_and_no_other() {
        let table: [(&[Step], &[Stage]); 5] = [
            (&[], &[Stage::Sdr]),
            (&[Step::Sdr], &[Stage::TreeD]),
            (&[Step::Sdr, Step::TreeD], &[Stage::TreeRc]),
            (&TREES, &[Stage::PreCommit]),
            (&SENT, &[]),
        ];
        for (done, expected) in table {
            assert_eq!(ready(&progress(done), Some(Epoch(100)), SEED_CONFIDENCE), expected, "after {done:?}");
        }
    }

    #[test]
    fn porep_waits_until_the_head_is_three_epochs_above_the_seed() {
        let landed = Progress { seed_epoch: Some(Epoch(60)), ..with(&[&SENT, &[Step::PreCommitLanded]]) };
        assert_eq!(ready(&landed, Some(Epoch(62)), SEED_CONFIDENCE), []);
        assert_eq!(ready(&landed, None, SEED_CONFIDENCE), []);
        assert_eq!(ready(&landed, Some(Epoch(63)), SEED_CONFIDENCE), [Stage::PoRep]);
    }

    #[test]
    fn the_commit_is_sent_while_the_files_are_finalized() {
        let proven = Progress { has_proof: true, ..with(&[&SENT, &[Step::PreCommitLanded, Step::PoRep]]) };
        assert_eq!(ready(&proven, None, SEED_CONFIDENCE), [Stage::Finalize, Stage::Commit]);
        let finalized = Progress {
            has_proof: true,
            ..with(&[&SENT, &[Step::PreCommitLanded, Step::PoRep, Step::Finalize, Step::CommitSent]])
        };
        assert_eq!(ready(&finalized, None, SEED_CONFIDENCE), [Stage::MoveStorage]);
    }

    #[test]
    fn a_commit_without_a_proof_is_never_sent() {
        let empty = with(&[&SENT, &[Step::PreCommitLanded, Step::PoRep]]);
        assert_eq!(ready(&empty, None, SEED_CONFIDENCE), [Stage::Finalize]);
    }

    #[test]
    fn an_open_task_keeps_its_stage_from_being_created_twice() {
        for column in TaskColumn::ALL {
            let stage = Stage::of_column(column);
            let mut progress = Progress { seed_epoch: Some(Epoch(0)), has_proof: true, ..progress(stage.row().after) };
            assert!(ready(&progress, Some(Epoch(100)), SEED_CONFIDENCE).contains(&stage), "{stage:?}");
            progress.tasks[column as usize] = Some(TaskId(7));
            assert!(!ready(&progress, Some(Epoch(100)), SEED_CONFIDENCE).contains(&stage), "{stage:?}");
        }
    }

    #[test]
    fn a_failed_sector_gets_no_task() {
        assert_eq!(ready(&Progress { failed: true, ..progress(&[]) }, Some(Epoch(100)), SEED_CONFIDENCE), []);
    }

    #[test]
    fn the_table_is_in_the_order_of_its_stages() {
        for (index, row) in PIPELINE.iter().enumerate() {
            assert_eq!(row.stage as usize, index, "{:?}", row.stage);
        }
    }
}
