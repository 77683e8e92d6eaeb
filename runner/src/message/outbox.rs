//! The outbox: rows of `message_sends`.
//!
//! A message is asked for in the same transaction as the row that needs it, under an idempotency key of
//! purpose, sector and generation: asked for twice, it is one row, one signature and one nonce.

use chrono::{DateTime, Utc};
use curio_chain::types::Message;
use curio_chain::{TokenAmount, address};
use curio_core::{Classify, Failure};
use curio_harmony::{Db, DbError, Task, TaskId, Tx, TxError, tasks};
use serde::Serialize;

use super::purpose::Purpose;
use super::send::{SendMessage, SendPost};

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// `purpose/sp/sectors/generation`.
    pub key: String,
    pub purpose: Purpose,
    /// Nonce and gas are left at zero. `from` is a key address.
    pub message: Message,
    /// Most attoFIL to spend on gas.
    pub max_fee: TokenAmount,
}

/// A row of the outbox, as the sending task reads it.
#[derive(Clone, Debug)]
pub struct Send {
    pub send_id: i64,
    pub purpose: String,
    pub message: Message,
    pub max_fee: TokenAmount,
    /// JSON of the signed message, once signed.
    pub signed: Option<serde_json::Value>,
    pub signed_cid: Option<String>,
    pub success: Option<bool>,
}

/// A row that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read message {send_id} of the outbox: its {column} is not of the expected form")]
pub struct OutboxError {
    pub send_id: i64,
    pub column: &'static str,
}

impl Classify for OutboxError {
    fn classify(self) -> Failure {
        Failure::Permanent { reason: "bad-row", cause: Box::new(self) }
    }
}

/// Puts a message into the outbox together with its task, or finds it there. Returns its `send_id`.
///
/// # Errors
/// Database trouble. Two callers with one key at once: the later one's transaction fails on the unique
/// key, and finds the row when it runs again.
pub async fn ask(tx: &mut Tx, request: &Request) -> Result<i64, TxError> {
    let known = sqlx::query_scalar!("SELECT send_id FROM message_sends WHERE idempotency_key = $1", request.key)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(send_id) = known {
        return Ok(send_id);
    }
    let kind = if request.purpose.is_urgent() { SendPost::NAME } else { SendMessage::NAME };
    let task = tasks::add(tx, kind).await?;
    let send_id = sqlx::query_scalar!(
        "INSERT INTO message_sends (send_task_id, idempotency_key, from_key, to_addr, send_reason, unsigned_data, max_fee)
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING send_id",
        task.0,
        request.key,
        address::to_mainnet_text(&request.message.from),
        address::to_mainnet_text(&request.message.to),
        request.purpose.as_str(),
        request.message.to_cbor(),
        request.max_fee.atto().to_string()
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(send_id)
}

/// The message that this task sends; none when there is no such row.
///
/// # Errors
/// Database trouble; a row that cannot be read.
pub async fn of_task(db: &Db, task: TaskId) -> Result<Option<Send>, Failure> {
    let row = sqlx::query!(
        "SELECT send_id, send_reason, unsigned_data, max_fee, signed_json, signed_cid, send_success
         FROM message_sends WHERE send_task_id = $1",
        task.0
    )
    .fetch_optional(db.pool())
    .await
    .map_err(DbError::from)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let send_id = row.send_id;
    let error = |column| OutboxError { send_id, column };
    let max_fee: curio_chain::BigInt = row.max_fee.parse().map_err(|_| error("max_fee"))?;
    Ok(Some(Send {
        send_id,
        purpose: row.send_reason,
        message: Message::from_cbor(&row.unsigned_data).map_err(|_| error("unsigned_data"))?,
        max_fee: TokenAmount::from_atto(max_fee),
        signed: row.signed_json,
        signed_cid: row.signed_cid,
        success: row.send_success,
    }))
}

/// A message as the command line shows it.
#[derive(Clone, Debug, Serialize)]
pub struct SendStatus {
    pub send_id: i64,
    pub purpose: String,
    pub key: String,
    pub from: String,
    pub to: String,
    pub nonce: Option<i64>,
    pub signed_cid: Option<String>,
    pub created_at: DateTime<Utc>,
    pub sent: Option<bool>,
    pub error: Option<String>,
    /// Epoch of the tipset that holds the result.
    pub landed_epoch: Option<i64>,
    pub exit_code: Option<i64>,
    /// How often it was signed again with the same nonce and a higher price.
    pub replacements: i64,
}

/// All messages, oldest first.
///
/// # Errors
/// Database trouble.
pub async fn list(db: &Db) -> Result<Vec<SendStatus>, DbError> {
    Ok(sqlx::query_as!(
        SendStatus,
        r#"SELECT s.send_id, s.send_reason AS purpose, s.idempotency_key AS key, s.from_key AS "from", s.to_addr AS "to",
                  s.nonce, s.signed_cid, s.created_at, s.send_success AS sent, s.send_error AS error,
                  w.executed_tsk_epoch AS "landed_epoch?", w.executed_rcpt_exitcode AS "exit_code?",
                  (SELECT count(*) FROM message_replacements r WHERE r.send_id = s.send_id) AS "replacements!"
           FROM message_sends s LEFT JOIN message_waits w ON w.signed_message_cid = s.signed_cid
           ORDER BY s.send_id"#
    )
    .fetch_all(db.pool())
    .await?)
}
