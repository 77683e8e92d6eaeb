use std::sync::atomic::{AtomicBool, Ordering};

use curio_chain::types::TipSetKey;
use curio_core::Failure;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;

/// Longest wait for anything in these tests.
const BOUND: Duration = Duration::from_secs(20);

/// A call that a handler got: its answer ends it.
struct Call {
    update: HeadUpdate,
    answer: oneshot::Sender<Result<(), Failure>>,
}

/// A handler that hands its calls to the test. A call that is dropped closes its answer.
struct Told {
    name: &'static str,
    calls: mpsc::UnboundedSender<Call>,
}

impl HeadHandler for Told {
    fn name(&self) -> &'static str {
        self.name
    }

    fn on_head<'a>(&'a self, update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            self.calls.send(Call { update: update.clone(), answer }).expect("the test listens");
            answered.await.expect("the test answers every call that it keeps")
        })
    }
}

fn told(name: &'static str) -> (Arc<Told>, mpsc::UnboundedReceiver<Call>) {
    let (calls, listener) = mpsc::unbounded_channel();
    (Arc::new(Told { name, calls }), listener)
}

/// A gate that lets everything pass.
struct Open;

impl HeadHandler for Open {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn on_head<'a>(&'a self, _update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A scheduler and the hand that feeds it; cancelled at the end.
struct Rig {
    updates: mpsc::UnboundedSender<Update>,
    scheduled: Scheduled,
    _cancel: tokio_util::sync::DropGuard,
}

/// Bounds that no test runs into by accident.
const PATIENT: Bounds = Bounds { call: BOUND, watchers: BOUND, again: BOUND };

impl Rig {
    fn start(scheduler: ChainScheduler) -> Rig {
        let (updates, stream) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let scheduled = scheduler.start(UnboundedReceiverStream::new(stream), &cancel);
        Rig { updates, scheduled, _cancel: cancel.drop_guard() }
    }

    fn send(&self, changes: Vec<HeadChange>) {
        let head = changes.last().expect("there is a change").tipset().clone();
        self.updates.send(Update { changes, head }).expect("the scheduler runs");
    }

    fn apply(&self, height: i64) {
        self.send(vec![HeadChange::Applied(tipset(height))]);
    }

