//! A chain on which recorded situations are replayed, and what stands for what on it.

use std::collections::{BTreeMap, BTreeSet};

use curio_chain::{Address, address};
use curio_devnet::Options;
use serde_json::{Value, json};

use crate::shapes::{compare_errors, compare_results};
use crate::support::{Lab, Raw, fixture, fixtures, params};

/// Recorded situations that are not replayed here, and why.
const EXCLUDED: &[(&str, &str)] = &[
    ("Transport.", "replayed in transport.rs"),
    ("ChainNotify.", "replayed in websocket.rs"),
    ("ChainGetBlock.real_winning_post", "not a request"),
    ("MinerCreateBlock.", "replayed in tests/mining"),
    ("MinerGetBaseInfo.", "replayed in tests/mining"),
    ("SyncSubmitBlock.", "replayed in tests/mining"),
    ("SyncState.", "this chain has nothing to sync with"),
    ("StateReadState.", "method not served: states are read as objects, by CID"),
    ("StateActorManifestCID.", "method not served: there is no manifest, the actors are not WASM"),
    ("StateDealProviderCollateralBounds.", "there is no market on this chain"),
    ("StateGetClaim.ok", "there is no verified registry on this chain"),
    ("NetAddrsListen.ok", "this node has no peers and listens for none"),
    ("WalletNew.delegated", "no delegated keys on this chain"),
    ("GasEstimateMessageGas.params_empty_string", "empty parameters come back as null, not as the empty string"),
    ("StateWaitMsg.never_included", "a wait without end has no answer to compare"),
    ("ChainPutObj.base64_bytes", "words only: the code is compared by the other case"),
    ("StateSectorGetInfo.after_snap", "replica updates are not served by this chain"),
];

/// Recorded situations of a miner whose sectors were proven again; they have a scene of their own.
pub const ACTIVE: [&str; 4] = [
    "StateMinerActiveSectors.genesis_miner",
    "StateMinerActiveSectors.after_post",
    "StateMinerActiveSectors.missed_post",
    "StateMinerActiveSectors.with_fault",
];

/// A chain in a scene, and what stands for what.
pub struct Stage {
    pub lab: Lab,
    /// Recorded text to ours, for CIDs, addresses, signatures and parameters.
    pub swaps: BTreeMap<String, String>,
    pub played: BTreeSet<String>,
    pub differences: Vec<String>,
}

impl Stage {
    pub async fn new() -> Stage {
        // Nothing but the recorded messages is on the chain.
        let lab = Lab::start_with(Options { disputes: false, ..Options::manual(params()) }).await;
        let mut stage = Stage { lab, swaps: BTreeMap::new(), played: BTreeSet::new(), differences: Vec::new() };
        let default = stage.recorded("WalletDefaultAddress.ok")["response"]["result"].clone();
        stage.swap(&default, &json!(stage.lab.devnet.default_address));
        stage
    }

    pub fn recorded(&self, name: &str) -> Value {
        fixture("rpc", name)
    }

    /// From now on the recorded value stands for ours.
    pub fn swap(&mut self, theirs: &Value, ours: &Value) {
        match (theirs, ours) {
            (Value::String(theirs), Value::String(ours)) => {
                const SHORTEST_NAME: usize = 20;
                if theirs.len() > SHORTEST_NAME && theirs != "<redacted-jwt>" {
                    self.swaps.insert(theirs.clone(), ours.clone());
                }
            }
            (Value::Array(theirs), Value::Array(ours)) => {
                theirs.iter().zip(ours).for_each(|(theirs, ours)| self.swap(theirs, ours));
            }
            (Value::Object(theirs), Value::Object(ours)) => {
                for (member, theirs) in theirs {
                    if let Some(ours) = ours.get(member) {
                        self.swap(theirs, ours);
                    }
                }
            }
            _ => {}
        }
    }

    pub fn swap_address(&mut self, theirs: &str, ours: Address) {
        self.swaps.insert(theirs.to_owned(), address::to_text(&ours));
    }

    /// The tipset key in a recorded request stands for the head.
    pub fn swap_key(&mut self, name: &str, param: usize) {
        let theirs = self.recorded(name)["request"]["params"][param].clone();
        let ours = serde_json::to_value(&self.lab.devnet.head().cids).unwrap();
        self.swap(&theirs, &ours);
    }

