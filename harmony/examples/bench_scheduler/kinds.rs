//! Thirty task kinds that do nothing but say that they were started.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use curio_core::resources::GIB;
use curio_core::{Failure, Resources};
use curio_harmony::{Claim, Db, Engine, MachineSpec, Registry, Spec, Task, TaskId, TaskName, Timing};
use sqlx::types::chrono::Utc;

pub const COUNT: usize = 30;

const fn name(text: &'static str) -> TaskName {
    TaskName::new(text)
}

pub const KINDS: [TaskName; COUNT] = [
    name("Kind00"),
    name("Kind01"),
    name("Kind02"),
    name("Kind03"),
    name("Kind04"),
    name("Kind05"),
    name("Kind06"),
    name("Kind07"),
    name("Kind08"),
    name("Kind09"),
    name("Kind10"),
    name("Kind11"),
    name("Kind12"),
    name("Kind13"),
    name("Kind14"),
    name("Kind15"),
    name("Kind16"),
    name("Kind17"),
    name("Kind18"),
    name("Kind19"),
    name("Kind20"),
    name("Kind21"),
    name("Kind22"),
    name("Kind23"),
    name("Kind24"),
    name("Kind25"),
    name("Kind26"),
    name("Kind27"),
    name("Kind28"),
    name("Kind29"),
];

/// Told at the start of each run.
pub type Started = Arc<dyn Fn(TaskId, Instant) + Send + Sync>;

struct Nothing<const K: usize>(Started);

impl<const K: usize> Task for Nothing<K> {
    const NAME: TaskName = KINDS[K];

    fn spec(&self) -> Spec {
        Spec { order: K as u16, ..Spec::default() }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        (self.0)(claim.task(), Instant::now());
        Ok(())
    }
}

/// The first `count` kinds: all of them, or three.
pub fn registry(count: usize, started: &Started) -> Registry {
    let mut kinds = Registry::new();
    macro_rules! register {
        ($($index:literal)*) => {
            $(if $index < count { kinds.register(Nothing::<$index>(started.clone())); })*
        };
    }
    register!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29);
    kinds
}

/// A machine with the engine's own timing.
pub async fn start(db: Db, name: &str, count: usize, started: &Started) -> Result<Engine> {
    let machine = MachineSpec {
        name: name.to_owned(),
        address: format!("{name}:12300"),
        resources: Resources { cpu: 64, ram_bytes: 256 * GIB, gpu_milli: 4000 },
        layers: Vec::new(),
        version: "bench".to_owned(),
        labels: Vec::new(),
        instance: String::new(),
        process_started_at: Utc::now(),
    };
    Ok(Engine::start(db, registry(count, started), machine, Timing::default()).await?)
}
