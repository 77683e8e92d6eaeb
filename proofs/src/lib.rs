//! Proofs of a sector: plain functions over `filecoin-proofs`, paths and numbers in, commitments and
//! proofs out. Synchronous; a runner calls them in a child process (`child`).
//!
//! The library is generic over the shape of a sector's trees, and each generic call is compiled for
//! every shape: such calls are in `library` only, and no other crate names the library.

mod base64;
mod cache;
pub mod child;
mod error;
mod groth16;
mod library;
pub mod params;
mod pieces;
mod post;
mod sdr;
mod seal;
#[cfg(debug_assertions)]
pub mod simulated;
mod tree_d;

pub use error::ProofError;
pub use pieces::{
    MIN_PIECE_PADDED_BYTES, PieceCommitment, PieceError, PieceSpec, Slot, comm_d, layout, padded_size_of,
    piece_commitment, raw_capacity, zero_comm_d,
};
pub use post::{
    PostKind, PublicSector, merge_window_posts, vanilla_post, verify_window_post, verify_winning_post,
    window_challenges, window_post_partition, winning_challenges, winning_post, winning_sector_indices,
};
pub use sdr::{SdrInput, SdrProgress, replica_id, sdr};
pub use seal::{C1Input, Snark, VerifyInput, c1, c2, check_c1, clear_cache, tree_rc, unsealed_copy, verify_seal};
pub use tree_d::{PieceFile, tree_d};

/// A 32-byte root: comm_p, comm_d, comm_r. Their CID forms are the chain crate's matter.
pub type Commitment = [u8; 32];
