//! Sending: gives an outbox message its gas, nonce and signature, and pushes it.
//!
//! The signed bytes and the nonce are stored, together with the row that watches them, before the first
//! push. Every later attempt pushes the very same bytes, which a pool takes once. So a crash at any point
//! sends the message once; and the asker, not this task, decides what a refusal means.
//!
//! Two kinds do the same: [`SendPost`] carries what is worth nothing after a deadline of the chain, and
//! [`SendMessage`] the rest.

mod error;
mod lock;
mod verdict;

use std::time::Duration;

use curio_chain::types::{Message, MessageSendSpec, SignedMessage, TipSetKey};
use curio_chain::{RpcError, TokenAmount, address};
use curio_core::resources::MIB;
use curio_core::{Failure, Resources};
use curio_harmony::{Backoff, Claim, Class, DbError, Spec, Task, TaskName, TxError};
use curio_pipeline::kind;
use tracing::{info, warn};

use self::error::SendError;
use self::verdict::{Estimated, Pushed, landed, nonce, pushed, refusal};
use super::outbox::{self, OutboxError, Send};
use crate::deps::Deps;

/// The task kind for messages without a deadline.
pub struct SendMessage(Sender);

/// The task kind for messages with a deadline on chain.
pub struct SendPost(Sender);

/// What both do.
struct Sender {
    deps: Deps,
}

impl SendMessage {
    pub fn new(deps: &Deps) -> SendMessage {
        SendMessage(Sender { deps: deps.clone() })
    }
}

impl Task for SendMessage {
    const NAME: TaskName = kind::SEND_MESSAGE;

    fn spec(&self) -> Spec {
        spec(Class::Normal)
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        self.0.run(claim).await
    }
}

impl SendPost {
    pub fn new(deps: &Deps) -> SendPost {
        SendPost(Sender { deps: deps.clone() })
    }
}

impl Task for SendPost {
    const NAME: TaskName = kind::SEND_POST;

    fn spec(&self) -> Spec {
        spec(Class::Deadline)
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        self.0.run(claim).await
    }
}

fn spec(class: Class) -> Spec {
    Spec {
        cost: Resources { cpu: 0, ram_bytes: MIB, gpu_milli: 0 },
        max_running: Some(1024),
        max_failures: Some(1000),
        backoff: Backoff::exponential(Duration::from_millis(500), Duration::from_secs(10)),
        class,
        // Messages hold everything else up, and cost nothing.
        order: u16::MAX,
        ..Spec::default()
    }
}

