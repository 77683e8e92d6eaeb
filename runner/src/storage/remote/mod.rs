//! `/remote`: how one runner reads, removes and proves sector files that another one reaches.
//!
//! | request | scope of the token | answer |
//! |---|---|---|
//! | `GET /remote/stat/{path}` | `stat` | figures of a storage path, JSON |
//! | `GET /remote/{type}/{sector}?path=ID` | `read` | sealed, unsealed: bytes of the file, with `Range`; cache: its manifest, JSON |
//! | `GET /remote/cache/{sector}/{name}?path=ID` | `read` | bytes of one cache file, with `Range` |
//! | `DELETE /remote/{type}/{sector}?path=ID` | `delete` | removes a copy that the database has marked for removal |
//! | `POST /remote/vanilla/porep` | `vanilla` | C1 over the sealed file and the cache that lie here |
//! | `POST /remote/vanilla/post` | `posts` | vanilla PoSts of sectors that lie here, a line each as soon as it is made |
//!
//! Every request carries a bearer token: JWT, HS256 with the secret that all runners share, minutes short,
//! naming one operation on one sector file (or path), or one request for vanilla PoSts. Bytes come in blocks of at most 8 MiB, each with its
//! `Content-Digest` (RFC 9530) and the `ETag` of the file, so a broken transfer goes on from the byte it
//! reached and a damaged block is asked for again. A cache is a manifest and files rather than an archive for the
//! same reason.

pub mod client;
pub mod digest;
pub mod files;
mod posts;
pub mod server;
pub mod token;

pub use server::{RemoteState, router};

/// Most bytes in one answer; the unit of checksums and of resuming.
pub const BLOCK_BYTES: u64 = 8 << 20;
