//! Configuration: one struct with Curio's section and key names.
//!
//! A layer is a partial TOML document. Layers are merged as values over the defaults, in order
//! ([`layers`]); what comes out is complete and typed. The same declarations give the check for
//! unknown keys, the annotated defaults and the reference page ([`reference`]).
//!
//! Secrets are never part of it: a key that needs one holds a reference ([`secret`]).

mod amount;
pub mod layers;
mod period;
mod post_partitions;
pub mod reference;
pub mod schema;
mod secret;

pub use amount::{Fil, ParseFilError};
pub use layers::{Effective, Layer, LayerError};
pub use period::{ParsePeriodError, Period};
pub use post_partitions::{MAX_PARTITIONS_PER_POST, PostPartitions, TooManyPartitions};
pub use secret::{ChainApi, ParseSecretError, SecretRef};

use schema::section;

section! {
    /// Everything a runner is told; complete after merging.
    pub struct Config {
        /// Which task kinds this machine runs, and how many of each at a time (0 is no limit).
        "Subsystems" => subsystems: Subsystems = Subsystems::default();
        /// The most that a message may cost in gas.
        "Fees" => fees: Fees = Fees::default();
        /// Which keys send the messages of which miner actors. One entry may name several miners;
        /// a miner that no entry names uses its worker key, then its owner key.
        "Addresses" => addresses: Vec<AddressSet> = Vec::new();
        /// Proofs of spacetime.
        "Proving" => proving: Proving = Proving::default();
        /// How much may wait in the pipeline before new deals are held back.
        "Ingest" => ingest: Ingest = Ingest::default();
        /// The event journal.
        "Journal" => journal: Journal = Journal::default();
        /// The chain node, and the secret that runners share.
        "Apis" => apis: Apis = Apis::default();
        /// Who is told when something is wrong.
        "Alerting" => alerting: Alerting = Alerting::default();
        /// The sealing pipeline.
        "Seal" => seal: Seal = Seal::default();
        /// How the chain is watched.
        "Chain" => chain: Chain = Chain::default();
        /// The scheduler. All machines of a cluster should agree on these.
        "Harmony" => harmony: Harmony = Harmony::default();
    }
}

section! {
    /// Which task kinds this machine runs. Each flag stands for itself; none implies another.
    pub struct Subsystems {
        /// WdPost, WdPostSubmit and WdPostRecover: prove all sectors once in every proving period, and SendMessage
        /// for it. Needs the proof parameters of window PoSt of the sector size, no storage.
        "EnableWindowPost" => enable_window_post: bool = false;
        /// The most WdPost tasks at a time.
        "WindowPostMaxTasks" => window_post_max_tasks: u32 = 0;
        /// WinPost: take part in block elections. Needs the proof parameters of winning PoSt of the sector size.
        "EnableWinningPost" => enable_winning_post: bool = false;
        /// The most WinPost tasks at a time.
        "WinningPostMaxTasks" => winning_post_max_tasks: u32 = 0;
        /// ParkPiece and DropPiece: download the data of pieces ahead of sealing.
        "EnableParkPiece" => enable_park_piece: bool = false, inert;
        "ParkPieceMaxTasks" => park_piece_max_tasks: u32 = 0, inert;
        /// SDR: the labels of a sector. Needs a sealing path.
        "EnableSealSDR" => enable_seal_sdr: bool = false;
        /// The most SDR tasks at a time.
        "SealSDRMaxTasks" => seal_sdr_max_tasks: u32 = 0;
        /// TreeD, TreeRC and Finalize. They run where the sector's cache lies.
        "EnableSealSDRTrees" => enable_seal_sdr_trees: bool = false;
        /// The most TreeD tasks, and the most TreeRC tasks, at a time.
        "SealSDRTreesMaxTasks" => seal_sdr_trees_max_tasks: u32 = 0;
        /// The most Finalize tasks at a time.
        "FinalizeMaxTasks" => finalize_max_tasks: u32 = 0;
        /// PreCommitSubmit, and SendMessage for it.
        "EnableSendPrecommitMsg" => enable_send_precommit_msg: bool = false;
        /// PoRep: the SNARK. Needs the proof parameters of the sector size, no storage.
        "EnablePoRepProof" => enable_po_rep_proof: bool = false;
        /// The most PoRep tasks at a time.
        "PoRepProofMaxTasks" => po_rep_proof_max_tasks: u32 = 0;
        /// CommitSubmit, and SendMessage for it.
        "EnableSendCommitMsg" => enable_send_commit_msg: bool = false;
        /// Whether a commit message fails as a whole when one of its sectors cannot be activated.
        "RequireActivationSuccess" => require_activation_success: bool = true;
        /// Whether a commit message fails when a contract refuses to be told about a piece.
        "RequireNotificationSuccess" => require_notification_success: bool = true;
        /// MoveStorage: bring finished sectors to a long-term path of this machine.
        "EnableMoveStorage" => enable_move_storage: bool = false;
        /// The most MoveStorage tasks at a time.
        "MoveStorageMaxTasks" => move_storage_max_tasks: u32 = 0;
        /// Market adapters of Boost, as `f0MINER:IP:PORT`.
        "BoostAdapters" => boost_adapters: Vec<String> = Vec::new(), inert;
        /// Serve the web page.
        "EnableWebGui" => enable_web_gui: bool = false, inert;
        "GuiAddress" => gui_address: String = "0.0.0.0:4701".to_owned(), inert;
    }
}

