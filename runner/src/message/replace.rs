//! Replacing: a message that does not land is signed again with the same nonce and a higher price.
//!
//! Every signed form is stored before it is pushed, and any of them may land; the chain executes one of them, as they share the
//! nonce. Several runners may try at once: the generation is unique, and only the form that was stored is pushed.

use std::collections::HashMap;

use curio_chain::types::{Message, MessageSendSpec, SignedMessage, TipSetKey};
use curio_chain::{BigInt, RpcError, TokenAmount};
use curio_core::epoch::EpochDelta;
use curio_core::{Classify, Epoch, Failure};
use tracing::{info, warn};

use super::purpose::Purpose;
use super::watch::Open;
use crate::deps::Deps;

/// Epochs without a result after which the price of a message is raised: five minutes on the public networks.
const PATIENCE: EpochDelta = 10;
/// The same for a message with a deadline, and for everything that has to land before one.
const URGENT_PATIENCE: EpochDelta = 3;

/// The new premium in percent of the old one.
const RAISE_PERCENT: u32 = 125;
/// The least that a message pool takes instead of the old premium, in percent; and one attoFIL more.
const LEAST_PERCENT: u32 = 110;

/// Most messages of one key that are replaced at one head: the first ones hold the others up.
pub(super) const AT_ONCE_PER_KEY: usize = 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum ReplaceError {
    #[error("the signed form of message {send_id} in the outbox cannot be read")]
    Row { send_id: i64 },
    #[error("failed to learn the price of gas for message {send_id}")]
    Estimate {
        send_id: i64,
        #[source]
        source: RpcError,
    },
    #[error("failed to sign message {send_id} with a higher price")]
    Sign {
        send_id: i64,
        #[source]
        source: RpcError,
    },
    #[error("the chain node signed something else than message {send_id} with a higher price")]
    SignedOther { send_id: i64 },
}

impl Classify for ReplaceError {
    fn classify(self) -> Failure {
        match &self {
            ReplaceError::Row { .. } => Failure::Permanent { reason: "bad-row", cause: Box::new(self) },
            ReplaceError::Estimate { source, .. } | ReplaceError::Sign { source, .. } => {
                let is_answer = source.node_message().is_some();
                let cause = Box::new(self);
                if is_answer { Failure::Retry(cause) } else { Failure::Unavailable(cause) }
            }
            ReplaceError::SignedOther { .. } => Failure::Retry(Box::new(self)),
        }
    }
}

/// What happened to a message that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    Yes,
    /// Another runner did it, or it has landed.
    Elsewhere,
    /// Its price is as high as its highest fee allows.
    AtLimit,
}

/// Highest nonce of each key that carries something with a deadline. Whatever comes before it is as urgent.
pub(super) fn urgent_nonces(open: &[Open]) -> HashMap<&str, i64> {
    let mut highest: HashMap<&str, i64> = HashMap::new();
    for message in open.iter().filter(|message| Purpose::parse(&message.purpose).is_some_and(Purpose::is_urgent)) {
        let nonce = highest.entry(message.from_key.as_str()).or_insert(message.nonce);
        *nonce = message.nonce.max(*nonce);
    }
    highest
}

/// Whether a message that was signed at `signed` has waited long enough.
pub(super) fn is_due(signed: Epoch, head: Epoch, is_urgent: bool) -> bool {
    head - signed >= if is_urgent { URGENT_PATIENCE } else { PATIENCE }
}

