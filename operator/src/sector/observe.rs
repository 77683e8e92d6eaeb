//! Everything that a pass looks at, read once: the objects of a cluster, and what its database says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use curio_core::{SectorRef, SpId};
use curio_harmony::machines::{self, MachineState};
use curio_harmony::{Db, DbError};
use curio_pipeline::act::{self, RemovalPreview};
use curio_pipeline::request::{self, RequestRow};
use curio_pipeline::view::{self, SectorView};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::place::{self, Place};
use super::validate::{self, Wish};
use crate::api::sealing_sector::{Removal, SealingSectorStatus};
use crate::api::{CurioCluster, SealingSector};
use crate::apply::owned_by;
use crate::context::Context;
use crate::databases::ClusterKey;

/// Longer than any provider has existed.
const EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// An object and the status it has, which may be newer than what the watch has brought so far.
#[derive(Clone, Debug)]
pub struct Subject {
    pub object: Arc<SealingSector>,
    pub before: SealingSectorStatus,
}

impl Subject {
    pub fn uid(&self) -> &str {
        self.object.metadata.uid.as_deref().unwrap_or_default()
    }

    pub fn generation(&self) -> i64 {
        self.object.metadata.generation.unwrap_or_default()
    }
}

/// What a pass needs to know of a cluster.
#[derive(Clone, Debug)]
pub struct Facts {
    pub key: ClusterKey,
    pub owner: OwnerReference,
    /// Empty means any.
    pub miners: BTreeSet<SpId>,
    pub finished_ttl: Duration,
    pub paused: bool,
}

/// What the database says.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// By uid; those that an unfinished object made.
    pub requests: HashMap<String, RequestRow>,
    /// In flight, failed, and those that ended lately.
    pub sectors: BTreeMap<SectorRef, SectorView>,
    /// What a removal would do, for objects that ask for one.
    pub previews: HashMap<SectorRef, RemovalPreview>,
    /// Kinds of tasks that some live machine takes.
    pub kinds: BTreeSet<String>,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Observed {
    pub facts: Facts,
    /// Objects of the cluster with what they mean, by name.
    pub subjects: Vec<(Subject, Wish)>,
    /// Names of all SealingSectors in the namespace.
    pub taken: BTreeSet<String>,
    /// The rows, or why they cannot be read.
    pub database: Result<Rows, String>,
    /// Whole seconds, as times in a status are.
    pub now: Timestamp,
}

/// Looks.
///
/// # Errors
/// The database broke off while it was read.
pub async fn observe(
    context: &Context,
    cluster: &CurioCluster,
    mut subjects: Vec<Subject>,
    taken: BTreeSet<String>,
) -> Result<Observed, DbError> {
    let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let facts = Facts {
        owner: owned_by(cluster),
        miners: validate::miners(&cluster.spec.miners),
        finished_ttl: Duration::from_secs(cluster.spec.finished_sector_ttl_seconds.unsigned_abs()),
        paused: cluster.spec.paused,
        key,
    };
    subjects.retain(|subject| subject.object.metadata.deletion_timestamp.is_none());
    subjects.sort_by_key(|subject| subject.object.name_any());
    let subjects: Vec<(Subject, Wish)> = subjects
        .into_iter()
        .map(|subject| {
            let wish = validate::wish(&subject.object, &facts.miners);
            (subject, wish)
        })
        .collect();
    let standing = context.databases.get(&facts.key);
    let database = match standing.db() {
        Some(db) => Ok(read(db, &facts, &subjects).await?),
        None => Err(standing.to_string()),
    };
    Ok(Observed { facts, subjects, taken, database, now: whole_seconds(context.now()) })
}

/// As a status keeps a time.
pub fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).expect("a time cut to its second is in range")
}

async fn read(db: &Db, facts: &Facts, subjects: &[(Subject, Wish)]) -> Result<Rows, DbError> {
    // Requests before sectors: a request that is started in between is one that has not been started yet. The other
    // way round its sectors would seem to be gone.
    let requests = request::find(db, &open_requests(subjects)).await?;
    let requests = requests.into_iter().map(|request| (request.uid.clone(), request)).collect();
    let mut rows = Rows { requests, sectors: by_ref(view::sectors(db, facts.finished_ttl).await?), ..Rows::default() };
    // Ended longer ago than the list reaches, while nobody looked? The list of everything tells it from a removed
    // sector. Objects that have settled do not ask any more, so this happens once for each.
    let lost = |(subject, wish): &(Subject, Wish)| matches!(place::of(subject, wish, &rows), Place::Gone(_));
    if subjects.iter().any(lost) {
        rows.sectors = by_ref(view::sectors(db, EVER).await?);
    }
    for (subject, wish) in subjects {
        if subject.object.spec.removal == Removal::None {
            continue;
        }
        if let Place::One(view) = place::of(subject, wish, &rows) {
            let sector = view.sector;
            rows.previews.insert(sector, act::preview_removal(db, sector).await?);
        }
    }
    let live = machines::list(db).await?.into_iter().filter(|machine| {
        matches!(machine.state, MachineState::Up | MachineState::Late) && machine.cordoned_at.is_none()
    });
    rows.kinds = live.flat_map(|machine| machine.kinds).collect();
    Ok(rows)
}

/// Uids of requests whose answer is still of interest.
fn open_requests(subjects: &[(Subject, Wish)]) -> Vec<String> {
    let open = subjects.iter().filter(|(subject, _)| !place::is_settled(&subject.before));
    open.filter_map(|(_, wish)| match wish {
        Wish::Ask(request) => Some(request.uid.clone()),
        Wish::Watch(_) | Wish::Refused(..) => None,
    })
    .collect()
}

fn by_ref(views: Vec<SectorView>) -> BTreeMap<SectorRef, SectorView> {
    views.into_iter().map(|view| (view.sector, view)).collect()
}
