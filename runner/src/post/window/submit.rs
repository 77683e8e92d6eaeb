//! WdPostSubmit: asks for the message that carries the proofs of some partitions of an open deadline.
//!
//! Reads the rows of `wdpost_proofs` that name it. Writes the outbox row and `send_id` in one transaction, under a key
//! of window, partitions and generation: however often this runs, it is one message. Proofs that answer the
//! randomness of another chain are made anew instead.

use std::time::Duration;

use curio_chain::address::id_address;
use curio_chain::message::{Cbor, PoStPartition, PoStProof, SubmitWindowedPoStParams, method};
use curio_chain::types::{Message, TipSet};
use curio_chain::{Address, TokenAmount};
use curio_core::resources::MIB;
use curio_core::{Classify, Epoch, Failure, Resources, SpId};
use curio_harmony::{Backoff, Claim, Class, Db, DbError, Spec, Task, TaskId, TaskName, Tx, TxError};
use curio_pipeline::kind;
use tracing::{info, warn};

use super::{Window, first_landing, remake, select, until_over};
use crate::deps::Deps;
use crate::message::outbox;
use crate::message::payer;
use crate::message::purpose::Purpose;
use crate::post::ask::AskError;
use crate::post::columns::from_columns;
use crate::storage::from_column;

/// The task kind.
pub struct WdPostSubmit {
    deps: Deps,
}

