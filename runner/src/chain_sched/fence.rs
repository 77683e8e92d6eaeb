//! The fence: nothing is signed, pushed or mined while the database may have forgotten what was signed before.
//!
//! Which blocks were won and which nonces were given out is known to the database alone. One that was set back (restored from a
//! backup, promoted from a replica that lagged) would sign a second block for an epoch, or reuse a nonce. So the highest
//! epoch that any runner saw is kept in `chain_fence`, and every head is held against it. [`judge`] is pure; what it
//! holds because the database is in doubt stays held until a person says `curio chain confirm`.

mod store;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use curio_core::epoch::EpochDelta;
use curio_core::{Epoch, Failure};
use curio_harmony::{Db, DbError, TxError};
use futures::future::BoxFuture;
use tracing::{error, info, warn};

pub use self::store::{Record, confirm, record};
use super::{HeadHandler, HeadUpdate};

/// How far a head may be below the highest epoch known. Nodes of one cluster differ by an epoch or two, and the head goes
/// back a little in every reorganisation; neither is a reason to stop.
pub const SLACK: EpochDelta = 5;

/// The state of `chain_fence` that a runner has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub epoch: Epoch,
    /// Grows with every change of the record.
    pub revision: i64,
    /// When a person last confirmed, in microseconds since 1970.
    pub confirmed_at: Option<i64>,
}

/// Why the fence is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// The chain node is behind what was seen before. Ends by itself.
    Behind { head: Epoch, recorded: Epoch },
    /// The database says less than this process wrote into it.
    SetBack { recorded: Option<Epoch>, remembered: Epoch },
    /// The database has not seen the chain for too long.
    Gap { head: Epoch, recorded: Epoch },
    /// Another runner found the database in doubt; its reason.
    Doubted(String),
}

impl Held {
    /// A closed word for metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Held::Behind { .. } => "behind",
            Held::SetBack { .. } => "set-back",
            Held::Gap { .. } => "gap",
            Held::Doubted(_) => "doubted",
        }
    }

    /// Whether only a person can end it.
    fn needs_confirmation(&self) -> bool {
        match self {
            Held::Behind { .. } => false,
            Held::SetBack { .. } | Held::Gap { .. } | Held::Doubted(_) => true,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::Behind { head, recorded } => write!(
                f,
                "nothing is sent or mined: the chain node's head is at epoch {head}, and epoch {recorded} was seen before; waiting for the chain to pass it again"
            ),
            Held::SetBack { recorded: Some(recorded), remembered } => write!(
                f,
                "nothing is sent or mined: the database says that epoch {recorded} is the highest it has seen, and this runner wrote {remembered} into it, so it was set back; \
                 make sure that no message and no block of the time between is lost, then run `curio chain confirm`"
            ),
            Held::SetBack { recorded: None, remembered } => write!(
                f,
                "nothing is sent or mined: the database has forgotten the chain, and this runner wrote epoch {remembered} into it, so it was set back; \
                 make sure that no message and no block is lost, then run `curio chain confirm`"
            ),
            Held::Gap { head, recorded } => write!(
                f,
                "nothing is sent or mined: the database last saw epoch {recorded}, and the head is at {head}: it was switched off for {} epochs, or restored from a backup; \
                 make sure that no message and no block of the time between is lost, then run `curio chain confirm`",
                *head - *recorded
            ),
            Held::Doubted(reason) => f.write_str(reason),
        }
    }
}

/// Whether messages and blocks may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Open,
    Held(Held),
}

/// Judges a head by the record and by what this process remembers of the record.
///
/// `doubt` is the reason that the record is held for. `max_gap` is the longest time without a record that needs no person.
pub fn judge(
    recorded: Option<Seen>,
    doubt: Option<&str>,
    head: Epoch,
    remembered: Option<Seen>,
    max_gap: EpochDelta,
) -> Verdict {
    if let Some(reason) = doubt {
        return Verdict::Held(Held::Doubted(reason.to_owned()));
    }
    if let Some(memory) = remembered {
        match recorded {
            None => return Verdict::Held(Held::SetBack { recorded: None, remembered: memory.epoch }),
            // A person has looked since: what the record says now holds.
            Some(record) if record.confirmed_at > memory.confirmed_at => {}
            // The revision tells also when another runner, which remembers nothing, has raised the epoch meanwhile.
            Some(record) if record.revision < memory.revision || record.epoch < memory.epoch => {
                return Verdict::Held(Held::SetBack { recorded: Some(record.epoch), remembered: memory.epoch });
            }
            Some(_) => {}
        }
    }
    match recorded {
        Some(Seen { epoch, .. }) if head - epoch > max_gap => Verdict::Held(Held::Gap { head, recorded: epoch }),
        Some(Seen { epoch, .. }) if epoch - head > SLACK => Verdict::Held(Held::Behind { head, recorded: epoch }),
        Some(_) | None => Verdict::Open,
    }
}

