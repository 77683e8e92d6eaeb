//! What is to be done for a cluster's sectors: in the database, and to the objects. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use curio_core::SectorRef;
use curio_pipeline::request::SealRequest;
use curio_pipeline::status::SectorState;
use curio_pipeline::view::SectorView;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::observe::{Facts, Observed, Rows, Subject};
use super::place::{self, Place};
use super::removal;
use super::validate::Wish;
use crate::api::sealing_sector::{Removal, SealingSectorStatus};
use crate::api::{SealingSector, SealingSectorSpec};
use crate::apply::{FIELD_MANAGER, labels};

/// Label of operator-made objects: miner of the sector.
pub const MINER_LABEL: &str = "curio.filecoin.io/miner";
/// Label of operator-made objects: name of the object that asked for the sector together with others.
pub const REQUEST_LABEL: &str = "curio.filecoin.io/request";

/// The API server refuses longer label values.
const LONGEST_LABEL: usize = 63;

/// Something to be done in the database for the object with this uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub uid: String,
    pub what: What,
}

/// What is to be done. Doing it twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Ask(SealRequest),
    Retry(SectorRef),
    Remove(SectorRef),
}

/// Everything that is to be done in the database; nothing while the cluster is paused or its database away.
pub fn acts(observed: &Observed) -> Vec<Act> {
    let Ok(rows) = &observed.database else { return Vec::new() };
    if observed.facts.paused {
        return Vec::new();
    }
    let of_one = |(subject, wish): &(Subject, Wish)| {
        let acts = match (place::of(subject, wish, rows), wish) {
            (Place::Unasked, Wish::Ask(request)) => vec![What::Ask(request.clone())],
            (Place::One(view), _) => of_sector(subject, view),
            _ => Vec::new(),
        };
        acts.into_iter().map(|what| Act { uid: subject.uid().to_owned(), what }).collect::<Vec<_>>()
    };
    observed.subjects.iter().flat_map(of_one).collect()
}

fn of_sector(subject: &Subject, view: &SectorView) -> Vec<What> {
    let retry = subject.object.spec.retry > subject.before.observed_retry;
    let remove = removal::is_due(subject);
    let retry = retry.then_some(What::Retry(view.sector));
    retry.into_iter().chain(remove.then_some(What::Remove(view.sector))).collect()
}

/// Objects for sectors in flight and failed ones that have none.
pub fn missing(observed: &Observed, rows: &Rows) -> Vec<SealingSector> {
    let mut taken = observed.taken.clone();
    let shown = shown(observed);
    let askers: BTreeMap<&str, String> =
        observed.subjects.iter().map(|(subject, _)| (subject.uid(), subject.object.name_any())).collect();
    let single: BTreeSet<&str> = observed
        .subjects
        .iter()
        .filter(|(_, wish)| matches!(wish, Wish::Ask(request) if request.count == 1))
        .map(|(subject, _)| subject.uid())
        .collect();
    let unseen = rows.sectors.values().filter(|view| {
        let by_its_asker = view.request_uid.as_deref().is_some_and(|uid| single.contains(uid));
        view.state != SectorState::Proven && !by_its_asker && !shown.contains(&view.sector)
    });
    unseen
        .filter_map(|view| {
            let name = free_name(&observed.facts, view.sector, &taken)?;
            taken.insert(name.clone());
            let asker = view.request_uid.as_deref().and_then(|uid| askers.get(uid));
            Some(object(&observed.facts, view.sector, name, asker))
        })
        .collect()
}

/// Sectors that an object shows by their number.
fn shown(observed: &Observed) -> BTreeSet<SectorRef> {
    let watched = observed.subjects.iter().filter_map(|(_, wish)| match wish {
        Wish::Watch(sector) => Some(*sector),
        Wish::Ask(_) | Wish::Refused(..) => None,
    });
    watched.collect()
}

/// The short name fits a terminal; the long one is for a namespace where somebody took that. When both are taken there
/// is no object: what goes on is still in the CurioCluster's status.
fn free_name(facts: &Facts, sector: SectorRef, taken: &BTreeSet<String>) -> Option<String> {
    let short = format!("{}-{}", sector.sp, sector.number);
    let long = format!("{}-{short}", facts.key.name);
    [short, long].into_iter().find(|name| !taken.contains(name))
}

fn object(facts: &Facts, sector: SectorRef, name: String, asker: Option<&String>) -> SealingSector {
    let mut labels = labels::of_cluster(&facts.key.name);
    labels.insert(MINER_LABEL.to_owned(), sector.sp.to_string());
    if let Some(asker) = asker.filter(|asker| asker.len() <= LONGEST_LABEL) {
        labels.insert(REQUEST_LABEL.to_owned(), asker.clone());
    }
    SealingSector {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(facts.key.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![facts.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: SealingSectorSpec {
            cluster: facts.key.name.clone(),
            miner: sector.sp.to_string(),
            count: None,
            piece: None,
            number: Some(i64::try_from(sector.number).unwrap_or(i64::MAX)),
            retry: 0,
            removal: Removal::None,
        },
        status: None,
    }
}

/// Whether the operator made an object and its sector ended long enough ago.
pub fn is_expired(subject: &Subject, status: &SealingSectorStatus, ttl: Duration, now: Timestamp) -> bool {
    let ours = subject.object.labels().get(labels::MANAGED_BY).is_some_and(|manager| manager == FIELD_MANAGER)
        && subject.object.spec.number.is_some();
    let ended = status.moved_at.as_ref().filter(|_| place::is_settled(status));
    ours && ended.is_some_and(|ended| now.duration_since(ended.0).unsigned_abs() >= ttl)
}