impl Subsystems {
    /// Whether any stage of sealing runs here; such a machine also polls the pipeline and follows
    /// the chain.
    pub fn seals(&self) -> bool {
        self.enable_seal_sdr
            || self.enable_seal_sdr_trees
            || self.enable_send_precommit_msg
            || self.enable_po_rep_proof
            || self.enable_send_commit_msg
            || self.enable_move_storage
    }

    /// Whether proofs of spacetime are made here; such a machine also follows the chain.
    pub fn proves(&self) -> bool {
        self.enable_window_post || self.enable_winning_post
    }

    /// Whether messages are signed and pushed here.
    pub fn sends_messages(&self) -> bool {
        self.enable_send_precommit_msg || self.enable_send_commit_msg || self.enable_window_post
    }
}

section! {
    /// The most gas fee per message; the message waits or fails when the network asks for more.
    pub struct Fees {
        /// For messages that no other key names.
        "DefaultMaxFee" => default_max_fee: Fil = Fil::milli(70);
        /// For a pre-commit of one sector outside a batch.
        "MaxPreCommitGasFee" => max_pre_commit_gas_fee: Fil = Fil::milli(25), inert;
        /// For a commit of one sector outside a batch.
        "MaxCommitGasFee" => max_commit_gas_fee: Fil = Fil::milli(50), inert;
        /// For a message that terminates sectors.
        "MaxTerminateGasFee" => max_terminate_gas_fee: Fil = Fil::milli(500);
        /// For a window PoSt, a declaration of faults or one of recoveries. High, as a missed deadline costs more.
        "MaxWindowPoStGasFee" => max_window_po_st_gas_fee: Fil = Fil::milli(5000);
        "MaxPublishDealsFee" => max_publish_deals_fee: Fil = Fil::milli(50), inert;
        /// For a pre-commit message: Base, and PerSector for each sector in it.
        "MaxPreCommitBatchGasFee" => max_pre_commit_batch_gas_fee: BatchFee =
            BatchFee { base: Fil::ZERO, per_sector: Fil::milli(20) };
        /// For a commit message: Base, and PerSector for each sector in it.
        "MaxCommitBatchGasFee" => max_commit_batch_gas_fee: BatchFee =
            BatchFee { base: Fil::ZERO, per_sector: Fil::milli(30) };
        /// Pay deposit and pledge out of the miner actor's available balance first.
        "CollateralFromMinerBalance" => collateral_from_miner_balance: bool = false;
    }
}

section! {
    /// A fee that grows with the number of sectors.
    pub struct BatchFee {
        "Base" => base: Fil = Fil::ZERO;
        "PerSector" => per_sector: Fil = Fil::ZERO;
    }
}

