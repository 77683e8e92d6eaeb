//! Requests for sectors: rows of `seal_requests`. Who asks needs no chain node; a runner, which has one, takes the
//! request up, and writes its sectors and that it is started in one transaction.

use std::collections::HashMap;
use std::time::Duration;

use curio_core::{SectorRef, SpId};
use curio_harmony::{Db, DbError, TxError};

use crate::insert::{NewSectors, insert};

/// Sectors that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealRequest {
    /// Chosen by whoever asks, and never used again for another request.
    pub uid: String,
    /// Address of the miner actor, in any form.
    pub miner: String,
    /// Number of sectors; the first has the piece.
    pub count: u32,
    pub piece: Option<RequestPiece>,
}

/// Data to seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPiece {
    /// `file:///PATH` or `http(s)://`, as the runners that build trees read it.
    pub url: String,
    /// What the piece CID must be, if known.
    pub piece_cid: Option<String>,
    /// What the size must be, in bytes before padding, if known.
    pub raw_size: Option<u64>,
}

/// Asks for sectors. Asked for twice under one uid, they are made once.
///
/// # Errors
/// Database trouble.
pub async fn ask(db: &Db, request: &SealRequest) -> Result<(), TxError> {
    let request = request.clone();
    db.transaction("seal-request-ask", move |tx| {
        let SealRequest { uid, miner, count, piece } = request.clone();
        Box::pin(async move {
            let (url, piece_cid, raw_size) = match piece {
                Some(RequestPiece { url, piece_cid, raw_size }) => (Some(url), piece_cid, raw_size),
                None => (None, None, None),
            };
            sqlx::query!(
                "INSERT INTO seal_requests (uid, miner, sector_count, piece_url, piece_cid, piece_raw_size)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (uid) DO NOTHING",
                uid,
                miner,
                i64::from(count),
                url,
                piece_cid,
                raw_size.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
            )
            .execute(tx)
            .await?;
            Ok(())
        })
    })
    .await
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestState {
    /// Not started yet; `error` says why the last try failed, if one did.
    Pending,
    /// Its sectors are in the pipeline, or were.
    Started,
    /// Asking again cannot change the answer, which is in `error`.
    Refused,
}

impl RequestState {
    const ALL: [RequestState; 3] = [RequestState::Pending, RequestState::Started, RequestState::Refused];

    /// The word in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            RequestState::Pending => "pending",
            RequestState::Started => "started",
            RequestState::Refused => "refused",
        }
    }

    fn of(word: &str) -> RequestState {
        let known = RequestState::ALL.into_iter().find(|state| state.as_str() == word);
        known.expect("the table's check allows these words only")
    }
}

/// A request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    pub uid: String,
    pub state: RequestState,
    /// A sentence for a person, or empty.
    pub error: String,
    /// Those that are in the pipeline now, by number; a removed one is not among them.
    pub sectors: Vec<SectorRef>,
}

/// The requests with these uids; unknown ones are absent.
///
/// # Errors
/// Database trouble.
pub async fn find(db: &Db, uids: &[String]) -> Result<Vec<RequestRow>, DbError> {
    let rows = sqlx::query!("SELECT uid, state, error FROM seal_requests WHERE uid = ANY($1) ORDER BY uid", uids)
        .fetch_all(db.pool())
        .await?;
    let sectors = sqlx::query!(
        r#"SELECT request_uid AS "uid!", sp_id, sector_number FROM sectors_sdr_pipeline
           WHERE request_uid = ANY($1) ORDER BY sp_id, sector_number"#,
        uids
    )
    .fetch_all(db.pool())
    .await?;
    let mut of_request: HashMap<String, Vec<SectorRef>> = HashMap::new();
    for row in sectors {
        let sector = SectorRef::new(SpId(row.sp_id as u64), row.sector_number as u64);
        of_request.entry(row.uid).or_default().push(sector);
    }
    let rows = rows.into_iter().map(|row| RequestRow {
        sectors: of_request.remove(&row.uid).unwrap_or_default(),
        uid: row.uid,
        state: RequestState::of(&row.state),
        error: row.error,
    });
    Ok(rows.collect())
}

/// How many requests nobody has started yet.
///
/// # Errors
/// Database trouble.
pub async fn waiting(db: &Db) -> Result<u64, DbError> {
    let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM seal_requests WHERE state = 'pending'"#)
        .fetch_one(db.pool())
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// A request that a runner has taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub request: SealRequest,
    /// How often it was taken up, this time included.
    pub tries: u32,
}

