//! What became of messages that were asked for.

use std::collections::HashMap;

use curio_chain::message::exit_code;
use curio_core::Epoch;
use curio_harmony::{Db, DbError};

/// As far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not signed, not pushed or not settled yet.
    Pending,
    /// Executed well, with its result in the tipset of this epoch.
    Landed(Epoch),
    /// Executed with another exit code than 0, refused by the gas estimate, or not taken by the pool.
    Failed(String),
}

/// Fates by `send_id`; what is not in the outbox is not in the answer.
///
/// # Errors
/// Database trouble.
pub async fn fates(db: &Db, send_ids: &[i64]) -> Result<HashMap<i64, Fate>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT s.send_id AS "send_id!", s.send_success, s.send_error, s.send_exit_code,
                  w.executed_tsk_epoch AS "epoch?", w.executed_rcpt_exitcode AS "exit_code?"
           FROM message_sends s LEFT JOIN message_waits w ON w.signed_message_cid = s.signed_cid
           WHERE s.send_id = ANY ($1)"#,
        send_ids
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| {
        let sent = Sent { success: row.send_success, error: row.send_error, refused: row.send_exit_code };
        (row.send_id, fate(row.epoch.zip(row.exit_code), sent))
    });
    Ok(rows.collect())
}

/// What the outbox says.
#[derive(Clone, Debug, Default)]
struct Sent {
    success: Option<bool>,
    error: Option<String>,
    /// Exit code of the gas estimate.
    refused: Option<i64>,
}

fn fate(executed: Option<(i64, i64)>, sent: Sent) -> Fate {
    match (executed, sent.success) {
        (Some((epoch, exit_code::OK)), _) => Fate::Landed(Epoch(epoch)),
        (Some((epoch, code)), _) => {
            Fate::Failed(format!("the message was executed at epoch {epoch} with exit code {code}"))
        }
        (None, Some(false)) => {
            let text = sent.error.unwrap_or_default();
            Fate::Failed(match sent.refused {
                Some(code) => format!("the chain would refuse the message with exit code {code}: {text}"),
                None => format!("the message was not taken: {text}"),
            })
        }
        (None, Some(true) | None) => Fate::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_pending_until_the_chain_or_the_node_says_something() {
        let sent = |success| Sent { success, ..Sent::default() };
        assert_eq!(fate(None, sent(None)), Fate::Pending);
        assert_eq!(fate(None, sent(Some(true))), Fate::Pending);
        assert_eq!(fate(Some((7, 0)), sent(Some(true))), Fate::Landed(Epoch(7)));
        // Executed although a push was never answered.
        assert_eq!(fate(Some((7, 0)), sent(None)), Fate::Landed(Epoch(7)));
    }

    #[test]
    fn a_failure_says_who_refused() {
        let refused = Sent { success: Some(false), error: Some("no such partition".to_owned()), refused: Some(17) };
        let untaken = Sent { success: Some(false), error: Some("nonce too low".to_owned()), refused: None };
        for (fate, words) in [
            (fate(Some((7, 16)), Sent::default()), "exit code 16"),
            (fate(None, refused), "exit code 17: no such partition"),
            (fate(None, untaken), "not taken: nonce too low"),
        ] {
            assert!(matches!(&fate, Fate::Failed(text) if text.contains(words)), "{fate:?}");
        }
    }
}
