//! CommitSubmit: asks for the message that proves the sector to the chain, with its pledge.
//!
//! Reads the proof, the pre-commit on chain and the balances. Writes the outbox row, `commit_send_id`,
//! `after_commit_msg`, and the sector's lasting record in `sectors_meta`, in one transaction.

use std::time::Duration;

use curio_chain::message::{
    Cbor, PieceActivationManifest, ProofBytes, ProveCommitSectors3Params, SectorActivationManifest, method,
};
use curio_chain::types::{Message, TipSetKey};
use curio_chain::{RpcError, TokenAmount};
use curio_core::resources::MIB;
use curio_core::{Classify, Failure, Resources, SectorRef};
use curio_harmony::{Backoff, Claim, Spec, Task, TaskName, Tx, TxError};
use curio_pipeline::stage::Stage;
use curio_pipeline::{kind, message};

use super::outcome::Purpose;
use super::pipeline::{self, Job, Piece, PipelineError, note_end};
use super::precommit::{atto, less};
use crate::deps::Deps;
use crate::message::{outbox, payer};

/// The task kind.
pub struct CommitSubmit {
    deps: Deps,
}

#[derive(Debug, thiserror::Error)]
#[error("failed to ask the chain what proving sector {sector} takes")]
struct AskError {
    sector: SectorRef,
    #[source]
    source: RpcError,
}

impl Classify for AskError {
    fn classify(self) -> Failure {
        match self.source.node_message() {
            Some(_) if !self.source.is_not_yet() => Failure::Retry(Box::new(self)),
            _ => Failure::Unavailable(Box::new(self)),
        }
    }
}

/// What `sectors_meta` keeps of the sector.
#[derive(Clone, Debug)]
struct Meta {
    sector: SectorRef,
    proof: i32,
    ticket_epoch: i64,
    ticket_value: Vec<u8>,
    sealed_cid: String,
    unsealed_cid: String,
    precommit_cid: Option<String>,
    seed_epoch: i64,
    seed_value: Option<Vec<u8>>,
    pieces: Vec<Piece>,
}

impl CommitSubmit {
    pub fn new(deps: &Deps) -> CommitSubmit {
        CommitSubmit { deps: deps.clone() }
    }

    /// What must come with the message: the pledge less the deposit, which the chain frees at the same
    /// moment, and less what the miner actor has to spare if it pays.
    async fn value(&self, job: &Job) -> Result<TokenAmount, AskError> {
        let error = |source| AskError { sector: job.sector, source };
        let chain = &self.deps.chain;
        let miner = job.miner();
        // Without a pre-commit the message cannot succeed; its estimate says why, and that decides.
        let Some(info) =
            chain.state_sector_pre_commit_info(&miner, job.sector.number, &TipSetKey::HEAD).await.map_err(error)?
        else {
            return Ok(TokenAmount::default());
        };
        let head = chain.chain_head().await.map_err(error)?.height;
        let duration = (info.info.expiration - head).max(0);
        let pledge = chain
            .state_miner_initial_pledge_for_sector(duration, job.proof.sector_size(), 0, &TipSetKey::HEAD)
            .await
            .map_err(error)?;
        let value = less(&pledge, &info.pre_commit_deposit);
        if !self.deps.config.fees.collateral_from_miner_balance {
            return Ok(value);
        }
        let spare = chain.state_miner_available_balance(&miner, &TipSetKey::HEAD).await.map_err(error)?;
        Ok(less(&value, &spare))
    }

    fn params(&self, job: &Job, pieces: &[Piece]) -> Result<Vec<u8>, PipelineError> {
        let missing = || PipelineError::Missing { sector: job.sector, column: "porep_proof" };
        let proof = job.porep_proof.clone().filter(|proof| !proof.is_empty()).ok_or_else(missing)?;
        let on = &self.deps.config.subsystems;
        let manifest = |piece: &Piece| PieceActivationManifest {
            cid: piece.cid,
            size: piece.padded_size,
            verified_allocation_key: None,
            notify: Vec::new(),
        };
        Ok(ProveCommitSectors3Params {
            sector_activations: vec![SectorActivationManifest {
                sector_number: job.sector.number,
                pieces: pieces.iter().map(manifest).collect(),
            }],
            sector_proofs: vec![ProofBytes(proof)],
            aggregate_proof: Vec::new(),
            aggregate_proof_type: None,
            require_activation_success: on.require_activation_success,
            require_notification_success: on.require_notification_success,
        }
        .to_cbor())
    }

    fn meta(job: &Job, pieces: Vec<Piece>) -> Result<Meta, PipelineError> {
        let ticket = job.ticket()?;
        let missing = |column| PipelineError::Missing { sector: job.sector, column };
        Ok(Meta {
            sector: job.sector,
            proof: job.proof as i32,
            ticket_epoch: ticket.epoch.0,
            ticket_value: ticket.value.to_vec(),
            sealed_cid: job.sealed_cid()?.to_string(),
            unsealed_cid: job.unsealed_cid()?.to_string(),
            precommit_cid: job.precommit_cid.clone(),
            seed_epoch: job.seed_epoch.ok_or_else(|| missing("seed_epoch"))?.0,
            seed_value: job.seed_value.map(|value| value.to_vec()),
            pieces,
        })
    }

