//! The files of a sector's cache: names, lengths, and the ways to write one so that a crash leaves
//! either the old file or the new one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use curio_core::SealProof;

use crate::ProofError;
use crate::pieces::NODE_BYTES;

/// Suffix of files that are not whole yet. Nothing reads them; whoever finds one may remove it.
pub(crate) const TEMPORARY: &str = ".tmp";

/// Names whose replica the layers belong to, so that layers of another ticket are never resumed from.
const REPLICA_ID: &str = "sdr-replica-id";

/// Two roots.
pub(crate) const P_AUX_BYTES: u64 = 2 * NODE_BYTES as u64;

/// A sector's cache folder.
#[derive(Clone, Copy)]
pub(crate) struct Cache<'a> {
    pub proof: SealProof,
    pub dir: &'a Path,
}

impl<'a> Cache<'a> {
    pub(crate) fn new(proof: SealProof, dir: &'a Path) -> Cache<'a> {
        Cache { proof, dir }
    }

    pub(crate) fn layer(&self, layer: u32) -> PathBuf {
        self.dir.join(format!("sc-02-data-layer-{layer}.dat"))
    }

    pub(crate) fn tree_d(&self) -> PathBuf {
        self.dir.join("sc-02-data-tree-d.dat")
    }

    pub(crate) fn replica_id(&self) -> PathBuf {
        self.dir.join(REPLICA_ID)
    }

    /// Leaves and all upper levels of the data tree.
    pub(crate) fn tree_d_bytes(&self) -> u64 {
        2 * self.proof.sector_size() - NODE_BYTES as u64
    }

    pub(crate) fn nodes(&self) -> u64 {
        self.proof.sector_size() / NODE_BYTES as u64
    }

    /// Files of tree-c or tree-r-last, each with its length.
    fn oct_trees(&self, name: &str, rows_to_discard: u32) -> Vec<(PathBuf, u64)> {
        let trees = match self.proof {
            SealProof::StackedDrg32GiBV1_1 => 8,
            SealProof::StackedDrg64GiBV1_1 => 16,
            _ => 1,
        };
        // A full tree of arity 8 over 8^k leaves has (8^(k+1) - 1) / 7 nodes.
        let leaves = self.nodes() / trees;
        let nodes = ((leaves >> (3 * rows_to_discard)) * 8 - 1) / 7;
        let bytes = nodes * NODE_BYTES as u64;
        if trees == 1 {
            return vec![(self.dir.join(format!("sc-02-data-{name}.dat")), bytes)];
        }
        (0..trees).map(|tree| (self.dir.join(format!("sc-02-data-{name}-{tree}.dat")), bytes)).collect()
    }

    pub(crate) fn tree_c(&self) -> Vec<(PathBuf, u64)> {
        self.oct_trees("tree-c", 0)
    }

    /// The leaves are the replica itself and are not stored; two more rows are discarded, one in the
    /// smallest tree.
    pub(crate) fn tree_r_last(&self) -> Vec<(PathBuf, u64)> {
        let rows = if self.proof == SealProof::StackedDrg2KiBV1_1 { 2 } else { 3 };
        self.oct_trees("tree-r-last", rows)
    }

    pub(crate) fn p_aux(&self) -> PathBuf {
        self.dir.join("p_aux")
    }

    pub(crate) fn t_aux(&self) -> PathBuf {
        self.dir.join("t_aux")
    }

    /// The folder is there.
    pub(crate) fn require_dir(&self) -> Result<(), ProofError> {
        let metadata = fs::metadata(self.dir).map_err(ProofError::io("open the cache folder", self.dir))?;
        if metadata.is_dir() {
            return Ok(());
        }
        Err(ProofError::io("open the cache folder", self.dir)(io::ErrorKind::NotADirectory.into()))
    }

    /// All layers are there and whole.
    pub(crate) fn require_layers(&self) -> Result<(), ProofError> {
        (1..=self.proof.layers()).try_for_each(|layer| require(&self.layer(layer), self.proof.sector_size(), "SDR"))
    }

    /// The data tree is there and whole.
    pub(crate) fn require_tree_d(&self) -> Result<(), ProofError> {
        require(&self.tree_d(), self.tree_d_bytes(), "TreeD")
    }

    /// Everything that C1 reads beside layers and data tree is there and whole.
    pub(crate) fn require_trees(&self) -> Result<(), ProofError> {
        for (path, bytes) in self.tree_c().into_iter().chain(self.tree_r_last()) {
            require(&path, bytes, "TreeRC")?;
        }
        require(&self.p_aux(), P_AUX_BYTES, "TreeRC")?;
        match file_size(&self.t_aux())? {
            Some(1..) => Ok(()),
            _ => Err(ProofError::Missing { path: self.t_aux(), made_by: "TreeRC" }),
        }
    }

    /// Keeps a second process out of this folder while the returned file is open. A runner that lost
    /// its claim may still have a child here for the moment that its kill takes.
    pub(crate) fn lock(&self) -> Result<File, ProofError> {
        let dir = File::open(self.dir).map_err(ProofError::io("open the cache folder", self.dir))?;
        match dir.try_lock() {
            Ok(()) => Ok(dir),
            Err(fs::TryLockError::WouldBlock) => Err(ProofError::Busy { path: self.dir.to_path_buf() }),
            Err(fs::TryLockError::Error(error)) => Err(ProofError::io("lock the cache folder", self.dir)(error)),
        }
    }
}

/// Length of a file, none when it is not there.
pub(crate) fn file_size(path: &Path) -> Result<Option<u64>, ProofError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ProofError::io("look at", path)(error)),
    }
}

