//! The second step: somebody approves, and the message goes into the outbox.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use curio_chain::TokenAmount;
use curio_chain::address::id_address;
use curio_chain::message::{
    Cbor, ExpirationExtension2, ExtendSectorExpiration2Params, TerminateSectorsParams, TerminationDeclaration, method,
};
use curio_chain::types::Message;
use curio_core::{Epoch, SectorRef, SpId};
use curio_harmony::{Db, DbError, Tx, TxError};
use sha2::{Digest, Sha256};
use tracing::info;

use super::on_chain::{OnChain, Placed};
use super::{Change, ChangeError, ChangeKind, Surroundings, on_chain};
use crate::message::{outbox, payer};
use crate::post::columns::to_columns;
use crate::post::window::select;
use crate::storage::{from_column, to_column};

/// A message that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approved {
    /// Row of the outbox.
    pub send_id: i64,
    pub sectors: Vec<u64>,
}

/// A change that waits for its approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    change: Change,
    generation: i32,
    at: DateTime<Utc>,
}

/// Approves what was asked for these sectors, and asks for one message that does it.
///
/// # Errors
/// A sector for which nobody asked, or asked anew meanwhile; what the chain would refuse now; no key that can pay; chain
/// or database away. Then nothing is approved.
pub async fn approve(
    around: Surroundings<'_>,
    sp: SpId,
    sectors: &[u64],
    kind: ChangeKind,
    by: &str,
) -> Result<Approved, ChangeError> {
    let asked = asked(around.db, sp, sectors, kind).await?;
    if let Some(number) = sectors.iter().find(|number| !asked.contains_key(number)) {
        return Err(ChangeError::NotAsked { sector: SectorRef::new(sp, *number), change: kind });
    }
    let found = on_chain::find(around.chain, sp, sectors).await?;
    for (number, placed) in &found.sectors {
        let sector = SectorRef::new(sp, *number);
        if let Some(asked) = asked.get(number) {
            on_chain::allows(sector, placed, asked.change, found.now.current_epoch)?;
        }
        if kind == ChangeKind::Terminate {
            may_terminate(&found, sector, placed)?;
        }
    }
    let fees = &around.config.fees;
    let (method, params, max_fee) = match kind {
        ChangeKind::Terminate => {
            (method::TERMINATE_SECTORS, terminations(&found).to_cbor(), fees.max_terminate_gas_fee)
        }
        ChangeKind::Extend => {
            (method::EXTEND_SECTOR_EXPIRATION2, extensions(&found, &asked).to_cbor(), fees.default_max_fee)
        }
    };
    let max_fee = TokenAmount::from_atto(max_fee.atto());
    let from = payer::choose(around.chain, around.config, sp, kind.purpose(), &max_fee).await?;
    let message = Message::new(from, id_address(sp), method, TokenAmount::default(), params);
    let request = outbox::Request { key: key(sp, kind, &asked), purpose: kind.purpose(), message, max_fee };
    let numbers = to_columns(&asked.keys().copied().collect::<Vec<u64>>());
    let times: Vec<DateTime<Utc>> = asked.values().map(|asked| asked.at).collect();
    let approver = by.to_owned();
    let send_id = around
        .db
        .transaction("approve sector changes", move |tx| {
            let (request, numbers, times, approver) =
                (request.clone(), numbers.clone(), times.clone(), approver.clone());
            Box::pin(async move { store(tx, (sp, kind), (&numbers, &times), &approver, &request).await })
        })
        .await;
    let send_id = match send_id {
        Err(TxError::Rollback) => return Err(ChangeError::AskedAnew { change: kind }),
        outcome => outcome?,
    };
    info!(sp = %sp, "{by} approved to {kind} {} sectors of {sp}", sectors.len());
    Ok(Approved { send_id, sectors: sectors.to_vec() })
}

fn may_terminate(found: &OnChain, sector: SectorRef, placed: &Placed) -> Result<(), ChangeError> {
    let window = found.now.window_of(placed.deadline);
    if window.is_mutable() {
        return Ok(());
    }
    Err(ChangeError::Immutable { sector, deadline: placed.deadline, after: window.last() })
}

/// Sectors by deadline and partition.
fn by_place(found: &OnChain) -> BTreeMap<(u64, u64), Vec<u64>> {
    let mut places: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
    for (number, placed) in &found.sectors {
        places.entry((placed.deadline, placed.partition)).or_default().push(*number);
    }
    places
}

fn terminations(found: &OnChain) -> TerminateSectorsParams {
    let terminations = by_place(found).into_iter().map(|((deadline, partition), numbers)| TerminationDeclaration {
        deadline,
        partition,
        sectors: select::bits(&numbers),
    });
    TerminateSectorsParams { terminations: terminations.collect() }
}

/// One extension for each partition and new expiration.
fn extensions(found: &OnChain, asked: &BTreeMap<u64, Asked>) -> ExtendSectorExpiration2Params {
    let mut extensions = Vec::new();
    for ((deadline, partition), numbers) in by_place(found) {
        let mut by_epoch: BTreeMap<Epoch, Vec<u64>> = BTreeMap::new();
        for number in numbers {
            if let Some(Asked { change: Change::Extend { new_expiration }, .. }) = asked.get(&number) {
                by_epoch.entry(*new_expiration).or_default().push(number);
            }
        }
        extensions.extend(by_epoch.into_iter().map(|(new_expiration, numbers)| ExpirationExtension2 {
            deadline,
            partition,
            sectors: select::bits(&numbers),
            sectors_with_claims: Vec::new(),
            new_expiration,
        }));
    }
    ExtendSectorExpiration2Params { extensions }
}

