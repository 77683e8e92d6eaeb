//! SDR: the layers of labels, one SHA-256 chain for a layer, each label over 37 parents.
//!
//! Our own engine beside the library's, which needs the whole build made for SHA-NI to be fast
//! (docs/decisions/0001-sha-dispatch.md). The compression function of the `sha2` crate looks for
//! SHA-NI when it runs. The bytes are those of `seal::sdr`; tests compare them.
//!
//! Memory: two layers, 64 GiB for a sector of 32 GiB. Parents of 2 KiB are computed in each call; those
//! of larger sectors are read from the library's parent cache file, which the first call makes (56
//! bytes a node; folder in `FIL_PROOFS_PARENT_CACHE`).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

use curio_core::{SealProof, SectorRef};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::digest::generic_array::GenericArray;
use sha2::digest::generic_array::typenum::U64;
use sha2::{Digest, Sha256, compress256};
use storage_proofs_core::drgraph::Graph as _;

use crate::cache::{self, Cache};
use crate::library::{self, Graph};
use crate::pieces::{NODE_BYTES, truncated};
use crate::{Commitment, ProofError};

/// What a replica is made of, beside the data that `comm_d` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdrInput {
    pub proof: SealProof,
    pub sector: SectorRef,
    pub ticket: [u8; 32],
    pub comm_d: Commitment,
}

/// How far SDR has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SdrProgress {
    /// The layer that is being made or was just finished, from 1.
    pub layer: u32,
    pub layers: u32,
    /// Labels of this layer that are done.
    pub nodes_done: u64,
    pub nodes: u64,
}

/// Name of the replica: a hash over prover, sector, ticket, comm_d and proof kind.
pub fn replica_id(input: &SdrInput) -> [u8; 32] {
    let SdrInput { proof, sector, ticket, comm_d } = input;
    let mut hash = Sha256::new();
    hash.update(library::prover_id(sector.sp));
    hash.update(sector.number.to_be_bytes());
    hash.update(ticket);
    hash.update(comm_d);
    hash.update(library::porep_id(*proof));
    truncated(hash)
}

/// Bytes between two calls of the progress function: two to three seconds of work.
const CHUNK_BYTES: usize = 64 << 20;

/// Writes the layers into `cache`. Layers that an earlier call finished for the same replica stay as
/// they are; layers of another replica (another ticket) are removed first.
///
/// `progress` is called when a layer starts, after each 64 MiB of it, and when it ends; `Break` stops the work with
/// [`ProofError::Stopped`] and leaves the finished layers.
///
/// # Errors
/// [`ProofError::Busy`] while another process works in the folder; io.
pub fn sdr(
    input: &SdrInput,
    cache: &Path,
    progress: &mut dyn FnMut(SdrProgress) -> ControlFlow<()>,
) -> Result<(), ProofError> {
    fs::create_dir_all(cache).map_err(ProofError::io("create the cache folder", cache))?;
    let cache = Cache::new(input.proof, cache);
    let _lock = cache.lock()?;
    let replica_id = replica_id(input);
    discard_other_replica(&cache, &replica_id)?;

    let (layers, nodes, bytes) = (input.proof.layers(), cache.nodes(), input.proof.sector_size());
    let mut tell = |layer, nodes_done| match progress(SdrProgress { layer, layers, nodes_done, nodes }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ProofError::Stopped),
    };
    let mut todo = Vec::new();
    for layer in 1..=layers {
        if cache::file_size(&cache.layer(layer))? != Some(bytes) {
            todo.push(layer);
        }
    }
    if todo.is_empty() {
        return tell(layers, nodes);
    }

    let mut parents = Parents::new(input.proof)?;
    let mut current = vec![0u8; bytes as usize];
    // Which layer `previous` holds.
    let mut previous = vec![0u8; bytes as usize];
    let mut held = 0;
    for layer in todo {
        if layer > 1 && held != layer - 1 {
            read_layer(&cache.layer(layer - 1), &mut previous)?;
        }
        tell(layer, 0)?;
        parents.rewind()?;
        let path = cache.layer(layer);
        let (temporary, mut file) = cache::create_temporary(&path, bytes)?;
        let mut labels = Labels::new(&replica_id, layer, &mut current, (layer > 1).then_some(&previous[..]));
        for start in (0..bytes as usize).step_by(CHUNK_BYTES) {
            let end = (start + CHUNK_BYTES).min(bytes as usize);
            labels.make(start / NODE_BYTES..end / NODE_BYTES, &mut parents)?;
            file.write_all(&labels.current[start..end]).map_err(ProofError::io("write", &temporary))?;
            if end < bytes as usize {
                tell(layer, (end / NODE_BYTES) as u64)?;
            }
        }
        cache::keep(&file, &temporary, &path)?;
        std::mem::swap(&mut current, &mut previous);
        held = layer;
        tell(layer, nodes)?;
    }
    Ok(())
}

