//! Balances of the keys that send messages, for `/metrics`: asked of the chain node at most once a minute, after a head.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use curio_chain::types::TipSetKey;
use curio_chain::{RpcError, TokenAmount, address};
use curio_core::{Failure, SpId};
use futures::future::BoxFuture;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tracing::warn;

use crate::chain_sched::{HeadHandler, HeadUpdate};
use crate::deps::Deps;
use crate::post::miners;

/// Least time between two looks.
const EVERY: Duration = Duration::from_secs(60);

/// Which key of a miner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Worker,
    /// The poorest of the control addresses.
    Control,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Control => "control",
        }
    }
}

/// The last balances. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Balances(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    balances: BTreeMap<(SpId, Role), TokenAmount>,
    looked: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKey {
    sp: String,
    role: &'static str,
}

impl Balances {
    pub(super) fn register(&self, registry: &mut Registry) {
        let family: Family<OfKey, Gauge<f64, AtomicU64>> = Family::default();
        for ((sp, role), balance) in &self.lock().balances {
            family.get_or_create(&OfKey { sp: sp.to_string(), role: role.word() }).set(fil(balance));
        }
        registry.register("curio_wallet_balance_fil", "Balance of the keys that send messages", family);
    }

    /// The handler that asks for them.
    pub fn handler(&self, deps: &Deps) -> Arc<dyn HeadHandler> {
        Arc::new(Look { balances: self.clone(), deps: deps.clone() })
    }

    fn is_due(&self) -> bool {
        self.lock().looked.is_none_or(|looked| looked.elapsed() >= EVERY)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Look {
    balances: Balances,
    deps: Deps,
}

impl Look {
    /// One miner's trouble hides no other miner's balance, and is not asked about again before the next look.
    async fn look(&self) -> Result<(), Failure> {
        let mut found = BTreeMap::new();
        let mut trouble = None;
        for sp in miners::of(&self.deps.db, &self.deps.config).await? {
            match self.of_miner(sp).await {
                Ok(balances) => found.extend(balances),
                Err(error) => trouble = Some(error),
            }
        }
        self.say_what_is_low(&found);
        let mut seen = self.balances.lock();
        seen.balances = found;
        seen.looked = Some(Instant::now());
        trouble.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn of_miner(&self, sp: SpId) -> Result<BTreeMap<(SpId, Role), TokenAmount>, RpcError> {
        let chain = &self.deps.chain;
        let info = chain.state_miner_info(&address::id_address(sp), &TipSetKey::HEAD).await?;
        let mut found = BTreeMap::from([((sp, Role::Worker), chain.wallet_balance(&info.worker).await?)]);
        for control in &info.control_addresses {
            let balance = chain.wallet_balance(control).await?;
            let poorest = found.entry((sp, Role::Control)).or_insert_with(|| balance.clone());
            *poorest = balance.min(poorest.clone());
        }
        Ok(found)
    }

    /// Once, when a balance has fallen below what the configuration asks for.
    fn say_what_is_low(&self, found: &BTreeMap<(SpId, Role), TokenAmount>) {
        let least = TokenAmount::from_atto(self.deps.config.alerting.minimum_wallet_balance.atto());
        let seen = self.balances.lock();
        for ((sp, role), balance) in found.iter().filter(|(_, balance)| **balance < least) {
            let was_enough = seen.balances.get(&(*sp, *role)).is_none_or(|before| *before >= least);
            if was_enough {
                let role = role.word();
                warn!(sector.sp = %sp, role, "the {role} key of {sp} has {balance} FIL, less than Alerting.MinimumWalletBalance ({least} FIL): send funds to it");
            }
        }
    }
}

impl HeadHandler for Look {
    fn name(&self) -> &'static str {
        "balances"
    }

    fn on_head<'a>(&'a self, _update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { if self.balances.is_due() { self.look().await } else { Ok(()) } })
    }
}

/// For a graph; attoFIL do not matter there.
fn fil(amount: &TokenAmount) -> f64 {
    amount.atto().to_string().parse::<f64>().unwrap_or(f64::MAX) / 1e18
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_in_fil() {
        for (atto, expected) in [(0, 0.0), (1_500_000_000_000_000_000_u64, 1.5), (1_000_000_000_000_000, 0.001)] {
            assert_eq!(fil(&TokenAmount::from_atto(atto)), expected);
        }
    }
}
