//! Making a miner as anybody would: by the node's own RPC, a CreateMiner message with its deposit.

use std::time::Duration;

use curio_chain::address::to_text;
use curio_chain::message::{Cbor, CreateMinerParams, CreateMinerReturn, POWER_ACTOR};
use curio_chain::types::{Message, MsgLookup, TipSetKey};
use curio_chain::{Address, Client, RpcError, TokenAmount};
use curio_core::SealProof;
use fvm_shared::sector::RegisteredSealProof;
use serde::Serialize;

/// What a new worker gets for the gas of its messages and the deposits of its sectors, FIL.
const WORKER_FUNDS_FIL: u64 = 10_000;
/// What is sent over the creation deposit, percent: it changes from epoch to epoch.
const DEPOSIT_PERCENT: u64 = 110;
/// How long a message may take to land. A chain with a clock that stands still lands none.
const LANDING_DEADLINE: Duration = Duration::from_secs(120);
/// Method number of CreateMiner.
const CREATE_MINER: u64 = 2;

/// A new miner.
#[derive(Clone, Debug, Serialize)]
pub struct NewMiner {
    /// Id address, as people write it: `f01000`.
    pub miner: String,
    /// Key that owns it and works for it.
    pub worker: String,
    pub sector_size: u64,
}

/// There is no miner.
#[derive(Debug, thiserror::Error)]
pub enum CreateMinerError {
    #[error("failed to ask the chain node")]
    Rpc(#[from] RpcError),
    #[error("message {cid} ended with exit code {code}")]
    Refused { cid: String, code: i64 },
    #[error("the node's answer to CreateMiner cannot be read")]
    Return(#[source] fvm_ipld_encoding::Error),
    #[error("sectors of {0} bytes have no window PoSt")]
    SectorSize(u64),
}

/// Makes a miner owned and worked by a key of the node's wallet: the one given, or a new BLS key,
/// which gets some money first. Waits until it is on the chain, which needs a clock that runs.
///
/// # Errors
/// When the node refuses or the message fails.
pub async fn create_miner(
    client: &Client,
    sector: SealProof,
    worker: Option<Address>,
) -> Result<NewMiner, CreateMinerError> {
    let rich = client.wallet_default_address().await?;
    let worker = match worker {
        Some(worker) => worker,
        None => {
            let worker = client.wallet_new("bls").await?;
            let funds = TokenAmount::from_whole(WORKER_FUNDS_FIL);
            send(client, Message::new(rich, worker, 0, funds, Vec::new())).await?;
            worker
        }
    };
    let proof = RegisteredSealProof::from(sector.number())
        .registered_window_post_proof()
        .map_err(|_| CreateMinerError::SectorSize(sector.sector_size()))?;
    let params = CreateMinerParams {
        owner: worker,
        worker,
        window_post_proof_type: proof.into(),
        peer: Vec::new(),
        multiaddrs: Vec::new(),
    };
    let deposit = client.state_miner_creation_deposit(&TipSetKey::HEAD).await?;
    let value = (deposit * DEPOSIT_PERCENT).div_floor(100);
    let executed = send(client, Message::new(worker, POWER_ACTOR, CREATE_MINER, value, params.to_cbor())).await?;
    let CreateMinerReturn { id_address, .. } =
        CreateMinerReturn::from_cbor(&executed.receipt.r#return).map_err(CreateMinerError::Return)?;
    Ok(NewMiner {
        miner: curio_chain::address::to_mainnet_text(&id_address),
        worker: to_text(&worker),
        sector_size: sector.sector_size(),
    })
}

/// Sends a message and waits for it.
async fn send(client: &Client, message: Message) -> Result<MsgLookup, CreateMinerError> {
    let signed = client.mpool_push_message(&message, None).await?;
    let lookup = client.state_wait_msg(signed.cid(), 0, None, true, LANDING_DEADLINE).await?;
    match lookup.receipt.exit_code {
        0 => Ok(lookup),
        code => Err(CreateMinerError::Refused { cid: signed.cid().to_string(), code }),
    }
}