impl Sender {
    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(send) = outbox::of_task(claim.db(), claim.task()).await? else {
            warn!(task.id = claim.task().0, "no message in the outbox waits for task {}", claim.task());
            return Ok(());
        };
        if send.success.is_some() {
            return Ok(());
        }
        // Before a nonce is given out: a database that was set back would give out one that is used.
        self.deps.fence.check().await?;
        let signed = match &send.signed {
            Some(json) => {
                let error = OutboxError { send_id: send.send_id, column: "signed_json" };
                Some(serde_json::from_value(json.clone()).map_err(|_| error)?)
            }
            None => self.sign(claim, &send).await?,
        };
        match signed {
            Some(signed) => {
                self.deps.fault_pause.reached("push", claim.cancelled()).await;
                self.push(claim, &send, &signed).await
            }
            None => Ok(()),
        }
    }

    async fn sign(&self, claim: &Claim, send: &Send) -> Result<Option<SignedMessage>, Failure> {
        let message = match self.estimate(send).await? {
            Estimated::Good(message) => *message,
            Estimated::Refused { exit_code, text } => {
                self.refuse(claim, send, &text, Some(exit_code)).await?;
                return Ok(None);
            }
        };
        self.check_funds(send, &message).await?;
        lock::take(claim, &message.from).await?;
        let signed = match self.sign_locked(claim, send, message).await {
            Ok(signed) => signed,
            Err(failure) => {
                lock::give_back(&self.deps.db, claim).await;
                return Err(failure);
            }
        };
        Ok(Some(signed))
    }

    async fn estimate(&self, send: &Send) -> Result<Estimated, Failure> {
        let spec = MessageSendSpec { max_fee: send.max_fee.clone(), ..MessageSendSpec::default() };
        let answer = self.deps.chain.gas_estimate_message_gas(&send.message, Some(&spec), &TipSetKey::HEAD).await;
        let message = match answer {
            Ok(message) => message,
            Err(error) => match (error.exit_code(), error.node_message()) {
                (Some(code), Some(text)) => return refusal(&send.purpose, code, text).map_err(Failure::from),
                _ => return Err(SendError::Estimate { purpose: send.purpose.clone(), source: error }.into()),
            },
        };
        // The node clamps the price to the highest fee without a word; nothing would ever include it.
        if message.gas_fee_cap <= TokenAmount::default() {
            return Err(SendError::FeeTooLow { purpose: send.purpose.clone(), max_fee: send.max_fee.clone() }.into());
        }
        Ok(Estimated::Good(Box::new(message)))
    }

    async fn check_funds(&self, send: &Send, message: &Message) -> Result<(), Failure> {
        let from = address::to_mainnet_text(&message.from);
        let have = match self.deps.chain.wallet_balance(&message.from).await {
            Ok(have) => have,
            Err(source) => return Err(SendError::Balance { from, source }.into()),
        };
        let need = &message.value + &message.max_fee();
        if have < need {
            return Err(SendError::Funds { from, purpose: send.purpose.clone(), have, need }.into());
        }
        Ok(())
    }

    async fn sign_locked(&self, claim: &Claim, send: &Send, mut message: Message) -> Result<SignedMessage, Failure> {
        let from = address::to_mainnet_text(&message.from);
        let next = match self.deps.chain.mpool_get_nonce(&message.from).await {
            Ok(next) => next,
            Err(source) => return Err(SendError::Nonce { from, source }.into()),
        };
        message.nonce = nonce(next, self.last_stored(&from).await?);
        let signed = match self.deps.chain.wallet_sign_message(&message.from, &message).await {
            Ok(signed) => signed,
            Err(source) => return Err(SendError::Sign { from, source }.into()),
        };
        if signed.message != message {
            return Err(SendError::SignedOther { from }.into());
        }
        self.store_signed(claim, send, &signed).await?;
        Ok(signed)
    }

    /// Highest nonce that we gave to a message of this key and that was not refused.
    async fn last_stored(&self, from: &str) -> Result<Option<u64>, Failure> {
        let last = sqlx::query_scalar!(
            "SELECT max(nonce) FROM message_sends WHERE from_key = $1 AND nonce IS NOT NULL AND send_success IS NOT FALSE",
            from
        )
        .fetch_one(self.deps.db.pool())
        .await
        .map_err(DbError::from)?;
        Ok(last.map(|nonce| nonce as u64))
    }

    /// Stores nonce and signed bytes, and the row that is watched. Refuses when the lock was lost: then
    /// another task may have chosen the same nonce.
    async fn store_signed(&self, claim: &Claim, send: &Send, signed: &SignedMessage) -> Result<(), Failure> {
        let task = claim.task().0;
        let send_id = send.send_id;
        let from = address::to_mainnet_text(&signed.message.from);
        let nonce = signed.message.nonce as i64;
        let (unsigned_cid, signed_cid) = (signed.message.cid().to_string(), signed.cid().to_string());
        let data = signed.to_cbor();
        let json = serde_json::to_value(signed).map_err(|error| Failure::Retry(Box::new(error)))?;
        claim
            .store("store signed message", move |tx| {
                let (from, unsigned_cid, signed_cid, data, json) =
                    (from.clone(), unsigned_cid.clone(), signed_cid.clone(), data.clone(), json.clone());
                Box::pin(async move {
                    let held = sqlx::query!(
                        "UPDATE message_send_locks SET expires_at = now() + interval '60 seconds'
                         WHERE from_key = $1 AND task_id = $2 AND expires_at > now()",
                        from,
                        task
                    )
                    .execute(&mut *tx)
                    .await?;
                    let stored = sqlx::query!(
                        "UPDATE message_sends
                         SET nonce = $2, unsigned_cid = $3, signed_data = $4, signed_json = $5, signed_cid = $6
                         WHERE send_id = $1 AND signed_data IS NULL AND send_success IS NULL",
                        send_id,
                        nonce,
                        unsigned_cid,
                        data,
                        json,
                        signed_cid
                    )
                    .execute(&mut *tx)
                    .await?;
                    if held.rows_affected() != 1 || stored.rows_affected() != 1 {
                        return Err(TxError::Rollback);
                    }
                    sqlx::query!(
                        "INSERT INTO message_waits (signed_message_cid) VALUES ($1) ON CONFLICT (signed_message_cid) DO NOTHING",
                        signed_cid
                    )
                    .execute(&mut *tx)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    async fn push(&self, claim: &Claim, send: &Send, signed: &SignedMessage) -> Result<(), Failure> {
        let cid = signed.cid();
        // Once more, right before it leaves: the database may have been set back since the signing.
        if let Err(held) = self.deps.fence.check().await {
            lock::give_back(&self.deps.db, claim).await;
            return Err(held);
        }
        let answer = self.deps.chain.mpool_push(signed).await;
        let mut verdict = pushed(answer.as_ref().map(|_| ()));
        if verdict == Pushed::NonceUsed {
            verdict = landed(
                self.deps.chain.state_search_msg(&TipSetKey::HEAD, cid, None, true).await.map(|found| found.is_some()),
            );
        }
        match verdict {
            Pushed::Taken => {
                self.finish(claim, send).await?;
                info!(message.cid = %cid, purpose = send.purpose, "sent {} message {cid}", send.purpose);
                Ok(())
            }
            Pushed::Refused(text) => self.refuse(claim, send, &text, None).await,
            Pushed::Later | Pushed::NonceUsed => {
                lock::give_back(&self.deps.db, claim).await;
                let source = answer.err().unwrap_or(RpcError::Node {
                    method: "Filecoin.MpoolPush",
                    code: 1,
                    message: "the nonce was used, and the chain does not say by which message yet".to_owned(),
                });
                Err(SendError::Push { cid: cid.to_string(), source }.into())
            }
        }
    }

    /// Marks the message as taken by the pool.
    async fn finish(&self, claim: &Claim, send: &Send) -> Result<(), Failure> {
        let (send_id, task) = (send.send_id, claim.task().0);
        claim
            .store("message sent", move |tx| {
                Box::pin(async move {
                    sqlx::query!(
                        "UPDATE message_sends SET send_success = TRUE, send_error = NULL, send_time = now()
                         WHERE send_id = $1 AND send_success IS NULL",
                        send_id
                    )
                    .execute(&mut *tx)
                    .await?;
                    sqlx::query!("DELETE FROM message_send_locks WHERE task_id = $1", task).execute(&mut *tx).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Marks the message as refused; its asker reads why.
    async fn refuse(&self, claim: &Claim, send: &Send, text: &str, exit_code: Option<i64>) -> Result<(), Failure> {
        warn!(purpose = send.purpose, exit_code, "{} message {} is refused: {text}", send.purpose, send.send_id);
        let (send_id, task, text) = (send.send_id, claim.task().0, text.to_owned());
        claim
            .store("message refused", move |tx| {
                let text = text.clone();
                Box::pin(async move {
                    sqlx::query!(
                        "UPDATE message_sends SET send_success = FALSE, send_error = $2, send_exit_code = $3, send_time = now()
                         WHERE send_id = $1 AND send_success IS NULL",
                        send_id,
                        text,
                        exit_code
                    )
                    .execute(&mut *tx)
                    .await?;
                    sqlx::query!("DELETE FROM message_send_locks WHERE task_id = $1", task).execute(&mut *tx).await?;
                    Ok(())
                })
            })
            .await
    }
}