/// Signs the message again with a higher price, stores that, and pushes it.
///
/// # Errors
/// Database or chain away, a fence that is held, a node that does not sign.
pub(super) async fn replace(deps: &Deps, head: Epoch, open: &Open) -> Result<Replaced, Failure> {
    let send_id = open.send_id;
    let old = open.newest().ok_or(ReplaceError::Row { send_id })?.message;
    let max_fee: BigInt = open.max_fee.parse().map_err(|_| ReplaceError::Row { send_id })?;
    let max_fee = TokenAmount::from_atto(max_fee);
    deps.fence.check().await?;
    let estimate = estimate(deps, send_id, &old, &max_fee).await?;
    let Some(message) = repriced(&old, &estimate, &max_fee) else {
        return Ok(Replaced::AtLimit);
    };
    let signed = deps
        .chain
        .wallet_sign_message(&message.from, &message)
        .await
        .map_err(|source| ReplaceError::Sign { send_id, source })?;
    if signed.message != message {
        return Err(ReplaceError::SignedOther { send_id }.into());
    }
    if !store(deps, head, open, &signed).await? {
        return Ok(Replaced::Elsewhere);
    }
    let (cid, premium, was) = (signed.cid(), message.gas_premium.atto(), old.gas_premium.atto());
    match deps.chain.mpool_push(&signed).await {
        Ok(_) => info!(
            message.cid = %cid,
            nonce = message.nonce,
            "{} message {} did not land: sent again as {cid} for a premium of {premium} instead of {was} attoFIL",
            open.purpose,
            open.signed_cid
        ),
        // It is stored: should it not have arrived, the next head tells, and it is pushed again.
        Err(error) => warn!(
            message.cid = %cid,
            error = &error as &dyn std::error::Error,
            "failed to push {cid}, which replaces {} message {}",
            open.purpose,
            open.signed_cid
        ),
    }
    Ok(Replaced::Yes)
}

/// The message with the price that the node would give it now. Its gas limit stays, and so the node does not execute it:
/// with the old form in the pool it would seem to be done already.
async fn estimate(deps: &Deps, send_id: i64, old: &Message, max_fee: &TokenAmount) -> Result<Message, ReplaceError> {
    let unpriced = Message { gas_fee_cap: TokenAmount::default(), gas_premium: TokenAmount::default(), ..old.clone() };
    let spec = MessageSendSpec { max_fee: max_fee.clone(), ..MessageSendSpec::default() };
    let answer = deps.chain.gas_estimate_message_gas(&unpriced, Some(&spec), &TipSetKey::HEAD).await;
    answer.map_err(|source| ReplaceError::Estimate { send_id, source })
}

/// The same message at a price that a pool takes instead of the old one; none when the highest fee forbids that.
fn repriced(old: &Message, estimate: &Message, max_fee: &TokenAmount) -> Option<Message> {
    let raised = |amount: &TokenAmount, percent: u32| {
        TokenAmount::from_atto(amount.atto() * percent / 100_u32 + BigInt::from(1))
    };
    let most = TokenAmount::from_atto(max_fee.atto() / old.gas_limit.max(1));
    let premium = raised(&old.gas_premium, RAISE_PERCENT).max(estimate.gas_premium.clone()).min(most.clone());
    let fee_cap =
        raised(&old.gas_fee_cap, RAISE_PERCENT).max(estimate.gas_fee_cap.clone()).max(premium.clone()).min(most);
    let is_enough = premium >= raised(&old.gas_premium, LEAST_PERCENT);
    is_enough.then(|| Message { gas_premium: premium, gas_fee_cap: fee_cap, ..old.clone() })
}

/// Stores the next form of a message that has no result yet. False when another runner has stored one, or the message
/// has landed.
async fn store(deps: &Deps, head: Epoch, open: &Open, signed: &SignedMessage) -> Result<bool, Failure> {
    let (send_id, generation) = (open.send_id, open.generation.unwrap_or(0) + 1);
    let (watched, cid) = (open.signed_cid.clone(), signed.cid().to_string());
    let json = serde_json::to_value(signed).map_err(|error| Failure::Retry(Box::new(error)))?;
    let stored = deps
        .db
        .transaction("replace message", move |tx| {
            let (watched, cid, json) = (watched.clone(), cid.clone(), json.clone());
            Box::pin(async move {
                let done = sqlx::query!(
                    "INSERT INTO message_replacements (send_id, generation, signed_cid, signed_json, epoch)
                     SELECT $1, $2, $3, $4, $5
                     WHERE EXISTS (
                         SELECT FROM message_waits WHERE signed_message_cid = $6 AND executed_tsk_epoch IS NULL
                     )
                     ON CONFLICT DO NOTHING",
                    send_id,
                    generation,
                    cid,
                    json,
                    head.0,
                    watched
                )
                .execute(&mut *tx)
                .await?;
                Ok(done.rows_affected())
            })
        })
        .await?;
    Ok(stored == 1)
}

