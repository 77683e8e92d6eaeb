//! What a sector does when its message got an answer: go on, ask again, or end. The judgement is in
//! [`super::outcome`]; here the chain is asked for the result, and one guarded statement stores it.

use curio_chain::types::{SectorLocation, SectorOnChainInfo, SectorPreCommitOnChainInfo, TipSetKey};
use curio_chain::{Address, Cid, RpcError, address};
use curio_core::{Classify, Failure, SectorRef};
use curio_harmony::TxError;
use tracing::{info, warn};

use super::outcome::{Answer, Outcome, Purpose, bounded, outcome};
use super::pipeline;
use super::poller::{OpenRow, Sent};
use super::ticket::seed_epoch;
use crate::deps::Deps;
use crate::storage::to_column;

#[derive(Debug, thiserror::Error)]
#[error("failed to ask the chain about sector {sector}")]
struct LookError {
    sector: SectorRef,
    #[source]
    source: RpcError,
}

impl Classify for LookError {
    fn classify(self) -> Failure {
        Failure::Unavailable(Box::new(self))
    }
}

/// The sector as the chain has it.
enum OnChain {
    Nothing,
    PreCommitted(Box<SectorPreCommitOnChainInfo>),
    Proven(Box<SectorOnChainInfo>),
}

impl OnChain {
    fn sealed_cid(&self) -> Option<Cid> {
        match self {
            OnChain::Nothing => None,
            OnChain::PreCommitted(info) => Some(info.info.sealed_cid),
            OnChain::Proven(info) => Some(info.sealed_cid),
        }
    }
}

/// Acts on the answer to a sector's message. Says whether the sector changed.
///
/// # Errors
/// Chain or database away: the answer stays, and is acted on in a later round.
pub async fn answered(deps: &Deps, row: &OpenRow, purpose: Purpose, answer: &Answer) -> Result<bool, Failure> {
    let sector = row.progress.sector;
    let (sent, generation) = match purpose {
        Purpose::PreCommit => (&row.precommit, row.generations.precommit),
        Purpose::Commit => (&row.commit, row.generations.commit),
    };
    let Some(sent) = sent else {
        return Ok(false);
    };
    let verdict = bounded(outcome(purpose, answer), generation, row.generations.ticket, row.generations.porep);
    if verdict != Outcome::Landed {
        warn!(sector.sp = %sector.sp, sector.number, "{purpose} message of sector {sector} came to nothing ({answer:?}): {verdict:?}");
    }
    match (purpose, verdict) {
        (Purpose::PreCommit, Outcome::Landed) => precommit_landed(deps, row, sent).await,
        (Purpose::Commit, Outcome::Landed) => commit_landed(deps, row, sent).await,
        (_, Outcome::Again) => again(deps, sector, purpose, sent).await,
        (_, Outcome::Adopt(reason)) => adopt(deps, row, purpose, sent, reason, answer).await,
        (_, Outcome::Reseal) => reseal(deps, sector).await,
        (_, Outcome::Reprove) => reprove(deps, sector).await,
        (_, Outcome::Fail(reason)) => fail(deps, sector, reason, &sentence(purpose, answer)).await,
    }
}

fn sentence(purpose: Purpose, answer: &Answer) -> String {
    match answer {
        Answer::Executed(code) => format!("the {purpose} message was executed with exit code {code}"),
        Answer::Refused { exit_code, text } => {
            format!("the chain would refuse the {purpose} message with exit code {exit_code}: {text}")
        }
        Answer::NotSent { text } => format!("the {purpose} message was not taken: {text}"),
    }
}

async fn on_chain(deps: &Deps, sector: SectorRef) -> Result<OnChain, LookError> {
    let miner: Address = address::id_address(sector.sp);
    let error = |source| LookError { sector, source };
    let info = deps.chain.state_sector_pre_commit_info(&miner, sector.number, &TipSetKey::HEAD).await.map_err(error)?;
    if let Some(info) = info {
        return Ok(OnChain::PreCommitted(Box::new(info)));
    }
    let info = deps.chain.state_sector_get_info(&miner, sector.number, &TipSetKey::HEAD).await.map_err(error)?;
    Ok(info.map_or(OnChain::Nothing, |info| OnChain::Proven(Box::new(info))))
}

