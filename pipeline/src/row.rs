//! A row of the pipeline as it is read for people and for the operator, in one statement for all of them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use curio_core::{SectorRef, SpId};
use curio_harmony::{Db, DbError};

use crate::stage::{Step, Steps};
use crate::status::{SectorState, stage_of};

/// One sector's row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) sector: SectorRef,
    pub(crate) seal_proof: i64,
    pub(crate) is_cc: bool,
    pub(crate) request_uid: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) done: Steps,
    /// A proof is being made, or waits to be.
    pub(crate) porep_open: bool,
    pub(crate) ticket_epoch: Option<i64>,
    pub(crate) seed_epoch: Option<i64>,
    pub(crate) unsealed_cid: Option<String>,
    pub(crate) sealed_cid: Option<String>,
    pub(crate) precommit_cid: Option<String>,
    pub(crate) commit_cid: Option<String>,
    pub(crate) deadline: Option<i64>,
    pub(crate) partition: Option<i64>,
    pub(crate) reseals: i64,
    pub(crate) failed: bool,
    pub(crate) failed_at: Option<DateTime<Utc>>,
    pub(crate) failed_reason: Option<String>,
    pub(crate) failed_message: Option<String>,
}

impl Row {
    /// The state, and the word for the stage.
    pub(crate) fn stage(&self) -> (SectorState, &'static str) {
        stage_of(self.done, self.failed, self.porep_open)
    }
}

/// Which rows to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    All,
    OfMiner(SpId),
    One(SectorRef),
    /// In flight, failed, or ended at most this long ago.
    Recent(Duration),
}

/// The rows, by miner and number.
pub(crate) async fn read(db: &Db, which: Which) -> Result<Vec<Row>, DbError> {
    let (sp, number, ended_within_s) = match which {
        Which::All => (None, None, None),
        Which::OfMiner(sp) => (Some(sp.0 as i64), None, None),
        Which::One(sector) => (Some(sector.sp.0 as i64), Some(sector.number as i64), None),
        Which::Recent(ended_within) => (None, None, Some(ended_within.as_secs_f64())),
    };
    let rows = sqlx::query!(
        r#"SELECT p.sp_id, p.sector_number, p.create_time, p.ended_at, p.request_uid, p.reg_seal_proof, p.ticket_epoch, p.seed_epoch,
                  p.tree_d_cid, p.tree_r_cid,
                  coalesce(p.precommit_msg_cid, ps.signed_cid) AS precommit_cid, coalesce(p.commit_msg_cid, cs.signed_cid) AS commit_cid,
                  s.deadline AS "deadline?", s.partition AS "partition?",
                  p.ticket_generation, p.failed, p.failed_at, p.failed_reason, p.failed_reason_msg,
                  p.after_sdr, p.after_tree_d, p.after_tree_c, p.after_tree_r, p.after_precommit_msg, p.after_precommit_msg_success,
                  p.after_porep, p.after_finalize, p.after_move_storage, p.after_commit_msg, p.after_commit_msg_success,
                  p.task_id_porep,
                  NOT EXISTS (SELECT 1 FROM sectors_sdr_initial_pieces i WHERE i.sp_id = p.sp_id AND i.sector_number = p.sector_number) AS "is_cc!"
           FROM sectors_sdr_pipeline p
           LEFT JOIN message_sends ps ON ps.send_id = p.precommit_send_id
           LEFT JOIN message_sends cs ON cs.send_id = p.commit_send_id
           LEFT JOIN sectors_meta s ON s.sp_id = p.sp_id AND s.sector_num = p.sector_number
           WHERE ($1::bigint IS NULL OR p.sp_id = $1) AND ($2::bigint IS NULL OR p.sector_number = $2)
             AND ($3::float8 IS NULL OR p.ended_at IS NULL OR p.ended_at > now() - make_interval(secs => $3))
           ORDER BY p.sp_id, p.sector_number"#,
        sp,
        number,
        ended_within_s
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| Row {
        sector: SectorRef::new(SpId(row.sp_id as u64), row.sector_number as u64),
        seal_proof: i64::from(row.reg_seal_proof),
        is_cc: row.is_cc,
        request_uid: row.request_uid,
        created_at: row.create_time,
        ended_at: row.ended_at,
        done: Steps::default()
            .with(Step::Sdr, row.after_sdr)
            .with(Step::TreeD, row.after_tree_d)
            .with(Step::TreeC, row.after_tree_c)
            .with(Step::TreeR, row.after_tree_r)
            .with(Step::PreCommitSent, row.after_precommit_msg)
            .with(Step::PreCommitLanded, row.after_precommit_msg_success)
            .with(Step::PoRep, row.after_porep)
            .with(Step::Finalize, row.after_finalize)
            .with(Step::MoveStorage, row.after_move_storage)
            .with(Step::CommitSent, row.after_commit_msg)
            .with(Step::CommitLanded, row.after_commit_msg_success),
        porep_open: row.task_id_porep.is_some(),
        ticket_epoch: row.ticket_epoch,
        seed_epoch: row.seed_epoch,
        unsealed_cid: row.tree_d_cid,
        sealed_cid: row.tree_r_cid,
        precommit_cid: row.precommit_cid,
        commit_cid: row.commit_cid,
        deadline: row.deadline,
        partition: row.partition,
        reseals: row.ticket_generation,
        failed: row.failed,
        failed_at: row.failed_at,
        failed_reason: row.failed.then_some(row.failed_reason),
        failed_message: row.failed.then_some(row.failed_reason_msg),
    });
    Ok(rows.collect())
}
