//! PreCommitSubmit: asks for the message that promises the sector to the chain, with its deposit.
//!
//! Reads the head, the deposit and the balances. Writes the outbox row, `precommit_send_id` and
//! `after_precommit_msg` in one transaction. A ticket that would run out sends the sector back to SDR.

use std::time::Duration;

use curio_chain::message::{Cbor, PreCommitSectorBatch2Params, SectorPreCommit, method};
use curio_chain::types::{Message, SectorPreCommitInfo, TipSetKey};
use curio_chain::{Cid, RpcError, TokenAmount};
use curio_core::resources::MIB;
use curio_core::{Classify, Epoch, Failure, Resources, SectorRef};
use curio_harmony::{Backoff, Claim, Spec, Task, TaskName};
use curio_pipeline::stage::Stage;
use curio_pipeline::{kind, message};
use tracing::warn;

use super::outcome::{Outcome, Purpose, bounded};
use super::pipeline::{self, Job, note_end};
use super::ticket::{PRECOMMIT_NEEDS_EPOCHS, Ticket, epochs_left, expiration};
use crate::deps::Deps;
use crate::message::{outbox, payer};

/// The task kind.
pub struct PreCommitSubmit {
    deps: Deps,
}

#[derive(Debug, thiserror::Error)]
#[error("failed to ask the chain what pre-committing sector {sector} takes")]
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

/// What is promised, and until when.
struct Promise {
    sealed_cid: Cid,
    /// Only for a sector with data.
    unsealed_cid: Option<Cid>,
    ticket: Ticket,
    expiration: Epoch,
}

impl PreCommitSubmit {
    pub fn new(deps: &Deps) -> PreCommitSubmit {
        PreCommitSubmit { deps: deps.clone() }
    }

    /// Sends the sector back to SDR for another ticket, or ends it when that was done often enough.
    async fn reseal(&self, claim: &Claim, job: &Job, head: Epoch) -> Result<(), Failure> {
        let sector = job.sector;
        let verdict = bounded(Outcome::Reseal, 0, job.ticket_generation, 0);
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let message = format!(
            "its ticket ran out before the pre-commit for the {}th time (head {head})",
            job.ticket_generation + 1
        );
        warn!(sector.sp = %sector.sp, sector.number, "the ticket of sector {sector} has run out at head {head}: {verdict:?}");
        let changed = claim
            .store("ticket ran out", move |tx| {
                let message = message.clone();
                Box::pin(async move {
                    if !waits_for(tx, sp, number, task).await? {
                        return Ok(0);
                    }
                    match verdict {
                        Outcome::Fail(reason) => pipeline::fail(tx, sector, reason, &message, None).await,
                        _ => pipeline::reseal(tx, sector).await,
                    }
                })
            })
            .await?;
        match verdict {
            Outcome::Fail(reason) => self
                .deps
                .counters
                .count(|counts| *counts.sectors_failed.entry(reason.to_owned()).or_default() += changed),
            _ => self.deps.counters.count(|counts| counts.reseals += changed),
        }
        note_end(changed, sector, Self::NAME.as_str());
        Ok(())
    }

    /// What must come with the message: the deposit, less what the miner actor has to spare if it pays.
    async fn value(&self, job: &Job, promise: &Promise) -> Result<TokenAmount, AskError> {
        let error = |source| AskError { sector: job.sector, source };
        let info = SectorPreCommitInfo {
            seal_proof: job.proof.number(),
            sector_number: job.sector.number,
            sealed_cid: promise.sealed_cid,
            seal_rand_epoch: promise.ticket.epoch,
            deal_ids: Vec::new(),
            expiration: promise.expiration,
            unsealed_cid: promise.unsealed_cid,
        };
        let deposit = self
            .deps
            .chain
            .state_miner_pre_commit_deposit_for_power(&job.miner(), &info, &TipSetKey::HEAD)
            .await
            .map_err(error)?;
        if !self.deps.config.fees.collateral_from_miner_balance {
            return Ok(deposit);
        }
        let spare =
            self.deps.chain.state_miner_available_balance(&job.miner(), &TipSetKey::HEAD).await.map_err(error)?;
        Ok(less(&deposit, &spare))
    }

