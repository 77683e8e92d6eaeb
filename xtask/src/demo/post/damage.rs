//! A sealed file that is damaged for a while.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::super::curio::Sector;

/// A file with wrong bytes in it, and the right ones.
pub struct Damaged {
    path: PathBuf,
    right: Vec<u8>,
}

impl Damaged {
    /// Every byte of the sector's sealed file is turned around in place, so that length and name stay.
    pub fn by_overwriting(sector: &Sector) -> Result<Damaged> {
        let path = sector.file("sealed").with_context(|| format!("sector {} has no sealed file", sector.name()))?;
        let right = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        let wrong: Vec<u8> = right.iter().map(|byte| !byte).collect();
        write(path, &wrong)?;
        Ok(Damaged { path: path.to_owned(), right })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn heal(self) -> Result<()> {
        write(&self.path, &self.right)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("failed to write {}", path.display()))
}
