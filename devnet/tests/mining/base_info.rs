//! What an election is held with, against the answers of a Lotus node.

use curio_chain::types::TipSetKey;
use serde_json::{Value, json};

use crate::fixtures::{plain, recorded, shape};
use crate::support::{LOOKBACK, Net, options};

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_form_of_a_lotus_nodes() {
    let (net, miner) = Net::with_miner().await;
    let idle = net.miner().await;
    let head = serde_json::to_value(&net.head().cids).unwrap();
    let height = net.head().height.0;
    let unknown = recorded("MinerGetBaseInfo.unknown_tipset")["request"]["params"][2].clone();
    let text = curio_chain::address::to_text;
    for (name, who, epoch, key) in [
        ("ok", text(&miner.address), height + 1, &head),
        ("null_rounds", text(&miner.address), height + 4, &head),
        ("epoch_not_above_base", text(&miner.address), height, &head),
        ("no_power", text(&idle.address), height + 1, &head),
        ("not_a_miner", "t0100".to_owned(), height + 1, &head),
        ("null_key", text(&miner.address), height + 1, &Value::Null),
        ("unknown_actor", "t0999999".to_owned(), height + 1, &head),
        ("unknown_tipset", text(&miner.address), height + 1, &unknown),
    ] {
        let theirs = &recorded(&format!("MinerGetBaseInfo.{name}"))["response"];
        let ours = net.call("MinerGetBaseInfo", json!([who, epoch, key])).await;
        match theirs.get("error") {
            Some(error) => {
                assert_eq!(ours["error"]["code"], error["code"], "{name}: {ours}");
                let words = |error: &Value| plain(error["message"].as_str().unwrap_or_default());
                assert_eq!(words(&ours["error"]), words(error), "{name}");
            }
            None => assert_eq!(shape(&ours["result"]), shape(&theirs["result"]), "{name}: {ours}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_sector_wins_nothing_before_the_lookback_has_passed() {
    let net = Net::start(options()).await;
    let miner = net.miner().await;
    net.add_sector(&miner).await;
    net.prove(&miner).await;
    let proven = net.head().height;
    let mut first = None;
    for _ in 0..2 * LOOKBACK {
        let head = net.head();
        if net.base_info(&miner, &head, head.height + 1).await.is_some_and(|info| info.eligible_for_mining) {
            first = Some(head.height);
            break;
        }
        net.devnet.advance(1);
    }
    let waited = first.expect("the sector counts in the end") - proven;
    assert!((LOOKBACK - 2..=LOOKBACK + 1).contains(&waited), "{waited} epochs");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_beacon_is_that_of_the_base_info() {
    let (net, miner) = Net::with_miner().await;
    let head = net.head();
    let info = net.base_info(&miner, &head, head.height + 1).await.unwrap();
    let next = net.client.state_get_beacon_entry(head.height + 1).await.unwrap();
    let last = net.client.state_get_beacon_entry(head.height).await.unwrap();
    assert_eq!((info.beacon_entries, info.prev_beacon_entry), (vec![next], last));
    let answer = net.call("MinerGetBaseInfo", json!(["t0100", 1, TipSetKey::HEAD])).await;
    assert_eq!(answer["error"]["code"], 1);
}
