//! A chain for a test, advanced by hand, and a bare JSON-RPC caller.

use std::path::PathBuf;
use std::sync::OnceLock;

use curio_chain::types::{DeadlineInfo, Message, MsgLookup, SignedMessage, TipSetKey};
use curio_chain::{Address, Client, ClientOptions, Endpoint, TokenAmount};
use curio_devnet::{Devnet, Options};
use serde_json::{Value, json};

/// A chain and ways to talk to it.
pub struct Lab {
    pub devnet: Devnet,
    pub client: Client,
    http: reqwest::Client,
}

/// Answer of the node as it came.
#[derive(Debug)]
pub struct Raw {
    pub status: u16,
    pub body: String,
}

impl Raw {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON: {error}: {:?}", self.body))
    }
}

impl Lab {
    pub async fn start() -> Lab {
        Lab::start_with(Options::manual(params())).await
    }

    pub async fn start_with(options: Options) -> Lab {
        let devnet = Devnet::start(options).await.unwrap();
        let endpoint = Endpoint::parse(&format!("{}:{}", devnet.token, devnet.url)).unwrap();
        let client = Client::new(vec![endpoint], ClientOptions::default()).unwrap();
        Lab { devnet, client, http: reqwest::Client::new() }
    }

    /// Sends a body to a path with the headers given, nothing added.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<String>) -> Raw {
        let mut request = self.http.post(self.devnet.url.join(path).unwrap()).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        Raw { status: response.status().as_u16(), body: response.text().await.unwrap() }
    }

    pub async fn get(&self, path: &str) -> Raw {
        let response = self.http.get(self.devnet.url.join(path).unwrap()).send().await.unwrap();
        Raw { status: response.status().as_u16(), body: response.text().await.unwrap() }
    }

    /// Calls a method with all permissions.
    pub async fn call(&self, method: &str, params: Value) -> Raw {
        let bearer = format!("Bearer {}", self.devnet.token);
        let body = json!({ "jsonrpc": "2.0", "method": format!("Filecoin.{method}"), "params": params, "id": 1 });
        self.post("/rpc/v1", &[("Authorization", &bearer)], body.to_string()).await
    }

    /// Result of a method that must not fail.
    pub async fn ok(&self, method: &str, params: Value) -> Value {
        let answer = self.call(method, params.clone()).await.json();
        assert!(answer.get("error").is_none(), "{method} {params}: {answer}");
        answer["result"].clone()
    }

    pub fn advance(&self, epochs: u32) -> i64 {
        self.devnet.advance(epochs).height.0
    }

    /// Makes tipsets until the head is at this height.
    pub fn advance_to(&self, height: i64) {
        let missing = height - self.devnet.head().height.0;
        assert!(missing >= 0, "the chain is already above {height}");
        self.advance(u32::try_from(missing).unwrap());
    }

    /// The deadline whose window the head's epoch lies in. A miner whose deadlines have not begun to pass tells an old
    /// one, in its next period.
    pub async fn open_deadline(&self, miner: &Address) -> DeadlineInfo {
        let known = self.client.state_miner_proving_deadline(miner, &TipSetKey::HEAD).await.unwrap();
        let before = known.at(known.period_start - known.wpost_proving_period, known.index);
        std::iter::successors(Some(before), |deadline| Some(deadline.next()))
            .find(|deadline| !deadline.has_elapsed())
            .expect("deadlines never end")
    }

    pub fn rich(&self) -> Address {
        curio_chain::address::parse(&self.devnet.default_address).unwrap()
    }

    /// Sends a message with the estimate's gas, includes it, and answers its result.
    pub async fn send(&self, message: Message) -> MsgLookup {
        let signed = self.client.mpool_push_message(&message, None).await.unwrap();
        self.land(&signed).await
    }

    /// Makes two tipsets (one includes the message, one shows its result).
    pub async fn land(&self, message: &SignedMessage) -> MsgLookup {
        self.advance(2);
        let found = self.client.state_search_msg(&TipSetKey::HEAD, message.cid(), None, true).await.unwrap();
        found.expect("the message is on the chain")
    }

    /// A new BLS key with money.
    pub async fn funded(&self, fil: u64) -> Address {
        let key = self.client.wallet_new("bls").await.unwrap();
        let message = Message::new(self.rich(), key, 0, TokenAmount::from_whole(fil), Vec::new());
        assert_eq!(self.send(message).await.receipt.exit_code, 0);
        key
    }

    /// A miner of 2 KiB sectors with this owner and worker.
    pub async fn miner(&self, worker: Address) -> Address {
        self.miner_with_peer(worker, b"").await
    }

    /// The same with a peer id.
    pub async fn miner_with_peer(&self, worker: Address, peer: &[u8]) -> Address {
        use curio_chain::message::{Cbor, CreateMinerParams, CreateMinerReturn, POWER_ACTOR};
        const WINDOW_POST_2KIB_V1_1: i64 = 10;
        let params = CreateMinerParams {
            owner: worker,
            worker,
            window_post_proof_type: WINDOW_POST_2KIB_V1_1,
            peer: peer.to_vec(),
            multiaddrs: Vec::new(),
        };
        let deposit = self.client.state_miner_creation_deposit(&TipSetKey::HEAD).await.unwrap();
        let value = (deposit * 110_u64).div_floor(100_u64);
        let made = self.send(Message::new(worker, POWER_ACTOR, 2, value, params.to_cbor())).await;
        assert_eq!(made.receipt.exit_code, 0);
        CreateMinerReturn::from_cbor(&made.receipt.r#return).unwrap().id_address
    }
}

/// Folder of verifying keys; one for the whole process, as the library wants it.
pub fn params() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(curio_proofs::params::default_dir).clone()
}

/// A recorded situation.
pub fn fixture(kind: &str, name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{kind}/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Names of all recorded situations of a kind.
pub fn fixtures(kind: &str) -> Vec<String> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{kind}"));
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// A text without what differs from chain to chain: numbers become `#`, CIDs and addresses `<id>`.
pub fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for character in text.chars().chain([' ']) {
        let within_number = character == '.' && word.chars().all(|c| c.is_ascii_digit()) && !word.is_empty();
        if character.is_ascii_alphanumeric() || within_number {
            word.push(character);
            continue;
        }
        out.push_str(&plain_word(&std::mem::take(&mut word)));
        out.push(character);
    }
    // A sign belongs to its number.
    out.trim_end().replace("-#", "#")
}

fn plain_word(word: &str) -> String {
    const SHORTEST_ID: usize = 30;
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    if digits(word) {
        return "#".to_owned();
    }
    match word.strip_prefix(['f', 't']) {
        Some(rest) if digits(rest) => "<id>".to_owned(),
        _ if word.len() > SHORTEST_ID => "<id>".to_owned(),
        _ => word.to_owned(),
    }
}
