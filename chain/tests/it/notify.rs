//! Following the head: recorded frames, lost and stuck connections, nodes without WebSockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use curio_chain::notify::{FollowOptions, Follower, HeadChange, Update, follow};
use curio_chain::types::TipSet;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::fake_node::{Call, FakeNode, Reply, Socket, Step, client, dead_endpoint};
use crate::fixtures;

const SUBSCRIBE: &str = r#"{"jsonrpc":"2.0","method":"Filecoin.ChainNotify","params":[],"id":1}"#;

fn options() -> FollowOptions {
    FollowOptions {
        backoff: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        poll_every: Duration::from_millis(5),
        ..FollowOptions::default()
    }
}

fn no_calls(call: &Call) -> Reply {
    panic!("{} was not expected", call.method())
}

async fn next(follower: &mut Follower) -> Update {
    let update = tokio::time::timeout(Duration::from_secs(10), follower.next()).await;
    update.expect("an update comes").expect("following goes on")
}

/// The text frames that a Lotus node sent, as recorded.
fn received_frames(name: &str) -> Vec<String> {
    let recorded = fixtures::one("rpc", name);
    let frames = recorded.content["frames"].as_array().unwrap().clone();
    let text = |frame: &Value| (frame["dir"] != "send").then(|| frame["raw"].as_str().map(str::to_owned)).flatten();
    frames.iter().filter_map(text).collect()
}

fn changes_of(frame: &str) -> Option<Vec<HeadChange>> {
    let frame: Value = serde_json::from_str(frame).unwrap();
    (frame["method"] == "xrpc.ch.val").then(|| serde_json::from_value(frame["params"][1].clone()).unwrap())
}

fn value_frame(changes: &[HeadChange]) -> String {
    json!({"jsonrpc": "2.0", "method": "xrpc.ch.val", "params": [1, changes]}).to_string()
}

fn answer_frame() -> String {
    "{\"id\":1,\"jsonrpc\":\"2.0\",\"result\":1}\n".to_owned()
}

/// A run of tipsets, each the parent of the next.
fn run_of_tipsets() -> Vec<TipSet> {
    let frames = received_frames("ChainNotify.frames");
    frames.iter().filter_map(|frame| changes_of(frame)).flatten().map(|change| change.tipset().clone()).collect()
}

fn subscribed(steps: Vec<Step>) -> Socket {
    let mut all = vec![Step::Receive, Step::Send(answer_frame())];
    all.extend(steps);
    Socket::Steps(all)
}

fn current(tipset: &TipSet) -> Step {
    Step::Send(value_frame(&[HeadChange::Current(tipset.clone())]))
}

fn apply(tipset: &TipSet) -> HeadChange {
    HeadChange::Applied(tipset.clone())
}