/// Layers say nothing about their replica, so a file beside them does.
fn discard_other_replica(cache: &Cache<'_>, replica_id: &[u8; 32]) -> Result<(), ProofError> {
    let path = cache.replica_id();
    let text = hex::encode(replica_id);
    if fs::read(&path).is_ok_and(|known| known == text.as_bytes()) {
        return Ok(());
    }
    for layer in 1..=cache.proof.layers() {
        cache::remove(&cache.layer(layer))?;
    }
    cache::sync_dir(&path).map_err(ProofError::io("write", cache.dir))?;
    let (temporary, mut file) = cache::create_temporary(&path, text.len() as u64)?;
    file.write_all(text.as_bytes()).map_err(ProofError::io("write", &temporary))?;
    cache::keep(&file, &temporary, &path)
}

fn read_layer(path: &Path, labels: &mut [u8]) -> Result<(), ProofError> {
    File::open(path).and_then(|mut file| file.read_exact(labels)).map_err(ProofError::io("read", path))
}

/// Base parents in the same layer, then expander parents in the layer before.
const BASE: usize = 6;
const DEGREE: usize = 14;
/// Parents hashed into a label; the list of them is repeated until it is full.
const HASHED: usize = 37;
/// The message of a label: 64 bytes of header, the parents, half a block of SHA-256 padding.
const BLOCKS: usize = 20;

type Block = GenericArray<u8, U64>;

const SHA256_START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// One layer in the making.
struct Labels<'a> {
    message: [Block; BLOCKS],
    current: &'a mut [u8],
    previous: Option<&'a [u8]>,
}

impl<'a> Labels<'a> {
    /// `previous` is none in the first layer, which has base parents only.
    fn new(replica_id: &[u8; 32], layer: u32, current: &'a mut [u8], previous: Option<&'a [u8]>) -> Labels<'a> {
        let mut message = [Block::default(); BLOCKS];
        // Header: replica id, layer, node (set for each label), zeros.
        message[0][..32].copy_from_slice(replica_id);
        message[0][32..36].copy_from_slice(&layer.to_be_bytes());
        pad(&mut message[BLOCKS - 1], 32, (64 + HASHED * NODE_BYTES) as u64);
        Labels { message, current, previous }
    }

    /// Makes the labels of these nodes; the ones before must be there.
    fn make(&mut self, nodes: std::ops::Range<usize>, parents: &mut Parents) -> Result<(), ProofError> {
        for node in nodes {
            let of_node = parents.next(node)?;
            self.prefetch(parents.ahead());
            self.message[0][36..44].copy_from_slice(&(node as u64).to_be_bytes());
            let mut state = SHA256_START;
            if node == 0 {
                // The first node has no parents.
                let mut padding = Block::default();
                pad(&mut padding, 0, 64);
                compress256(&mut state, &[self.message[0], padding]);
            } else {
                self.collect(&of_node);
                compress256(&mut state, &self.message);
            }
            let label = &mut self.current[node * NODE_BYTES..(node + 1) * NODE_BYTES];
            for (bytes, word) in label.chunks_exact_mut(4).zip(state) {
                bytes.copy_from_slice(&word.to_be_bytes());
            }
            // The two highest bits go, so that the label is a field element.
            label[NODE_BYTES - 1] &= 0x3f;
        }
        Ok(())
    }

    /// Copies the parents' labels into the message.
    fn collect(&mut self, parents: &[u32; DEGREE]) {
        let degree = if self.previous.is_some() { DEGREE } else { BASE };
        let mut nth = 0;
        for position in 0..HASHED {
            let start = parents[nth] as usize * NODE_BYTES;
            let from = match self.previous {
                Some(previous) if nth >= BASE => previous,
                _ => &*self.current,
            };
            let half = (position % 2) * NODE_BYTES;
            self.message[1 + position / 2][half..half + NODE_BYTES].copy_from_slice(&from[start..start + NODE_BYTES]);
            nth += 1;
            if nth == degree {
                nth = 0;
            }
        }
    }

    /// Asks the memory for labels that are needed soon; expander parents lie all over the layer.
    fn prefetch(&self, parents: &[u32; DEGREE]) {
        parents[..BASE].iter().for_each(|&parent| prefetch(self.current, parent));
        if let Some(previous) = self.previous {
            parents[BASE..].iter().for_each(|&parent| prefetch(previous, parent));
        }
    }
}

