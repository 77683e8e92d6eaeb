//! The chain against what a Lotus node did: recorded answers and messages (`tests/fixtures`), and the
//! story of a sector from pre-commit to fault, with real vanilla proofs and the real verifier.

mod answers;
mod binary;
mod messages;
mod reorganisation;
mod story;
mod support;
mod transport;
mod websocket;