/// Takes up the pending request that waits longest, and keeps it from others for `lease`, which the taker may
/// [`renew`]. A taker that dies leaves it to them after that; one that was too slow does no harm, for [`start`]
/// happens once.
///
/// # Errors
/// Database trouble.
pub async fn take(db: &Db, lease: Duration) -> Result<Option<Taken>, TxError> {
    let taken = db
        .transaction("seal-request-take", move |tx| {
            Box::pin(async move {
                // Skips a row that another runner is taking at this moment.
                Ok(sqlx::query!(
                    "WITH due AS (
                         SELECT uid FROM seal_requests
                         WHERE state = 'pending' AND not_before <= now()
                         ORDER BY not_before, uid
                         LIMIT 1
                         FOR UPDATE SKIP LOCKED
                     )
                     UPDATE seal_requests r
                     SET tries = r.tries + 1, not_before = now() + make_interval(secs => $1)
                     FROM due WHERE r.uid = due.uid
                     RETURNING r.uid, r.miner, r.sector_count, r.piece_url, r.piece_cid, r.piece_raw_size, r.tries",
                    lease.as_secs_f64()
                )
                .fetch_optional(tx)
                .await?)
            })
        })
        .await?;
    let taken = taken.map(|row| Taken {
        request: SealRequest {
            uid: row.uid,
            miner: row.miner,
            count: u32::try_from(row.sector_count).unwrap_or(0),
            piece: row.piece_url.map(|url| RequestPiece {
                url,
                piece_cid: row.piece_cid,
                raw_size: row.piece_raw_size.and_then(|bytes| u64::try_from(bytes).ok()),
            }),
        },
        tries: u32::try_from(row.tries).unwrap_or(0),
    });
    Ok(taken)
}

/// Keeps a request that was taken up for another `lease`. Says whether it is still this taker's.
///
/// # Errors
/// Database trouble.
pub async fn renew(db: &Db, taken: &Taken, lease: Duration) -> Result<bool, TxError> {
    let (uid, tries) = (taken.request.uid.clone(), i32::try_from(taken.tries).unwrap_or(i32::MAX));
    db.transaction("seal-request-renew", move |tx| {
        let uid = uid.clone();
        Box::pin(async move {
            let done = sqlx::query!(
                "UPDATE seal_requests SET not_before = now() + make_interval(secs => $3)
                 WHERE uid = $1 AND tries = $2 AND state = 'pending'",
                uid,
                tries,
                lease.as_secs_f64()
            )
            .execute(tx)
            .await?;
            Ok(done.rows_affected() == 1)
        })
    })
    .await
}

/// Makes the sectors of a request and marks it as started, both or neither. None when it is not pending any more:
/// another runner was faster.
///
/// # Errors
/// Database trouble; a permanent failure when the miner has no numbers left.
pub async fn start(db: &Db, uid: &str, new: &NewSectors) -> Result<Option<Vec<SectorRef>>, TxError> {
    let (uid, new) = (uid.to_owned(), NewSectors { request_uid: Some(uid.to_owned()), ..new.clone() });
    db.transaction("seal-request-start", move |tx| {
        let (uid, new) = (uid.clone(), new.clone());
        Box::pin(async move {
            // Holds the row until the commit: a second starter waits, and then finds it started.
            let done = sqlx::query!(
                "UPDATE seal_requests SET state = 'started', started_at = now(), error = ''
                 WHERE uid = $1 AND state = 'pending'",
                uid
            )
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() != 1 {
                return Ok(None);
            }
            Ok(Some(insert(tx, &new).await?))
        })
    })
    .await
}

/// Refuses a request for good. Says whether it was still pending.
///
/// # Errors
/// Database trouble.
pub async fn refuse(db: &Db, uid: &str, sentence: &str) -> Result<bool, TxError> {
    let (uid, sentence) = (uid.to_owned(), sentence.to_owned());
    db.transaction("seal-request-refuse", move |tx| {
        let (uid, sentence) = (uid.clone(), sentence.clone());
        Box::pin(async move {
            let done = sqlx::query!(
                "UPDATE seal_requests SET state = 'refused', error = $2 WHERE uid = $1 AND state = 'pending'",
                uid,
                sentence
            )
            .execute(tx)
            .await?;
            Ok(done.rows_affected() == 1)
        })
    })
    .await
}

/// Puts a request that was taken up off for `delay`, with the reason. Says whether it did: not when another runner
/// has taken it up since.
///
/// # Errors
/// Database trouble.
pub async fn put_off(db: &Db, taken: &Taken, sentence: &str, delay: Duration) -> Result<bool, TxError> {
    let (uid, tries) = (taken.request.uid.clone(), i32::try_from(taken.tries).unwrap_or(i32::MAX));
    let sentence = sentence.to_owned();
    db.transaction("seal-request-put-off", move |tx| {
        let (uid, sentence) = (uid.clone(), sentence.clone());
        Box::pin(async move {
            let done = sqlx::query!(
                "UPDATE seal_requests SET error = $3, not_before = now() + make_interval(secs => $4)
                 WHERE uid = $1 AND tries = $2 AND state = 'pending'",
                uid,
                tries,
                sentence,
                delay.as_secs_f64()
            )
            .execute(tx)
            .await?;
            Ok(done.rows_affected() == 1)
        })
    })
    .await
}