    /// Waits until the dispatcher has handed this head out to all but the handlers.
    async fn until_head(&self, height: i64) {
        let mut heads = self.scheduled.heads();
        let reached = heads.wait_for(|head| head.as_ref().is_some_and(|head| head.height == Epoch(height)));
        timeout(BOUND, reached).await.expect("in time").expect("the scheduler runs");
    }
}

fn tipset(height: i64) -> TipSet {
    TipSet { cids: TipSetKey::HEAD, blocks: Vec::new(), height: Epoch(height) }
}

fn update(height: i64, reverted_to: Option<i64>) -> HeadUpdate {
    HeadUpdate { head: tipset(height), reverted_to: reverted_to.map(Epoch) }
}

async fn next(calls: &mut mpsc::UnboundedReceiver<Call>) -> Call {
    timeout(BOUND, calls.recv()).await.expect("a call comes").expect("the handler lives")
}

fn done(call: Call) {
    call.answer.send(Ok(())).expect("the call still runs");
}

#[tokio::test]
async fn a_slow_handler_delays_nobody_and_then_sees_the_newest_head_only() {
    let ((slow, mut slow_calls), (quick, mut quick_calls)) = (told("slow"), told("quick"));
    let rig = Rig::start(ChainScheduler::new(Arc::new(Open), PATIENT).handler(slow).handler(quick));

    rig.apply(1);
    let first = next(&mut slow_calls).await;
    for height in 1..=3 {
        if height > 1 {
            rig.apply(height);
        }
        let call = next(&mut quick_calls).await;
        assert_eq!(call.update, update(height, None));
        done(call);
    }
    done(first);

    let call = next(&mut slow_calls).await;
    assert_eq!(call.update, update(3, None), "the second head is not made up for");
    done(call);
}

#[tokio::test]
async fn handlers_see_a_head_after_the_watchers_are_through_with_it() {
    let ((watcher, mut watched), (handler, mut handled)) = (told("watcher"), told("handler"));
    let rig = Rig::start(ChainScheduler::new(Arc::new(Open), PATIENT).watcher(watcher).handler(handler));

    rig.apply(1);
    let watching = next(&mut watched).await;
    rig.until_head(1).await;
    assert!(handled.try_recv().is_err(), "the watcher is not through");
    done(watching);

    assert_eq!(next(&mut handled).await.update, update(1, None));
}

#[tokio::test]
async fn a_watcher_that_hangs_or_fails_delays_the_handlers_for_its_bound_only() {
    let ((watcher, mut watched), (handler, mut handled)) = (told("watcher"), told("handler"));
    let bounds = Bounds { watchers: Duration::from_millis(50), ..PATIENT };
    let rig = Rig::start(ChainScheduler::new(Arc::new(Open), bounds).watcher(watcher).handler(handler));

    rig.apply(1);
    let hanging = next(&mut watched).await;
    done(next(&mut handled).await);
    hanging.answer.send(Err(Failure::retry("it fails"))).expect("it still runs");
    rig.apply(2);

    done(next(&mut handled).await);
    assert_eq!(next(&mut watched).await.update, update(2, None));
}

#[tokio::test]
async fn nobody_sees_a_head_before_the_gate_is_through_with_it() {
    let ((gate, mut gated), (watcher, mut watched)) = (told("gate"), told("watcher"));
    let rig = Rig::start(ChainScheduler::new(gate, PATIENT).watcher(watcher));

    rig.apply(1);
    let judging = next(&mut gated).await;
    assert!(watched.try_recv().is_err());
    assert_eq!(*rig.scheduled.heads().borrow(), None);
    done(judging);

    rig.until_head(1).await;
    done(next(&mut watched).await);
}

#[tokio::test]
async fn a_call_whose_head_is_reverted_is_given_up_and_the_next_one_is_not() {
    let (handler, mut calls) = told("handler");
    let rig = Rig::start(ChainScheduler::new(Arc::new(Open), PATIENT).handler(handler));
    let revert = |height, other| vec![HeadChange::Reverted(tipset(height)), HeadChange::Applied(tipset(other))];

    rig.send(vec![HeadChange::Current(tipset(5))]);
    let mut first = next(&mut calls).await;
    rig.send(revert(5, 6));
    timeout(BOUND, first.answer.closed()).await.expect("the call is given up");
    let second = next(&mut calls).await;
    assert_eq!(second.update, update(6, Some(5)));
    rig.send(revert(6, 7));
    rig.until_head(7).await;
    done(second);

    let third = next(&mut calls).await;
    assert_eq!(third.update, update(7, Some(6)), "what the second call was told is not told again");
    done(third);
}

#[tokio::test]
async fn a_failed_call_is_repeated_without_a_new_head_and_told_the_same() {
    let (handler, mut calls) = told("handler");
    let bounds = Bounds { again: Duration::from_millis(20), ..PATIENT };
    let rig = Rig::start(ChainScheduler::new(Arc::new(Open), bounds).handler(handler));

    rig.apply(5);
    done(next(&mut calls).await);
    rig.send(vec![HeadChange::Reverted(tipset(5)), HeadChange::Applied(tipset(6))]);
    let failing = next(&mut calls).await;
    failing.answer.send(Err(Failure::unavailable("the database is away"))).expect("it still runs");

    let again = next(&mut calls).await;
    assert_eq!(again.update, update(6, Some(5)));
    let status = rig.scheduled.status().read().handlers["handler"].clone();
    assert_eq!(status.error.as_deref(), Some("the database is away"));
    assert_eq!(status.calls, BTreeMap::from([(CallEnd::Done, 1), (CallEnd::Failed, 1)]));
    assert_eq!(status.epoch, Some(Epoch(5)));
    done(again);
}

/// Panics when it is called first, then hands its calls to the test.
struct Panicking {
    once: AtomicBool,
    then: Arc<Told>,
}

impl HeadHandler for Panicking {
    fn name(&self) -> &'static str {
        self.then.name()
    }

