//! Pieces and data commitments: where pieces lie in a sector, what fills the gaps, and the SHA-256
//! trees over them. All sizes are padded bytes (128 for every 127 of data) unless a name says raw.

use std::io::{self, BufReader, Read};

use fr32::Fr32Reader;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Commitment, ProofError};
use curio_core::SealProof;

/// Bytes of a tree node.
pub(crate) const NODE_BYTES: usize = 32;

/// Smallest piece, padded: four nodes, the block in which fr32 works.
pub const MIN_PIECE_PADDED_BYTES: u64 = 128;

/// A piece as its commitment and its place in the sector need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceSpec {
    #[serde(with = "hex::serde")]
    pub comm_p: Commitment,
    pub padded_size: u64,
}

/// What hashing a piece's bytes gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceCommitment {
    #[serde(with = "hex::serde")]
    pub comm_p: Commitment,
    pub padded_size: u64,
    pub raw_size: u64,
}

/// The pieces do not make a sector, or a piece is not what it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    #[error("a piece is empty; a sector takes pieces of at least one byte")]
    Empty,
    #[error("piece {index} has a padded size of {padded_size} bytes; it must be a power of two and at least 128")]
    Size { index: usize, padded_size: u64 },
    #[error(
        "the pieces need {needed} bytes with the gaps between them but the sector holds {sector_size}; use fewer or smaller pieces"
    )]
    TooLong { needed: u64, sector_size: u64 },
    #[error("piece file {path} has {actual} bytes instead of {expected}; give the file that the piece was made from")]
    RawSize { path: String, expected: u64, actual: u64 },
    #[error("a piece of {raw_size} bytes does not fit its padded size of {padded_size} bytes")]
    RawTooLong { raw_size: u64, padded_size: u64 },
}

/// One stretch of a sector: a piece or zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First byte in the sector, padded.
    pub offset: u64,
    /// A power of two.
    pub padded_size: u64,
    /// Index in the list of pieces; none for a filler of zeros.
    pub piece: Option<usize>,
}

/// Lays pieces out in order. A piece starts at a multiple of its own size; fillers, each a power of
/// two and aligned like a piece, take the gaps and the rest of the sector. Same as Lotus.
///
/// # Errors
/// [`PieceError::Size`] and [`PieceError::TooLong`].
pub fn layout(proof: SealProof, padded_sizes: &[u64]) -> Result<Vec<Slot>, PieceError> {
    let sector_size = proof.sector_size();
    let mut slots = Vec::new();
    let mut offset = 0u64;
    for (index, &padded_size) in padded_sizes.iter().enumerate() {
        if !padded_size.is_power_of_two() || padded_size < MIN_PIECE_PADDED_BYTES {
            return Err(PieceError::Size { index, padded_size });
        }
        if padded_size > sector_size {
            return Err(PieceError::TooLong { needed: padded_size, sector_size });
        }
        let start = offset.next_multiple_of(padded_size);
        fill(&mut slots, offset, start);
        slots.push(Slot { offset: start, padded_size, piece: Some(index) });
        offset = start + padded_size;
        if offset > sector_size {
            return Err(PieceError::TooLong { needed: offset, sector_size });
        }
    }
    fill(&mut slots, offset, sector_size);
    Ok(slots)
}

/// Fills `from..to` with the largest aligned fillers. `to` is aligned to at least the largest of them.
fn fill(slots: &mut Vec<Slot>, mut from: u64, to: u64) {
    while from < to {
        let aligned = if from == 0 { to } else { 1 << from.trailing_zeros() };
        let mut padded_size = aligned.min(to - from);
        if !padded_size.is_power_of_two() {
            padded_size = padded_size.next_power_of_two() / 2;
        }
        slots.push(Slot { offset: from, padded_size, piece: None });
        from += padded_size;
    }
}

/// Padded size of a piece of `raw_size` bytes: the smallest power of two that holds them after fr32.
///
/// # Errors
/// [`PieceError::Empty`] for no bytes; [`PieceError::RawTooLong`] beyond 2^62.
pub fn padded_size_of(raw_size: u64) -> Result<u64, PieceError> {
    if raw_size == 0 {
        return Err(PieceError::Empty);
    }
    let blocks = raw_size.div_ceil(127);
    if blocks > 1 << 55 {
        return Err(PieceError::RawTooLong { raw_size, padded_size: 1 << 62 });
    }
    Ok((blocks * 128).next_power_of_two())
}

/// Data bytes that a padded size holds.
pub fn raw_capacity(padded_size: u64) -> u64 {
    padded_size / 128 * 127
}

/// comm_d of a sector without data.
pub fn zero_comm_d(proof: SealProof) -> Commitment {
    zero_commitment(proof.sector_size())
}

