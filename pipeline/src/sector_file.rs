//! The three kinds of sector files.

use std::fmt;
use std::str::FromStr;

use curio_core::SealProof;
use serde::{Deserialize, Serialize};

/// Kind of a sector's file; the number is `sector_filetype` in the database, a bit of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SectorFile {
    /// The client's data, fr32-padded; a file of the sector's size.
    Unsealed = 1,
    /// The replica; a file of the sector's size.
    Sealed = 2,
    /// A directory: layers and trees while sealing, tree-r-last and the aux files afterwards.
    Cache = 4,
}

/// The text names no kind of sector file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no kind of sector file; there are unsealed, sealed and cache")]
pub struct UnknownSectorFile(pub String);

/// Room besides the listed bytes: block rounding, directories, `t_aux` (at most 10 KiB).
const SLACK_BYTES: u64 = 64 << 10;

impl SectorFile {
    /// All kinds, in the order in which they are moved: what proving needs comes first.
    pub const ALL: [SectorFile; 3] = [SectorFile::Cache, SectorFile::Sealed, SectorFile::Unsealed];

    /// The number in `sector_filetype`.
    pub fn bit(self) -> i32 {
        self as i32
    }

    /// The kind with this number in `sector_filetype`.
    pub fn from_bit(bit: i32) -> Option<SectorFile> {
        SectorFile::ALL.into_iter().find(|file| file.bit() == bit)
    }

    /// The directory in a storage path, also the word in addresses of `/remote`.
    pub fn dir_name(self) -> &'static str {
        match self {
            SectorFile::Unsealed => "unsealed",
            SectorFile::Sealed => "sealed",
            SectorFile::Cache => "cache",
        }
    }

    /// Whether it is a directory of files rather than one file.
    pub fn is_dir(self) -> bool {
        self == SectorFile::Cache
    }

    /// Most bytes it takes while the sector is sealed. A cache holds its layers, tree-d (twice the sector), tree-c
    /// (8/7 of it) and a small rest: 14.15 sectors at 32 GiB. Curio counts 14.1, which is 1.4 GiB too little.
    pub fn sealing_bytes(self, proof: SealProof) -> u64 {
        self.bytes(proof, u64::from(proof.layers()) * 100 + 315)
    }

    /// Most bytes it takes once the sector is finalized.
    pub fn finalized_bytes(self, proof: SealProof) -> u64 {
        self.bytes(proof, 10)
    }

    fn bytes(self, proof: SealProof, cache_hundredths: u64) -> u64 {
        let hundredths = match self {
            SectorFile::Cache => cache_hundredths,
            SectorFile::Sealed | SectorFile::Unsealed => 100,
        };
        proof.sector_size() * hundredths / 100 + SLACK_BYTES
    }
}

impl fmt::Display for SectorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dir_name())
    }
}

impl FromStr for SectorFile {
    type Err = UnknownSectorFile;

    fn from_str(text: &str) -> Result<SectorFile, UnknownSectorFile> {
        SectorFile::ALL
            .into_iter()
            .find(|file| file.dir_name() == text)
            .ok_or_else(|| UnknownSectorFile(text.to_owned()))
    }
}

/// Sum of the bits of a set of files, for columns that hold a set.
pub fn bits(files: &[SectorFile]) -> i32 {
    files.iter().fold(0, |sum, file| sum | file.bit())
}

/// The files of a set of bits; unknown bits are left out.
pub fn of_bits(bits: i32) -> Vec<SectorFile> {
    SectorFile::ALL.into_iter().filter(|file| bits & file.bit() != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_names_are_those_of_curio() {
        assert_eq!(
            SectorFile::ALL.map(|file| (file.bit(), file.dir_name())),
            [(4, "cache"), (2, "sealed"), (1, "unsealed")]
        );
        assert_eq!(bits(&[SectorFile::Cache, SectorFile::Unsealed]), 5);
        assert_eq!(of_bits(6), [SectorFile::Cache, SectorFile::Sealed]);
        assert_eq!(of_bits(0), []);
    }

    #[test]
    fn the_room_of_a_cache_holds_what_sealing_writes() {
        // Layers, tree-d, tree-c, tree-r-last of the tables in the library, in bytes; t_aux is below 10 KiB.
        let written = [
            (SealProof::StackedDrg2KiBV1_1, 2 * 2048 + 4064 + 2336 + 32 + 64 + 10_240),
            (SealProof::StackedDrg8MiBV1_1, (2 << 23) + 16_777_184 + 9_586_976 + 18_720 + 64 + 10_240),
            (SealProof::StackedDrg512MiBV1_1, (2 << 29) + 1_073_741_792 + 613_566_752 + 1_198_368 + 64 + 10_240),
            (
                SealProof::StackedDrg32GiBV1_1,
                (11 << 35) + 68_719_476_704 + 8 * (4_908_534_048 + 9_586_976) + 64 + 10_240,
            ),
            (
                SealProof::StackedDrg64GiBV1_1,
                (11 << 36) + 137_438_953_440 + 16 * (4_908_534_048 + 9_586_976) + 64 + 10_240,
            ),
        ];
        for (proof, bytes) in written {
            let room = SectorFile::Cache.sealing_bytes(proof);
            assert!(room >= bytes && room < bytes + bytes / 100 + SLACK_BYTES, "{proof:?}: {room} for {bytes}");
        }
        assert_eq!(SectorFile::Cache.sealing_bytes(SealProof::StackedDrg32GiBV1_1) >> 30, 452);
        assert_eq!(SectorFile::Sealed.sealing_bytes(SealProof::StackedDrg32GiBV1_1) >> 30, 32);
        assert_eq!(SectorFile::Cache.finalized_bytes(SealProof::StackedDrg32GiBV1_1) >> 30, 3);
    }
}
