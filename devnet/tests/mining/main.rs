//! Blocks that miners make, and what a test may do to a chain: several blocks in a tipset, wrong blocks, forks,
//! a head that goes backwards, a node that is silent, messages that do not land. Proofs are believed here, but for
//! one test with a real winning PoSt.

mod base_info;
mod blocks;
mod clock;
mod fixtures;
mod real;
mod refused;
mod steer;
mod support;
