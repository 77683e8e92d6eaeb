//! The operator on a real Kubernetes: control plane, two kubelets, our images, one chart release per scenario.
//!
//! Not part of a plain `cargo test`: these tests need a cluster and its images, and `cargo xtask test --section cluster`
//! makes both. A test that finds no cluster fails. Each scenario has a namespace that enforces the restricted pod
//! security standard, an operator that watches only it, a database and a storage provider of its own, so all of them
//! run at once. SNARKs are simulated; the chain verifies them with the real verifier.

mod autoscaling;
mod away;
mod conditions;
mod dump;
mod helm;
mod host;
mod killed;
mod proving;
mod refused;
mod scale;
mod settings;
mod wait;
mod world;