/// comm_d of a sector with these pieces in this order; without pieces that of zeros.
///
/// # Errors
/// As [`layout`].
pub fn comm_d(proof: SealProof, pieces: &[PieceSpec]) -> Result<Commitment, PieceError> {
    // Neighbours of equal size join as soon as both are there; alignment makes them siblings.
    let mut joined: Vec<(u64, Commitment)> = Vec::new();
    for PieceSpec { comm_p, padded_size } in with_fillers(proof, pieces)? {
        let mut node = (padded_size, comm_p);
        while let Some(&(left_size, left)) = joined.last() {
            if left_size != node.0 {
                break;
            }
            joined.pop();
            node = (left_size * 2, hash_pair(&left, &node.1));
        }
        joined.push(node);
    }
    Ok(joined[0].1)
}

/// The pieces with the fillers between and after them, so that they make up the whole sector.
pub(crate) fn with_fillers(proof: SealProof, pieces: &[PieceSpec]) -> Result<Vec<PieceSpec>, PieceError> {
    let sizes: Vec<u64> = pieces.iter().map(|piece| piece.padded_size).collect();
    Ok(layout(proof, &sizes)?
        .into_iter()
        .map(|slot| match slot.piece {
            Some(index) => pieces[index].clone(),
            None => PieceSpec { comm_p: zero_commitment(slot.padded_size), padded_size: slot.padded_size },
        })
        .collect())
}

/// Root over `padded_size` zero bytes.
pub(crate) fn zero_commitment(padded_size: u64) -> Commitment {
    let levels = (padded_size / NODE_BYTES as u64).trailing_zeros();
    (0..levels).fold([0; NODE_BYTES], |node, _| hash_pair(&node, &node))
}

/// Parent of two nodes: SHA-256, the two highest bits cleared so that it is a field element.
pub(crate) fn hash_pair(left: &[u8], right: &[u8]) -> Commitment {
    let mut hash = Sha256::new();
    hash.update(left);
    hash.update(right);
    truncated(hash)
}

/// The digest with the two highest bits cleared.
pub(crate) fn truncated(hash: Sha256) -> Commitment {
    let mut node: Commitment = hash.finalize().into();
    node[31] &= 0x3f;
    node
}

/// Reads `raw_size` bytes and gives the padded stream: fr32, then zeros.
///
/// The stream has no end: the caller takes the padded size. A source that is too short gives zeros;
/// the caller counts what was read.
pub(crate) fn padded_reader<'a>(source: &'a mut dyn Read, raw_size: u64) -> impl Read + 'a {
    // fr32 reads 127 bytes at a time.
    Fr32Reader::new(BufReader::with_capacity(127 << 9, source.take(raw_size).chain(io::repeat(0))))
}

/// Commitment of a piece, read to its end once; memory does not grow with the piece.
///
/// The piece is padded with zeros to the smallest size that holds it.
///
/// # Errors
/// [`PieceError::RawSize`] when the source ends before or goes on after `raw_size` bytes, else what
/// the source said.
pub fn piece_commitment(source: &mut dyn Read, raw_size: u64) -> Result<PieceCommitment, ProofError> {
    let padded_size = padded_size_of(raw_size)?;
    let mut counted = Counted { source, bytes: 0 };
    let mut buffer = vec![0; (1 << 20).min(padded_size as usize)];
    // One open node per level, as in a binary counter.
    let mut open: Vec<Option<Commitment>> = Vec::new();
    let read = |source| ProofError::Io { action: "read", path: "the piece".into(), source };
    {
        let mut padded = padded_reader(&mut counted, raw_size);
        let mut left = padded_size;
        while left > 0 {
            let chunk = &mut buffer[..(left.min(1 << 20)) as usize];
            padded.read_exact(chunk).map_err(read)?;
            for pair in chunk.chunks_exact(2 * NODE_BYTES) {
                carry(&mut open, hash_pair(&pair[..NODE_BYTES], &pair[NODE_BYTES..]));
            }
            left -= chunk.len() as u64;
        }
    }
    let after = counted.bytes;
    let more = io::copy(&mut counted.source.take(1), &mut io::sink()).map_err(read)?;
    if after + more != raw_size {
        let error = PieceError::RawSize { path: "stream".into(), expected: raw_size, actual: after + more };
        return Err(error.into());
    }
    let comm_p = open.into_iter().flatten().next_back().expect("a piece has at least 128 bytes, so two pairs");
    Ok(PieceCommitment { comm_p, padded_size, raw_size })
}

fn carry(open: &mut Vec<Option<Commitment>>, mut node: Commitment) {
    for level in open.iter_mut() {
        match level.take() {
            Some(left) => node = hash_pair(&left, &node),
            None => {
                *level = Some(node);
                return;
            }
        }
    }
    open.push(Some(node));
}

