//! The first step: somebody asks.

use curio_core::{SectorRef, SpId};
use curio_harmony::{Tx, TxError};

use super::list::{ChangeState, list};
use super::{Change, ChangeError, Surroundings, on_chain};
use crate::post::columns::to_columns;
use crate::storage::to_column;

/// Notes that these sectors are to be changed. Asking again before the approval replaces what was asked; after the
/// message of an earlier change has its result, it asks anew.
///
/// # Errors
/// What the chain would refuse; a message that is on its way; chain or database away. Then nothing is noted.
pub async fn ask(
    around: Surroundings<'_>,
    sp: SpId,
    sectors: &[u64],
    change: Change,
    by: &str,
) -> Result<(), ChangeError> {
    let found = on_chain::find(around.chain, sp, sectors).await?;
    for (number, placed) in &found.sectors {
        on_chain::allows(SectorRef::new(sp, *number), placed, change, found.now.current_epoch)?;
    }
    let pending = list(around.db).await?.into_iter().find(|status| {
        let is_asked = status.sector.sp == sp && sectors.contains(&status.sector.number);
        is_asked && status.change == change.kind() && status.state == ChangeState::Sent
    });
    if let Some(status) = pending {
        return Err(ChangeError::OnItsWay { sector: status.sector, change: status.change });
    }
    let (numbers, by) = (to_columns(sectors), by.to_owned());
    around
        .db
        .transaction("ask for sector changes", move |tx| {
            let (numbers, by) = (numbers.clone(), by.clone());
            Box::pin(async move { note(tx, sp, &numbers, change, &by).await })
        })
        .await?;
    Ok(())
}

async fn note(tx: &mut Tx, sp: SpId, numbers: &[i64], change: Change, by: &str) -> Result<(), TxError> {
    sqlx::query!(
        "INSERT INTO sector_changes (sp_id, sector_number, change, new_expiration, asked_by)
         SELECT $1, number, $3, $4, $5 FROM unnest($2::bigint[]) AS number
         ON CONFLICT (sp_id, sector_number, change) DO UPDATE
         SET new_expiration = excluded.new_expiration, asked_by = excluded.asked_by, asked_at = now(),
             approved_at = NULL, approved_by = NULL, send_id = NULL,
             generation = sector_changes.generation + (sector_changes.send_id IS NOT NULL)::int",
        to_column(sp.0),
        numbers,
        change.kind().as_str(),
        change.new_expiration(),
        by
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}