    fn params(job: &Job, promise: &Promise) -> Vec<u8> {
        PreCommitSectorBatch2Params {
            sectors: vec![SectorPreCommit {
                seal_proof: job.proof.number(),
                sector_number: job.sector.number,
                sealed_cid: promise.sealed_cid,
                seal_rand_epoch: promise.ticket.epoch,
                deal_ids: Vec::new(),
                expiration: promise.expiration,
                unsealed_cid: promise.unsealed_cid,
            }],
        }
        .to_cbor()
    }

    async fn store(&self, claim: &Claim, job: &Job, request: outbox::Request) -> Result<(), Failure> {
        let sector = job.sector;
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let changed = claim
            .store("ask for precommit message", move |tx| {
                let request = request.clone();
                Box::pin(async move {
                    if !waits_for(tx, sp, number, task).await? {
                        return Ok(0);
                    }
                    let send_id = outbox::ask(tx, &request).await?;
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline
                         SET after_precommit_msg = TRUE, task_id_precommit_msg = NULL, precommit_send_id = $4
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_precommit_msg = $3",
                        sp,
                        number,
                        task,
                        send_id
                    )
                    .execute(&mut *tx)
                    .await?;
                    Ok(done.rows_affected())
                })
            })
            .await?;
        note_end(changed, sector, Self::NAME.as_str());
        Ok(())
    }
}

/// Whether the sector still waits for this task; its row is locked until the end of the transaction.
async fn waits_for(
    tx: &mut curio_harmony::Tx,
    sp: i64,
    number: i64,
    task: i64,
) -> Result<bool, curio_harmony::TxError> {
    let row = sqlx::query_scalar!(
        "SELECT sector_number FROM sectors_sdr_pipeline
         WHERE sp_id = $1 AND sector_number = $2 AND task_id_precommit_msg = $3 AND NOT failed FOR UPDATE",
        sp,
        number,
        task
    )
    .fetch_optional(&mut *tx)
    .await?;
    Ok(row.is_some())
}

/// `amount` less `other`, never below zero.
pub(super) fn less(amount: &TokenAmount, other: &TokenAmount) -> TokenAmount {
    (amount - other).max(TokenAmount::default())
}

impl Task for PreCommitSubmit {
    const NAME: TaskName = kind::PRECOMMIT_SUBMIT;

    fn spec(&self) -> Spec {
        Spec {
            cost: Resources { cpu: 0, ram_bytes: MIB, gpu_milli: 0 },
            max_running: Some(1024),
            max_failures: Some(16),
            backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)),
            order: Stage::PreCommit.order(),
            ..Spec::default()
        }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(job) = pipeline::of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let sector = job.sector;
        let ticket = job.ticket()?;
        let head = self.deps.chain.chain_head().await.map_err(|source| AskError { sector, source })?.height;
        if epochs_left(ticket.epoch, head) < PRECOMMIT_NEEDS_EPOCHS {
            return self.reseal(claim, &job, head).await;
        }
        let has_data = !pipeline::pieces(claim.db(), sector).await?.is_empty();
        let promise = Promise {
            sealed_cid: job.sealed_cid()?,
            unsealed_cid: if has_data { Some(job.unsealed_cid()?) } else { None },
            ticket,
            expiration: expiration(ticket.epoch),
        };
        let value = self.value(&job, &promise).await?;
        let max_fee = atto(self.deps.config.fees.max_pre_commit_batch_gas_fee.for_sectors(1).atto());
        let from = payer::choose(
            &self.deps.chain,
            &self.deps.config,
            sector.sp,
            Purpose::PreCommit.into(),
            &(&value + &max_fee),
        )
        .await?;
        let message =
            Message::new(from, job.miner(), method::PRE_COMMIT_SECTOR_BATCH2, value, Self::params(&job, &promise));
        let key = message::key(Purpose::PreCommit.as_str(), sector, job.precommit_generation);
        self.store(claim, &job, outbox::Request { key, purpose: Purpose::PreCommit.into(), message, max_fee }).await
    }
}

/// An amount of attoFIL.
pub(super) fn atto(amount: u128) -> TokenAmount {
    TokenAmount::from_atto(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_never_less_than_nothing() {
        let table = [(10, 3, 7), (10, 10, 0), (3, 10, 0)];
        for (amount, other, expected) in table {
            assert_eq!(less(&atto(amount), &atto(other)), atto(expected), "{amount} less {other}");
        }
    }
}
