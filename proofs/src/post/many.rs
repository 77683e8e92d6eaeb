//! Vanilla proofs of many sectors in one process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};

use curio_core::{SealProof, SectorRef, SpId};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};

use super::{PostKind, vanilla_post};
use crate::child::{CallError, caught_text};
use crate::{Commitment, ProofError};

/// A sector that is asked for leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostSector {
    pub number: u64,
    #[serde(with = "hex::serde")]
    pub comm_r: Commitment,
    /// Folder with p_aux and tree-r-last.
    pub cache: PathBuf,
    /// The replica.
    pub sealed: PathBuf,
    pub challenges: Vec<u64>,
}

/// The vanilla proof of one sector, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VanillaPost {
    pub number: u64,
    /// The error is a sentence about this sector's files.
    #[serde(with = "crate::base64::outcome")]
    pub outcome: Result<Vec<u8>, String>,
}

/// Makes the vanilla proofs, `parallel` at a time and at least one, and tells each as soon as it is
/// there, in any order. A sector that fails, also by a panic of the library, does not end the others,
/// and one whose files hang holds up one of the `parallel`.
///
/// # Errors
/// No thread can be started.
pub(crate) fn vanilla_posts(
    kind: PostKind,
    proof: SealProof,
    sp: SpId,
    sectors: Vec<PostSector>,
    parallel: u32,
    told: &mut dyn FnMut(VanillaPost),
) -> Result<(), ProofError> {
    let workers = sectors.len().min(parallel.max(1) as usize);
    // The library spreads a sector's leaves over a pool. Were it the common one, all of its threads
    // would soon wait for the one file that hangs.
    let pools = (0..workers).map(|_| ThreadPoolBuilder::new().num_threads(1).build()).collect::<Result<Vec<_>, _>>();
    let pools = pools.map_err(|error| ProofError::Library { call: "a thread pool", reason: error.to_string() })?;
    let queue = Mutex::new(sectors.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (finished, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for pool in &pools {
            let (finished, next) = (finished.clone(), &next);
            scope.spawn(move || {
                while let Some(sector) = next() {
                    let number = sector.number;
                    let outcome = one(kind, proof, SectorRef::new(sp, number), &sector, pool);
                    // The receiver lives until all senders are gone.
                    let _ = finished.send(VanillaPost { number, outcome });
                }
            });
        }
        drop(finished);
        outcomes.into_iter().for_each(told);
    });
    Ok(())
}

fn one(
    kind: PostKind,
    proof: SealProof,
    sector: SectorRef,
    post: &PostSector,
    pool: &ThreadPool,
) -> Result<Vec<u8>, String> {
    let PostSector { number: _, comm_r, cache, sealed, challenges } = post;
    let made = || vanilla_post(kind, proof, sector, comm_r, cache, sealed, challenges);
    let made = catch_unwind(AssertUnwindSafe(|| pool.install(made)));
    // The library asserts on what it reads: bytes that are no field element, say.
    let made = made.unwrap_or_else(|panic| {
        let (sealed, cache) = (sealed.clone(), cache.clone());
        Err(ProofError::BadReplica { sector, sealed, cache, reason: caught_text(panic) })
    });
    made.map_err(|error| CallError::from(error).message)
}
