//! The claims of a slot. They have no owner and the operator never changes or deletes one: the data on them may be the
//! only copy, and a slot that comes back finds it again.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;

use super::validate::ValidPool;
use crate::api::common::ClaimTemplate;
use crate::apply::labels;

/// Name of the volume for sectors in work, and end of the name of its claim.
pub const SCRATCH: &str = "scratch";
/// Name of the volume for proof parameters, and end of the name of its claim.
pub const PARAMETERS: &str = "parameters";

/// Name of the claim that a slot has for one of its volumes.
pub fn name(slot: &str, volume: &str) -> String {
    format!("{slot}-{volume}")
}

/// The claims that a slot needs before its pod can be placed. Only what the pool has a template for; claims that
/// exist already are the user's.
pub fn claims(pool: &ValidPool, slot: &str) -> Vec<PersistentVolumeClaim> {
    let spec = &pool.spec;
    let scratch = spec.scratch.iter().map(|volume| (SCRATCH, volume.template.as_ref()));
    let parameters = spec.parameters.iter().map(|volume| (PARAMETERS, volume.template.as_ref()));
    let stores = spec.long_term.iter().map(|volume| (volume.name.as_str(), volume.template.as_ref()));
    let templates = scratch.chain(parameters).chain(stores);
    templates.filter_map(|(volume, template)| Some(claim(pool, slot, volume, template?))).collect()
}

fn claim(pool: &ValidPool, slot: &str, volume: &str, template: &ClaimTemplate) -> PersistentVolumeClaim {
    let ClaimTemplate { storage_class_name, size, access_modes } = template;
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name(slot, volume)),
            namespace: Some(pool.namespace.clone()),
            labels: Some(labels::of_slot(&pool.spec.cluster, &pool.name, slot)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(access_modes.iter().map(|mode| mode.as_str().to_owned()).collect()),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size.clone()))])),
                limits: None,
            }),
            storage_class_name: storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
