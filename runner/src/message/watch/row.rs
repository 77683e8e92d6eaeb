//! Messages without a result as the database has them, and what is written when they have one.

use curio_chain::Cid;
use curio_chain::types::{MsgLookup, SignedMessage, TipSetKey};
use curio_core::Epoch;
use curio_harmony::{Db, DbError, TxError};
use serde_json::Value;

use crate::message::purpose::Purpose;

/// A message without a result.
#[derive(Debug, Default)]
pub(in crate::message) struct Open {
    pub send_id: i64,
    /// CID of its first form, under which it is watched.
    pub signed_cid: String,
    pub signed: Option<Value>,
    pub purpose: String,
    pub from_key: String,
    pub nonce: i64,
    /// AttoFIL.
    pub max_fee: String,
    pub sent: bool,
    /// Head at which a watcher first saw it sent.
    pub sent_epoch: Option<i64>,
    /// Its newest form, if it was replaced.
    pub generation: Option<i32>,
    pub newest_cid: Option<String>,
    pub newest_signed: Option<Value>,
    pub newest_epoch: Option<i64>,
}

impl Open {
    /// The form with the highest price.
    pub fn newest(&self) -> Option<SignedMessage> {
        let json = self.newest_signed.as_ref().or(self.signed.as_ref())?;
        serde_json::from_value(json.clone()).ok()
    }

    /// CIDs of the forms to search for. The chain node finds all of them by the first one, unless it never had that.
    pub(super) fn cids(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.signed_cid.as_str()).chain(self.newest_cid.as_deref())
    }
}

/// At most `limit` open messages: those with a deadline first, then the oldest.
pub(super) async fn open(db: &Db, limit: i64) -> Result<Vec<Open>, DbError> {
    let urgent: Vec<String> = Purpose::ALL
        .into_iter()
        .filter(|purpose| purpose.is_urgent())
        .map(|purpose| purpose.as_str().to_owned())
        .collect();
    Ok(sqlx::query_as!(
        Open,
        r#"SELECT s.send_id, w.signed_message_cid AS signed_cid, s.signed_json AS signed, s.send_reason AS purpose,
                  s.from_key, coalesce(s.nonce, 0) AS "nonce!", s.max_fee, s.send_success IS TRUE AS "sent!", s.sent_epoch,
                  r.generation AS "generation?", r.signed_cid AS "newest_cid?", r.signed_json AS "newest_signed?",
                  r.epoch AS "newest_epoch?"
           FROM message_waits w JOIN message_sends s ON s.signed_cid = w.signed_message_cid
           LEFT JOIN LATERAL (
               SELECT generation, signed_cid, signed_json, epoch FROM message_replacements
               WHERE send_id = s.send_id ORDER BY generation DESC LIMIT 1
           ) r ON TRUE
           WHERE w.executed_tsk_epoch IS NULL AND s.send_success IS NOT FALSE
           ORDER BY s.send_reason = ANY ($1) DESC, w.created_at LIMIT $2"#,
        &urgent,
        limit
    )
    .fetch_all(db.pool())
    .await?)
}

/// From this head on the messages that were sent are waited for.
pub(super) async fn note_sent(db: &Db, head: Epoch) -> Result<(), DbError> {
    sqlx::query!(
        "UPDATE message_sends s SET sent_epoch = $1
         FROM message_waits w
         WHERE w.signed_message_cid = s.signed_cid AND w.executed_tsk_epoch IS NULL
           AND s.send_success AND s.sent_epoch IS NULL",
        head.0
    )
    .execute(db.pool())
    .await?;
    Ok(())
}

/// Fills the row of a message that was executed. False when somebody else has filled it.
pub(super) async fn landed(db: &Db, message: &Open, lookup: &MsgLookup) -> Result<bool, TxError> {
    let data = message.signed.as_ref().and_then(|signed| signed.get("Message")).cloned();
    let row = (message.signed_cid.clone(), lookup.clone(), data);
    let filled = db
        .transaction("message landed", move |tx| {
            let (signed_cid, lookup, data) = row.clone();
            Box::pin(async move {
                let done = sqlx::query!(
                    "UPDATE message_waits
                     SET executed_tsk_cid = $2, executed_tsk_epoch = $3, executed_msg_cid = $4,
                         executed_msg_data = coalesce(
                             (SELECT signed_json -> 'Message' FROM message_replacements WHERE signed_cid = $4), $5),
                         executed_rcpt_exitcode = $6, executed_rcpt_return = $7, executed_rcpt_gas_used = $8,
                         executed_tsk = $9
                     WHERE signed_message_cid = $1 AND executed_tsk_epoch IS NULL",
                    signed_cid,
                    lookup.tip_set.cid().to_string(),
                    lookup.height.0,
                    lookup.message.to_string(),
                    data,
                    lookup.receipt.exit_code,
                    lookup.receipt.r#return,
                    lookup.receipt.gas_used,
                    key_bytes(&lookup.tip_set)
                )
                .execute(&mut *tx)
                .await?;
                Ok(done.rows_affected())
            })
        })
        .await?;
    Ok(filled == 1)
}

/// Marks a message whose nonce another one has on the chain: it never lands, and its asker reads that it was not sent.
/// False when that was known.
pub(super) async fn overtaken(db: &Db, send_id: i64) -> Result<bool, TxError> {
    let changed = db
        .transaction("message overtaken", move |tx| {
            Box::pin(async move {
                let done = sqlx::query!(
                    "UPDATE message_sends
                     SET send_success = FALSE, send_error = 'the chain executed another message under its nonce'
                     WHERE send_id = $1 AND send_success IS NOT FALSE",
                    send_id
                )
                .execute(&mut *tx)
                .await?;
                Ok(done.rows_affected())
            })
        })
        .await?;
    Ok(changed == 1)
}

/// A tipset key as Lotus keeps it: the bytes of its CIDs, one after another.
fn key_bytes(key: &TipSetKey) -> Vec<u8> {
    key.0.iter().flat_map(Cid::to_bytes).collect()
}