    async fn store(&self, claim: &Claim, request: outbox::Request, meta: Meta) -> Result<(), Failure> {
        let sector = meta.sector;
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let changed = claim
            .store("ask for commit message", move |tx| {
                let (request, meta) = (request.clone(), meta.clone());
                Box::pin(async move {
                    if !waits_for(tx, sp, number, task).await? {
                        return Ok(0);
                    }
                    let send_id = outbox::ask(tx, &request).await?;
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline
                         SET after_commit_msg = TRUE, task_id_commit_msg = NULL, commit_send_id = $4
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_commit_msg = $3",
                        sp,
                        number,
                        task,
                        send_id
                    )
                    .execute(&mut *tx)
                    .await?;
                    store_meta(tx, &meta).await?;
                    Ok(done.rows_affected())
                })
            })
            .await?;
        note_end(changed, sector, Self::NAME.as_str());
        Ok(())
    }
}

/// Whether the sector still waits for this task; its row is locked until the end of the transaction.
async fn waits_for(tx: &mut Tx, sp: i64, number: i64, task: i64) -> Result<bool, TxError> {
    let row = sqlx::query_scalar!(
        "SELECT sector_number FROM sectors_sdr_pipeline
         WHERE sp_id = $1 AND sector_number = $2 AND task_id_commit_msg = $3 AND NOT failed FOR UPDATE",
        sp,
        number,
        task
    )
    .fetch_optional(&mut *tx)
    .await?;
    Ok(row.is_some())
}

/// Writes the sector's record, or what a later proof changed of it.
async fn store_meta(tx: &mut Tx, meta: &Meta) -> Result<(), TxError> {
    let (sp, number) = (meta.sector.sp.0 as i64, meta.sector.number as i64);
    sqlx::query!(
        "INSERT INTO sectors_meta (sp_id, sector_num, reg_seal_proof, ticket_epoch, ticket_value, orig_sealed_cid, orig_unsealed_cid,
                                   cur_sealed_cid, cur_unsealed_cid, msg_cid_precommit, seed_epoch, seed_value, is_cc)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (sp_id, sector_num) DO UPDATE
         SET ticket_epoch = excluded.ticket_epoch, ticket_value = excluded.ticket_value,
             orig_sealed_cid = excluded.orig_sealed_cid, orig_unsealed_cid = excluded.orig_unsealed_cid,
             cur_sealed_cid = excluded.cur_sealed_cid, cur_unsealed_cid = excluded.cur_unsealed_cid,
             msg_cid_precommit = excluded.msg_cid_precommit, seed_epoch = excluded.seed_epoch, seed_value = excluded.seed_value",
        sp,
        number,
        meta.proof,
        meta.ticket_epoch,
        meta.ticket_value,
        meta.sealed_cid,
        meta.unsealed_cid,
        meta.precommit_cid,
        meta.seed_epoch,
        meta.seed_value,
        meta.pieces.is_empty()
    )
    .execute(&mut *tx)
    .await?;
    for piece in &meta.pieces {
        sqlx::query!(
            "INSERT INTO sectors_meta_pieces (sp_id, sector_num, piece_num, piece_cid, piece_size, requested_keep_data, raw_data_size)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (sp_id, sector_num, piece_num) DO NOTHING",
            sp,
            number,
            piece.index,
            piece.cid.to_string(),
            piece.padded_size as i64,
            piece.keep,
            piece.raw_size as i64
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

impl Task for CommitSubmit {
    const NAME: TaskName = kind::COMMIT_SUBMIT;

    fn spec(&self) -> Spec {
        Spec {
            cost: Resources { cpu: 0, ram_bytes: MIB, gpu_milli: 0 },
            max_running: Some(128),
            max_failures: Some(16),
            backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)),
            order: Stage::Commit.order(),
            ..Spec::default()
        }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(job) = pipeline::of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let sector = job.sector;
        let pieces = pipeline::pieces(claim.db(), sector).await?;
        let params = self.params(&job, &pieces)?;
        self.deps.fault_pause.reached("CommitSubmit", claim.cancelled()).await;
        let value = self.value(&job).await?;
        let max_fee = atto(self.deps.config.fees.max_commit_batch_gas_fee.for_sectors(1).atto());
        let from =
            payer::choose(&self.deps.chain, &self.deps.config, sector.sp, Purpose::Commit.into(), &(&value + &max_fee))
                .await?;
        let message = Message::new(from, job.miner(), method::PROVE_COMMIT_SECTORS3, value, params);
        let key = message::key(Purpose::Commit.as_str(), sector, job.commit_generation);
        let request = outbox::Request { key, purpose: Purpose::Commit.into(), message, max_fee };
        self.store(claim, request, Self::meta(&job, pieces)?).await
    }
}
