//! Which sets the sectors of the cluster need.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use curio_core::SealProof;
use curio_harmony::{Db, DbError};
use curio_proofs::params::{Circuit, Set};
use tracing::warn;

/// Between two looks at all sectors, of which there may be a million. A size that is new in between comes to notice as
/// soon as a task asks for it.
const STORED_INTERVAL: Duration = Duration::from_secs(60);

/// Reads the database; what was read last counts when it is away.
pub(super) struct Wanted {
    db: Db,
    unproven: Vec<SealProof>,
    stored: Vec<SealProof>,
    stored_asked: Option<Instant>,
}

impl Wanted {
    pub(super) fn new(db: Db) -> Wanted {
        Wanted { db, unproven: Vec::new(), stored: Vec::new(), stored_asked: None }
    }

    /// Sets of these circuits.
    pub(super) async fn of_sectors(&mut self, circuits: &[Circuit]) -> BTreeSet<Set> {
        if let Err(error) = self.read(circuits).await {
            warn!(error = %error, "failed to read which seal proofs the sectors have, trying again");
        }
        sets(circuits, &self.unproven, &self.stored)
    }

    async fn read(&mut self, circuits: &[Circuit]) -> Result<(), DbError> {
        if circuits.contains(&Circuit::Porep) {
            self.unproven = proofs_in_flight(&self.db).await?;
        }
        let is_due = self.stored_asked.is_none_or(|asked| asked.elapsed() >= STORED_INTERVAL);
        if is_due && (circuits.contains(&Circuit::WindowPost) || circuits.contains(&Circuit::WinningPost)) {
            self.stored = proofs_stored(&self.db).await?;
            self.stored_asked = Some(Instant::now());
        }
        Ok(())
    }
}

fn sets(circuits: &[Circuit], unproven: &[SealProof], stored: &[SealProof]) -> BTreeSet<Set> {
    let sets = circuits.iter().flat_map(|&circuit| {
        let proofs = match circuit {
            Circuit::Porep => unproven,
            Circuit::WindowPost | Circuit::WinningPost => stored,
        };
        proofs.iter().map(move |&proof| Set { circuit, proof })
    });
    sets.collect()
}

/// Seal proofs of the sectors that still need a PoRep.
async fn proofs_in_flight(db: &Db) -> Result<Vec<SealProof>, DbError> {
    let numbers = sqlx::query_scalar!(
        "SELECT DISTINCT reg_seal_proof FROM sectors_sdr_pipeline WHERE NOT failed AND NOT after_porep"
    )
    .fetch_all(db.pool())
    .await?;
    Ok(known(&numbers))
}

/// Seal proofs of the sectors that are proven again and again, now or soon.
async fn proofs_stored(db: &Db) -> Result<Vec<SealProof>, DbError> {
    let numbers = sqlx::query_scalar!(
        r#"SELECT reg_seal_proof AS "number!" FROM sectors_meta
           UNION
           SELECT reg_seal_proof FROM sectors_sdr_pipeline WHERE NOT failed"#
    )
    .fetch_all(db.pool())
    .await?;
    Ok(known(&numbers))
}

/// Numbers that this program does not know are left out.
fn known(numbers: &[i32]) -> Vec<SealProof> {
    numbers.iter().filter_map(|number| SealProof::from_number((*number).into()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealing_needs_porep_and_storing_needs_proofs_of_spacetime() {
        let (small, large) = (SealProof::StackedDrg2KiBV1_1, SealProof::StackedDrg32GiBV1_1);
        let set = |circuit, proof| Set { circuit, proof };
        assert_eq!(
            sets(&Circuit::ALL, &[small], &[small, large]),
            BTreeSet::from([
                set(Circuit::Porep, small),
                set(Circuit::WindowPost, small),
                set(Circuit::WindowPost, large),
                set(Circuit::WinningPost, small),
                set(Circuit::WinningPost, large),
            ])
        );
        assert_eq!(sets(&[Circuit::Porep], &[small], &[large]), BTreeSet::from([set(Circuit::Porep, small)]));
        assert_eq!(sets(&[], &[small], &[large]), BTreeSet::new());
    }

    #[test]
    fn numbers_that_nobody_knows_are_left_out() {
        assert_eq!(known(&[5, 99, 8]), [SealProof::StackedDrg2KiBV1_1, SealProof::StackedDrg32GiBV1_1]);
    }
}
