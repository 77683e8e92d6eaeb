//! Brings stored proofs on their way: groups them into messages once their window has been open for a moment, and one
//! WdPostSubmit task for each message; acts on what became of earlier ones first.
//!
//! Proofs are not held back for others: most are there long before the window opens, and one that comes late should
//! not cost the others their time.

use std::collections::BTreeMap;

use curio_chain::types::TipSet;
use curio_core::{Classify, Epoch, Failure, SealProof, SpId};
use curio_harmony::{DbError, Tx, TxError, tasks};
use curio_pipeline::kind;
use futures::future::BoxFuture;
use tracing::debug;

use super::group::{Rules, Waiting, group};
use super::{Window, landing};
use crate::chain_sched::{HeadHandler, HeadUpdate};
use crate::deps::Deps;
use crate::post::columns::{from_columns, to_columns};
use crate::storage::from_column;

/// The handler.
pub struct Outgoing {
    deps: Deps,
}

/// Proofs of one window without a message.
struct Ready {
    proof_type: i64,
    waiting: Vec<Waiting>,
}

impl Outgoing {
    pub fn new(deps: &Deps) -> Outgoing {
        Outgoing { deps: deps.clone() }
    }

    async fn look(&self, head: &TipSet) -> Result<(), Failure> {
        // What goes wrong with earlier messages must not keep the proofs that wait from being sent.
        let settled = landing::settle(&self.deps, head).await;
        landing::close_windows(&self.deps, head.height).await?;
        for (window, ready) in self.ready(head.height).await? {
            for partitions in group(&ready.waiting, self.rules(ready.proof_type)) {
                self.create(window, partitions).await?;
            }
        }
        settled
    }

    fn rules(&self, proof_type: i64) -> Rules {
        let proving = &self.deps.config.proving;
        Rules {
            partitions: proving.max_partitions_per_po_st_message.get(),
            // A proof of an unknown kind never shares a message.
            partition_sectors: SealProof::of_window_post(proof_type).map_or(usize::MAX, SealProof::partition_sectors),
            recovering_alone: proving.single_recovering_partition_per_post_message,
        }
    }

    async fn ready(&self, head: Epoch) -> Result<BTreeMap<Window, Ready>, DbError> {
        let rows = sqlx::query!(
            "SELECT sp_id, proving_period_start, deadline, partition, post_proof_type, proven_sectors, recovering,
                    message_generation
             FROM wdpost_proofs
             WHERE landed_epoch IS NULL AND submit_task_id IS NULL AND send_id IS NULL AND proof IS NOT NULL
               AND submit_at_epoch <= $1 AND submit_by_epoch > $1
             ORDER BY partition",
            head.0
        )
        .fetch_all(self.deps.db.pool())
        .await?;
        let mut ready: BTreeMap<Window, Ready> = BTreeMap::new();
        for row in rows {
            let window = Window {
                sp: SpId(from_column(row.sp_id)),
                period_start: Epoch(row.proving_period_start),
                deadline: from_column(row.deadline),
            };
            let of_window =
                ready.entry(window).or_insert_with(|| Ready { proof_type: row.post_proof_type, waiting: Vec::new() });
            of_window.waiting.push(Waiting {
                partition: from_column(row.partition),
                proven: from_columns(&row.proven_sectors),
                recovering: row.recovering,
                again: row.message_generation > 0,
            });
        }
        Ok(ready)
    }

    async fn create(&self, window: Window, partitions: Vec<u64>) -> Result<(), Failure> {
        let numbers = to_columns(&partitions);
        let created = self
            .deps
            .db
            .transaction("create window PoSt message task", move |tx| {
                let numbers = numbers.clone();
                Box::pin(async move { assign(tx, window, &numbers).await })
            })
            .await;
        match created {
            Ok(()) => {
                debug!(sp = %window.sp, deadline = window.deadline, "partitions {partitions:?} of {window} are to be sent");
                Ok(())
            }
            // Another runner took one of them; the next head groups the rest anew.
            Err(TxError::Rollback) => Ok(()),
            Err(error) => Err(error.classify()),
        }
    }
}

/// Gives the proofs to a new task, all of them or none.
async fn assign(tx: &mut Tx, window: Window, partitions: &[i64]) -> Result<(), TxError> {
    let (sp, period, deadline) = window.columns();
    let task = tasks::add(tx, kind::WD_POST_SUBMIT).await?;
    let done = sqlx::query!(
        "UPDATE wdpost_proofs SET submit_task_id = $5
         WHERE sp_id = $1 AND proving_period_start = $2 AND deadline = $3 AND partition = ANY ($4)
           AND submit_task_id IS NULL AND send_id IS NULL AND landed_epoch IS NULL AND proof IS NOT NULL",
        sp,
        period,
        deadline,
        partitions,
        task.0
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == partitions.len() as u64 { Ok(()) } else { Err(TxError::Rollback) }
}

impl HeadHandler for Outgoing {
    fn name(&self) -> &'static str {
        "wdpost-submit"
    }

    fn on_head<'a>(&'a self, update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.look(&update.head))
    }
}