fn is_ours(row: &OpenRow, found: &OnChain) -> bool {
    found.sealed_cid().is_some_and(|cid| row.sealed_cid.as_deref() == Some(cid.to_string().as_str()))
}

async fn precommit_landed(deps: &Deps, row: &OpenRow, sent: &Sent) -> Result<bool, Failure> {
    let sector = row.progress.sector;
    let found = on_chain(deps, sector).await?;
    match &found {
        OnChain::PreCommitted(info) if is_ours(row, &found) => {
            store_precommit(deps, sector, sent, seed_epoch(info.pre_commit_epoch, deps.network.challenge_delay).0).await
        }
        OnChain::Nothing => look_again(deps, row, Purpose::PreCommit, sent, "precommit-missing").await,
        _ => fail(deps, sector, "number-taken", "the chain has another sector under this number").await,
    }
}

async fn commit_landed(deps: &Deps, row: &OpenRow, sent: &Sent) -> Result<bool, Failure> {
    let sector = row.progress.sector;
    let found = on_chain(deps, sector).await?;
    match &found {
        OnChain::Proven(_) if is_ours(row, &found) => store_commit(deps, sector, sent).await,
        OnChain::Proven(_) => {
            fail(deps, sector, "number-taken", "the chain has another sector under this number").await
        }
        // Executed with exit code 0 although this sector was not activated: possible when the message does
        // not insist on activation. The proof did not convince.
        OnChain::PreCommitted(_) => match bounded(Outcome::Reprove, 0, 0, row.generations.porep) {
            Outcome::Reprove => reprove(deps, sector).await,
            _ => {
                fail(deps, sector, "proof-refused", "the chain executed the commit without activating the sector").await
            }
        },
        OnChain::Nothing => look_again(deps, row, Purpose::Commit, sent, "sector-missing").await,
    }
}

