//! How it stands with the database of one CurioCluster.

use std::fmt;

use curio_harmony::Db;
use kube::ResourceExt;

use crate::api::CurioCluster;
use crate::apply::labels::TAKE_DATABASE;

/// Which CurioCluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterKey {
    pub namespace: String,
    pub name: String,
}

impl ClusterKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> ClusterKey {
        ClusterKey { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(cluster: &CurioCluster) -> ClusterKey {
        ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any())
    }
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether a database can be used. What is not [`Ready`](Standing::Ready) comes with a sentence that says
/// what to do; it never holds a password.
#[derive(Clone)]
pub enum Standing {
    /// Nobody has looked yet.
    Unknown,
    /// The Secret or its key is not there.
    SecretMissing(String),
    InvalidUrl(String),
    Unreachable(String),
    /// Another CurioCluster, also one of another Kubernetes cluster, has this database.
    InUse {
        owner: String,
    },
    /// There is no schema (`empty`), or an older one; a migration brings it up to date.
    NotMigrated {
        empty: bool,
        why: String,
    },
    /// The schema is newer than this operator, or was changed by somebody.
    SchemaUnfit(String),
    Ready(Db),
}

impl Standing {
    /// The database, if it can be used.
    pub fn db(&self) -> Option<&Db> {
        match self {
            Standing::Ready(db) => Some(db),
            Standing::Unknown
            | Standing::SecretMissing(_)
            | Standing::InvalidUrl(_)
            | Standing::Unreachable(_)
            | Standing::InUse { .. }
            | Standing::NotMigrated { .. }
            | Standing::SchemaUnfit(_) => None,
        }
    }

    /// One word, as the reason of a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Standing::Unknown => "Connecting",
            Standing::SecretMissing(_) => "SecretMissing",
            Standing::InvalidUrl(_) => "InvalidUrl",
            Standing::Unreachable(_) => "Unreachable",
            Standing::InUse { .. } => "InUse",
            Standing::NotMigrated { .. } => "NotMigrated",
            Standing::SchemaUnfit(_) => "SchemaUnfit",
            Standing::Ready(_) => "Ok",
        }
    }

    /// Whether a person would be told the same.
    pub(super) fn says_the_same(&self, other: &Standing) -> bool {
        self.reason() == other.reason() && self.to_string() == other.to_string()
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Unknown => f.write_str("connecting to the database"),
            Standing::SecretMissing(why)
            | Standing::InvalidUrl(why)
            | Standing::Unreachable(why)
            | Standing::NotMigrated { why, .. }
            | Standing::SchemaUnfit(why) => f.write_str(why),
            Standing::InUse { owner } => write!(
                f,
                "the database belongs to CurioCluster {owner} already; give this one a database of its own, or delete that \
                 one; if that one is gone for good, annotate this one with {TAKE_DATABASE}={owner}"
            ),
            Standing::Ready(_) => f.write_str("the database answers"),
        }
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.reason())
    }
}
