//! The second step: somebody approves, and the message goes into the outbox.

use std::collections::BTreeMap;

use curio_chain::TokenAmount;
use curio_chain::address::id_address;
use curio_chain::message::{
    Cbor, ExpirationExtension2, ExtendSectorExpiration2Params, TerminateSectorsParams, TerminationDeclaration, method,
};
use curio_chain::types::Message;
use curio_core::{Epoch, SectorRef, SpId};
use curio_harmony::{Db, DbError, Tx, TxError};
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
}

/// Approves what was asked for these sectors, and asks for one message that does it.
///
/// # Errors
/// A sector for which nobody asked; what the chain would refuse now; no key that can pay; chain or database away.
/// Then nothing is approved.
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
    let (numbers, approver) = (to_columns(sectors), by.to_owned());
    let send_id = around
        .db
        .transaction("approve sector changes", move |tx| {
            let (request, numbers, approver) = (request.clone(), numbers.clone(), approver.clone());
            Box::pin(async move { store(tx, (sp, kind), &numbers, &approver, &request).await })
        })
        .await?;
    info!(sp = %sp, "{by} approved to {kind} {} sectors of {sp}", sectors.len());
    Ok(Approved { send_id, sectors: sectors.to_vec() })
}

fn may_terminate(found: &OnChain, sector: SectorRef, placed: &Placed) -> Result<(), ChangeError> {
    let deadline = found.now.at(found.now.period_start, placed.deadline);
    if deadline.is_mutable() {
        return Ok(());
    }
    Err(ChangeError::Immutable { sector, deadline: placed.deadline, after: deadline.next_not_elapsed().last() })
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

/// The same sectors in the same generation are the same message.
fn key(sp: SpId, kind: ChangeKind, asked: &BTreeMap<u64, Asked>) -> String {
    let sectors =
        asked.iter().map(|(number, asked)| format!("{number}.{}", asked.generation)).collect::<Vec<_>>().join(",");
    format!("{}/{sp}/{sectors}", kind.purpose())
}

async fn asked(db: &Db, sp: SpId, sectors: &[u64], kind: ChangeKind) -> Result<BTreeMap<u64, Asked>, DbError> {
    let rows = sqlx::query!(
        "SELECT sector_number, new_expiration, generation FROM sector_changes
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
        (from_column(row.sector_number), Asked { change, generation: row.generation })
    });
    Ok(rows.collect())
}

async fn store(
    tx: &mut Tx,
    (sp, kind): (SpId, ChangeKind),
    numbers: &[i64],
    by: &str,
    request: &outbox::Request,
) -> Result<i64, TxError> {
    let send_id = outbox::ask(tx, request).await?;
    let done = sqlx::query!(
        "UPDATE sector_changes SET approved_at = now(), approved_by = $4, send_id = $5
         WHERE sp_id = $1 AND sector_number = ANY ($2) AND change = $3 AND approved_at IS NULL",
        to_column(sp.0),
        numbers,
        kind.as_str(),
        by,
        send_id
    )
    .execute(&mut *tx)
    .await?;
    // Somebody asked for something else, or approved it, at the same time.
    if done.rows_affected() == numbers.len() as u64 { Ok(send_id) } else { Err(TxError::Rollback) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_generation_of_one_sector_is_another_message() {
        let asked = |generation| BTreeMap::from([(3, Asked { change: Change::Terminate, generation })]);
        assert_eq!(key(SpId(1000), ChangeKind::Terminate, &asked(0)), "terminate/f01000/3.0");
        assert_ne!(
            key(SpId(1000), ChangeKind::Terminate, &asked(0)),
            key(SpId(1000), ChangeKind::Terminate, &asked(1))
        );
    }
}
