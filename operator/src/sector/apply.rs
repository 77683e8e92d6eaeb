//! Does what a pass decided: acts in the database, and writes objects, statuses and events.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use curio_harmony::{Db, DbError, TxError};
use curio_pipeline::act::{self, Removed};
use curio_pipeline::request;
use futures::StreamExt;
use futures::stream;
use kube::api::PostParams;
use kube::{Resource, ResourceExt};
use tracing::{info, warn};

use super::desired::{Act, What};
use super::observe::Subject;
use super::status::{Change, Outcomes, Report};
use crate::api::sealing_sector::SealingSectorStatus;
use crate::api::{CurioCluster, SealingSector};
use crate::apply::{self, ApplyError, FIELD_MANAGER};
use crate::context::Context;
use crate::databases::ClusterKey;

/// Statements and requests under way at the same time.
const AT_ONCE: usize = 8;
/// A status that we wrote is in the watch by then, or it was overwritten.
const MEMORY: Duration = Duration::from_secs(5);

/// A pass broke off; the next one begins anew.
#[derive(Debug, thiserror::Error)]
pub enum SectorError {
    #[error("failed to read the sectors of the database")]
    Read(#[from] DbError),
    #[error("failed to create SealingSector {name}")]
    Create {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// An act broke off; the next pass tries it again.
#[derive(Debug, thiserror::Error)]
#[error("failed to carry out {what:?}")]
struct ActError {
    what: What,
    #[source]
    source: TxError,
}

/// Statuses that were written lately, by uid: the watch brings them back some time later, and until then what it has
/// is older than what we know.
#[derive(Default)]
pub struct Memory {
    written: Mutex<HashMap<String, (Instant, SealingSectorStatus)>>,
}

impl Memory {
    /// Objects with the newest status that is known of each.
    pub fn subjects(&self, objects: Vec<Arc<SealingSector>>) -> Vec<Subject> {
        let mut written = self.written();
        written.retain(|_, (at, _)| at.elapsed() < MEMORY);
        let newest = |object: Arc<SealingSector>| {
            let uid = object.metadata.uid.as_deref().unwrap_or_default();
            let remembered = written.get(uid).map(|(_, status)| status.clone());
            let before = remembered.or_else(|| object.status.clone()).unwrap_or_default();
            Subject { object, before }
        };
        objects.into_iter().map(newest).collect()
    }

    fn remember(&self, object: &SealingSector, status: &SealingSectorStatus) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        self.written().insert(uid, (Instant::now(), status.clone()));
    }

    fn written(&self) -> MutexGuard<'_, HashMap<String, (Instant, SealingSectorStatus)>> {
        // Entries are whole after a panic elsewhere, too.
        self.written.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Carries acts out. One that breaks off is logged, and the others go on.
pub async fn act(context: &Context, cluster: &CurioCluster, acts: &[Act]) -> Outcomes {
    let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let standing = context.databases.get(&key);
    let Some(db) = standing.db().filter(|_| !acts.is_empty()) else { return Outcomes::default() };
    let mut outcomes = Outcomes::default();
    for done in all(acts.iter().map(|act| carry_out(db, act)).collect()).await {
        match done {
            Ok(Done::Asked) => {}
            Ok(Done::Retried(uid, tasks)) => {
                outcomes.retried.insert(uid, tasks);
            }
            Ok(Done::Removed(uid, removed)) => {
                outcomes.removed.insert(uid, removed);
            }
            Err(error) => {
                warn!(error = &error as &dyn Error, "failed to act for a SealingSector of {key}, again soon");
            }
        }
    }
    outcomes
}

enum Done {
    Asked,
    Retried(String, Vec<i64>),
    Removed(String, Removed),
}

async fn carry_out(db: &Db, act: &Act) -> Result<Done, ActError> {
    let broken = |source| ActError { what: act.what.clone(), source };
    match &act.what {
        What::Ask(wanted) => {
            request::ask(db, wanted).await.map_err(broken)?;
            info!(object.uid = act.uid, "asked for {} sectors of {}", wanted.count, wanted.miner);
            Ok(Done::Asked)
        }
        What::Retry(sector) => {
            let retried = act::retry(db, *sector).await.map_err(broken)?;
            let tasks: Vec<i64> = retried.tasks.into_iter().map(|task| task.0).collect();
            info!(object.uid = act.uid, ?tasks, "let the tasks of sector {sector} run again");
            Ok(Done::Retried(act.uid.clone(), tasks))
        }
        What::Remove(sector) => {
            let removed = act::remove(db, *sector).await.map_err(broken)?;
            info!(object.uid = act.uid, ?removed, "told to remove sector {sector}");
            Ok(Done::Removed(act.uid.clone(), removed))
        }
    }
}

/// Writes a report, a bounded number of objects at the same time.
///
/// # Errors
/// The first that occurred, after the others were tried.
pub async fn write(context: &Context, memory: &Memory, report: &Report) -> Result<(), SectorError> {
    let Report { changes, create: new, delete } = report;
    let changed = all(changes.iter().map(|change| change_status(context, memory, change)).collect()).await;
    let created = all(new.iter().map(|object| create(context, object)).collect()).await;
    let deleted = all(delete.iter().map(|object| delete_one(context, object)).collect()).await;
    changed.into_iter().chain(created).chain(deleted).collect()
}

/// Awaits all of them, a bounded number at the same time. A list, because the compiler cannot see that a stream whose
/// futures borrow their items may be sent between threads.
async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    stream::iter(futures).buffer_unordered(AT_ONCE).collect().await
}

async fn change_status(context: &Context, memory: &Memory, change: &Change) -> Result<(), SectorError> {
    let Change { object, after, news } = change;
    apply::apply_status(context, &**object, after).await?;
    memory.remember(object, after);
    let about = object.object_ref(&());
    for news in news {
        match news.warning {
            true => context.events.warning(&about, &news.reason, news.note.clone()).await,
            false => context.events.normal(&about, &news.reason, news.note.clone()).await,
        }
    }
    Ok(())
}

/// Creates, and never takes over: an object of this name that appeared meanwhile is somebody's, perhaps ours.
async fn create(context: &Context, object: &SealingSector) -> Result<(), SectorError> {
    let name = object.name_any();
    let api = context.of::<SealingSector>(&object.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&parameters, object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(source) => Err(SectorError::Create { name, source }),
    }
}

async fn delete_one(context: &Context, object: &SealingSector) -> Result<(), SectorError> {
    Ok(apply::delete(context, object).await?)
}