/// The fence of one process. A clone is the same.
#[derive(Clone)]
pub struct Fence(Arc<Inner>);

struct Inner {
    db: Db,
    network: String,
    max_gap: EpochDelta,
    known: Mutex<Known>,
}

/// What this process knows.
#[derive(Clone, Debug, Default)]
struct Known {
    head: Option<Epoch>,
    remembered: Option<Seen>,
    /// The last verdict.
    verdict: Option<Verdict>,
}

impl Fence {
    /// A fence that has seen nothing yet, and therefore holds. `max_gap` is `Chain.MaxGapEpochs`.
    pub fn new(db: Db, network: &str, max_gap: EpochDelta) -> Fence {
        Fence(Arc::new(Inner { db, network: network.to_owned(), max_gap, known: Mutex::default() }))
    }

    /// Must pass before anything signed leaves this process. Asks the database, so that one which was set back a moment ago
    /// is found before the next head.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] with the reason while the fence is held, before the first head was seen, and when the
    /// database is away.
    pub async fn check(&self) -> Result<(), Failure> {
        let Some(head) = self.head() else {
            return Err(Failure::unavailable(
                "nothing is sent or mined before this runner has seen a head of the chain",
            ));
        };
        match self.look(head).await?.0 {
            Verdict::Open => Ok(()),
            Verdict::Held(held) => Err(Failure::unavailable(held.to_string())),
        }
    }

    /// Height of the newest head that this process has seen.
    pub fn head(&self) -> Option<Epoch> {
        self.known().head
    }

    /// The last verdict; none before the first head.
    pub fn verdict(&self) -> Option<Verdict> {
        self.known().verdict.clone()
    }

    /// Takes a head into account: records it, or holds.
    ///
    /// # Errors
    /// Database trouble; the verdict stays what it was.
    pub async fn see(&self, head: Epoch) -> Result<Verdict, TxError> {
        self.known().head = Some(head);
        let (verdict, recorded) = self.look(head).await?;
        let Inner { db, network, .. } = &*self.0;
        match &verdict {
            Verdict::Open if recorded.is_none_or(|seen| seen.epoch < head) => {
                if let Some(seen) = store::raise(db, network, head, recorded).await? {
                    self.remember(seen);
                }
            }
            Verdict::Held(held @ (Held::SetBack { .. } | Held::Gap { .. })) => {
                store::doubt(db, network, &held.to_string(), recorded).await?;
            }
            Verdict::Open | Verdict::Held(_) => {}
        }
        Ok(verdict)
    }

    /// Reads the record and judges.
    async fn look(&self, head: Epoch) -> Result<(Verdict, Option<Seen>), DbError> {
        // Before the record is read: what is remembered afterwards may be newer than what was read.
        let remembered = self.known().remembered;
        let record = store::record(&self.0.db, &self.0.network).await?;
        let recorded = record.as_ref().map(Record::seen);
        let doubt = record.as_ref().and_then(|record| record.held_reason.as_deref());
        let verdict = judge(recorded, doubt, head, remembered, self.0.max_gap);
        if verdict == Verdict::Open
            && let Some(seen) = recorded
        {
            self.remember(seen);
        }
        self.note(&verdict);
        Ok((verdict, recorded))
    }

    fn remember(&self, seen: Seen) {
        let mut known = self.known();
        // Two looks may end in either order; the later revision is the later state.
        let is_newer =
            known.remembered.is_none_or(|old| (seen.confirmed_at, seen.revision) >= (old.confirmed_at, old.revision));
        if is_newer {
            known.remembered = Some(seen);
        }
    }