/// The message was executed, but its effect is not there: the chain may have gone back. When the message
/// is nowhere now it is awaited again; when it is still there the sector fails.
async fn look_again(
    deps: &Deps,
    row: &OpenRow,
    purpose: Purpose,
    sent: &Sent,
    reason: &'static str,
) -> Result<bool, Failure> {
    let sector = row.progress.sector;
    let Some(Ok(cid)) = sent.signed_cid.as_deref().map(Cid::try_from) else {
        return fail(deps, sector, reason, "its message has no CID").await;
    };
    let found = deps.chain.state_search_msg(&TipSetKey::HEAD, cid, None, true).await;
    let still_there = match found {
        Ok(found) => {
            found.is_some_and(|lookup| sent.executed.as_ref().is_some_and(|executed| executed.epoch == lookup.height))
        }
        Err(error) if error.is_not_yet() => false,
        Err(source) => return Err(LookError { sector, source }.into()),
    };
    if still_there {
        let message = format!(
            "{purpose} message {cid} was executed with exit code 0, but the chain knows nothing of the sector (it may have expired)"
        );
        return fail(deps, sector, reason, &message).await;
    }
    warn!(message.cid = %cid, "the chain went back below {purpose} message {cid}; waiting for it again");
    let cid = cid.to_string();
    deps.db
        .transaction("message reverted", move |tx| {
            let cid = cid.clone();
            Box::pin(async move {
                let done = sqlx::query!(
                    "UPDATE message_waits
                     SET executed_tsk_cid = NULL, executed_tsk_epoch = NULL, executed_tsk = NULL, executed_msg_cid = NULL,
                         executed_msg_data = NULL, executed_rcpt_exitcode = NULL, executed_rcpt_return = NULL, executed_rcpt_gas_used = NULL
                     WHERE signed_message_cid = $1",
                    cid
                )
                .execute(&mut *tx)
                .await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
        .map_err(Classify::classify)
}

/// The chain says that the effect exists, or cannot come: look which it is.
async fn adopt(
    deps: &Deps,
    row: &OpenRow,
    purpose: Purpose,
    sent: &Sent,
    reason: &'static str,
    answer: &Answer,
) -> Result<bool, Failure> {
    let sector = row.progress.sector;
    let found = on_chain(deps, sector).await?;
    if !is_ours(row, &found) {
        return fail(deps, sector, reason, &sentence(purpose, answer)).await;
    }
    match (purpose, found) {
        (Purpose::PreCommit, OnChain::PreCommitted(info)) => {
            info!(sector.sp = %sector.sp, sector.number, "sector {sector} is pre-committed already; going on with that");
            store_precommit(deps, sector, sent, seed_epoch(info.pre_commit_epoch, deps.network.challenge_delay).0).await
        }
        (Purpose::Commit, OnChain::Proven(_)) => {
            info!(sector.sp = %sector.sp, sector.number, "sector {sector} is proven already; going on with that");
            store_commit(deps, sector, sent).await
        }
        // Not found a moment ago, and there now: the estimate ran on an older state.
        (Purpose::Commit, _) => again(deps, sector, purpose, sent).await,
        (Purpose::PreCommit, _) => fail(deps, sector, reason, &sentence(purpose, answer)).await,
    }
}

async fn store_precommit(deps: &Deps, sector: SectorRef, sent: &Sent, seed_epoch: i64) -> Result<bool, Failure> {
    let (sp, number) = (sector.sp.0 as i64, sector.number as i64);
    let sent = sent.clone();
    deps.db
        .transaction("precommit landed", move |tx| {
            let Sent { send_id, signed_cid, executed, .. } = sent.clone();
            Box::pin(async move {
                let done = sqlx::query!(
                    "UPDATE sectors_sdr_pipeline
                     SET after_precommit_msg_success = TRUE, seed_epoch = $4, precommit_msg_cid = $5, precommit_msg_tsk = $6
                     WHERE sp_id = $1 AND sector_number = $2 AND precommit_send_id = $3 AND NOT failed
                       AND after_precommit_msg AND NOT after_precommit_msg_success",
                    sp,
                    number,
                    send_id,
                    seed_epoch,
                    signed_cid,
                    executed.map(|executed| executed.tsk)
                )
                .execute(&mut *tx)
                .await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
        .map_err(Classify::classify)
}

/// Where the chain wants the sector proven. It has that place from the moment of its activation.
async fn place(deps: &Deps, sector: SectorRef) -> Result<SectorLocation, LookError> {
    let miner = address::id_address(sector.sp);
    let place = deps.chain.state_sector_partition(&miner, sector.number, &TipSetKey::HEAD).await;
    place.map_err(|source| LookError { sector, source })
}

async fn store_commit(deps: &Deps, sector: SectorRef, sent: &Sent) -> Result<bool, Failure> {
    let (sp, number) = (sector.sp.0 as i64, sector.number as i64);
    let SectorLocation { deadline, partition } = place(deps, sector).await?;
    let sent = sent.clone();
    let changed = deps
        .db
        .transaction("commit landed", move |tx| {
            let Sent { send_id, signed_cid, executed, .. } = sent.clone();
            Box::pin(async move {
                // The later one of this and the move to long-term storage ends the sector.
                let done = sqlx::query!(
                    "UPDATE sectors_sdr_pipeline
                     SET after_commit_msg_success = TRUE, commit_msg_cid = $4, commit_msg_tsk = $5,
                         ended_at = CASE WHEN after_move_storage THEN now() END
                     WHERE sp_id = $1 AND sector_number = $2 AND commit_send_id = $3 AND NOT failed
                       AND after_commit_msg AND NOT after_commit_msg_success",
                    sp,
                    number,
                    send_id,
                    signed_cid,
                    executed.map(|executed| executed.tsk)
                )
                .execute(&mut *tx)
                .await?;
                if done.rows_affected() == 1 {
                    sqlx::query!(
                        "UPDATE sectors_meta SET msg_cid_commit = $3, deadline = $4, partition = $5
                         WHERE sp_id = $1 AND sector_num = $2",
                        sp,
                        number,
                        signed_cid,
                        to_column(deadline),
                        to_column(partition)
                    )
                    .execute(&mut *tx)
                    .await?;
                }
                Ok(done.rows_affected() == 1)
            })
        })
        .await?;
    if changed {
        info!(sector.sp = %sector.sp, sector.number, "sector {sector} is proven on chain");
    }
    Ok(changed)
}

/// Gives this message up; the stage makes the next generation.
async fn again(deps: &Deps, sector: SectorRef, purpose: Purpose, sent: &Sent) -> Result<bool, Failure> {
    let (sp, number, send_id) = (sector.sp.0 as i64, sector.number as i64, sent.send_id);
    let changed = deps
        .db
        .transaction("send message again", move |tx| {
            Box::pin(async move {
                let query = match purpose {
                    Purpose::PreCommit => sqlx::query!(
                        "UPDATE sectors_sdr_pipeline
                         SET after_precommit_msg = FALSE, precommit_send_id = NULL, precommit_generation = precommit_generation + 1
                         WHERE sp_id = $1 AND sector_number = $2 AND precommit_send_id = $3 AND NOT after_precommit_msg_success",
                        sp,
                        number,
                        send_id
                    ),
                    Purpose::Commit => sqlx::query!(
                        "UPDATE sectors_sdr_pipeline
                         SET after_commit_msg = FALSE, commit_send_id = NULL, commit_generation = commit_generation + 1
                         WHERE sp_id = $1 AND sector_number = $2 AND commit_send_id = $3 AND NOT after_commit_msg_success",
                        sp,
                        number,
                        send_id
                    ),
                };
                Ok::<u64, TxError>(query.execute(&mut *tx).await?.rows_affected())
            })
        })
        .await?;
    if changed == 1 {
        deps.counters.count(|counts| *counts.messages_repeated.entry(purpose.as_str()).or_default() += 1);
    }
    Ok(changed == 1)
}

async fn reseal(deps: &Deps, sector: SectorRef) -> Result<bool, Failure> {
    let changed =
        deps.db.transaction("reseal", move |tx| Box::pin(async move { pipeline::reseal(tx, sector).await })).await?;
    if changed == 1 {
        deps.counters.count(|counts| counts.reseals += 1);
    }
    Ok(changed == 1)
}

/// Gives the proof up: the seed is drawn anew, and everything above it is done again. Possible as long as
/// the layers are there, which the vanilla proof opens; once they are dropped the sector fails.
async fn reprove(deps: &Deps, sector: SectorRef) -> Result<bool, Failure> {
    let (sp, number) = (sector.sp.0 as i64, sector.number as i64);
    let changed = deps
        .db
        .transaction("reprove", move |tx| {
            Box::pin(async move {
                let done = sqlx::query!(
                    "UPDATE sectors_sdr_pipeline
                     SET after_porep = FALSE, task_id_porep = NULL, porep_proof = NULL, seed_value = NULL,
                         porep_generation = porep_generation + 1,
                         after_commit_msg = FALSE, task_id_commit_msg = NULL, commit_send_id = NULL, commit_generation = commit_generation + 1
                     WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND NOT after_commit_msg_success
                       AND NOT after_finalize AND task_id_finalize IS NULL",
                    sp,
                    number
                )
                .execute(&mut *tx)
                .await?;
                Ok(done.rows_affected())
            })
        })
        .await?;
    if changed == 1 {
        return Ok(true);
    }
    fail(
        deps,
        sector,
        "proof-refused",
        "the chain refused the proof, and the layers that another one would open are dropped",
    )
    .await
}

async fn fail(deps: &Deps, sector: SectorRef, reason: &'static str, message: &str) -> Result<bool, Failure> {
    let sentence = message.to_owned();
    let changed = deps
        .db
        .transaction("sector failed", move |tx| {
            let sentence = sentence.clone();
            Box::pin(async move { pipeline::fail(tx, sector, reason, &sentence, None).await })
        })
        .await?;
    if changed == 1 {
        info!(sector.sp = %sector.sp, sector.number, "sector {sector} failed ({reason}): {message}");
        deps.counters.count(|counts| *counts.sectors_failed.entry(reason.to_owned()).or_default() += 1);
    }
    Ok(changed == 1)
}
