//! Kubernetes operator of Curio.
//!
//! Three kinds describe what a user wants ([`api`]); one controller per kind compares that with what is there and acts.

pub mod api;
pub mod apply;
pub mod autoscale;
pub mod check;
pub mod cluster;
pub mod conditions;
pub mod context;
pub mod databases;
pub mod events;
pub mod generate;
pub mod http;
pub mod leader;
pub mod liveness;
pub mod pool;
pub mod put;
pub mod reconcile;
pub mod run;
pub mod sector;
pub mod telemetry;