/// The proofs of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    window: Window,
    challenge: Epoch,
    /// First epoch at which it may be sent, and first that is too late.
    from: Epoch,
    close: Epoch,
    post_proof: i64,
    generation: i32,
    /// In the order of the partitions.
    proofs: Vec<Proof>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Proof {
    partition: u64,
    post: Vec<u8>,
    skipped: Vec<u64>,
    randomness: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum SubmitError {
    #[error("the proofs of {window} are sent from epoch {from} on, and the head is at {head}")]
    TooEarly { window: Window, from: Epoch, head: Epoch },
}

impl Classify for SubmitError {
    fn classify(self) -> Failure {
        Failure::Unavailable(Box::new(self))
    }
}

impl WdPostSubmit {
    pub fn new(deps: &Deps) -> WdPostSubmit {
        WdPostSubmit { deps: deps.clone() }
    }

    async fn ask(&self, claim: &Claim, group: Group, head: &TipSet) -> Result<(), Failure> {
        let window = group.window;
        let about = |what| AskError::about(what, window.sp);
        let chain = &self.deps.chain;
        let randomness = chain.window_post_randomness(window.sp, group.challenge, head.key()).await;
        let randomness = randomness.map_err(about("the randomness"))?;
        if group.proofs.iter().any(|proof| proof.randomness != randomness) {
            return self.remake(claim, window, randomness).await;
        }
        let commit =
            chain.chain_commit_randomness(group.challenge, head.key()).await.map_err(about("the commitment"))?;
        let max_fee = TokenAmount::from_atto(self.deps.config.fees.max_window_po_st_gas_fee.atto());
        let from = payer::choose(chain, &self.deps.config, window.sp, Purpose::WindowPost, &max_fee).await?;
        let request = outbox::Request {
            key: key(&group),
            purpose: Purpose::WindowPost,
            message: message(&group, from, commit),
            max_fee,
        };
        let task = claim.task();
        let count = group.proofs.len() as u64;
        claim
            .store("ask for window PoSt message", move |tx| {
                let request = request.clone();
                Box::pin(async move { store(tx, task, count, &request).await })
            })
            .await?;
        let partitions: Vec<u64> = group.proofs.iter().map(|proof| proof.partition).collect();
        info!(sp = %window.sp, deadline = window.deadline, "asked for the message with partitions {partitions:?} of {window}");
        Ok(())
    }

    async fn remake(&self, claim: &Claim, window: Window, randomness: [u8; 32]) -> Result<(), Failure> {
        let task = claim.task();
        let remade = claim
            .store("remake window PoSts", move |tx| {
                Box::pin(async move {
                    let remade = remake::in_tx(tx, window, &randomness).await?;
                    // What answers the right randomness is grouped anew.
                    sqlx::query!("UPDATE wdpost_proofs SET submit_task_id = NULL WHERE submit_task_id = $1", task.0)
                        .execute(&mut *tx)
                        .await?;
                    Ok::<u64, TxError>(remade)
                })
            })
            .await?;
        remake::note(&self.deps, window, remade);
        Ok(())
    }
}

/// The outbox row, named in the proofs that it carries.
async fn store(tx: &mut Tx, task: TaskId, count: u64, request: &outbox::Request) -> Result<(), TxError> {
    let send_id = outbox::ask(tx, request).await?;
    let done = sqlx::query!(
        "UPDATE wdpost_proofs SET send_id = $2
         WHERE submit_task_id = $1 AND send_id IS NULL AND proof IS NOT NULL AND landed_epoch IS NULL",
        task.0,
        send_id
    )
    .execute(&mut *tx)
    .await?;
    // One of them was taken back meanwhile: the message would not be what it says.
    if done.rows_affected() == count { Ok(()) } else { Err(TxError::Rollback) }
}

fn key(group: &Group) -> String {
    let Window { sp, period_start, deadline } = group.window;
    let partitions = group.proofs.iter().map(|proof| proof.partition.to_string()).collect::<Vec<_>>().join(",");
    format!("{}/{sp}/{period_start}/{deadline}/{partitions}/{}", Purpose::WindowPost, group.generation)
}

fn message(group: &Group, from: Address, commit: [u8; 32]) -> Message {
    let Group { window, challenge, post_proof, proofs, .. } = group;
    let posts: Vec<Vec<u8>> = proofs.iter().map(|proof| proof.post.clone()).collect();
    let params = SubmitWindowedPoStParams {
        deadline: window.deadline,
        partitions: proofs
            .iter()
            .map(|proof| PoStPartition { index: proof.partition, skipped: select::bits(&proof.skipped) })
            .collect(),
        proofs: vec![PoStProof { post_proof: *post_proof, proof_bytes: curio_proofs::merge_window_posts(&posts) }],
        chain_commit_epoch: *challenge,
        chain_commit_rand: commit.to_vec(),
    };
    Message::new(from, id_address(window.sp), method::SUBMIT_WINDOWED_POST, TokenAmount::default(), params.to_cbor())
}

impl Task for WdPostSubmit {
    const NAME: TaskName = kind::WD_POST_SUBMIT;

    fn spec(&self) -> Spec {
        Spec {
            cost: Resources { cpu: 0, ram_bytes: MIB, gpu_milli: 0 },
            max_running: Some(128),
            // Until the window closes: then the task ends itself.
            max_failures: None,
            backoff: Backoff::exponential(Duration::from_millis(500), Duration::from_secs(10)),
            class: Class::Deadline,
            order: 1,
            ..Spec::default()
        }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(group) = of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let window = group.window;
        let head = self.deps.chain.chain_head().await.map_err(AskError::about("the head", window.sp))?;
        if first_landing(head.height) >= group.close {
            warn!(sp = %window.sp, deadline = window.deadline, "{window} closes before its proofs could land (head {})", head.height);
            return Ok(());
        }
        if head.height < group.from {
            return Err(SubmitError::TooEarly { window, from: group.from, head: head.height }.into());
        }
        until_over(self.ask(claim, group, &head).await)
    }
}

/// The proofs that a task sends and that have no message yet; none when there are none.
async fn of_task(db: &Db, task: TaskId) -> Result<Option<Group>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT sp_id, proving_period_start, deadline, partition, challenge_epoch, challenge_rand, submit_at_epoch,
                  submit_by_epoch, post_proof_type, proof AS "proof!", skipped_sectors, message_generation
           FROM wdpost_proofs
           WHERE submit_task_id = $1 AND send_id IS NULL AND proof IS NOT NULL AND landed_epoch IS NULL
           ORDER BY partition"#,
        task.0
    )
    .fetch_all(db.pool())
    .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(Group {
        window: Window {
            sp: SpId(from_column(first.sp_id)),
            period_start: Epoch(first.proving_period_start),
            deadline: from_column(first.deadline),
        },
        challenge: Epoch(first.challenge_epoch),
        from: Epoch(first.submit_at_epoch),
        close: Epoch(first.submit_by_epoch),
        post_proof: first.post_proof_type,
        // Every one of them grows when a message fails, so that the largest is always new.
        generation: rows.iter().map(|row| row.message_generation).max().unwrap_or_default(),
        proofs: rows
            .into_iter()
            .map(|row| Proof {
                partition: from_column(row.partition),
                post: row.proof,
                skipped: from_columns(&row.skipped_sectors),
                randomness: row.challenge_rand,
            })
            .collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        let proof = |partition, byte, skipped: &[u64]| Proof {
            partition,
            post: vec![byte; 192],
            skipped: skipped.to_vec(),
            randomness: vec![7; 32],
        };
        Group {
            window: Window { sp: SpId(1000), period_start: Epoch(-30), deadline: 2 },
            challenge: Epoch(70),
            from: Epoch(94),
            close: Epoch(150),
            post_proof: 10,
            generation: 3,
            proofs: vec![proof(0, 1, &[]), proof(4, 2, &[9])],
        }
    }

    #[test]
    fn the_key_names_window_partitions_and_generation() {
        assert_eq!(key(&group()), "wdpost/f01000/-30/2/0,4/3");
    }

    #[test]
    fn the_message_carries_one_proof_for_all_its_partitions() {
        let message = message(&group(), Address::new_id(1), [8; 32]);
        assert_eq!((message.method, message.to), (5, Address::new_id(1000)));
        let params = SubmitWindowedPoStParams::from_cbor(&message.params).expect("our own parameters are read");
        assert_eq!((params.deadline, params.chain_commit_epoch, params.chain_commit_rand), (2, Epoch(70), vec![8; 32]));
        let skipped: Vec<(u64, Vec<u64>)> =
            params.partitions.iter().map(|partition| (partition.index, partition.skipped.iter().collect())).collect();
        assert_eq!(skipped, [(0, vec![]), (4, vec![9])]);
        assert_eq!(params.proofs.len(), 1);
        assert_eq!(params.proofs[0].proof_bytes, [vec![1; 192], vec![2; 192]].concat());
    }
}
