//! Starting a chain in this process, and holding it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use curio_chain::address::to_text;
use curio_chain::types::{HeadChange, TipSet};
use curio_chain::{Client, ClientOptions, Endpoint, Secret};
use curio_core::SealProof;
use curio_proofs::params::ParamsError;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::chain::{Chain, OtherBeacon, Refused};
use crate::clock;
use crate::create_miner::{CreateMinerError, NewMiner, create_miner};
use crate::node::Node;
use crate::options::{Clock, Options};
use crate::post_policy::BadPostPolicy;
use crate::proof::{LibraryVerifier, ProofVerifier};
use crate::rpc::methods;
use crate::rpc::transport::{Server, router};

/// The chain does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("failed to prepare the keys that verify proofs")]
    Params(#[source] ParamsError),
    #[error("failed to listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to find a proving period in the options")]
    Post(#[source] BadPostPolicy),
    #[error("a miner at the start needs a clock that runs; give a block time instead of `manual`")]
    MinerWithoutClock,
    #[error("miners are not waited for with epochs of {0:?}: their blocks carry whole seconds; give such a block time")]
    PatienceWithoutSeconds(Duration),
    #[error("failed to make the first miner")]
    FirstMiner(#[source] CreateMinerError),
}

/// A running chain. Dropping it stops it.
pub struct Devnet {
    /// Where a process of this machine reaches it: `http://127.0.0.1:PORT`. JSON-RPC is at `/rpc/v1`.
    pub url: Url,
    /// A token with all permissions.
    pub token: String,
    /// The address with money, a BLS key in the wallet, as text.
    pub default_address: String,
    /// The miner that the options asked for.
    pub first_miner: Option<NewMiner>,
    pub(crate) node: Arc<Node>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

impl Devnet {
    /// Starts a chain whose proofs are verified by the library.
    ///
    /// # Errors
    /// When the verifying keys cannot be had, or the address is taken.
    pub async fn start(options: Options) -> Result<Devnet, StartError> {
        let (params, sizes) = (options.params.clone(), options.sector_sizes.clone());
        let verifier = tokio::task::spawn_blocking(move || LibraryVerifier::open(&params, &sizes))
            .await
            .expect("making keys does not panic")
            .map_err(StartError::Params)?;
        Devnet::start_with(options, Arc::new(verifier)).await
    }

    /// Starts a chain with a verifier of the caller's.
    ///
    /// # Errors
    /// When the options contradict each other, the address is taken, or the first miner cannot be made.
    pub async fn start_with(options: Options, verifier: Arc<dyn ProofVerifier>) -> Result<Devnet, StartError> {
        options.post.check().map_err(StartError::Post)?;
        if options.first_miner.is_some() && options.clock == Clock::Manual {
            return Err(StartError::MinerWithoutClock);
        }
        if let Clock::Running(period) = options.clock
            && period.subsec_nanos() != 0
            && !options.miner_patience.is_zero()
        {
            return Err(StartError::PatienceWithoutSeconds(period));
        }
        let listen = |source| StartError::Listen { address: options.api, source };
        let listener = TcpListener::bind(options.api).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let url = Url::parse(&format!("http://{}", from_here(address))).expect("a socket address makes a URL");

        let (clock, first_miner) = (options.clock, options.first_miner);
        let timestamp = options.genesis_timestamp.unwrap_or_else(clock::unix_seconds);
        let chain = Chain::new(&options, timestamp, verifier);
        let default = chain.wallet.default_address().expect("genesis makes the first key");
        let node = Node::new(options, chain);
        let stop = CancellationToken::new();
        let server = Server { node: node.clone(), table: Arc::new(methods::table()) };
        let mut tasks = vec![tokio::spawn(serve(listener, server, stop.clone()))];
        if let Clock::Running(period) = clock {
            tasks.push(tokio::spawn(clock::run(node.clone(), period, stop.clone())));
        }
        let token = node.auth.admin_token();
        let mut devnet =
            Devnet { url, token, default_address: to_text(&default), first_miner: None, node, stop, tasks };
        if let Some(size) = first_miner {
            devnet.first_miner = Some(devnet.make_miner(size).await.map_err(StartError::FirstMiner)?);
        }
        devnet.node.set_ready();
        Ok(devnet)
    }

    /// Makes a miner with a worker key of its own, by this chain's own API.
    async fn make_miner(&self, size: SealProof) -> Result<NewMiner, CreateMinerError> {
        let endpoint = Endpoint::new(self.url.clone(), Some(Secret::new(&self.token)));
        let endpoint = endpoint.expect("our own address and token are of the right form");
        let client = Client::new(vec![endpoint], ClientOptions::default()).expect("there is one address");
        create_miner(&client, size, None).await
    }

    /// The head.
    pub fn head(&self) -> TipSet {
        self.node.chain().head().tipset.clone()
    }

    /// The first tipset.
    pub fn genesis(&self) -> TipSet {
        self.node.chain().genesis().tipset.clone()
    }

    /// Name of the network.
    pub fn network_name(&self) -> String {
        self.node.chain().network.name.clone()
    }

    /// Makes that many tipsets at once and answers the new head. Blocking: call it from a blocking
    /// thread when there are many.
    pub fn advance(&self, epochs: u32) -> TipSet {
        for _ in 0..epochs {
            self.node.chain().produce(0);
        }
        self.head()
    }

    /// Makes one tipset after some null rounds.
    pub fn advance_over(&self, null_rounds: u32) -> TipSet {
        self.node.chain().produce(null_rounds).tipset.clone()
    }

    /// Replaces the newest `depth` tipsets by `length` empty ones; their messages go back to the pool.
    ///
    /// # Errors
    /// A sentence, when the chain is not that deep or the new fork would be the shorter one.
    pub fn reorganise(&self, depth: usize, length: usize) -> Result<TipSet, String> {
        let tip = self.node.chain().reorganise(depth, length, OtherBeacon::No).map_err(|Refused(why)| why)?;
        Ok(tip.tipset.clone())
    }

    /// Head changes from now on, the head first.
    pub fn follow(&self) -> mpsc::Receiver<Arc<Vec<HeadChange>>> {
        self.node.chain().follow()
    }

    /// CIDs of the messages that wait in the pool, as text.
    pub fn pending(&self) -> Vec<String> {
        self.node.chain().pool.all().iter().map(|message| message.cid().to_string()).collect()
    }

    /// Stops serving and waits until it has stopped.
    pub async fn stop(mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            // A task that failed has stopped, too.
            let _ = task.await;
        }
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The address at which this machine reaches what listens there.
fn from_here(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

async fn serve(listener: TcpListener, server: Server, stop: CancellationToken) {
    let stopped = stop.clone();
    let serving = axum::serve(listener, router(server)).with_graceful_shutdown(stopped.cancelled_owned());
    // Open websockets and waits would hold a graceful end for ever.
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::error!(error = &error as &dyn std::error::Error, "serving the API failed");
        },
        () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_millis(100)).await; } => {}
    }
}
