//! Waiting with a deadline: on watches, and by looking again for what has none.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// For what must happen soon on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(60);
/// For a sector from the request to the proof, with SNARKs simulated and other scenarios beside it.
pub const SEALED: Duration = Duration::from_secs(420);

/// Waits until the object `name` is there and `holds`, and returns it.
///
/// # Panics
/// After `within`, with the last status seen.
pub async fn until<K>(api: &Api<K>, name: &str, within: Duration, what: &str, holds: impl Fn(&K) -> bool) -> K
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let mut last = None;
    let reached = tokio::time::timeout(within, async {
        let mut states = pin!(watch_object(api.clone(), name).default_backoff());
        while let Some(state) = states.next().await {
            // A watch that broke is begun again by the stream itself.
            let Ok(state) = state else { continue };
            match state {
                Some(object) if holds(&object) => return object,
                state => last = state,
            }
        }
        unreachable!("a watch ends only when it is dropped")
    });
    match reached.await {
        Ok(object) => object,
        Err(_) => panic!("{what} did not come true within {within:?}; {name} was {}", shown(last.as_ref())),
    }
}

/// Waits until no object `name` is there.
///
/// # Panics
/// After `within`, with the last status seen.
pub async fn until_gone<K>(api: &Api<K>, name: &str, within: Duration)
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let mut last = None;
    let gone = tokio::time::timeout(within, async {
        let mut states = pin!(watch_object(api.clone(), name).default_backoff());
        while let Some(state) = states.next().await {
            match state {
                Ok(None) => return,
                Ok(state) => last = state,
                Err(_) => {}
            }
        }
    });
    if gone.await.is_err() {
        panic!("{name} is still there after {within:?}: {}", shown(last.as_ref()));
    }
}

fn shown<K: Serialize>(object: Option<&K>) -> String {
    let Some(object) = object else { return "absent".to_owned() };
    let object = serde_json::to_value(object).unwrap_or_default();
    format!("deleted at {}, status {:#}", object["metadata"]["deletionTimestamp"], object["status"])
}

/// Looks again and again at what nobody announces: rows, files, processes.
///
/// # Panics
/// After `within`.
pub async fn polled<T>(what: &str, within: Duration, look: impl AsyncFnMut() -> Option<T>) -> T {
    polled_every(Duration::from_millis(20), what, within, look).await
}

/// The same at another pace, for minutes of waiting beside other scenarios.
///
/// # Panics
/// After `within`.
pub async fn polled_every<T>(
    pace: Duration,
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let found = tokio::time::timeout(within, async {
        let mut looks = tokio::time::interval(pace);
        loop {
            looks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    });
    match found.await {
        Ok(found) => found,
        Err(_) => panic!("{what} did not come true within {within:?}"),
    }
}