fn prefetch(labels: &[u8], node: u32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let label = &labels[node as usize * NODE_BYTES];
        // SAFETY: a hint on an address inside a slice; every x86-64 has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(label).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (labels, node);
}

/// SHA-256 padding from `at` on in the last block of a message of `message_bytes`.
fn pad(block: &mut Block, at: usize, message_bytes: u64) {
    block[at] = 0x80;
    block[56..].copy_from_slice(&(message_bytes * 8).to_be_bytes());
}

/// Graphs up to this size, that of 2 KiB among them, are computed for each call: in less time than a
/// file takes to open. Parents cost several microseconds a node, more than the label, so those of
/// larger graphs are worth a file.
const MAX_TABLE_NODES: usize = 1 << 12;
/// How many nodes ahead labels are asked for.
const LOOKAHEAD: usize = 4;

/// Parents of the nodes in order.
struct Parents {
    source: Source,
    nodes: usize,
    /// Parents of nodes up to `LOOKAHEAD` ahead, by node modulo the length.
    ring: [[u32; DEGREE]; LOOKAHEAD + 1],
    /// Next node to be read into the ring.
    read: usize,
}

enum Source {
    Table(Vec<[u32; DEGREE]>),
    /// The library's file through its reader, whose type has no public name.
    File {
        graph: Box<Graph>,
        read: ReadParents,
    },
}

type ReadParents = Box<dyn FnMut(u32) -> anyhow::Result<[u32; DEGREE]>>;

/// Opens the parent cache file, which the first process to do so makes.
fn open_file(graph: &Graph) -> Result<ReadParents, ProofError> {
    let mut file = graph.parent_cache().map_err(ProofError::library("the parent cache"))?;
    Ok(Box::new(move |node| file.read(node)))
}

impl Parents {
    fn new(proof: SealProof) -> Result<Parents, ProofError> {
        let graph = library::graph(proof)?;
        let nodes = graph.size();
        let source = if nodes <= MAX_TABLE_NODES {
            Source::Table(table(&graph)?)
        } else {
            Source::File { read: open_file(&graph)?, graph: Box::new(graph) }
        };
        Ok(Parents { source, nodes, ring: Default::default(), read: 0 })
    }

    /// Starts over at node 0.
    fn rewind(&mut self) -> Result<(), ProofError> {
        // The first layer begins with a file just opened.
        if let (Source::File { graph, read }, 1..) = (&mut self.source, self.read) {
            *read = open_file(graph)?;
        }
        self.read = 0;
        Ok(())
    }

    /// Parents of `node`, which is one more than in the call before.
    fn next(&mut self, node: usize) -> Result<[u32; DEGREE], ProofError> {
        while self.read < (node + LOOKAHEAD + 1).min(self.nodes) {
            self.ring[self.read % (LOOKAHEAD + 1)] = match &mut self.source {
                Source::Table(table) => table[self.read],
                Source::File { read, .. } => read(self.read as u32).map_err(ProofError::library("the parent cache"))?,
            };
            self.read += 1;
        }
        Ok(self.ring[node % (LOOKAHEAD + 1)])
    }

    /// Parents of the farthest node known.
    fn ahead(&self) -> &[u32; DEGREE] {
        &self.ring[(self.read - 1) % (LOOKAHEAD + 1)]
    }
}

fn table(graph: &Graph) -> Result<Vec<[u32; DEGREE]>, ProofError> {
    (0..graph.size())
        .into_par_iter()
        .map(|node| {
            let mut parents = [0; DEGREE];
            graph.parents(node, &mut parents).map_err(ProofError::library("the graph"))?;
            Ok(parents)
        })
        .collect()
}