#[cfg(test)]
mod tests {
    use curio_chain::Address;

    use super::*;

    fn message(limit: i64, fee_cap: u64, premium: u64) -> Message {
        let (from, to) = (Address::new_id(1), Address::new_id(2));
        Message {
            gas_limit: limit,
            gas_fee_cap: TokenAmount::from_atto(fee_cap),
            gas_premium: TokenAmount::from_atto(premium),
            nonce: 7,
            ..Message::new(from, to, 5, TokenAmount::default(), vec![1])
        }
    }

    #[test]
    fn a_price_rises_by_a_quarter_or_to_the_estimate_and_never_above_the_highest_fee() {
        // Limit 1000; old cap and premium; estimated cap and premium; highest fee; new cap and premium.
        let table = [
            ("by a quarter", (200, 100), (150, 90), 1_000_000, Some((251, 126))),
            ("to the estimate", (200, 100), (900, 400), 1_000_000, Some((900, 400))),
            ("the cap up to the highest fee", (200, 100), (900, 150), 300_000, Some((300, 150))),
            ("the premium up to the highest fee", (200, 100), (900, 400), 120_000, Some((120, 120))),
            ("as little as a pool takes", (200, 100), (900, 400), 111_000, Some((111, 111))),
            ("less than a pool takes", (200, 100), (900, 400), 110_000, None),
            ("from nothing", (0, 0), (0, 0), 1_000_000, Some((1, 1))),
        ];
        for (case, old, estimate, max_fee, expected) in table {
            let old = message(1000, old.0, old.1);
            let new = repriced(&old, &message(1000, estimate.0, estimate.1), &TokenAmount::from_atto(max_fee));
            assert_eq!(new, expected.map(|(cap, premium)| message(1000, cap, premium)), "{case}");
        }
    }

    #[test]
    fn the_figure_that_a_recorded_pool_named_is_reached() {
        // "increase GasPremium to 109602 from 99638 to trigger replace by fee" (Lotus 1.36).
        let old = message(1, 100_000, 99_638);
        let table = [(109_602, true), (109_601, false)];
        for (max_fee, taken) in table {
            let new = repriced(&old, &old, &TokenAmount::from_atto(max_fee));
            assert_eq!(new.is_some(), taken, "{max_fee}");
        }
    }

    #[test]
    fn what_has_a_deadline_waits_three_epochs_and_the_rest_ten() {
        for (head, urgent, expected) in [(102, true, false), (103, true, true), (109, false, false), (110, false, true)]
        {
            assert_eq!(is_due(Epoch(100), Epoch(head), urgent), expected, "head {head}, urgent {urgent}");
        }
    }

    #[test]
    fn whatever_comes_before_a_proof_under_the_same_key_is_as_urgent() {
        let open = |purpose: &str, from: &str, nonce| Open {
            purpose: purpose.to_owned(),
            from_key: from.to_owned(),
            nonce,
            ..Open::default()
        };
        let open = [
            open("commit", "a", 4),
            open("wdpost", "a", 5),
            open("recover", "a", 3),
            open("commit", "b", 1),
            open("wdpost", "c", 0),
        ];
        assert_eq!(urgent_nonces(&open), HashMap::from([("a", 5), ("c", 0)]));
    }
}
