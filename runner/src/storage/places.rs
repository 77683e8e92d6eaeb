//! Who reaches the files of many sectors: one question to the index for a whole partition.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use curio_core::SpId;
use curio_harmony::DbError;

use super::path::LocalPath;
use super::remote::client::Peer;
use super::sector_file::SectorFile;
use super::{Storage, from_column, to_column};

/// A storage path as somebody reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Here(LocalPath),
    There(Peer),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Here(path) => path.root.display().fmt(f),
            Place::There(peer) => f.write_str(&peer.machine),
        }
    }
}

/// Places that hold both sealed file and cache, by sector number; the best one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(HashMap<u64, Vec<Arc<Place>>>);

impl FromIterator<(u64, Vec<Arc<Place>>)> for Places {
    fn from_iter<I: IntoIterator<Item = (u64, Vec<Arc<Place>>)>>(places: I) -> Places {
        Places(places.into_iter().collect())
    }
}

impl Places {
    /// The place for the attempt of this number, from 0 on; with fewer places than attempts they come again.
    pub fn choose(&self, sector: u64, attempt: usize) -> Option<&Arc<Place>> {
        let places = self.0.get(&sector)?;
        places.get(attempt.checked_rem(places.len())?)
    }

    /// The path of this machine, if one has the sector.
    pub fn here(&self, sector: u64) -> Option<&LocalPath> {
        self.0.get(&sector)?.iter().find_map(|place| match &**place {
            Place::Here(path) => Some(path),
            Place::There(_) => None,
        })
    }

    /// Whether somebody reaches the sector.
    pub fn has(&self, sector: u64) -> bool {
        self.0.contains_key(&sector)
    }
}

impl Storage {
    /// Places of the sectors' sealed files with their caches: well paths before others, this machine before others,
    /// then the machine heard of last.
    pub async fn places_of(&self, sp: SpId, sectors: &[u64]) -> Result<Places, DbError> {
        let files = [SectorFile::Cache.bit(), SectorFile::Sealed.bit()];
        let numbers: Vec<i64> = sectors.iter().map(|number| to_column(*number)).collect();
        let rows = sqlx::query!(
            r#"SELECT l.sector_num AS "sector_num!", m.storage_id, m.machine_name, m.local_path,
                      h.host_and_port AS "host_and_port?"
               FROM (SELECT sector_num, storage_id FROM sector_location
                     WHERE miner_id = $1 AND sector_num = ANY ($2) AND sector_filetype = ANY ($3)
                       AND removal_requested_at IS NULL
                     GROUP BY sector_num, storage_id HAVING count(*) = cardinality($3::int[])) l
               JOIN storage_path p ON p.storage_id = l.storage_id
               JOIN storage_path_machines m ON m.storage_id = l.storage_id
               LEFT JOIN harmony_task_machines h ON h.name = m.machine_name
               WHERE m.machine_name = $4 OR h.name IS NOT NULL
               ORDER BY p.heartbeat_err IS NOT NULL, m.machine_name <> $4, h.last_contact DESC, m.storage_id"#,
            to_column(sp.0),
            &numbers,
            &files,
            self.machine()
        )
        .fetch_all(self.db().pool())
        .await?;
        // Thousands of sectors share a few places.
        let mut known: HashMap<(String, String), Arc<Place>> = HashMap::new();
        let mut places: HashMap<u64, Vec<Arc<Place>>> = HashMap::new();
        for row in rows {
            let place = known.entry((row.storage_id, row.machine_name)).or_insert_with_key(|(storage_id, machine)| {
                let storage_id = storage_id.clone();
                Arc::new(match row.host_and_port {
                    Some(address) if *machine != self.machine() => {
                        Place::There(Peer { machine: machine.clone(), address, storage_id })
                    }
                    Some(_) | None => Place::Here(LocalPath { storage_id, root: PathBuf::from(row.local_path) }),
                })
            });
            places.entry(from_column(row.sector_num)).or_default().push(place.clone());
        }
        Ok(Places(places))
    }
}
