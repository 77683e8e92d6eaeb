//! The chain against what a Lotus node did: recorded answers and messages (`tests/fixtures`), and the
//! story of a sector from pre-commit over window PoSts to fault and recovery, with real vanilla proofs and the real
//! verifier.

mod answers;
mod binary;
mod messages;
mod post_messages;
mod post_story;
mod reorganisation;
mod replica;
mod shapes;
mod stage;
mod story;
mod support;
mod transport;
mod websocket;