/// The file is there and has this length.
pub(crate) fn require(path: &Path, expected: u64, made_by: &'static str) -> Result<(), ProofError> {
    match file_size(path)? {
        Some(actual) if actual == expected => Ok(()),
        Some(actual) => Err(ProofError::WrongSize { path: path.to_path_buf(), expected, actual, made_by }),
        None => Err(ProofError::Missing { path: path.to_path_buf(), made_by }),
    }
}

/// Removes a file that may be missing.
pub(crate) fn remove(path: &Path) -> Result<(), ProofError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ProofError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The path with something after its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Creates the file under its temporary name, with room for `bytes`: a full disk is noticed here
/// and not in the middle of a write through memory, which would end the process.
pub(crate) fn create_temporary(path: &Path, bytes: u64) -> Result<(PathBuf, File), ProofError> {
    let temporary = with_suffix(path, TEMPORARY);
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&temporary)
        .map_err(ProofError::io("create", &temporary))?;
    let reserved = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).or_else(|error| {
        // Some file systems cannot reserve.
        if error == rustix::io::Errno::OPNOTSUPP { file.set_len(bytes).map_err(rustix_error) } else { Err(error) }
    });
    if let Err(error) = reserved {
        let _ = fs::remove_file(&temporary);
        return Err(ProofError::io("reserve room for", path)(error.into()));
    }
    Ok((temporary, file))
}

fn rustix_error(error: io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
}

/// Makes the file and its name last: fsync, rename, fsync of the folder.
pub(crate) fn keep(file: &File, temporary: &Path, path: &Path) -> Result<(), ProofError> {
    file.sync_all().map_err(ProofError::io("write", temporary))?;
    fs::rename(temporary, path).map_err(ProofError::io("rename", temporary))?;
    sync_dir(path).map_err(ProofError::io("write the folder of", path))
}

/// Makes a rename or removal beside `path` last.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Sizes as Curio and the library's documents give them.
    #[rstest]
    #[case(SealProof::StackedDrg2KiBV1_1, 4_064, (1, 2_336), (1, 32))]
    #[case(SealProof::StackedDrg8MiBV1_1, 16_777_184, (1, 9_586_976), (1, 18_720))]
    #[case(SealProof::StackedDrg512MiBV1_1, 1_073_741_792, (1, 613_566_752), (1, 1_198_368))]
    #[case(SealProof::StackedDrg32GiBV1_1, 68_719_476_704, (8, 4_908_534_048), (8, 9_586_976))]
    #[case(SealProof::StackedDrg64GiBV1_1, 137_438_953_440, (16, 4_908_534_048), (16, 9_586_976))]
    fn files_have_the_lengths_of_every_sector_size(
        #[case] proof: SealProof,
        #[case] tree_d: u64,
        #[case] tree_c: (usize, u64),
        #[case] tree_r_last: (usize, u64),
    ) {
        let cache = Cache::new(proof, Path::new("cache"));
        let shape = |trees: Vec<(PathBuf, u64)>| (trees.len(), trees[0].1);
        assert_eq!(cache.tree_d_bytes(), tree_d);
        assert_eq!(shape(cache.tree_c()), tree_c);
        assert_eq!(shape(cache.tree_r_last()), tree_r_last);
        let name = if tree_c.0 == 1 { "cache/sc-02-data-tree-c.dat" } else { "cache/sc-02-data-tree-c-0.dat" };
        assert_eq!(cache.tree_c()[0].0, Path::new(name));
    }

    #[test]
    fn a_file_without_room_is_refused_with_its_name_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer");
        // More than any file system of ours has.
        let error = create_temporary(&path, 1 << 60).unwrap_err().to_string();
        assert_eq!(error, format!("failed to reserve room for {}", path.display()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
