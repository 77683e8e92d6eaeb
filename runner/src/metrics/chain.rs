//! The numbers of the chain scheduler and of the fence.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::chain_sched::fence::Verdict;
use crate::chain_sched::scheduler::{ChainStatus, HandlerStatus};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfHandler {
    handler: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCall {
    handler: &'static str,
    end: &'static str,
}

/// Registers the state of the chain as this machine sees it. There is no verdict before the first head.
pub(super) fn register(registry: &mut Registry, status: ChainStatus, verdict: Option<Verdict>) {
    let ChainStatus { head, handlers } = status;
    if let Some((epoch, began)) = head {
        let (head, seconds) = (Gauge::<i64>::default(), Gauge::<i64>::default());
        head.set(epoch.0);
        seconds.set(i64::try_from(age(began).as_secs()).unwrap_or(i64::MAX));
        registry.register("curio_chain_head_epoch", "Epoch of the chain's head", head);
        registry.register("curio_chain_head_age_seconds", "Time since the head's epoch began", seconds);
    }
    if let Some(verdict) = verdict {
        let held = Gauge::<i64>::default();
        held.set(match verdict {
            Verdict::Open => 0,
            Verdict::Held(_) => 1,
        });
        registry.register(
            "curio_chain_fence_held",
            "Whether nothing is sent or mined, because the database or the chain node may be behind",
            held,
        );
    }
    let calls: Family<OfCall, Counter> = Family::default();
    let busy: Family<OfHandler, Counter<f64, AtomicU64>> = Family::default();
    let epochs: Family<OfHandler, Gauge> = Family::default();
    for (handler, HandlerStatus { calls: ended, busy: time, epoch, error: _ }) in handlers {
        for (end, count) in ended {
            calls.get_or_create(&OfCall { handler, end: end.word() }).inc_by(count);
        }
        busy.get_or_create(&OfHandler { handler }).inc_by(time.as_secs_f64());
        if let Some(epoch) = epoch {
            epochs.get_or_create(&OfHandler { handler }).set(epoch.0);
        }
    }
    registry.register("curio_chain_handler_calls", "Heads given to each handler, by how the call ended", calls);
    registry.register("curio_chain_handler_seconds", "Time that each handler has spent on heads", busy);
    registry.register("curio_chain_handler_epoch", "Newest head that each handler is through with", epochs);
}

/// Time since an epoch began. By the clock rather than since somebody told of it, so that a node that lags behind its network
/// and goes on from there shows.
pub(super) fn age(began: SystemTime) -> Duration {
    // The clock of the block's miner may be a little ahead of ours.
    began.elapsed().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use curio_core::Epoch;
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::chain_sched::fence::Held;
    use crate::chain_sched::scheduler::CallEnd;

    #[test]
    fn a_held_fence_and_the_calls_of_each_handler_come_out_under_their_names() {
        let handler = HandlerStatus {
            calls: BTreeMap::from([(CallEnd::Done, 4), (CallEnd::Late, 1)]),
            busy: Duration::from_millis(1500),
            epoch: Some(Epoch(77)),
            error: None,
        };
        let status = ChainStatus { head: None, handlers: BTreeMap::from([("wdpost", handler)]) };
        let held = Verdict::Held(Held::Behind { head: Epoch(1), recorded: Epoch(100) });
        let mut registry = Registry::default();
        register(&mut registry, status, Some(held));
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string does not fail");
        for line in [
            "curio_chain_fence_held 1",
            "curio_chain_handler_calls_total{handler=\"wdpost\",end=\"done\"} 4",
            "curio_chain_handler_calls_total{handler=\"wdpost\",end=\"late\"} 1",
            "curio_chain_handler_seconds_total{handler=\"wdpost\"} 1.5",
            "curio_chain_handler_epoch{handler=\"wdpost\"} 77",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn an_old_head_is_old_however_lately_it_came_and_one_of_the_future_is_new() {
        let now = SystemTime::now();
        let old = age(now - Duration::from_secs(3000));
        assert!((3000..3010).contains(&old.as_secs()), "{old:?}");
        assert_eq!(age(now + Duration::from_secs(60)), Duration::ZERO);
    }
}
