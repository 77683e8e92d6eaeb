//! WdPostRecover: looks at the files of the faulty sectors of some partitions, by real vanilla proofs over challenges drawn
//! here, and asks for the messages that declare the good ones recovered, and the lost ones faulty.
//!
//! Reads and writes its rows of `wdpost_recovery_tasks`; nothing is declared after the fault cutoff.

use std::collections::BTreeSet;
use std::time::Duration;

use curio_chain::TokenAmount;
use curio_chain::address::id_address;
use curio_chain::types::{Message, Partition, TipSet};
use curio_core::resources::MIB;
use curio_core::{Classify, Epoch, Failure, Resources, SealProof, SpId};
use curio_harmony::{Backoff, Claim, Class, Db, DbError, Spec, Task, TaskId, TaskName, Tx, TxError};
use curio_pipeline::kind;
use curio_proofs::PostKind;
use tracing::{info, warn};

use super::check::lost_among;
use super::declaration::{Found, FoundIn, faults, recoveries};
use super::prove::{challenged, reading_time};
use super::{Window, first_landing, select, until_over};
use crate::deps::Deps;
use crate::message::purpose::Purpose;
use crate::message::{outbox, payer};
use crate::post::ask::AskError;
use crate::post::columns::to_columns;
use crate::storage::{PostLimits, VanillaPosts, from_column, to_column};

/// The task kind.
pub struct WdPostRecover {
    deps: Deps,
}

/// What a task looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Batch {
    window: Window,
    cutoff: Epoch,
    /// Largest of its rows; new for each task over the same partitions.
    generation: i32,
    partitions: Vec<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("window PoSt {number} of {sp} is of a kind that this program cannot prove")]
struct UnknownProof {
    sp: SpId,
    number: i64,
}

impl Classify for UnknownProof {
    fn classify(self) -> Failure {
        Failure::Retry(Box::new(self))
    }
}

impl WdPostRecover {
    pub fn new(deps: &Deps) -> WdPostRecover {
        WdPostRecover { deps: deps.clone() }
    }

    /// Looks at every sector that may recover, and for healthy ones that were lost.
    async fn look(&self, claim: &Claim, batch: &Batch, head: &TipSet) -> Result<FoundIn, Failure> {
        let (sp, chain, miner) = (batch.window.sp, &self.deps.chain, id_address(batch.window.sp));
        let about = |what| AskError::about(what, sp);
        let partitions = chain.state_miner_partitions(&miner, batch.window.deadline, head.key()).await;
        let partitions = partitions.map_err(about("the partitions"))?;
        let of_batch: Vec<(u64, &Partition)> =
            (0..).zip(&partitions).filter(|(index, _)| batch.partitions.contains(index)).collect();
        let faulty: Vec<u64> = of_batch.iter().flat_map(|(_, partition)| select::to_recover(partition)).collect();
        // No path that hangs may take the time of the sectors after it.
        let parts = u32::try_from(faulty.chunks(VanillaPosts::MOST_SECTORS).len()).unwrap_or(u32::MAX).max(1);
        let time = reading_time(batch.cutoff - head.height, self.deps.network.block_delay) / parts;
        let limits = PostLimits::of(&self.deps.config.proving).within(time);
        let mut readable = BTreeSet::new();
        for sectors in faulty.chunks(VanillaPosts::MOST_SECTORS) {
            readable.extend(self.readable(claim, sp, sectors, limits, head).await?);
        }
        let mut found = FoundIn::new();
        for (index, partition) in of_batch {
            let (recoverable, bad) =
                select::to_recover(partition).into_iter().partition(|number| readable.contains(number));
            let lost = match self.deps.config.proving.disable_wd_po_st_pre_checks {
                true => Vec::new(),
                false => lost_among(&self.deps.db, sp, &select::healthy(partition)).await?,
            };
            found.insert(index, Found { recoverable, bad, lost });
        }
        Ok(found)
    }

