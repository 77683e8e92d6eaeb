//! TreeD: the sector's padded data and the SHA-256 tree over it, in one file: the data, then each
//! upper level, the root last.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use curio_core::SealProof;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cache::{self, Cache};
use crate::pieces::{Counted, NODE_BYTES, hash_pair, layout, padded_reader, raw_capacity};
use crate::{Commitment, PieceError, ProofError};

/// A piece's bytes and its size in the sector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceFile {
    pub path: PathBuf,
    /// Bytes of the file, before padding.
    pub raw_size: u64,
    pub padded_size: u64,
}

/// Bytes handled at once.
const CHUNK_BYTES: usize = 4 << 20;

/// Writes the data tree into `cache` and returns its root, which is `comm_d`. Pieces lie as
/// [`layout`] says; without pieces the data are zeros. Memory does not grow with the sector.
///
/// A tree that is there already is made anew and replaced at the end.
///
/// # Errors
/// [`ProofError::CommD`] when the root is another one, [`ProofError::Pieces`] when a file is not as
/// long as its piece or the pieces do not fit; io. The cache is as before then.
pub fn tree_d(
    proof: SealProof,
    pieces: &[PieceFile],
    comm_d: &Commitment,
    cache: &Path,
) -> Result<Commitment, ProofError> {
    let sizes: Vec<u64> = pieces.iter().map(|piece| piece.padded_size).collect();
    let slots = layout(proof, &sizes)?;
    let sources = pieces.iter().map(open).collect::<Result<Vec<File>, _>>()?;
    std::fs::create_dir_all(cache).map_err(ProofError::io("create the cache folder", cache))?;
    let cache = Cache::new(proof, cache);
    let path = cache.tree_d();
    let (temporary, mut file) = cache::create_temporary(&path, cache.tree_d_bytes())?;
    let built = slots
        .iter()
        .filter_map(|slot| slot.piece.map(|index| (slot, &pieces[index], &sources[index])))
        .try_for_each(|(slot, piece, source)| {
            // Fillers are zeros, which the file has where nothing was written.
            file.seek(SeekFrom::Start(slot.offset)).map_err(ProofError::io("write", &temporary))?;
            copy_padded(piece, source, &mut file, &temporary)
        })
        .and_then(|()| hash_levels(&file, proof.sector_size()).map_err(ProofError::io("hash", &temporary)))
        .and_then(|root| {
            if root == *comm_d {
                return Ok(root);
            }
            let (expected, actual) = (hex::encode(comm_d), hex::encode(root));
            Err(ProofError::CommD { path: path.clone(), expected, actual })
        })
        .and_then(|root| cache::keep(&file, &temporary, &path).map(|()| root));
    if built.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    built
}

/// Opens a piece's file and compares its length, before anything is written.
fn open(piece: &PieceFile) -> Result<File, ProofError> {
    let PieceFile { path, raw_size, padded_size } = piece;
    if *raw_size == 0 {
        return Err(PieceError::Empty.into());
    }
    if *raw_size > raw_capacity(*padded_size) {
        return Err(PieceError::RawTooLong { raw_size: *raw_size, padded_size: *padded_size }.into());
    }
    let file = File::open(path).map_err(ProofError::io("open piece file", path))?;
    let actual = file.metadata().map_err(ProofError::io("look at", path))?.len();
    if actual != *raw_size {
        return Err(PieceError::RawSize { path: path.display().to_string(), expected: *raw_size, actual }.into());
    }
    Ok(file)
}

fn copy_padded(piece: &PieceFile, mut source: &File, to: &mut File, to_path: &Path) -> Result<(), ProofError> {
    let mut counted = Counted { source: &mut source, bytes: 0 };
    let mut buffer = vec![0; CHUNK_BYTES.min(piece.padded_size as usize)];
    {
        let mut padded = padded_reader(&mut counted, piece.raw_size);
        let mut left = piece.padded_size;
        while left > 0 {
            let chunk = &mut buffer[..left.min(CHUNK_BYTES as u64) as usize];
            padded.read_exact(chunk).map_err(ProofError::io("read piece file", &piece.path))?;
            to.write_all(chunk).map_err(ProofError::io("write", to_path))?;
            left -= chunk.len() as u64;
        }
    }
    if counted.bytes != piece.raw_size {
        let (expected, actual) = (piece.raw_size, counted.bytes);
        return Err(PieceError::RawSize { path: piece.path.display().to_string(), expected, actual }.into());
    }
    Ok(())
}

/// Hashes the leaves at the start of the file level by level, each behind the one below.
fn hash_levels(file: &File, leaf_bytes: u64) -> io::Result<Commitment> {
    let (mut from, mut bytes) = (0, leaf_bytes);
    let mut below = vec![0; CHUNK_BYTES.min(leaf_bytes as usize)];
    while bytes > NODE_BYTES as u64 {
        let above = from + bytes;
        for start in (0..bytes).step_by(CHUNK_BYTES) {
            let chunk = &mut below[..(bytes - start).min(CHUNK_BYTES as u64) as usize];
            file.read_exact_at(chunk, from + start)?;
            file.write_all_at(&hash_chunk(chunk), above + start / 2)?;
        }
        from = above;
        bytes /= 2;
    }
    let mut root = [0; NODE_BYTES];
    file.read_exact_at(&mut root, from)?;
    Ok(root)
}

/// Pairs that one core hashes at a stretch.
const STRETCH_BYTES: usize = 64 << 10;

/// Parents of all pairs. Equal neighbours, which make up empty sectors, are hashed once.
fn hash_chunk(below: &[u8]) -> Vec<u8> {
    let mut above = vec![0; below.len() / 2];
    let stretches = above.par_chunks_mut(STRETCH_BYTES / 2).zip(below.par_chunks(STRETCH_BYTES));
    stretches.for_each(|(above, below)| {
        let mut last: Option<(&[u8], Commitment)> = None;
        for (parent, pair) in above.chunks_exact_mut(NODE_BYTES).zip(below.chunks_exact(2 * NODE_BYTES)) {
            let node = match last {
                Some((same, node)) if same == pair => node,
                _ => hash_pair(&pair[..NODE_BYTES], &pair[NODE_BYTES..]),
            };
            last = Some((pair, node));
            parent.copy_from_slice(&node);
        }
    });
    above
}
