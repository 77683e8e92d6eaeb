//! Looks some epochs later whether the blocks that were won are in the chain, and forgets elections that are long over.

use curio_chain::types::TipSet;
use curio_core::epoch::{CHAIN_FINALITY, EpochDelta};
use curio_core::{Epoch, Failure};
use futures::future::BoxFuture;
use tracing::{info, warn};

use super::record::{self, Unlooked, Verdict};
use crate::chain_sched::{HeadHandler, HeadUpdate};
use crate::deps::Deps;
use crate::post::ask::AskError;

/// Epochs above a block after which it hardly leaves the chain again.
const SETTLED: EpochDelta = 5;
/// Elections that were not won are kept for this many epochs: no reorganisation leads back to them.
const KEPT: EpochDelta = 3 * CHAIN_FINALITY;
/// Most wins that are looked at for one head.
const AT_ONCE: i64 = 100;

/// The handler.
pub(super) struct Inclusion {
    deps: Deps,
}

impl Inclusion {
    pub(super) fn new(deps: &Deps) -> Inclusion {
        Inclusion { deps: deps.clone() }
    }

    async fn look(&self, head: &TipSet) -> Result<(), Failure> {
        let mut refused = None;
        for win in record::unlooked(&self.deps.db, head.height - SETTLED, AT_ONCE).await? {
            let included = match self.is_in_chain(&win, head).await {
                Ok(included) => included,
                // The node's word on this epoch alone, which it may not have any more: the others are looked at.
                Err(error) if error.source.node_message().is_some() => {
                    refused = Some(error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(verdict) = record::looked(&self.deps.db, &win, included).await? {
                self.tell(&win, verdict);
            }
        }
        record::prune(&self.deps.db, Epoch((head.height - KEPT).0.max(0))).await?;
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn is_in_chain(&self, win: &Unlooked, head: &TipSet) -> Result<bool, AskError> {
        let Some(block) = win.block else {
            return Ok(false);
        };
        let tipset = self.deps.chain.chain_get_tip_set_by_height(win.epoch, head.key()).await;
        let tipset = tipset.map_err(AskError::about("the blocks of an epoch that it won", win.sp))?;
        // A null round is answered with the tipset below.
        Ok(tipset.height == win.epoch && tipset.cids.0.contains(&block))
    }

    fn tell(&self, win: &Unlooked, verdict: Verdict) {
        let Unlooked { sp, epoch, .. } = win;
        match verdict {
            Verdict::Included => {
                info!(miner = %sp, epoch = epoch.0, "the block of {sp} for epoch {epoch} is in the chain");
                self.deps.post_counters.count(|counts| *counts.included.entry(*sp).or_default() += 1);
            }
            Verdict::Lost(lost) => {
                let because = lost.as_str();
                warn!(miner = %sp, epoch = epoch.0, "{sp} won epoch {epoch}, and no block of it is in the chain: {because}");
                self.deps.post_counters.count(|counts| *counts.lost.entry((*sp, because)).or_default() += 1);
            }
        }
    }
}

impl HeadHandler for Inclusion {
    fn name(&self) -> &'static str {
        "inclusion"
    }

    fn on_head<'a>(&'a self, update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.look(&update.head))
    }
}
