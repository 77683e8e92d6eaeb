//! Names of the task kinds. The runner gives each its work; whoever counts or schedules runners knows them by name.

use curio_harmony::TaskName;

pub const SDR: TaskName = TaskName::new("SDR");
pub const TREE_D: TaskName = TaskName::new("TreeD");
pub const TREE_RC: TaskName = TaskName::new("TreeRC");
pub const PRECOMMIT_SUBMIT: TaskName = TaskName::new("PreCommitSubmit");
pub const POREP: TaskName = TaskName::new("PoRep");
pub const FINALIZE: TaskName = TaskName::new("Finalize");
pub const MOVE_STORAGE: TaskName = TaskName::new("MoveStorage");
pub const COMMIT_SUBMIT: TaskName = TaskName::new("CommitSubmit");
/// Window PoSt of one partition.
pub const WD_POST: TaskName = TaskName::new("WdPost");
pub const WD_POST_SUBMIT: TaskName = TaskName::new("WdPostSubmit");
pub const WD_POST_RECOVER: TaskName = TaskName::new("WdPostRecover");
/// One election, and the block that it may win.
pub const WIN_POST: TaskName = TaskName::new("WinPost");
/// Signs and pushes what the submitting kinds put into the outbox.
pub const SEND_MESSAGE: TaskName = TaskName::new("SendMessage");
/// The same for messages of proofs over time, which have a deadline.
pub const SEND_POST: TaskName = TaskName::new("SendPost");