    /// Keeps the verdict, and says in the log when it has changed.
    fn note(&self, verdict: &Verdict) {
        let before = self.known().verdict.replace(verdict.clone());
        let kind = |verdict: &Verdict| match verdict {
            Verdict::Open => None,
            Verdict::Held(held) => Some(held.word()),
        };
        if before.as_ref().map(kind) == Some(kind(verdict)) {
            return;
        }
        match verdict {
            Verdict::Open => match before {
                Some(_) => info!("messages and blocks may leave again"),
                None => info!("the database has seen the chain lately: messages and blocks may leave"),
            },
            Verdict::Held(held) if held.needs_confirmation() => error!("{held}"),
            Verdict::Held(held) => warn!("{held}"),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Plain values, whole at every moment.
        self.0.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl HeadHandler for Fence {
    fn name(&self) -> &'static str {
        "fence"
    }

    fn on_head<'a>(&'a self, update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.see(update.head.height).await?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(epoch: i64, revision: i64, confirmed_at: Option<i64>) -> Option<Seen> {
        Some(Seen { epoch: Epoch(epoch), revision, confirmed_at })
    }

    #[test]
    fn a_head_is_judged_by_the_record_and_by_memory() {
        let open = Verdict::Open;
        let gap = |head, recorded| Verdict::Held(Held::Gap { head: Epoch(head), recorded: Epoch(recorded) });
        let behind = |head, recorded| Verdict::Held(Held::Behind { head: Epoch(head), recorded: Epoch(recorded) });
        let set_back = |recorded: Option<i64>, remembered| {
            Verdict::Held(Held::SetBack { recorded: recorded.map(Epoch), remembered: Epoch(remembered) })
        };
        let table = [
            ("a new database", None, 5000, None, open.clone()),
            ("the next epoch", seen(99, 7, None), 100, seen(99, 7, None), open.clone()),
            ("a restart shortly after", seen(99, 7, None), 140, None, open.clone()),
            ("switched off as long as may be", seen(100, 7, None), 1000, None, open.clone()),
            ("switched off or restored", seen(100, 7, None), 1001, None, gap(1001, 100)),
            ("a gap that this process saw itself", seen(100, 7, None), 1001, seen(100, 7, None), gap(1001, 100)),
            ("a node that lags a little", seen(105, 7, None), 100, None, open.clone()),
            ("a node that lags", seen(106, 7, None), 100, None, behind(100, 106)),
            ("restored under a running process", seen(90, 5, None), 101, seen(100, 7, None), set_back(Some(90), 100)),
            (
                "restored, and raised by a newcomer",
                seen(101, 6, None),
                101,
                seen(100, 7, None),
                set_back(Some(101), 100),
            ),
            ("emptied under a running process", None, 101, seen(100, 7, None), set_back(None, 100)),
            ("restored and confirmed", seen(101, 6, Some(2)), 101, seen(100, 7, Some(1)), open.clone()),
            ("confirmed for the first time", seen(101, 6, Some(2)), 101, seen(100, 7, None), open.clone()),
            (
                "confirmed before it was restored",
                seen(90, 6, Some(1)),
                101,
                seen(100, 7, Some(2)),
                set_back(Some(90), 100),
            ),
            ("raised by another runner", seen(103, 9, None), 101, seen(100, 7, None), open),
        ];
        for (case, recorded, head, remembered, expected) in table {
            assert_eq!(judge(recorded, None, Epoch(head), remembered, 900), expected, "{case}");
        }
    }

    #[test]
    fn a_record_in_doubt_holds_everybody() {
        let verdict = judge(seen(100, 7, None), Some("somebody said so"), Epoch(101), None, 900);
        assert_eq!(verdict, Verdict::Held(Held::Doubted("somebody said so".to_owned())));
    }

    #[test]
    fn whatever_a_person_must_end_names_the_command() {
        let (head, recorded) = (Epoch(5000), Epoch(100));
        let table = [
            Held::SetBack { recorded: Some(recorded), remembered: head },
            Held::SetBack { recorded: None, remembered: head },
            Held::Gap { head, recorded },
        ];
        for held in table {
            assert!(held.needs_confirmation() && held.to_string().contains("curio chain confirm"), "{held}");
        }
        assert!(!Held::Behind { head: recorded, recorded: head }.needs_confirmation());
    }
}
