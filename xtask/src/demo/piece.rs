//! The file whose bytes the first sector holds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::postgres;

/// A 2 KiB sector holds at most 2,032 bytes of data.
const LONGEST_BYTES: usize = 2032;

pub struct Piece {
    pub path: PathBuf,
    bytes: Vec<u8>,
}

impl Piece {
    /// Writes a text that no other run has.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make(dir: &Path) -> Result<Piece> {
        let path = dir.join("piece.txt");
        let mut text = String::from("This file is sealed into a sector by the demo; no other run has the same.\n");
        for line in 1..=24 {
            text.push_str(&format!("line {line:2}: {}\n", postgres::random_word()?));
        }
        let bytes = text.into_bytes();
        debug_assert!(bytes.len() <= LONGEST_BYTES);
        fs::write(&path, &bytes).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(Piece { path, bytes })
    }

    /// Whether an unsealed sector file starts with our bytes and holds nothing but zeros after them.
    ///
    /// # Errors
    /// When it does not, with the first place that differs.
    pub fn check(&self, unsealed: &[u8]) -> Result<()> {
        let plain = unpad(unsealed);
        if plain.len() < self.bytes.len() {
            bail!("it holds {} bytes, the file {}", plain.len(), self.bytes.len());
        }
        let (data, rest) = plain.split_at(self.bytes.len());
        if let Some(at) = data.iter().zip(&self.bytes).position(|(found, wanted)| found != wanted) {
            bail!("byte {at} differs from the file's");
        }
        if let Some(at) = rest.iter().position(|byte| *byte != 0) {
            bail!("byte {} after the file's end is not zero", self.bytes.len() + at);
        }
        Ok(())
    }
}

/// Takes out the two zero bits that follow every 254 bits of data in a sector (fr32).
fn unpad(padded: &[u8]) -> Vec<u8> {
    let data_bits = padded.iter().enumerate().flat_map(|(at, byte)| {
        let bits = if at % 32 == 31 { 6 } else { 8 };
        (0..bits).map(move |bit| byte >> bit & 1)
    });
    let mut plain = vec![0_u8; padded.len() / 32 * 254 / 8];
    for (at, bit) in data_bits.enumerate() {
        if let Some(byte) = plain.get_mut(at / 8) {
            *byte |= bit << (at % 8);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other direction, written from the definition: bit i of the data is bit i + 2 * (i / 254) of the sector.
    fn pad(plain: &[u8], padded_size: usize) -> Vec<u8> {
        let mut padded = vec![0_u8; padded_size];
        for at in 0..plain.len() * 8 {
            let to = at + 2 * (at / 254);
            padded[to / 8] |= (plain[at / 8] >> (at % 8) & 1) << (to % 8);
        }
        padded
    }

    #[test]
    fn the_bytes_of_a_piece_are_found_in_its_sector() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let piece = Piece::make(dir.path()).expect("a piece can be written");
        let mut sector = pad(&piece.bytes, 2048);
        piece.check(&sector).expect("the sector holds the piece");
        sector[40] ^= 1;
        assert!(piece.check(&sector).is_err(), "a flipped bit went unseen");
    }

    #[test]
    fn a_full_sector_unpads_to_2032_bytes() {
        assert_eq!(unpad(&[0_u8; 2048]).len(), LONGEST_BYTES);
    }
}
