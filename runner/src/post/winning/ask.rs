//! The loop that asks for elections: on every machine that mines, for all miners of the cluster.
//!
//! It looks when the head changes, when the time of the next round has come, and for the end of an election that decides
//! whether there is another on the same base. What it has seen is in the database; losing the loop loses nothing.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use curio_chain::RpcError;
use curio_chain::types::TipSet;
use curio_core::{Epoch, Failure, SpId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::record;
use super::round::{Due, Election, Pace, due};
use crate::chain_sched::survive;
use crate::deps::Deps;
use crate::post::miners;

/// Ends when cancelled, or when nobody tells heads any more.
pub(super) async fn run(deps: Deps, mut heads: watch::Receiver<Option<TipSet>>, cancel: CancellationToken) {
    let mut asker = Asker { pace: Pace::of(deps.network.block_delay), deps, base: None, told: HashMap::new() };
    loop {
        let head = heads.borrow_and_update().clone();
        let wait = match head {
            Some(head) => match cancel.run_until_cancelled(survive(asker.look(head))).await {
                Some(Some(wait)) => wait,
                Some(None) => Some(asker.pause()),
                None => return,
            },
            None => None,
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = heads.changed() => if changed.is_err() { return },
            () = passed(wait) => {}
        }
    }
}

/// Never, when there is nothing to wait for but a head.
async fn passed(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

struct Asker {
    deps: Deps,
    pace: Pace,
    /// What is mined on.
    base: Option<TipSet>,
    /// Heights of bases on which a miner does not mine, said once each.
    told: HashMap<SpId, Epoch>,
}

impl Asker {
    /// Acts for all miners; says how long until something may be due on the same head.
    async fn look(&mut self, head: TipSet) -> Option<Duration> {
        if let Err(held) = self.deps.fence.check().await {
            // The fence itself has said so in the log.
            debug!("no election is asked for: {held}");
            return Some(self.pace.block_delay);
        }
        let looked = match self.choose(head).await {
            Ok(base) => self.all_miners(&base).await,
            Err(failure) => Err(failure),
        };
        looked.unwrap_or_else(|failure| {
            warn!("failed to look for elections: {failure}");
            Some(self.pause())
        })
    }

    /// The base to mine on: the head, unless it came from a node that is behind.
    async fn choose(&mut self, head: TipSet) -> Result<TipSet, Failure> {
        if let Some(base) = &self.base
            && is_doubtful(base, &head)
            && self.is_lighter(&head, base).await?
        {
            return Ok(base.clone());
        }
        self.base = Some(head.clone());
        Ok(head)
    }

    async fn is_lighter(&self, head: &TipSet, base: &TipSet) -> Result<bool, RpcError> {
        let chain = &self.deps.chain;
        let head = chain.chain_tip_set_weight(head.key()).await?;
        match chain.chain_tip_set_weight(base.key()).await {
            Ok(base) => Ok(head < base),
            // A node that does not know the base cannot be mined with on it.
            Err(error) if error.node_message().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn all_miners(&mut self, base: &TipSet) -> Result<Option<Duration>, Failure> {
        let miners = miners::of(&self.deps.db, &self.deps.config).await?;
        let mut elections = record::near(&self.deps.db, &miners, base.height).await?;
        let mut waits = Vec::new();
        for sp in miners {
            let elections = elections.remove(&sp).unwrap_or_default();
            // One miner's trouble is not the others'.
            let wait = self.one_miner(sp, base, &elections).await.unwrap_or_else(|failure| {
                warn!(miner = %sp, "failed to ask for an election of {sp}: {failure}");
                Some(self.pause())
            });
            waits.extend(wait);
        }
        Ok(waits.into_iter().min())
    }

    async fn one_miner(
        &mut self,
        sp: SpId,
        base: &TipSet,
        elections: &[Election],
    ) -> Result<Option<Duration>, Failure> {
        let now = SystemTime::now();
        match due(&self.pace, base, elections, now) {
            Due::Ask(epoch) => {
                if let Some(task) = record::ask(&self.deps.db, sp, epoch, base.height, base.key()).await? {
                    debug!(task.id = task.0, miner = %sp, epoch = epoch.0, "asked for the election of {sp} for epoch {epoch}");
                }
                Ok(Some(self.pause()))
            }
            Due::At(moment) => Ok(Some(moment.duration_since(now).unwrap_or_default())),
            Due::Decision => Ok(Some(self.pause())),
            Due::WriteOff(epoch) => {
                if let Some(won) = record::write_off(&self.deps.db, sp, epoch).await? {
                    let what = if won { "the win" } else { "the election" };
                    warn!(miner = %sp, epoch = epoch.0, "{what} of {sp} for epoch {epoch} is given up: no attempt is left");
                }
                Ok(Some(Duration::ZERO))
            }
            Due::Mined => Ok(None),
            Due::OwnBlockMissing => {
                if self.told.insert(sp, base.height) != Some(base.height) {
                    let height = base.height;
                    warn!(miner = %sp, epoch = height.0, "{sp} does not mine on the head at epoch {height}: its own block of that epoch is not in it");
                }
                Ok(None)
            }
        }
    }

    /// Between two looks at something that has no notification.
    fn pause(&self) -> Duration {
        (self.pace.block_delay / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }
}

/// Whether the head must be weighed: it is another one, and not higher.
fn is_doubtful(base: &TipSet, head: &TipSet) -> bool {
    head.key() != base.key() && head.height <= base.height
}

#[cfg(test)]
mod tests {
    use super::super::block::tests::tipset;
    use super::*;

    #[test]
    fn a_head_that_is_not_higher_is_weighed() {
        let base = tipset(10, 1000, &[1]);
        let table: [(i64, &[u8], bool); 4] = [(10, &[1], false), (11, &[2], false), (10, &[2], true), (9, &[3], true)];
        for (height, cids, expected) in table {
            assert_eq!(is_doubtful(&base, &tipset(height, 1000, cids)), expected, "{cids:?} at {height}");
        }
    }
}