/// Counts what was read, so that a short source is noticed although zeros follow it.
pub(crate) struct Counted<'a> {
    pub(crate) source: &'a mut dyn Read,
    pub(crate) bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;

    fn shape(sizes: &[u64]) -> String {
        let slots = layout(PROOF, sizes).unwrap();
        let mut end = 0;
        for Slot { offset, padded_size, .. } in &slots {
            assert_eq!(*offset, end, "slots follow each other");
            assert_eq!(offset % padded_size, 0, "slots are aligned to their size");
            end += padded_size;
        }
        assert_eq!(end, PROOF.sector_size());
        let name = |slot: &Slot| slot.piece.map_or("zeros".to_owned(), |index| format!("piece{index}"));
        slots.iter().map(|slot| format!("{} {}", name(slot), slot.padded_size)).collect::<Vec<_>>().join(", ")
    }

    /// The first four as a Lotus 1.36 node packed them on a private 2 KiB network.
    #[rstest]
    #[case(&[1024], "piece0 1024, zeros 1024")]
    #[case(&[1024, 512], "piece0 1024, piece1 512, zeros 512")]
    #[case(&[512, 1024], "piece0 512, zeros 512, piece1 1024")]
    #[case(&[2048], "piece0 2048")]
    #[case(&[], "zeros 2048")]
    #[case(&[128], "piece0 128, zeros 128, zeros 256, zeros 512, zeros 1024")]
    #[case(&[128, 512], "piece0 128, zeros 128, zeros 256, piece1 512, zeros 1024")]
    #[case(&[128, 128, 256, 128], "piece0 128, piece1 128, piece2 256, piece3 128, zeros 128, zeros 256, zeros 1024")]
    fn pieces_lie_in_order_with_zeros_between(#[case] sizes: &[u64], #[case] expected: &str) {
        assert_eq!(shape(sizes), expected);
    }

    #[rstest]
    #[case(&[4096], PieceError::TooLong { needed: 4096, sector_size: 2048 })]
    #[case(&[1024, 512, 1024], PieceError::TooLong { needed: 3072, sector_size: 2048 })]
    #[case(&[128, 64], PieceError::Size { index: 1, padded_size: 64 })]
    #[case(&[1016], PieceError::Size { index: 0, padded_size: 1016 })]
    #[case(&[0], PieceError::Size { index: 0, padded_size: 0 })]
    #[case(&[1 << 63], PieceError::TooLong { needed: 1 << 63, sector_size: 2048 })]
    fn pieces_that_make_no_sector_are_refused(#[case] sizes: &[u64], #[case] expected: PieceError) {
        assert_eq!(layout(PROOF, sizes), Err(expected));
    }

    #[rstest]
    #[case(1, Ok(128))]
    #[case(127, Ok(128))]
    #[case(128, Ok(256))]
    #[case(2032, Ok(2048))]
    #[case(2033, Ok(4096))]
    #[case(0, Err(PieceError::Empty))]
    #[case(u64::MAX, Err(PieceError::RawTooLong { raw_size: u64::MAX, padded_size: 1 << 62 }))]
    fn a_piece_takes_the_smallest_power_of_two(#[case] raw: u64, #[case] expected: Result<u64, PieceError>) {
        assert_eq!(padded_size_of(raw), expected);
    }

    #[test]
    fn commitments_of_zeros_are_the_networks() {
        // comm_d of an empty 2 KiB sector as a Lotus node shows it:
        // baga6ea4seaqpy7usqklokfx2vxuynmupslkeutzexe2uqurdg5vhtebhxqmpqmy.
        let of_2_kib = "fc7e928296e516faade986b28f92d44a4f24b935485223376a799027bc18f833";
        assert_eq!(hex::encode(zero_comm_d(PROOF)), of_2_kib);
        // And of 32 GiB, a constant of Curio and Lotus.
        let of_32_gib = "077e5fde35c50a9303a55009e3498a4ebedff39c42b710b730d8ec7ac7afa63e";
        assert_eq!(hex::encode(zero_comm_d(SealProof::StackedDrg32GiBV1_1)), of_32_gib);
    }

    #[test]
    fn comm_d_joins_pieces_and_fillers() {
        let piece = |byte: u8, padded_size| PieceSpec { comm_p: [byte; 32], padded_size };
        let zeros = zero_commitment(512);
        let (a, b) = ([1; 32], [2; 32]);
        assert_eq!(comm_d(PROOF, &[]), Ok(zero_comm_d(PROOF)));
        assert_eq!(comm_d(PROOF, &[piece(1, 2048)]), Ok(a));
        let expected = hash_pair(&a, &hash_pair(&b, &zeros));
        assert_eq!(comm_d(PROOF, &[piece(1, 1024), piece(2, 512)]), Ok(expected));
        let expected = hash_pair(&hash_pair(&b, &zeros), &a);
        assert_eq!(comm_d(PROOF, &[piece(2, 512), piece(1, 1024)]), Ok(expected));
    }
}
