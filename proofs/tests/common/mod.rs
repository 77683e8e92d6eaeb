//! A 2 KiB sector in a folder of its own.

// Each test binary uses its part.
#![allow(dead_code)]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use curio_core::{SealProof, SectorRef, SpId};
use curio_proofs::{
    C1Input, Commitment, PieceFile, PieceSpec, SdrInput, VerifyInput, comm_d, layout, params, piece_commitment, sdr,
    tree_d, tree_rc,
};
use fr32::Fr32Reader;
use tempfile::TempDir;

pub const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;

pub struct Sector {
    pub dir: TempDir,
    pub sector: SectorRef,
    pub ticket: [u8; 32],
    pub pieces: Vec<(PieceFile, PieceSpec)>,
}

impl Sector {
    pub fn new(raw_sizes: &[u64]) -> Sector {
        use_own_parent_cache();
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        params::ensure_verifying_keys(&params::default_dir(), PROOF).unwrap();
        let pieces = (0..).zip(raw_sizes).map(|(nth, &size)| piece(dir.path(), size, nth)).collect();
        Sector { dir, sector: sector(5), ticket: [3; 32], pieces }
    }

    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    pub fn sealed(&self) -> PathBuf {
        self.dir.path().join("sealed")
    }

    pub fn specs(&self) -> &'static [PieceSpec] {
        self.pieces.iter().map(|(_, spec)| spec.clone()).collect::<Vec<_>>().leak()
    }

    pub fn comm_d(&self) -> Commitment {
        comm_d(PROOF, self.specs()).unwrap()
    }

    pub fn sdr_input(&self) -> SdrInput {
        SdrInput { proof: PROOF, sector: self.sector, ticket: self.ticket, comm_d: self.comm_d() }
    }

    pub fn make_layers_and_data(&self) {
        sdr(&self.sdr_input(), &self.cache(), &mut |_| ControlFlow::Continue(())).unwrap();
        let files: Vec<_> = self.pieces.iter().map(|(file, _)| file.clone()).collect();
        tree_d(PROOF, &files, &self.comm_d(), &self.cache()).unwrap();
    }

    pub fn tree_rc(&self) -> Commitment {
        tree_rc(PROOF, &self.comm_d(), &self.cache(), &self.sealed()).unwrap()
    }

    pub fn c1_input(&self, comm_r: Commitment) -> C1Input<'static> {
        C1Input {
            proof: PROOF,
            sector: self.sector,
            ticket: self.ticket,
            comm_d: self.comm_d(),
            comm_r,
            pieces: self.specs(),
            cache: Box::leak(self.cache().into_boxed_path()),
            sealed: Box::leak(self.sealed().into_boxed_path()),
        }
    }

    pub fn verify_input(&self, comm_r: Commitment, seed: [u8; 32]) -> VerifyInput {
        VerifyInput { proof: PROOF, sector: self.sector, ticket: self.ticket, seed, comm_d: self.comm_d(), comm_r }
    }

    /// Commitment and padded size of every slot, fillers included, by the library's zero pieces.
    pub fn all_pieces(&self) -> impl Iterator<Item = (Commitment, u64)> {
        let sizes: Vec<_> = self.specs().iter().map(|spec| spec.padded_size).collect();
        layout(PROOF, &sizes).unwrap().into_iter().map(|slot| {
            let size = filecoin_proofs::PaddedBytesAmount(slot.padded_size).into();
            let zero = || filecoin_proofs::pieces::zero_padding(size).unwrap().commitment;
            (slot.piece.map_or_else(zero, |index| self.pieces[index].1.comm_p), slot.padded_size)
        })
    }

    /// The sector's data as they lie in it, by the library's padding.
    pub fn padded_data(&self) -> Vec<u8> {
        let mut data = vec![0; PROOF.sector_size() as usize];
        let sizes: Vec<_> = self.specs().iter().map(|spec| spec.padded_size).collect();
        for slot in layout(PROOF, &sizes).unwrap() {
            if let Some(index) = slot.piece {
                let raw = fs::read(&self.pieces[index].0.path).unwrap();
                let mut padded = Vec::new();
                std::io::copy(&mut Fr32Reader::new(&raw[..]), &mut padded).unwrap();
                data[slot.offset as usize..][..padded.len()].copy_from_slice(&padded);
            }
        }
        data
    }
}

pub fn sector(number: u64) -> SectorRef {
    SectorRef::new(SpId(1000), number)
}

/// Of f01000.
pub fn prover_id() -> [u8; 32] {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&[0xe8, 0x07]);
    id
}

/// A file of bytes that differ from each other and by `salt`, and its commitment.
pub fn piece(dir: &Path, raw_size: u64, salt: u8) -> (PieceFile, PieceSpec) {
    let path = dir.join(format!("piece-{salt}"));
    let data = bytes(raw_size as usize, salt);
    fs::write(&path, &data).unwrap();
    let commitment = piece_commitment(&mut &data[..], raw_size).unwrap();
    let spec = PieceSpec { comm_p: commitment.comm_p, padded_size: commitment.padded_size };
    (PieceFile { path, raw_size, padded_size: commitment.padded_size }, spec)
}

pub fn bytes(count: usize, salt: u8) -> Vec<u8> {
    (0..count).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ salt).collect()
}

/// The library keeps parents in a file; tests keep theirs apart from the user's.
pub fn use_own_parent_cache() {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = TempDir::new().unwrap();
        // SAFETY: once, before the library reads it; Rust's lock guards the environment.
        unsafe { std::env::set_var("FIL_PROOFS_PARENT_CACHE", dir.path()) };
        dir
    });
}
