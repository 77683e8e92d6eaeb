//! Which miner actors this cluster proves for: those that have sector numbers here, and those that the configuration
//! names under `[[Addresses]]`.
//!
//! A miner with sectors is proven for whether somebody thought of naming it or not; a miner that is only named may have
//! been brought from elsewhere.

use std::collections::BTreeSet;

use curio_chain::address;
use curio_core::config::Config;
use curio_core::{Failure, SpId};
use curio_harmony::{Db, DbError};

use crate::storage::from_column;

/// All of them, in the order of their ids.
///
/// # Errors
/// Database trouble.
pub async fn of(db: &Db, config: &Config) -> Result<Vec<SpId>, DbError> {
    let mut miners = named(config);
    miners.extend(numbered(db).await?);
    Ok(miners.into_iter().collect())
}

/// What went wrong while all miners were looked after: the trouble of one must not keep the others from proving.
#[derive(Debug, Default)]
pub struct Troubles(Vec<String>);

impl Troubles {
    pub fn note(&mut self, sp: SpId, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.0.push(format!("{sp}: {failure}"));
        }
    }

    /// One failure that names all of them, so that whoever is told it may say it once, and again when it is another.
    ///
    /// # Errors
    /// When there was trouble.
    pub fn into_result(self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure::retry(self.0.join("; "))) }
    }
}

async fn numbered(db: &Db) -> Result<Vec<SpId>, DbError> {
    let rows =
        sqlx::query_scalar!("SELECT sp_id FROM sectors_allocated_numbers ORDER BY sp_id").fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|sp| SpId(from_column(sp))).collect())
}

/// What is no id address names no miner, here as in [`Config::addresses_of`]; it must not keep the others from proving.
fn named(config: &Config) -> BTreeSet<SpId> {
    let texts = config.addresses.iter().flat_map(|set| &set.miner_addresses);
    texts.filter_map(|text| address::sp_id(&address::parse(text).ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use curio_core::config::AddressSet;

    use super::*;

    #[test]
    fn the_trouble_of_every_miner_is_told() {
        let mut troubles = Troubles::default();
        troubles.note(SpId(1000), Err(Failure::retry("no power")));
        troubles.note(SpId(1001), Ok(()));
        troubles.note(SpId(1002), Err(Failure::retry("no miner")));
        let told = troubles.into_result().expect_err("two miners are in trouble").to_string();
        assert_eq!(told, "f01000: no power; f01002: no miner");
        assert!(Troubles::default().into_result().is_ok());
    }

    #[test]
    fn miners_are_named_by_their_ids_once_and_nothing_else_is_a_miner() {
        let miner_addresses = ["f01001", "t01000", "f01001", "nonsense"].map(str::to_owned).to_vec();
        let set = AddressSet { miner_addresses, ..AddressSet::default() };
        let config = Config { addresses: vec![set], ..Config::default() };
        assert_eq!(named(&config), BTreeSet::from([SpId(1000), SpId(1001)]));
    }
}