    /// Those of the sectors whose files give a vanilla proof.
    async fn readable(
        &self,
        claim: &Claim,
        sp: SpId,
        sectors: &[u64],
        limits: PostLimits,
        head: &TipSet,
    ) -> Result<Vec<u64>, Failure> {
        let (chain, miner) = (&self.deps.chain, id_address(sp));
        let about = |what| AskError::about(what, sp);
        let number =
            chain.state_miner_info(&miner, head.key()).await.map_err(about("the proof type"))?.window_po_st_proof_type;
        let proof = SealProof::of_window_post(number).ok_or(UnknownProof { sp, number })?;
        let infos = chain.state_miner_sectors(&miner, Some(&select::bits(sectors)), head.key()).await;
        let infos = infos.map_err(about("the sectors"))?;
        // Nobody knows these challenges before: a damaged file does not pass because it is damaged elsewhere.
        let sectors = challenged(sp, proof, self.deps.chance.entropy(), infos).await?;
        let request = VanillaPosts { kind: PostKind::Window, proof, sp, sectors };
        let outcomes = self.deps.storage.vanilla_posts(&self.deps.prover, &request, &limits, claim.cancelled()).await?;
        let mut readable = Vec::new();
        for (number, outcome) in outcomes {
            match outcome {
                Ok(_) => readable.push(number),
                Err(sentence) => info!(sp = %sp, sector = number, "sector {number} of {sp} stays faulty: {sentence}"),
            }
        }
        Ok(readable)
    }

    async fn request(
        &self,
        batch: &Batch,
        purpose: Purpose,
        params: Option<(u64, Vec<u8>)>,
    ) -> Result<Option<outbox::Request>, Failure> {
        let Some((method, params)) = params else {
            return Ok(None);
        };
        let sp = batch.window.sp;
        let max_fee = TokenAmount::from_atto(self.deps.config.fees.max_window_po_st_gas_fee.atto());
        let from = payer::choose(&self.deps.chain, &self.deps.config, sp, purpose, &max_fee).await?;
        let message = Message::new(from, id_address(sp), method, TokenAmount::default(), params);
        Ok(Some(outbox::Request { key: key(batch, purpose), purpose, message, max_fee }))
    }

    /// Looks, and declares what was found unless that took too long.
    async fn work(&self, claim: &Claim, batch: &Batch, head: &TipSet) -> Result<(), Failure> {
        let found = self.look(claim, batch, head).await?;
        let head = self.deps.chain.chain_head().await.map_err(AskError::about("the head", batch.window.sp))?;
        if is_too_late(batch, &head) {
            return Ok(());
        }
        self.declare(claim, batch, found, head.height).await
    }

    async fn declare(&self, claim: &Claim, batch: &Batch, found: FoundIn, head: Epoch) -> Result<(), Failure> {
        let window = batch.window;
        let recover = self.request(batch, Purpose::DeclareRecovered, recoveries(window, &found)).await?;
        let fault = self.request(batch, Purpose::DeclareFaults, faults(window, &found)).await?;
        let task = claim.task();
        let rows = found.clone();
        claim
            .store("sectors looked at", move |tx| {
                let (recover, fault, rows) = (recover.clone(), fault.clone(), rows.clone());
                Box::pin(async move { store(tx, task, head, &rows, (recover.as_ref(), fault.as_ref())).await })
            })
            .await?;
        let count = |of: fn(&Found) -> &Vec<u64>| found.values().map(|found| of(found).len() as u64).sum::<u64>();
        let (recoverable, bad, lost) =
            (count(|found| &found.recoverable), count(|found| &found.bad), count(|found| &found.lost));
        info!(sp = %window.sp, deadline = window.deadline, recoverable, bad, lost,
            "faulty sectors of {window}: {recoverable} are declared recovered, {bad} stay faulty; {lost} healthy ones are lost and declared faulty");
        self.deps.post_counters.count(|counts| {
            *counts.recoveries_declared.entry(window.sp).or_default() += recoverable;
            *counts.faults_declared.entry(window.sp).or_default() += lost;
        });
        Ok(())
    }
}

