//! Which parameters there are: a set of two files for each circuit and sector size.

use curio_core::SealProof;
use serde::{Deserialize, Serialize};
use storage_proofs_core::parameter_cache;

use super::file::ParamsFile;
use crate::library;
use crate::post::PostKind;

/// Digests (first 128 bits of BLAKE2b, in hex, as the library's manifest has them) of the files that
/// the generator makes. They follow from the seed and the circuits alone.
const GENERATED: [(Set, Digests); 3] = [
    (
        Set { circuit: Circuit::Porep, proof: SealProof::StackedDrg2KiBV1_1 },
        Digests { params: "65cfbec8d46256cde46412d820d9eea0", verifying_key: "8742038036e9ddb53894dc1787aaa6d6" },
    ),
    (
        Set { circuit: Circuit::WindowPost, proof: SealProof::StackedDrg2KiBV1_1 },
        Digests { params: "8f78dc998a4af6c7924ef0f55a778483", verifying_key: "ae07b06e2db9388519e4585d1b97038b" },
    ),
    (
        Set { circuit: Circuit::WinningPost, proof: SealProof::StackedDrg2KiBV1_1 },
        Digests { params: "327e740ee67f14bc0401b3772f1df568", verifying_key: "60617047167404629812e01ff0d4e3b5" },
    ),
];

struct Digests {
    params: &'static str,
    verifying_key: &'static str,
}

/// What is proven. In the order in which a machine brings the parameters: those of deadlines first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Circuit {
    /// That the sectors of a partition are stored.
    WindowPost,
    /// That an elected sector is stored.
    WinningPost,
    /// That a sector was sealed.
    Porep,
}

impl Circuit {
    pub const ALL: [Circuit; 3] = [Circuit::WindowPost, Circuit::WinningPost, Circuit::Porep];
}

/// The parameters of one circuit for one sector size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Set {
    pub circuit: Circuit,
    pub proof: SealProof,
}

impl Set {
    /// The sets of one sector size.
    pub fn all_of(proof: SealProof) -> [Set; 3] {
        Circuit::ALL.map(|circuit| Set { circuit, proof })
    }

    /// The files for making proofs: the key that verifies them, which is small, then the parameters.
    pub fn files(self) -> [ParamsFile; 2] {
        [self.verifying_key(), self.params()]
    }

    /// The file that making proofs needs: 1.1 GB for PoRep of 2 KiB, 12 MB and 47 MB for its proofs of spacetime.
    pub fn params(self) -> ParamsFile {
        let name = parameter_cache::parameter_id(&self.circuit_id());
        ParamsFile::known(name, self.proof, self.generated().map(|digests| digests.params))
    }

    /// The file that verifying proofs needs.
    pub fn verifying_key(self) -> ParamsFile {
        let name = parameter_cache::verifying_key_id(&self.circuit_id());
        ParamsFile::known(name, self.proof, self.generated().map(|digests| digests.verifying_key))
    }

    /// Whether the files are made here when nobody brings them.
    pub fn can_be_made(self) -> bool {
        self.generated().is_some()
    }

    fn generated(self) -> Option<&'static Digests> {
        GENERATED.iter().find(|(set, _)| *set == self).map(|(_, digests)| digests)
    }

    fn circuit_id(self) -> String {
        match self.circuit {
            Circuit::Porep => library::circuit_id(self.proof),
            Circuit::WindowPost => library::post::circuit_id(PostKind::Window, self.proof),
            Circuit::WinningPost => library::post::circuit_id(PostKind::Winning, self.proof),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_set_has_files_of_its_own_whose_right_content_is_known() {
        let files: Vec<_> = SealProof::ALL.into_iter().flat_map(Set::all_of).flat_map(Set::files).collect();
        let names: BTreeSet<_> = files.iter().map(|file| &file.name).collect();
        assert_eq!(names.len(), SealProof::ALL.len() * 3 * 2);
        for file in &files {
            assert!(!file.digests.is_empty(), "{}", file.name);
        }
    }

    #[test]
    fn the_sets_of_the_test_size_are_made_and_others_are_not() {
        for proof in SealProof::ALL {
            for set in Set::all_of(proof) {
                assert_eq!(set.can_be_made(), proof == SealProof::StackedDrg2KiBV1_1, "{set:?}");
            }
        }
    }
}
