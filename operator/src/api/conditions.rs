//! Every condition and every reason that the operator writes, with what it means to a person.
//!
//! Controllers use the constants; `docs/reference/crds.md` prints the tables. A condition or reason that is not here is
//! not documented, and [`undocumented`] finds it in tests.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// A condition type of a kind.
#[derive(Clone, Copy, Debug)]
pub struct ConditionType {
    pub name: &'static str,
    /// What it says when it is `True`.
    pub meaning: &'static str,
    /// Reasons that it may have.
    pub reasons: &'static [&'static str],
}

/// A reason and what to do about it.
#[derive(Clone, Copy, Debug)]
pub struct Reason {
    pub name: &'static str,
    pub meaning: &'static str,
}

/// Declares reasons as constants and as a table.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $constant:ident = $name:literal;)+) => {
        /// Reasons; one means the same wherever it stands.
        pub mod reason {
            use super::Reason;

            $($(#[doc = $doc])+ pub const $constant: &str = $name;)+

            /// All of them, in the order of the reference.
            pub const ALL: &[Reason] = &[$(Reason { name: $name, meaning: concat!($($doc),+) }),+];
        }
    };
}

/// Declares the condition types of a kind as constants and as a table.
macro_rules! conditions {
    ($(#[doc = $about:literal])+ $module:ident { $($(#[doc = $doc:literal])+ $constant:ident = $name:literal [$($reason:ident),+ $(,)?];)+ }) => {
        $(#[doc = $about])+
        pub mod $module {
            use super::{ConditionType, reason};

            $($(#[doc = $doc])+ pub const $constant: &str = $name;)+

            /// All of them, in the order of the reference.
            pub const ALL: &[ConditionType] = &[$(ConditionType {
                name: $name,
                meaning: concat!($($doc),+),
                reasons: &[$(reason::$reason),+],
            }),+];
        }
    };
}

reasons! {
    /// All is well.
    OK = "Ok";
    /// The operator has begun and is not there yet; the message says what it waits for.
    PROGRESSING = "Progressing";
    /// The object says so.
    REQUESTED = "Requested";
    /// The object does not ask for it.
    NOT_REQUESTED = "NotRequested";
    /// The CurioCluster is paused: nothing is changed until `spec.paused` is false.
    PAUSED = "Paused";
    /// The CurioCluster is hibernated: its runners go when they are idle.
    HIBERNATED = "Hibernated";
    /// A Secret, or the key in it, does not exist; the message names both.
    SECRET_MISSING = "SecretMissing";
    /// The Secret holds no URL of a PostgreSQL database.
    INVALID_URL = "InvalidUrl";
    /// The database does not answer, or refuses the connection; the message has its words.
    UNREACHABLE = "Unreachable";
    /// The database belongs to another CurioCluster, which the message names.
    IN_USE = "InUse";
    /// The database does not answer at the moment, so nothing can be told; runners go on without the operator.
    DATABASE_AWAY = "DatabaseAway";
    /// The migration Job runs.
    MIGRATING = "Migrating";
    /// The migration Job failed; the message says how to see its log.
    MIGRATION_FAILED = "MigrationFailed";
    /// There is no runner image: neither the CurioCluster nor the operator names one.
    IMAGE_MISSING = "ImageMissing";
    /// The schema is not one that this operator knows: use a runner image and an operator of the same release.
    SCHEMA_UNFIT = "SchemaUnfit";
    /// A layer has a key that the configuration does not; nothing was written. The message suggests the right one.
    UNKNOWN_KEY = "UnknownKey";
    /// A layer has a value of the wrong type or out of range; nothing was written.
    INVALID_VALUE = "InvalidValue";
    /// Somebody edited a layer in the database. It is left alone; the message says how to overwrite it.
    EDITED_BY_HAND = "EditedByHand";
    /// The named CurioCluster does not exist.
    CLUSTER_MISSING = "ClusterMissing";
    /// The CurioCluster is not ready; look at its conditions.
    CLUSTER_NOT_READY = "ClusterNotReady";
    /// A layer that the pool names is not one of the cluster's.
    LAYER_MISSING = "LayerMissing";
    /// A node cannot pull the image; the message has the kubelet's words.
    IMAGE_PULL = "ImagePull";
    /// No node takes a pod; the message has the scheduler's words.
    UNSCHEDULABLE = "Unschedulable";
    /// A container ends again and again; the message says with what.
    CRASHING = "Crashing";
    /// Fewer runners are ready than there are to be.
    RUNNERS_NOT_READY = "RunnersNotReady";
    /// The waiting work decides how many runners there are.
    ACTIVE = "Active";
    /// The pool has no `autoscaling`; `replicas` decides.
    DISABLED = "Disabled";
    /// Runners of an older template are still there and are replaced when they are idle.
    REPLACING = "Replacing";
    /// Runners of an older template are still there and stay until somebody deletes their pods.
    MANUAL = "Manual";
    /// Waiting for a runner to take the request up.
    WAITING = "Waiting";
    /// The sector is being sealed.
    SEALING = "Sealing";
    /// The chain has the message.
    ON_CHAIN = "OnChain";
    /// The runner that took the request up refused it; the message has its words.
    REFUSED = "Refused";
    /// The miner is not one of `spec.miners` of the CurioCluster.
    MINER_NOT_ALLOWED = "MinerNotAllowed";
    /// The operator made the object for a sector that the database has.
    FOUND = "Found";
    /// A task of the sector has no attempts left; the message has its last error. Raise `spec.retry` after mending the cause.
    TASK_FAILED = "TaskFailed";
    /// The sector itself failed for good; the message says why.
    SECTOR_FAILED = "SectorFailed";
    /// Some sectors of the request failed; look at their objects.
    SECTORS_FAILED = "SectorsFailed";
    /// Nothing moved for longer than such a stage should take.
    NO_PROGRESS = "NoProgress";
    /// A task waits and no live runner does its kind.
    NO_RUNNER = "NoRunner";
    /// The removal waits for `Confirmed`; the message names what would be lost.
    AWAITING_CONFIRMATION = "AwaitingConfirmation";
    /// The removal is confirmed and under way; the message says what it waits for.
    STOPPING = "Stopping";
    /// The sector cannot be removed; the message says why.
    REMOVAL_REFUSED = "RemovalRefused";
    /// The sector is gone from the database; its files are deleted by the runners that have them.
    REMOVED = "Removed";
    /// The database has no such sector.
    NOT_FOUND = "NotFound";
}

conditions! {
    /// Conditions of a CurioCluster.
    cluster {
        /// Database, chain, layers and schema are as they should be, so that runners can work.
        READY = "Ready" [OK, PROGRESSING, PAUSED, SECRET_MISSING, INVALID_URL, UNREACHABLE, IN_USE, DATABASE_AWAY, MIGRATING, MIGRATION_FAILED, IMAGE_MISSING, SCHEMA_UNFIT, UNKNOWN_KEY, INVALID_VALUE];
        /// The database answers and is this cluster's.
        DATABASE_READY = "DatabaseReady" [OK, PROGRESSING, SECRET_MISSING, INVALID_URL, UNREACHABLE, IN_USE];
        /// Secrets with the addresses of chain nodes are there.
        CHAIN_CONFIGURED = "ChainConfigured" [OK, SECRET_MISSING];
        /// Every key of every layer is one that Curio knows.
        LAYERS_VALID = "LayersValid" [OK, UNKNOWN_KEY, INVALID_VALUE];
        /// The database has the layers as the spec says.
        LAYERS_IN_SYNC = "LayersInSync" [OK, PROGRESSING, PAUSED, EDITED_BY_HAND, DATABASE_AWAY];
        /// The database has the tables of this version.
        SCHEMA_MIGRATED = "SchemaMigrated" [OK, PROGRESSING, PAUSED, MIGRATING, MIGRATION_FAILED, IMAGE_MISSING, SCHEMA_UNFIT, DATABASE_AWAY];
        /// The operator changes nothing.
        PAUSED = "Paused" [REQUESTED, NOT_REQUESTED];
        /// Runners go when they are idle and none comes.
        HIBERNATED = "Hibernated" [REQUESTED, NOT_REQUESTED];
    }
}

conditions! {
    /// Conditions of a RunnerPool.
    pool {
        /// As many runners as there are to be are ready.
        READY = "Ready" [OK, PROGRESSING, PAUSED, HIBERNATED, CLUSTER_MISSING, CLUSTER_NOT_READY, LAYER_MISSING, UNKNOWN_KEY, INVALID_VALUE, IMAGE_PULL, UNSCHEDULABLE, SECRET_MISSING, CRASHING, RUNNERS_NOT_READY];
        /// The CurioCluster is there and its database can be used.
        CLUSTER_READY = "ClusterReady" [OK, CLUSTER_MISSING, CLUSTER_NOT_READY];
        /// Every node that has a runner has its image.
        IMAGES_PULLED = "ImagesPulled" [OK, PROGRESSING, IMAGE_PULL];
        /// Every pod has a node.
        SCHEDULED = "Scheduled" [OK, PROGRESSING, UNSCHEDULABLE];
        /// The waiting work decides how many runners there are.
        AUTOSCALING = "Autoscaling" [ACTIVE, DATABASE_AWAY, INVALID_VALUE, DISABLED, HIBERNATED];
        /// Every runner was made from the present template.
        UP_TO_DATE = "UpToDate" [OK, REPLACING, MANUAL];
        /// Every key of the pool's own layer is one that Curio knows, and the layers it names exist.
        LAYERS_VALID = "LayersValid" [OK, LAYER_MISSING, UNKNOWN_KEY, INVALID_VALUE, EDITED_BY_HAND, DATABASE_AWAY];
    }
}

conditions! {
    /// Conditions of a SealingSector.
    sector {
        /// A runner has taken the request up, or the sector exists already.
        ACCEPTED = "Accepted" [OK, FOUND, WAITING, REFUSED, MINER_NOT_ALLOWED, CLUSTER_MISSING, CLUSTER_NOT_READY, PAUSED, NOT_FOUND];
        /// The chain has the pre-commit.
        PRE_COMMITTED = "PreCommitted" [ON_CHAIN, SEALING, WAITING];
        /// The chain has accepted the proof.
        PROVEN = "Proven" [ON_CHAIN, SEALING, WAITING];
        /// The sector, or its request, needs a person.
        FAILED = "Failed" [OK, TASK_FAILED, SECTOR_FAILED, SECTORS_FAILED, REFUSED, MINER_NOT_ALLOWED];
        /// Nothing moves although nothing has failed.
        STUCK = "Stuck" [OK, NO_PROGRESS, NO_RUNNER, TASK_FAILED];
        /// The sector is to be given up. Only there while `spec.removal` asks for it.
        REMOVAL_PENDING = "RemovalPending" [AWAITING_CONFIRMATION, STOPPING, REMOVAL_REFUSED, REMOVED];
    }
}

/// Conditions of a kind's status that the table of the kind does not have, or with a reason that it does not have.
pub fn undocumented(table: &[ConditionType], conditions: &[Condition]) -> Vec<String> {
    let documented = |condition: &&Condition| {
        table.iter().any(|known| known.name == condition.type_ && known.reasons.contains(&condition.reason.as_str()))
    };
    conditions
        .iter()
        .filter(|condition| !documented(condition))
        .map(|condition| format!("{} with reason {}", condition.type_, condition.reason))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_used_by_a_condition() {
        let used: Vec<&str> = [cluster::ALL, pool::ALL, sector::ALL]
            .concat()
            .iter()
            .flat_map(|condition| condition.reasons)
            .copied()
            .collect();
        let unused: Vec<&str> =
            reason::ALL.iter().map(|reason| reason.name).filter(|name| !used.contains(name)).collect();
        assert!(unused.is_empty(), "{unused:?} belong to no condition");
    }
}
