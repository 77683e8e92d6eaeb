//! What a person changes about sectors on chain: giving them up, and keeping them longer.
//!
//! In two steps, as neither can be undone and the first costs a good part of the pledge: somebody asks ([`ask`]), somebody
//! looks at what was asked ([`list`]) and approves ([`approve`]). Only then there is a message in the outbox, under a key
//! of change, sectors and generation. Writes `sector_changes`.

mod approve;
mod ask;
mod error;
mod list;
mod on_chain;

use std::fmt;

use curio_chain::Client;
use curio_core::Epoch;
use curio_core::config::Config;
use curio_harmony::Db;

pub use self::approve::{Approved, approve};
pub use self::ask::ask;
pub use self::error::ChangeError;
pub use self::list::{ChangeState, ChangeStatus, list};
use crate::message::purpose::Purpose;

/// Where changes are asked for and looked up.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    pub db: &'a Db,
    pub chain: &'a Client,
    pub config: &'a Config,
}

/// What is to become of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Terminate,
    Extend { new_expiration: Epoch },
}

impl Change {
    pub fn kind(self) -> ChangeKind {
        match self {
            Change::Terminate => ChangeKind::Terminate,
            Change::Extend { .. } => ChangeKind::Extend,
        }
    }

    fn new_expiration(self) -> Option<i64> {
        match self {
            Change::Terminate => None,
            Change::Extend { new_expiration } => Some(new_expiration.0),
        }
    }
}

/// Which change, without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    Terminate,
    Extend,
}

impl ChangeKind {
    /// The word in `sector_changes.change`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Terminate => "terminate",
            ChangeKind::Extend => "extend",
        }
    }

    const fn purpose(self) -> Purpose {
        match self {
            ChangeKind::Terminate => Purpose::Terminate,
            ChangeKind::Extend => Purpose::Extend,
        }
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
