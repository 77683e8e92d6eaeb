//! SendMessage: gives an outbox message its gas, nonce and signature, and pushes it.
//!
//! The signed bytes and the nonce are stored, together with the row that watches them, before the first
//! push. Every later attempt pushes the very same bytes, which a pool takes once. So a crash at any point
//! sends the message once; and the asker, not this task, decides what a refusal means.

use std::time::Duration;

use curio_chain::types::{Message, MessageSendSpec, SignedMessage, TipSetKey};
use curio_chain::{Address, RpcError, TokenAmount, address, message::exit_code};
use curio_core::resources::MIB;
use curio_core::{Classify, Failure, Resources};
use curio_harmony::{Backoff, Claim, DbError, Spec, Task, TaskName, TxError};
use curio_pipeline::kind;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::outbox::{self, OutboxError, Send};
use crate::deps::Deps;

/// The task kind.
pub struct SendMessage {
    deps: Deps,
}

/// How long to wait for another sender of the same key before giving the attempt back.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
const LOCK_RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("failed to estimate the gas of a {purpose} message")]
    Estimate {
        purpose: String,
        #[source]
        source: RpcError,
    },
    #[error("failed to learn the next nonce of {from}")]
    Nonce {
        from: String,
        #[source]
        source: RpcError,
    },
    #[error("failed to learn the balance of {from}")]
    Balance {
        from: String,
        #[source]
        source: RpcError,
    },
    #[error("failed to sign with {from}; the chain node's wallet must hold its key")]
    Sign {
        from: String,
        #[source]
        source: RpcError,
    },
    #[error("the chain node signed something else than it was asked to sign with {from}")]
    SignedOther { from: String },
    #[error("failed to push message {cid}")]
    Push {
        cid: String,
        #[source]
        source: RpcError,
    },
    #[error("{from} has {have} FIL, and a {purpose} message needs up to {need} FIL: send funds to it")]
    Funds { from: String, purpose: String, have: TokenAmount, need: TokenAmount },
    #[error(
        "the network's gas price is above the highest fee for a {purpose} message ({max_fee} FIL); waiting for it to fall, or raise the fee under [Fees]"
    )]
    FeeTooLow { purpose: String, max_fee: TokenAmount },
    #[error("the chain does not take a {purpose} message yet: {text}")]
    NotYet { purpose: String, text: String },
    #[error("another task has been sending with {from} for {} s", LOCK_PATIENCE.as_secs())]
    Locked { from: String },
}

impl Classify for SendError {
    fn classify(self) -> Failure {
        match self {
            SendError::Estimate { source, purpose } => keep(source, |source| SendError::Estimate { purpose, source }),
            SendError::Nonce { source, from } => keep(source, |source| SendError::Nonce { from, source }),
            SendError::Balance { source, from } => keep(source, |source| SendError::Balance { from, source }),
            SendError::Sign { source, from } => keep(source, |source| SendError::Sign { from, source }),
            SendError::SignedOther { .. } => Failure::Retry(Box::new(self)),
            // What was signed stays signed: pushing it is tried until the pool takes or refuses it.
            SendError::Push { .. }
            | SendError::Funds { .. }
            | SendError::FeeTooLow { .. }
            | SendError::NotYet { .. }
            | SendError::Locked { .. } => Failure::Unavailable(Box::new(self)),
        }
    }
}

/// The failure that `source` is, with the sentence around it.
fn keep(source: RpcError, around: impl FnOnce(RpcError) -> SendError) -> Failure {
    let answered = source.node_message().is_some() && !source.is_not_yet() && !source.is_actor_not_found();
    let cause = Box::new(around(source));
    if answered { Failure::Retry(cause) } else { Failure::Unavailable(cause) }
}

/// What the estimate of a message said.
#[derive(Debug, PartialEq, Eq)]
enum Estimated {
    Good(Box<Message>),
    /// It would fail, and waiting does not help.
    Refused {
        exit_code: i64,
        text: String,
    },
}

/// What the pool said to a push.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pushed {
    /// It is in the pool, or on chain.
    Taken,
    /// The nonce has been used; only the chain knows by whom.
    NonceUsed,
    /// Nobody took it and nobody will, as it is.
    Refused(String),
    /// No verdict: try again later.
    Later,
}

