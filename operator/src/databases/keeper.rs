//! One keeper: connects, looks at the schema and at whose database it is, and goes on looking, so that a
//! database that goes or comes back is known within seconds.

use std::sync::Weak;
use std::time::Duration;

use curio_harmony::{ConnectError, Db, SchemaError, TxError, owner};
use tracing::{info, warn};

use super::{ClusterKey, Shared, Standing};

/// Name by which the database shows our connections.
const APPLICATION: &str = "curio-operator";
/// Between two looks at a database that answers.
const LOOK: Duration = Duration::from_secs(2);
/// Between two attempts to reach one that does not: doubles from the first to the second.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(8);
/// One look takes at most this long; a server that says nothing for longer is away.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// Ends when the databases end, or with its handle.
pub(super) struct Keeper {
    pub(super) key: ClusterKey,
    /// Of the CurioCluster.
    pub(super) uid: String,
    pub(super) url: String,
    /// Name of an owner that is gone for good.
    pub(super) take_from: Option<String>,
    /// Which keeper of this key it is.
    pub(super) generation: u64,
    pub(super) databases: Weak<Shared>,
}

impl Keeper {
    pub(super) async fn run(self) {
        let mut retry = FIRST_RETRY;
        loop {
            match Db::connect(&self.url, APPLICATION).await {
                Ok(db) => {
                    retry = FIRST_RETRY;
                    if !self.keep(&db).await {
                        return;
                    }
                }
                Err(error) => {
                    if !self.say(standing_without(&error), None) {
                        return;
                    }
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }

    /// Looks after a database until it does not answer (true), or until nobody wants to know (false).
    async fn keep(&self, db: &Db) -> bool {
        let mut ours = false;
        loop {
            match tokio::time::timeout(LOOK_TIMEOUT, self.look(db, &mut ours)).await {
                Ok(Some(standing)) => {
                    if !self.say(standing, Some(db)) {
                        return false;
                    }
                }
                // Connecting anew says best what is wrong.
                Ok(None) | Err(_) => return true,
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// None when the database does not answer.
    async fn look(&self, db: &Db, ours: &mut bool) -> Option<Standing> {
        let schema = db.check_schema().await;
        if matches!(schema, Err(SchemaError::Unreadable(_))) {
            return None;
        }
        // An older schema may have no table of owners yet. Then it is nobody's.
        let may_have_owner = !matches!(schema, Err(SchemaError::Missing));
        if may_have_owner && !*ours {
            match self.claim(db).await {
                Ok(owner::Ownership::Ours) => *ours = true,
                Ok(owner::Ownership::Other(owner)) => return Some(Standing::InUse { owner: owner.name }),
                Err(error) if schema.is_ok() => {
                    warn!(error = &error as &dyn std::error::Error, "failed to claim the database of {}", self.key);
                    return None;
                }
                Err(_) => {}
            }
        }
        Some(match schema {
            Ok(()) => Standing::Ready(db.clone()),
            Err(error @ SchemaError::Missing) => Standing::NotMigrated { empty: true, why: error.to_string() },
            Err(error @ SchemaError::Old { .. }) => Standing::NotMigrated { empty: false, why: error.to_string() },
            Err(error @ (SchemaError::New { .. } | SchemaError::Changed { .. })) => {
                Standing::SchemaUnfit(error.to_string())
            }
            Err(SchemaError::Unreadable(_)) => return None,
        })
    }

    async fn claim(&self, db: &Db) -> Result<owner::Ownership, TxError> {
        let name = self.key.to_string();
        match owner::claim(db, &self.uid, &name).await? {
            owner::Ownership::Other(owner) if self.take_from.as_ref() == Some(&owner.name) => {
                info!(cluster = %name, "takes the database from {}, as its annotation says", owner.name);
                owner::release(db, &owner.uid).await?;
                owner::claim(db, &self.uid, &name).await
            }
            ownership => Ok(ownership),
        }
    }

    /// False when nobody wants to know any more.
    fn say(&self, standing: Standing, connected: Option<&Db>) -> bool {
        let Some(shared) = self.databases.upgrade() else { return false };
        let changed = {
            let mut kept = shared.kept();
            // An entry that was made anew has a keeper of its own, and this one is ending.
            let entry = kept.get_mut(&self.key);
            let Some(entry) = entry.filter(|entry| entry.generation == self.generation) else { return false };
            let changed = !entry.standing.says_the_same(&standing);
            entry.connected = connected.cloned();
            entry.standing = standing.clone();
            changed
        };
        if changed {
            info!(cluster = %self.key, reason = standing.reason(), "database of {}: {standing}", self.key);
            shared.told(&self.key);
        }
        true
    }
}

fn standing_without(error: &ConnectError) -> Standing {
    match error {
        ConnectError::Address(_) => Standing::InvalidUrl(error.to_string()),
        ConnectError::Unreachable { .. }
        | ConnectError::Refused { .. }
        | ConnectError::NoDatabase { .. }
        | ConnectError::Other { .. } => Standing::Unreachable(error.to_string()),
    }
}