impl BatchFee {
    /// The most that a message with `sectors` sectors may cost.
    pub fn for_sectors(&self, sectors: u64) -> Fil {
        Fil::from_atto(self.base.atto().saturating_add(self.per_sector.atto().saturating_mul(sectors.into())))
    }
}

section! {
    /// Keys of some miner actors.
    pub struct AddressSet {
        /// Keys that may send pre-commit messages; the first with enough balance is taken.
        "PreCommitControl" => pre_commit_control: Vec<String> = Vec::new();
        /// Keys that may send commit messages.
        "CommitControl" => commit_control: Vec<String> = Vec::new();
        /// Keys that may terminate sectors and extend them.
        "TerminateControl" => terminate_control: Vec<String> = Vec::new();
        /// Keys that may send window PoSts and declare faults and recoveries.
        "PostControl" => post_control: Vec<String> = Vec::new();
        /// Never fall back to the owner key.
        "DisableOwnerFallback" => disable_owner_fallback: bool = false;
        /// Never fall back to the worker key.
        "DisableWorkerFallback" => disable_worker_fallback: bool = false;
        /// The miner actors that this entry is for.
        "MinerAddresses" => miner_addresses: Vec<String> = Vec::new();
    }
}

section! {
    /// Proofs of spacetime.
    pub struct Proving {
        /// Sectors read for vanilla proofs at a time; 0 is no limit.
        "ParallelCheckLimit" => parallel_check_limit: u32 = 32;
        /// How long the vanilla proof of one sector may take before the sector counts as unreadable;
        /// never longer than a quarter of the time until its window closes.
        "SingleCheckTimeout" => single_check_timeout: Period = Period::minutes(10);
        /// How long the vanilla proofs of a partition may take together; never longer than half of the time until its
        /// window closes.
        "PartitionCheckTimeout" => partition_check_timeout: Period = Period::minutes(20);
        /// Do not look before the cutoff for healthy sectors whose files are nowhere, to declare them faulty.
        /// They are found when they are to be proven.
        "DisableWDPoStPreChecks" => disable_wd_po_st_pre_checks: bool = false;
        /// Partitions in one window PoSt message; 0 is as many as the chain takes, which is 3.
        "MaxPartitionsPerPoStMessage" => max_partitions_per_po_st_message: PostPartitions = PostPartitions::MOST;
        /// Partitions in one declaration of faults or recoveries; 0 is no limit.
        "MaxPartitionsPerRecoveryMessage" => max_partitions_per_recovery_message: u32 = 0;
        /// Whether a partition with recovering sectors gets a window PoSt message of its own. The chain checks
        /// its proof at once, which costs gas, and a mistake in it fails the whole message.
        "SingleRecoveringPartitionPerPostMessage" => single_recovering_partition_per_post_message: bool = false;
        /// Epochs after the opening of a deadline before its proofs are sent, so that a reorganisation of the
        /// challenge epoch is seen first. Never beyond a quarter of the challenge window.
        "SubmitConfidence" => submit_confidence: u32 = 4;
    }
}

section! {
    /// Back-pressure towards the market.
    pub struct Ingest {
        "MaxQueueDealSector" => max_queue_deal_sector: u32 = 8, inert;
        "MaxQueueSDR" => max_queue_sdr: u32 = 8, inert;
        "MaxQueueTrees" => max_queue_trees: u32 = 0, inert;
        "MaxQueuePoRep" => max_queue_po_rep: u32 = 0, inert;
        "MaxDealWaitTime" => max_deal_wait_time: Period = Period::minutes(60), inert;
    }
}

section! {
    /// The event journal.
    pub struct Journal {
        "DisabledEvents" => disabled_events: String = String::new(), inert;
    }
}

section! {
    /// Where the chain node is, and what proves that a request comes from another runner.
    pub struct Apis {
        /// Chain nodes, in order of preference. `env:NAME` or `file:/path` for TOKEN:ADDRESS in Lotus'
        /// form, or a plain address without a token. The environment's FULLNODE_API_INFO wins over this.
        "ChainApiInfo" => chain_api_info: Vec<ChainApi> = Vec::new();
        /// `env:NAME` or `file:/path`: base64 of 32 random bytes, the same on all runners.
        "StorageRPCSecret" => storage_rpc_secret: SecretRef = SecretRef::Unset;
    }
}