    fn on_head<'a>(&'a self, update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        assert!(self.once.swap(true, Ordering::AcqRel), "a defect of the handler");
        self.then.on_head(update)
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_called_again() {
    let (then, mut calls) = told("handler");
    let bounds = Bounds { again: Duration::from_millis(20), ..PATIENT };
    let panicking = Arc::new(Panicking { once: AtomicBool::new(false), then });
    let rig = Rig::start(ChainScheduler::new(Arc::new(Open), bounds).handler(panicking));

    rig.apply(5);
    let again = next(&mut calls).await;

    assert_eq!(again.update, update(5, None));
    let status = rig.scheduled.status().read().handlers["handler"].clone();
    assert_eq!((status.error.as_deref(), status.calls), (Some("it panicked"), BTreeMap::from([(CallEnd::Failed, 1)])));
    done(again);
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up() {
    let (handler, mut calls) = told("handler");
    let bounds = Bounds { call: Duration::from_millis(30), again: Duration::from_millis(1), ..PATIENT };
    let rig = Rig::start(ChainScheduler::new(Arc::new(Open), bounds).handler(handler));

    rig.apply(5);
    let mut hanging = next(&mut calls).await;
    timeout(BOUND, hanging.answer.closed()).await.expect("it is given up");

    assert_eq!(next(&mut calls).await.update, update(5, None));
    assert_eq!(rig.scheduled.status().read().handlers["handler"].calls[&CallEnd::Late], 1);
}

/// Says when it was dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[tokio::test]
async fn everything_ends_with_the_cancellation() {
    let (handler, mut calls) = told("handler");
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = Dropped(Arc::clone(&dropped));
    let (updates, stream) = mpsc::unbounded_channel();
    let stream = UnboundedReceiverStream::new(stream).inspect(move |_| {
        let _ = &guard;
    });
    let cancel = CancellationToken::new();
    let scheduled = ChainScheduler::new(Arc::new(Open), PATIENT).handler(handler).start(stream, &cancel);
    let head = tipset(1);
    updates.send(Update { changes: vec![HeadChange::Current(head.clone())], head }).expect("the scheduler runs");
    let _hanging = next(&mut calls).await;

    cancel.cancel();
    for task in scheduled.into_tasks() {
        timeout(BOUND, task).await.expect("it ends").expect("it does not panic");
    }
    assert!(dropped.load(Ordering::Acquire), "the source of head changes is let go");
}

#[test]
fn how_far_the_chain_went_back_is_read_from_the_changes() {
    let (apply, revert, current) = (HeadChange::Applied, HeadChange::Reverted, HeadChange::Current);
    let table = [
        ("the first head", None, vec![current(tipset(50))], None),
        ("one more", Some(50), vec![apply(tipset(51))], None),
        ("a reorganisation", Some(51), vec![revert(tipset(51)), revert(tipset(49)), apply(tipset(50))], Some(49)),
        ("back", Some(51), vec![revert(tipset(51))], Some(51)),
        ("a way that nobody knows", Some(2000), vec![current(tipset(3000))], Some(1100)),
        ("the same, backwards", Some(3000), vec![current(tipset(2000))], Some(1100)),
        ("the same, on a young chain", Some(3), vec![current(tipset(40))], Some(0)),
    ];
    for (case, known, changes, expected) in table {
        assert_eq!(reverted_to(known.map(Epoch), &changes), expected.map(Epoch), "{case}");
    }
}

#[test]
fn bounds_follow_the_time_between_epochs() {
    let table = [(30, 1000, 5000), (4, 666, 1333), (1, 166, 333), (0, 100, 100)];
    for (seconds, watchers, again) in table {
        let bounds = Bounds::of(Duration::from_secs(seconds));
        let millis = (bounds.watchers.as_millis(), bounds.again.as_millis());
        assert_eq!(millis, (watchers, again), "epochs of {seconds} s");
    }
}