    pub fn ours(&self, theirs: &Value) -> Value {
        match theirs {
            Value::String(text) => json!(self.swaps.get(text).unwrap_or(text)),
            Value::Array(list) => list.iter().map(|value| self.ours(value)).collect(),
            Value::Object(members) => {
                members.iter().map(|(member, value)| (member.clone(), self.ours(value))).collect()
            }
            other => other.clone(),
        }
    }

    /// Parameters of a recorded request, with our names.
    pub fn params(&self, name: &str) -> Value {
        let recorded = self.recorded(name);
        match &recorded["request"]["params"] {
            Value::Null => json!([]),
            params => self.ours(params),
        }
    }

    /// Replays a situation as it was recorded.
    pub async fn play(&mut self, name: &str) -> Value {
        let params = self.params(name);
        self.play_with(name, params).await
    }

    pub async fn play_all(&mut self, names: &[&str]) {
        for name in names {
            self.play(name).await;
        }
    }

    /// Replays every situation of these methods that was not replayed yet.
    pub async fn play_methods(&mut self, methods: &[&str]) {
        for name in fixtures("rpc") {
            let method = name.split('.').next().unwrap().to_owned();
            let later = excluded(&name) || ACTIVE.contains(&name.as_str());
            if methods.contains(&method.as_str()) && !later && !self.played.contains(&name) {
                self.play(&name).await;
            }
        }
    }

    pub async fn play_with(&mut self, name: &str, params: Value) -> Value {
        let recorded = self.recorded(name);
        let method = recorded["request"]["method"].as_str().unwrap().trim_start_matches("Filecoin.").to_owned();
        let raw = self.lab.call(&method, params).await;
        let ours = raw.json();
        self.compare(name, &recorded, &raw, &ours);
        self.swap(&recorded["response"]["result"], &ours["result"]);
        self.played.insert(name.to_owned());
        ours["result"].clone()
    }

    fn compare(&mut self, name: &str, recorded: &Value, raw: &Raw, ours: &Value) {
        let mut found = Vec::new();
        if let Some(status) = recorded["http"]["status"].as_u64()
            && status != u64::from(raw.status)
        {
            found.push(format!("HTTP status {} instead of {status}", raw.status));
        }
        let theirs = &recorded["response"];
        match theirs.get("error") {
            Some(error) => compare_errors(name, error, &ours["error"], &mut found),
            None => match ours.get("error") {
                Some(error) => found.push(format!("an error: {error}")),
                None => compare_results(name, &theirs["result"], &ours["result"], &mut found),
            },
        }
        self.differences.extend(found.into_iter().map(|difference| format!("{name}: {difference}")));
    }

    /// Signs a recorded message of the pool with our key and a nonce of ours, and replays the push.
    pub async fn push(&mut self, name: &str, nonce: Option<u64>) -> Value {
        let mut signed = self.params(name)[0].clone();
        let theirs = self.recorded(name)["request"]["params"][0].clone();
        if let Some(nonce) = nonce {
            signed["Message"]["Nonce"] = json!(nonce);
        }
        let sender = signed["Message"]["From"].as_str().unwrap().to_owned();
        let has_key = address::parse(&sender).is_ok_and(|key| key.id().is_err())
            && self.lab.ok("WalletHas", json!([sender])).await == true;
        let signer = match has_key {
            true => sender,
            false => self.swaps[SECOND_KEY].clone(),
        };
        let mut message = signed["Message"].clone();
        // An empty receiver cannot be signed for; its signature is never looked at.
        if message["To"] == "" {
            message["To"] = json!(signer);
        }
        let made = self.lab.ok("WalletSignMessage", json!([signer, message])).await;
        if !signed["Signature"].is_null() {
            signed["Signature"] = made["Signature"].clone();
        }
        if name == "MpoolPush.bad_signature" {
            signed["Message"]["Value"] = json!("12345");
        }
        let cid = self.play_with(name, json!([signed])).await;
        self.swap(&theirs["Message"]["CID"], &cid);
        cid
    }
}

/// The second key of the recorded wallet, which most messages of the pool are from.
pub const SECOND_KEY: &str = "t3sbmxucl4yaulabxwwj45bmp2ehfpu7m6cxl6h4qoutyjtinvu433322vhcvxih5zjs6p62gptqgssxh2lbca";

/// Whether a situation is not replayed on a stage.
pub fn excluded(name: &str) -> bool {
    EXCLUDED.iter().any(|(prefix, _)| name.starts_with(prefix))
}