#[tokio::test]
async fn recorded_frames_come_out_as_updates_and_cancelling_says_goodbye() {
    for name in ["ChainNotify.frames", "ChainNotify.null_rounds_and_reorg", "ChainNotify.no_token"] {
        let go = Arc::new(Notify::new());
        let frames = received_frames(name);
        let wanted: Vec<Vec<HeadChange>> = frames.iter().filter_map(|frame| changes_of(frame)).collect();
        let mut steps = vec![Step::Receive];
        for frame in frames.into_iter().filter(|frame| !frame.contains("xrpc.ch.close")) {
            // Each notification is taken before the next is sent, so that none are gathered.
            let is_value = frame.contains("xrpc.ch.val");
            steps.push(Step::Send(frame));
            if is_value {
                steps.push(Step::Await(go.clone()));
            }
        }
        steps.push(Step::Hold);
        let mut node = FakeNode::with_sockets(no_calls, vec![Socket::Steps(steps)]).await;
        let mut follower = follow(node.client(), options(), CancellationToken::new());
        for changes in wanted {
            let update = next(&mut follower).await;
            assert_eq!(&update.head, changes.last().unwrap().tipset(), "{name}");
            assert_eq!(update.changes, changes, "{name}");
            assert_eq!(follower.head().as_ref(), Some(&update.head));
            go.notify_one();
        }
        follower.stop().await;
        assert_eq!(node.received.recv().await.unwrap(), SUBSCRIBE);
        assert_eq!(node.received.recv().await.unwrap(), r#"{"jsonrpc":"2.0","method":"xrpc.cancel","params":[1]}"#);
    }
}

#[tokio::test]
async fn the_recorded_reorg_reverts_before_it_applies() {
    let frames = received_frames("ChainNotify.null_rounds_and_reorg");
    let last = frames.iter().filter_map(|frame| changes_of(frame)).next_back().unwrap();
    let kinds: Vec<(&str, i64)> = last
        .iter()
        .map(|change| match change {
            HeadChange::Current(tipset) => ("current", tipset.height.0),
            HeadChange::Applied(tipset) => ("apply", tipset.height.0),
            HeadChange::Reverted(tipset) => ("revert", tipset.height.0),
        })
        .collect();
    assert_eq!(kinds, [("revert", 1040), ("apply", 1041), ("apply", 1042)]);
}

#[tokio::test]
async fn a_slow_consumer_gets_all_changes_at_once() {
    let tipsets = run_of_tipsets();
    let mut steps = vec![current(&tipsets[0])];
    steps.extend(tipsets[1..4].iter().map(|tipset| Step::Send(value_frame(&[apply(tipset)]))));
    steps.push(Step::Hold);
    let node = FakeNode::with_sockets(no_calls, vec![subscribed(steps)]).await;
    let mut follower = follow(node.client(), options(), CancellationToken::new());
    let all_came = async {
        while follower.head().as_ref() != Some(&tipsets[3]) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_came).await.expect("the frames are read without a consumer");
    let changes =
        vec![HeadChange::Current(tipsets[0].clone()), apply(&tipsets[1]), apply(&tipsets[2]), apply(&tipsets[3])];
    assert_eq!(next(&mut follower).await, Update { changes, head: tipsets[3].clone() });
}

#[tokio::test]
async fn what_happened_while_the_connection_was_lost_is_caught_up() {
    let tipsets = run_of_tipsets();
    let path = vec![apply(&tipsets[1]), apply(&tipsets[2])];
    let (from, to) = (json!(tipsets[0].key()), json!(tipsets[2].key()));
    let answer = {
        let path = path.clone();
        move |call: &Call| {
            assert_eq!(call.method(), "Filecoin.ChainGetPath");
            assert_eq!(call.body["params"], json!([from, to]));
            Reply::result(json!(path))
        }
    };
    let lose = Arc::new(Notify::new());
    let sockets = vec![
        subscribed(vec![current(&tipsets[0]), Step::Await(lose.clone())]),
        subscribed(vec![current(&tipsets[2]), Step::Hold]),
    ];
    let node = FakeNode::with_sockets(answer, sockets).await;
    let mut follower = follow(node.client(), options(), CancellationToken::new());
    assert_eq!(next(&mut follower).await.changes, [HeadChange::Current(tipsets[0].clone())]);
    lose.notify_one();
    assert_eq!(next(&mut follower).await, Update { changes: path, head: tipsets[2].clone() });
}

#[tokio::test]
async fn a_gap_without_a_way_over_it_is_told_as_current() {
    let tipsets = run_of_tipsets();
    let lose = Arc::new(Notify::new());
    let sockets = vec![
        subscribed(vec![current(&tipsets[0]), Step::Await(lose.clone())]),
        subscribed(vec![current(&tipsets[2]), Step::Send(value_frame(&[apply(&tipsets[3])])), Step::Hold]),
    ];
    let node = FakeNode::with_sockets(|_| Reply::error(1, "ipld: could not find bafy"), sockets).await;
    let mut follower = follow(node.client(), options(), CancellationToken::new());
    next(&mut follower).await;
    lose.notify_one();
    let mut changes = Vec::new();
    while changes.len() < 2 {
        changes.extend(next(&mut follower).await.changes);
    }
    assert_eq!(changes, [HeadChange::Current(tipsets[2].clone()), apply(&tipsets[3])]);
}

#[tokio::test]
async fn a_notification_that_leaves_something_out_is_bridged() {
    let tipsets = run_of_tipsets();
    let path = vec![apply(&tipsets[1]), apply(&tipsets[2]), apply(&tipsets[3])];
    let answer = {
        let path = path.clone();
        move |_: &Call| Reply::result(json!(path))
    };
    let go = Arc::new(Notify::new());
    let steps =
        vec![current(&tipsets[0]), Step::Await(go.clone()), Step::Send(value_frame(&[apply(&tipsets[3])])), Step::Hold];
    let node = FakeNode::with_sockets(answer, vec![subscribed(steps)]).await;
    let mut follower = follow(node.client(), options(), CancellationToken::new());
    next(&mut follower).await;
    go.notify_one();
    assert_eq!(next(&mut follower).await, Update { changes: path, head: tipsets[3].clone() });
}

#[tokio::test]
async fn a_head_that_only_goes_back_is_asked_for() {
    let tipsets = run_of_tipsets();
    let back = tipsets[0].clone();
    let answer = move |call: &Call| {
        assert_eq!(call.method(), "Filecoin.ChainGetTipSet");
        Reply::result(json!(back))
    };
    let go = Arc::new(Notify::new());
    let revert = HeadChange::Reverted(tipsets[1].clone());
    let steps = vec![
        current(&tipsets[0]),
        Step::Send(value_frame(&[apply(&tipsets[1])])),
        Step::Await(go.clone()),
        Step::Send(value_frame(std::slice::from_ref(&revert))),
        Step::Hold,
    ];
    let node = FakeNode::with_sockets(answer, vec![subscribed(steps)]).await;
    let mut follower = follow(node.client(), options(), CancellationToken::new());
    while next(&mut follower).await.head != tipsets[1] {}
    go.notify_one();
    assert_eq!(next(&mut follower).await, Update { changes: vec![revert], head: tipsets[0].clone() });
}

#[tokio::test]
async fn a_node_that_refuses_websockets_is_polled() {
    let tipsets = run_of_tipsets();
    let asked = AtomicUsize::new(0);
    let answer = {
        let tipsets = tipsets.clone();
        move |call: &Call| match call.method() {
            "Filecoin.ChainHead" => {
                let index = asked.fetch_add(1, Ordering::SeqCst).min(1);
                Reply::result(json!(tipsets[index]))
            }
            "Filecoin.ChainGetPath" => Reply::result(json!([apply(&tipsets[1])])),
            other => panic!("{other} was not expected"),
        }
    };
    let node = FakeNode::with_sockets(answer, vec![Socket::Refuse(404)]).await;
    let mut follower = follow(node.client(), options(), CancellationToken::new());
    let mut changes = Vec::new();
    while changes.len() < 2 {
        changes.extend(next(&mut follower).await.changes);
    }
    assert_eq!(changes, [HeadChange::Current(tipsets[0].clone()), apply(&tipsets[1])]);
    follower.stop().await;
}

#[tokio::test]
async fn polling_ends_when_websockets_work_again() {
    let tipsets = run_of_tipsets();
    let head = tipsets[0].clone();
    let sockets = vec![
        Socket::Refuse(404),
        subscribed(vec![current(&tipsets[0]), Step::Send(value_frame(&[apply(&tipsets[1])])), Step::Hold]),
    ];
    let node = FakeNode::with_sockets(move |_| Reply::result(json!(head)), sockets).await;
    let options = FollowOptions { poll_for: Duration::from_millis(30), ..options() };
    let mut follower = follow(node.client(), options, CancellationToken::new());
    while next(&mut follower).await.head != tipsets[1] {}
}

#[tokio::test]
async fn a_stream_that_is_stuck_is_left() {
    let tipsets = run_of_tipsets();
    let answer = {
        let tipsets = tipsets.clone();
        move |call: &Call| match call.method() {
            "Filecoin.ChainHead" => Reply::result(json!(tipsets[1])),
            _ => Reply::result(json!([apply(&tipsets[1])])),
        }
    };
    let sockets =
        vec![subscribed(vec![current(&tipsets[0]), Step::Hold]), subscribed(vec![current(&tipsets[1]), Step::Hold])];
    let node = FakeNode::with_sockets(answer, sockets).await;
    let options = FollowOptions { quiet_after: Duration::from_millis(50), ..options() };
    let mut follower = follow(node.client(), options, CancellationToken::new());
    next(&mut follower).await;
    assert_eq!(next(&mut follower).await.changes, [apply(&tipsets[1])]);
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_left() {
    let tipsets = run_of_tipsets();
    let answer = {
        let tipsets = tipsets.clone();
        move |_: &Call| Reply::result(json!([apply(&tipsets[1])]))
    };
    let sockets =
        vec![subscribed(vec![current(&tipsets[0]), Step::Freeze]), subscribed(vec![current(&tipsets[1]), Step::Hold])];
    let node = FakeNode::with_sockets(answer, sockets).await;
    let options = FollowOptions { dead_after: Duration::from_millis(90), ..options() };
    let mut follower = follow(node.client(), options, CancellationToken::new());
    next(&mut follower).await;
    assert_eq!(next(&mut follower).await.changes, [apply(&tipsets[1])]);
}

#[tokio::test]
async fn another_node_is_followed_when_one_is_away_or_refuses_the_token() {
    let tipsets = run_of_tipsets();
    let strict = FakeNode::with_sockets(no_calls, vec![Socket::Refuse(401)]).await;
    let well = FakeNode::with_sockets(no_calls, vec![subscribed(vec![current(&tipsets[0]), Step::Hold])]).await;
    let client = client(&[dead_endpoint().await, strict.endpoint(), well.endpoint()]);
    let mut follower = follow(client, options(), CancellationToken::new());
    assert_eq!(next(&mut follower).await.head, tipsets[0]);
}

#[tokio::test]
async fn cancelling_ends_the_updates_while_no_node_is_there() {
    let cancel = CancellationToken::new();
    let mut follower = follow(client(&[dead_endpoint().await]), options(), cancel.clone());
    cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), follower.next()).await;
    assert_eq!(ended.expect("cancelling is heard"), None);
}
