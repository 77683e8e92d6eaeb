//! Machines of the bench: the engine with its own timing, a deadline kind that says when it starts, and sealing kinds
//! that never get anywhere.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use chrono::Utc;
use clap::Args;
use curio_core::resources::GIB;
use curio_core::{Failure, Resources};
use curio_harmony::{Claim, Class, Db, Engine, MachineSpec, Registry, Spec, Task, TaskId, TaskName, Timing};
use tokio::io::AsyncReadExt;

pub const DEADLINE: TaskName = TaskName::new("Deadline");
pub const FULL: TaskName = TaskName::new("Full");
pub const ELSEWHERE: TaskName = TaskName::new("Elsewhere");

/// Told at the start of each run.
pub type Started = Arc<dyn Fn(TaskId, u32, Instant) + Send + Sync>;

/// What a deadline task does once it was started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Nothing,
    /// A proof that takes longer than anything here.
    Endless,
}

struct Deadline {
    started: Started,
    work: Work,
}

impl Task for Deadline {
    const NAME: TaskName = DEADLINE;

    fn spec(&self) -> Spec {
        let cost = Resources { cpu: 1, ram_bytes: GIB, gpu_milli: 0 };
        Spec { cost, class: Class::Deadline, ..Spec::default() }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        (self.started)(claim.task(), claim.attempt(), Instant::now());
        match self.work {
            Work::Nothing => Ok(()),
            Work::Endless => {
                claim.cancelled().cancelled().await;
                Err(Failure::Stopping)
            }
        }
    }
}

/// Sealing work that takes all that deadline work leaves, for ever.
struct Full;

impl Task for Full {
    const NAME: TaskName = FULL;

    fn spec(&self) -> Spec {
        Spec { cost: Resources { cpu: 1, ram_bytes: GIB, gpu_milli: 0 }, filtered: true, ..Spec::default() }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        claim.cancelled().cancelled().await;
        Err(Failure::Stopping)
    }
}

/// Sealing work whose files lie on no machine that is there.
struct Elsewhere;

impl Task for Elsewhere {
    const NAME: TaskName = ELSEWHERE;

    fn spec(&self) -> Spec {
        Spec { filtered: true, ..Spec::default() }
    }

    async fn can_accept(&self, _offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        Ok(Vec::new())
    }

    async fn run(&self, _claim: &Claim) -> Result<(), Failure> {
        Ok(())
    }
}

/// A machine with sealing kinds and the deadline kind.
pub async fn start(db: Db, name: &str, work: Work, started: Started) -> Result<Engine> {
    let mut kinds = Registry::new();
    kinds.register(Deadline { started, work }).register(Full).register(Elsewhere);
    let machine = MachineSpec {
        name: name.to_owned(),
        address: format!("{name}:12300"),
        resources: Resources { cpu: 8, ram_bytes: 64 * GIB, gpu_milli: 0 },
        layers: Vec::new(),
        version: "bench".to_owned(),
        labels: Vec::new(),
        instance: String::new(),
        process_started_at: Utc::now(),
    };
    Ok(Engine::start(db, kinds, machine, Timing::default()).await?)
}

#[derive(Args)]
pub struct MachineArguments {
    #[arg(long)]
    pub database: String,
    #[arg(long)]
    pub name: String,
}

/// Runs deadline tasks that never end, and says each start on stdout, until this process is killed, or the one that
/// started it is: that holds the other end of stdin.
pub async fn be(arguments: MachineArguments) -> Result<()> {
    let MachineArguments { database, name } = arguments;
    let db = Db::connect(&database, "curio-bench").await?;
    let said: Started = Arc::new(|task, attempt, _| println!("{task} {attempt}"));
    let _engine = start(db, &name, Work::Endless, said).await?;
    // Nothing is ever written there.
    let _ = tokio::io::stdin().read(&mut [0]).await;
    Ok(())
}
