//! HarmonyDB and HarmonyTask: one database that all machines of a cluster share, and the scheduler that
//! lives in it. Nothing here knows what the tasks do.

mod aftermath;
mod alive;
mod ask;
pub mod capacity;
mod claim;
mod cycle;
mod db;
mod deadline;
mod decide;
mod engine;
mod finish;
mod hints;
pub mod layers;
mod machine;
pub mod machines;
mod metrics;
mod migrate;
pub mod owner;
mod pick;
mod propose;
mod recover;
mod registry;
mod room;
mod slots;
mod task;
pub mod tasks;
#[cfg(feature = "testing")]
pub mod testing;
mod timing;
mod transaction;
mod work;

pub use claim::Claim;
pub use db::{ConnectError, Db, DbError};
pub use decide::{Offer, Refusal, Verdict, decide};
pub use engine::{Completion, Engine, EngineState, StartError};
pub use machine::MachineSpec;
pub use metrics::Metrics;
pub use migrate::{MIGRATOR, MigrateError, MigrationReport, SchemaError};
pub use registry::Registry;
pub use task::{Backoff, Class, Event, Reserved, Spec, Task, TaskId, TaskName, Triggers};
pub use timing::Timing;
pub use transaction::{Tx, TxError};