impl SendMessage {
    pub fn new(deps: &Deps) -> SendMessage {
        SendMessage { deps: deps.clone() }
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
        self.lock(claim, &message.from).await?;
        let signed = match self.sign_locked(claim, send, message).await {
            Ok(signed) => signed,
            Err(failure) => {
                self.unlock(claim).await;
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

    /// Takes the lock of a sending key, so that two tasks do not choose the same nonce. It is a lease: a
    /// sender that died keeps nobody out for longer than a minute.
    async fn lock(&self, claim: &Claim, from: &Address) -> Result<(), Failure> {
        let key = address::to_mainnet_text(from);
        let give_up = Instant::now() + LOCK_PATIENCE;
        loop {
            let (task, row) = (claim.task().0, key.clone());
            let taken = claim
                .store("lock sending key", move |tx| {
                    let row = row.clone();
                    Box::pin(async move {
                        let done = sqlx::query!(
                            "INSERT INTO message_send_locks (from_key, task_id, claimed_at, expires_at)
                             VALUES ($1, $2, now(), now() + interval '60 seconds')
                             ON CONFLICT (from_key) DO UPDATE
                             SET task_id = excluded.task_id, claimed_at = excluded.claimed_at, expires_at = excluded.expires_at
                             WHERE message_send_locks.task_id = excluded.task_id OR message_send_locks.expires_at < now()",
                            row,
                            task
                        )
                        .execute(&mut *tx)
                        .await?;
                        Ok(done.rows_affected())
                    })
                })
                .await?;
            if taken == 1 {
                return Ok(());
            }
            if Instant::now() >= give_up {
                return Err(SendError::Locked { from: key }.into());
            }
            tokio::select! {
                () = sleep(LOCK_RETRY) => {}
                () = claim.cancelled().cancelled() => return Err(Failure::Stopping),
            }
        }
    }

    /// Gives the lock back. When this fails the lease ends by itself.
    async fn unlock(&self, claim: &Claim) {
        let done = sqlx::query!("DELETE FROM message_send_locks WHERE task_id = $1", claim.task().0)
            .execute(self.deps.db.pool())
            .await;
        if let Err(error) = done {
            warn!(
                task.id = claim.task().0,
                error = &error as &dyn std::error::Error,
                "failed to give a sending lock back; it expires within a minute"
            );
        }
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
                self.unlock(claim).await;
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

impl Task for SendMessage {
    const NAME: TaskName = kind::SEND_MESSAGE;

    fn spec(&self) -> Spec {
        Spec {
            cost: Resources { cpu: 0, ram_bytes: MIB, gpu_milli: 0 },
            max_running: Some(1024),
            max_failures: Some(1000),
            backoff: Backoff::exponential(Duration::from_millis(500), Duration::from_secs(10)),
            // Messages hold everything else up, and cost nothing.
            order: u16::MAX,
            ..Spec::default()
        }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(send) = outbox::of_task(claim.db(), claim.task()).await? else {
            warn!(task.id = claim.task().0, "no message in the outbox waits for task {}", claim.task());
            return Ok(());
        };
        if send.success.is_some() {
            return Ok(());
        }
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
}

/// The nonce of the next message: what the node says, or one above what we gave out and the node has not
/// seen yet.
fn nonce(node_says: u64, last_stored: Option<u64>) -> u64 {
    last_stored.map_or(node_says, |last| node_says.max(last + 1))
}

/// What a message that the estimate could not execute means for its sending: some things come by waiting.
fn refusal(purpose: &str, code: i64, text: &str) -> Result<Estimated, SendError> {
    let not_yet =
        code == exit_code::SYS_INSUFFICIENT_FUNDS || (code == exit_code::FORBIDDEN && text.contains("too early"));
    if not_yet {
        return Err(SendError::NotYet { purpose: purpose.to_owned(), text: text.to_owned() });
    }
    Ok(Estimated::Refused { exit_code: code, text: text.to_owned() })
}

/// The pool's verdict.
fn pushed(answer: Result<(), &RpcError>) -> Pushed {
    let Err(error) = answer else {
        return Pushed::Taken;
    };
    let Some(text) = error.node_message() else {
        return Pushed::Later;
    };
    if error.is_nonce_too_low() {
        Pushed::NonceUsed
    } else if text.contains("increase GasPremium") {
        // Another message of ours or of somebody else with the same key waits under this nonce.
        Pushed::Refused(text.to_owned())
    } else if error.is_already_in_mpool() {
        Pushed::Taken
    } else if error.is_not_enough_funds() || error.is_not_yet() || text.contains("gas fee cap too low") {
        Pushed::Later
    } else if text.contains("not valid for block inclusion")
        || text.contains("will not be included")
        || text.contains("signature")
    {
        Pushed::Refused(text.to_owned())
    } else {
        Pushed::Later
    }
}

/// The verdict on a message whose nonce is used, from a search for it on the chain.
fn landed(search: Result<bool, RpcError>) -> Pushed {
    match search {
        Ok(true) => Pushed::Taken,
        Ok(false) => Pushed::Later,
        // The node never saw it, or says outright that another one was executed.
        Err(error) if error.is_message_replaced() || error.node_message().is_some() => {
            Pushed::Refused(error.to_string())
        }
        Err(_) => Pushed::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> RpcError {
        RpcError::Node { method: "Filecoin.MpoolPush", code: 1, message: text.to_owned() }
    }

    #[test]
    fn the_nonce_is_above_both_what_the_node_knows_and_what_we_gave_out() {
        let table = [(0, None, 0), (5, None, 5), (5, Some(3), 5), (5, Some(4), 5), (5, Some(5), 6), (5, Some(9), 10)];
        for (node, stored, expected) in table {
            assert_eq!(nonce(node, stored), expected, "node {node}, stored {stored:?}");
        }
    }

    #[test]
    fn the_pool_takes_the_same_bytes_once() {
        // Texts as recorded from a Lotus 1.36 node.
        let already =
            "failed to add locked: message from t3sb with nonce 2 already in mpool: message with nonce already exists";
        let other = "failed to add locked: message from t3sb with nonce 2 already in mpool, increase GasPremium to 109602 from 99638 to trigger replace by fee";
        let table = [
            (already, Pushed::Taken),
            (other, Pushed::Refused(other.to_owned())),
            ("minimum expected nonce is 2, got 0: message nonce too low", Pushed::NonceUsed),
            ("failed to check balance: not enough funds (required: 2 FIL, balance: 1 FIL)", Pushed::Later),
            ("gas fee cap too low", Pushed::Later),
            (
                "message not valid for block inclusion: 'Version' unsupported",
                Pushed::Refused("message not valid for block inclusion: 'Version' unsupported".to_owned()),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(pushed(Err(&said(text))), expected, "{text}");
        }
        assert_eq!(pushed(Ok(())), Pushed::Taken);
    }

    #[test]
    fn a_lost_answer_is_no_verdict() {
        let lost = RpcError::TimedOut {
            url: "http://node/".to_owned(),
            method: "Filecoin.MpoolPush",
            after: Duration::from_secs(1),
        };
        assert_eq!(pushed(Err(&lost)), Pushed::Later);
        assert_eq!(landed(Err(lost)), Pushed::Later);
    }

    #[test]
    fn a_used_nonce_is_ours_when_the_chain_has_the_message() {
        assert_eq!(landed(Ok(true)), Pushed::Taken);
        assert_eq!(landed(Ok(false)), Pushed::Later);
        assert!(matches!(
            landed(Err(said("message was replaced: found message with equal nonce"))),
            Pushed::Refused(_)
        ));
        assert!(matches!(landed(Err(said("failed to load message: ipld: could not find bafy"))), Pushed::Refused(_)));
    }

    #[test]
    fn what_comes_by_waiting_is_waited_for() {
        assert!(matches!(refusal("commit", 18, "too early to prove sector 3"), Err(SendError::NotYet { .. })));
        assert!(matches!(refusal("precommit", 6, "sender does not have funds"), Err(SendError::NotYet { .. })));
        let text = "caller f01010 is not one of supported";
        assert_eq!(
            refusal("commit", 18, text).expect("a refusal"),
            Estimated::Refused { exit_code: 18, text: text.to_owned() }
        );
        assert_eq!(
            refusal("precommit", 19, "deposit").expect("a refusal"),
            Estimated::Refused { exit_code: 19, text: "deposit".to_owned() }
        );
    }
}
