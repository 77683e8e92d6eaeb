//! New sectors: numbers that nobody has used, and a row of the pipeline for each.

use curio_core::{SealProof, SectorRef, SpId};
use curio_harmony::{Tx, TxError};
use serde::Serialize;

use crate::numbers::{self, Numbers};

/// Sectors to be made.
#[derive(Clone, Debug)]
pub struct NewSectors {
    pub sp: SpId,
    pub proof: SealProof,
    /// Numbers that the chain says are taken.
    pub on_chain: Numbers,
    pub count: u64,
    /// Data of the first sector, in order; the others are empty.
    pub pieces: Vec<NewPiece>,
    /// The row of `seal_requests` that asks for them, if one does.
    pub request_uid: Option<String>,
}

/// One piece of data, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewPiece {
    pub piece_cid: String,
    /// Bytes, a power of two.
    pub padded_size: u64,
    /// Bytes before padding.
    pub raw_size: u64,
    /// `file:///PATH` or `http(s)://`.
    pub data_url: String,
    /// Keep the unsealed copy.
    #[serde(skip)]
    pub keep: bool,
}

/// Puts the sectors into the pipeline, in the order of their numbers; the first has the pieces.
///
/// # Errors
/// Database trouble; a permanent failure when the miner has no numbers left.
pub async fn insert(tx: &mut Tx, new: &NewSectors) -> Result<Vec<SectorRef>, TxError> {
    let NewSectors { sp, proof, on_chain, count, pieces, request_uid } = new;
    let sectors = numbers::allocate(tx, *sp, on_chain, *count).await?;
    let sector_numbers: Vec<i64> = sectors.iter().map(|sector| sector.number as i64).collect();
    sqlx::query!(
        "INSERT INTO sectors_sdr_pipeline (sp_id, sector_number, reg_seal_proof, request_uid)
         SELECT $1, number, $3, $4 FROM unnest($2::bigint[]) AS number",
        sp.0 as i64,
        &sector_numbers,
        *proof as i32,
        request_uid.as_deref()
    )
    .execute(&mut *tx)
    .await?;
    for (index, piece) in pieces.iter().enumerate() {
        let NewPiece { piece_cid, padded_size, raw_size, data_url, keep } = piece;
        sqlx::query!(
            "INSERT INTO sectors_sdr_initial_pieces
                 (sp_id, sector_number, piece_index, piece_cid, piece_size, data_url, data_raw_size, data_delete_on_finalize)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            sp.0 as i64,
            sector_numbers[0],
            index as i64,
            piece_cid,
            *padded_size as i64,
            data_url,
            *raw_size as i64,
            !keep
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(sectors)
}