/// The same sectors in the same generation are the same message. There may be thousands, which no index would take.
fn key(sp: SpId, kind: ChangeKind, asked: &BTreeMap<u64, Asked>) -> String {
    let sectors =
        asked.iter().map(|(number, asked)| format!("{number}.{}", asked.generation)).collect::<Vec<_>>().join(",");
    format!("{}/{sp}/{}/{}", kind.purpose(), asked.len(), hex::encode(Sha256::digest(sectors)))
}

async fn asked(db: &Db, sp: SpId, sectors: &[u64], kind: ChangeKind) -> Result<BTreeMap<u64, Asked>, DbError> {
    let rows = sqlx::query!(
        "SELECT sector_number, new_expiration, generation, asked_at FROM sector_changes
         WHERE sp_id = $1 AND sector_number = ANY ($2) AND change = $3 AND approved_at IS NULL",
        to_column(sp.0),
        &to_columns(sectors),
        kind.as_str()
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| {
        let change =
            row.new_expiration.map_or(Change::Terminate, |epoch| Change::Extend { new_expiration: Epoch(epoch) });
        (from_column(row.sector_number), Asked { change, generation: row.generation, at: row.asked_at })
    });
    Ok(rows.collect())
}

async fn store(
    tx: &mut Tx,
    (sp, kind): (SpId, ChangeKind),
    (numbers, times): (&[i64], &[DateTime<Utc>]),
    by: &str,
    request: &outbox::Request,
) -> Result<i64, TxError> {
    let send_id = outbox::ask(tx, request).await?;
    let done = sqlx::query!(
        "UPDATE sector_changes c SET approved_at = now(), approved_by = $4, send_id = $5
         FROM unnest($2::bigint[], $6::timestamptz[]) AS seen (number, asked_at)
         WHERE c.sp_id = $1 AND c.sector_number = seen.number AND c.change = $3 AND c.approved_at IS NULL
           AND c.asked_at = seen.asked_at",
        to_column(sp.0),
        numbers,
        kind.as_str(),
        by,
        send_id,
        times
    )
    .execute(&mut *tx)
    .await?;
    // Somebody asked for something else, or approved it, since it was read: the message would not be what is asked.
    if done.rows_affected() == numbers.len() as u64 { Ok(send_id) } else { Err(TxError::Rollback) }
}

#[cfg(test)]
mod tests {
    use curio_chain::Address;
    use curio_harmony::testing::TestDb;

    use super::*;

    const SP: SpId = SpId(1000);

    /// Somebody asks that sectors 3 and 4 are kept until an epoch.
    async fn ask(db: &Db, until: i64) {
        let query = "INSERT INTO sector_changes (sp_id, sector_number, change, new_expiration, asked_by)
                     SELECT 1000, number, 'extend', $1, 'alice' FROM unnest(ARRAY[3, 4]) AS number
                     ON CONFLICT (sp_id, sector_number, change) DO UPDATE
                     SET new_expiration = excluded.new_expiration, asked_at = now()";
        sqlx::query(query).bind(until).execute(db.pool()).await.expect("the database answers");
    }

    /// The second half of an approval.
    async fn approve(db: &Db, asked: &BTreeMap<u64, Asked>) -> Result<i64, TxError> {
        let to = id_address(SP);
        let message =
            Message::new(Address::new_id(1), to, method::EXTEND_SECTOR_EXPIRATION2, TokenAmount::default(), Vec::new());
        let request = outbox::Request {
            key: key(SP, ChangeKind::Extend, asked),
            purpose: ChangeKind::Extend.purpose(),
            message,
            max_fee: TokenAmount::default(),
        };
        let numbers = to_columns(&asked.keys().copied().collect::<Vec<u64>>());
        let times: Vec<DateTime<Utc>> = asked.values().map(|asked| asked.at).collect();
        let approved = db.transaction("approve in a test", move |tx| {
            let (request, numbers, times) = (request.clone(), numbers.clone(), times.clone());
            Box::pin(async move { store(tx, (SP, ChangeKind::Extend), (&numbers, &times), "bob", &request).await })
        });
        approved.await
    }

    #[tokio::test]
    async fn what_is_asked_anew_while_it_is_approved_needs_another_approval() {
        let database = TestDb::new().await;
        let db = database.db();
        ask(db, 1000).await;
        let seen = asked(db, SP, &[3, 4], ChangeKind::Extend).await.expect("the database answers");
        ask(db, 2000).await;

        assert!(matches!(approve(db, &seen).await, Err(TxError::Rollback)), "this would keep them until epoch 1000");
        let sends = outbox::list(db).await.expect("the database answers");
        assert!(sends.is_empty(), "{sends:?}");
        let seen = asked(db, SP, &[3, 4], ChangeKind::Extend).await.expect("the database answers");
        assert_eq!(seen[&3].change, Change::Extend { new_expiration: Epoch(2000) });
        approve(db, &seen).await.expect("nobody asked anew");
    }

    #[test]
    fn another_generation_of_one_sector_is_another_message() {
        let key_of = |generation| key(SP, ChangeKind::Terminate, &of(3..4, generation));
        assert_eq!(key_of(0), key_of(0));
        assert_ne!(key_of(0), key_of(1));
    }

    #[test]
    fn as_many_sectors_as_a_message_takes_have_a_key_that_an_index_takes() {
        let key = key(SP, ChangeKind::Extend, &of(1_000_000..1_025_000, 0));
        assert!(key.starts_with("extend/f01000/25000/"), "{key}");
        assert!(key.len() < 200, "{key}");
    }

    fn of(numbers: std::ops::Range<u64>, generation: i32) -> BTreeMap<u64, Asked> {
        let at = DateTime::UNIX_EPOCH;
        numbers.map(|number| (number, Asked { change: Change::Terminate, generation, at })).collect()
    }
}