section! {
    /// Who is told when something is wrong.
    pub struct Alerting {
        "PagerDutyEventURL" => pager_duty_event_url: String = "https://events.pagerduty.com/v2/enqueue".to_owned(), inert;
        /// `env:NAME` or `file:/path`.
        "PageDutyIntegrationKey" => page_duty_integration_key: SecretRef = SecretRef::Unset, inert;
        /// A key that sends messages with less than this is reported.
        "MinimumWalletBalance" => minimum_wallet_balance: Fil = Fil::milli(5000);
    }
}

section! {
    /// The sealing pipeline.
    pub struct Seal {
        /// How often the whole pipeline is read; between the reads, events move it on.
        "PollInterval" => poll_interval: Period = Period::seconds(10);
        /// Epochs above the seed epoch before PoRep starts, so that a reorganisation rarely changes the seed.
        "SeedConfidence" => seed_confidence: u32 = 3;
        /// Take SDR of sectors of 512 MiB and more also where the processor has no SHA extensions. It takes
        /// several times as long there, and a sector's ticket may run out meanwhile.
        "AllowSlowSDR" => allow_slow_sdr: bool = false;
    }
}

section! {
    /// How the chain is watched.
    pub struct Chain {
        /// Epochs above its execution before a message counts as landed.
        "MessageConfidence" => message_confidence: u32 = 5;
        /// How long one call to the chain node may take.
        "RequestTimeout" => request_timeout: Period = Period::seconds(30);
        /// When the database has not seen the chain for more epochs than this, it may be an old copy: nothing is
        /// mined and no message is sent until `curio chain confirm`.
        "MaxGapEpochs" => max_gap_epochs: u32 = 900;
    }
}

section! {
    /// The scheduler.
    pub struct Harmony {
        /// The pause after a task was taken.
        "PollBusy" => poll_busy: Period = Period::millis(100);
        /// The pause when there was nothing to take; hints cut it short.
        "PollIdle" => poll_idle: Period = Period::seconds(3);
        /// How often a machine says that it is alive.
        "Heartbeat" => heartbeat: Period = Period::seconds(15);
        /// After this silence a machine's tasks are given to others. At least three heartbeats.
        "Lease" => lease: Period = Period::seconds(60);
    }
}

impl Config {
    /// The keys of a miner actor, written as `f01000`; the first entry that names it.
    pub fn addresses_of(&self, miner: &str) -> Option<&AddressSet> {
        // The network prefix (f or t) does not distinguish actors.
        let id = |address: &str| address.get(1..).map(str::to_owned);
        self.addresses.iter().find(|set| set.miner_addresses.iter().any(|address| id(address) == id(miner)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_fee_grows_with_its_sectors() {
        let fees = Fees::default();
        assert_eq!(fees.max_commit_batch_gas_fee.for_sectors(3), Fil::milli(90));
    }

    #[test]
    fn addresses_are_found_under_either_network_prefix() {
        let set = AddressSet { miner_addresses: vec!["t01000".to_owned()], ..AddressSet::default() };
        let config = Config { addresses: vec![set], ..Config::default() };
        assert!(config.addresses_of("f01000").is_some());
        assert!(config.addresses_of("f0100").is_none());
    }

    #[test]
    fn a_machine_with_only_porep_seals_but_sends_nothing() {
        let subsystems = Subsystems { enable_po_rep_proof: true, ..Subsystems::default() };
        assert!(subsystems.seals());
        assert!(!subsystems.sends_messages());
    }

    #[test]
    fn a_machine_with_only_window_post_proves_and_sends_but_does_not_seal() {
        let subsystems = Subsystems { enable_window_post: true, ..Subsystems::default() };
        assert!(subsystems.proves() && subsystems.sends_messages());
        assert!(!subsystems.seals());
    }
}