fn key(batch: &Batch, purpose: Purpose) -> String {
    let Batch { window: Window { sp, period_start, deadline }, generation, partitions, cutoff: _ } = batch;
    let partitions = partitions.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    format!("{purpose}/{sp}/{period_start}/{deadline}/{partitions}/{generation}")
}

async fn store(
    tx: &mut Tx,
    task: TaskId,
    head: Epoch,
    found: &FoundIn,
    (recover, fault): (Option<&outbox::Request>, Option<&outbox::Request>),
) -> Result<(), TxError> {
    let mut send_ids = [None, None];
    for (send_id, request) in send_ids.iter_mut().zip([recover, fault]) {
        if let Some(request) = request {
            *send_id = Some(outbox::ask(tx, request).await?);
        }
    }
    let [recover_send, fault_send] = send_ids;
    for (partition, Found { recoverable, bad, lost }) in found {
        sqlx::query!(
            "UPDATE wdpost_recovery_tasks
             SET checked_epoch = $3, recoverable_sectors = $4, bad_sectors = $5, lost_sectors = $6,
                 recover_send_id = $7, fault_send_id = $8
             WHERE task_id = $1 AND partition_index = $2",
            task.0,
            to_column(*partition),
            head.0,
            &to_columns(recoverable),
            &to_columns(bad),
            &to_columns(lost),
            recover_send,
            fault_send
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

impl Task for WdPostRecover {
    const NAME: TaskName = kind::WD_POST_RECOVER;

    fn spec(&self) -> Spec {
        Spec {
            // What is read lies mostly on other machines.
            cost: Resources { cpu: 0, ram_bytes: 64 * MIB, gpu_milli: 0 },
            max_running: Some(4),
            // Until the cutoff: then the task ends itself.
            max_failures: None,
            backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(30)),
            class: Class::Deadline,
            ..Spec::default()
        }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(batch) = of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let window = batch.window;
        let head = self.deps.chain.chain_head().await.map_err(AskError::about("the head", window.sp))?;
        if is_too_late(&batch, &head) {
            return Ok(());
        }
        until_over(self.work(claim, &batch, &head).await)
    }
}

fn is_too_late(batch: &Batch, head: &TipSet) -> bool {
    let Batch { window, cutoff, .. } = batch;
    let late = first_landing(head.height) >= *cutoff;
    if late {
        warn!(sp = %window.sp, deadline = window.deadline,
            "the fault cutoff of {window} passed before its faulty sectors were looked at (head {})", head.height);
    }
    late
}

async fn of_task(db: &Db, task: TaskId) -> Result<Option<Batch>, DbError> {
    let rows = sqlx::query!(
        "SELECT sp_id, proving_period_start, deadline_index, partition_index, fault_cutoff_epoch, generation
         FROM wdpost_recovery_tasks WHERE task_id = $1 AND checked_epoch IS NULL ORDER BY partition_index",
        task.0
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows.first().map(|first| Batch {
        window: Window {
            sp: SpId(from_column(first.sp_id)),
            period_start: Epoch(first.proving_period_start),
            deadline: from_column(first.deadline_index),
        },
        cutoff: Epoch(first.fault_cutoff_epoch),
        generation: rows.iter().map(|row| row.generation).max().unwrap_or_default(),
        partitions: rows.iter().map(|row| from_column(row.partition_index)).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_has_a_key_of_its_own() {
        let window = Window { sp: SpId(1000), period_start: Epoch(0), deadline: 3 };
        let batch = Batch { window, cutoff: Epoch(100), generation: 2, partitions: vec![0, 2] };
        assert_eq!(key(&batch, Purpose::DeclareRecovered), "recover/f01000/0/3/0,2/2");
        assert_eq!(key(&batch, Purpose::DeclareFaults), "faults/f01000/0/3/0,2/2");
    }
}
