//! The rows of the sealing pipeline, for the runner that works on them and the operator that shows them: the stages,
//! where sectors stand, requests for new ones, which windows are due, and what people decide about them. Knows no chain node and no proof.

pub mod act;
pub mod insert;
pub mod kind;
pub mod message;
pub mod numbers;
pub mod pinned;
pub mod request;
mod row;
pub mod sector_file;
pub mod stage;
pub mod status;
pub mod view;
pub mod windows;
