//! Counts the statements that this process sends, by the name of the sending thread.
//!
//! The driver reports each statement as a trace event, so nothing that we send is missed and nothing
//! that the server does for itself is counted. BEGIN and COMMIT are not reported; measurements that use
//! explicit transactions add them.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, filter::Targets};

static COUNTS: OnceLock<Mutex<HashMap<String, u64>>> = OnceLock::new();

struct Counter;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Counter {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        debug_assert_eq!(event.metadata().target(), "sqlx::query");
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        *counts().entry(name).or_default() += 1;
    }
}

fn counts() -> std::sync::MutexGuard<'static, HashMap<String, u64>> {
    COUNTS.get_or_init(Mutex::default).lock().expect("nothing panics under this lock")
}

/// Starts counting; once in a process.
pub fn install() {
    let only_statements = Targets::new().with_target("sqlx::query", Level::TRACE);
    tracing_subscriber::registry().with(Counter.with_filter(only_statements)).init();
}

/// Statements sent so far by threads of this name.
pub fn statements(thread: &str) -> u64 {
    counts().get(thread).copied().unwrap_or(0)
}
