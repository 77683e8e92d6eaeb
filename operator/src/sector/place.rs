//! Where an object stands in the database: the sector it shows, the request it made, or neither.

use curio_core::SectorRef;
use curio_pipeline::request::{RequestRow, RequestState, SealRequest};
use curio_pipeline::status::SectorState;
use curio_pipeline::view::SectorView;

use super::observe::{Rows, Subject};
use super::validate::Wish;
use crate::api::sealing_sector::SealingSectorStatus;

/// Words of `status.stage` that the pipeline does not have.
pub mod stage {
    pub const ASKED: &str = "Asked";
    pub const SEALING: &str = "Sealing";
    pub const PROVEN: &str = "Proven";
    pub const FAILED: &str = "Failed";
    pub const REFUSED: &str = "Refused";
    pub const REMOVED: &str = "Removed";
    pub const NOT_FOUND: &str = "NotFound";
}

/// Where an object stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Place<'r> {
    /// Nobody has asked the database yet.
    Unasked,
    /// No runner has taken the request up.
    Pending(&'r RequestRow),
    /// A runner has refused the request.
    Refused(&'r RequestRow),
    /// The sector that it shows.
    One(&'r SectorView),
    /// The sectors of a request for several.
    Many(Many<'r>),
    /// The database has no such sector, or not any more.
    Gone(Option<SectorRef>),
    /// It has come to its end and its sector has left the lists: its status stays as it is.
    Settled,
    /// The object is refused before the database is asked.
    Unwanted,
}

/// The sectors of a request for several.
#[derive(Clone, Debug, PartialEq)]
pub struct Many<'r> {
    /// How many were asked for.
    pub asked: u32,
    /// Those that still are in the pipeline, by number.
    pub numbers: Vec<u64>,
    /// Those of them that are not proven yet.
    pub open: Vec<&'r SectorView>,
}

/// Whether nothing can become of an object any more, as long as no row says otherwise.
pub fn is_settled(status: &SealingSectorStatus) -> bool {
    [stage::PROVEN, stage::REMOVED, stage::NOT_FOUND].contains(&status.stage.as_str())
}

/// Finds it.
pub fn of<'r>(subject: &Subject, wish: &Wish, rows: &'r Rows) -> Place<'r> {
    match wish {
        Wish::Refused(..) => Place::Unwanted,
        Wish::Watch(sector) => one(subject, Some(*sector), rows),
        Wish::Ask(request) if request.count > 1 => many(subject, request.count, rows),
        Wish::Ask(request) => match rows.requests.get(&request.uid) {
            Some(row) if row.state == RequestState::Pending => Place::Pending(row),
            Some(row) if row.state == RequestState::Refused => Place::Refused(row),
            Some(row) => one(subject, row.sectors.first().copied().or_else(|| shown(subject, request)), rows),
            None if is_settled(&subject.before) => one(subject, shown(subject, request), rows),
            None => Place::Unasked,
        },
    }
}

/// The sector that the object's status has shown so far.
fn shown(subject: &Subject, request: &SealRequest) -> Option<SectorRef> {
    let number = subject.before.number?.unsigned_abs();
    request.miner.parse().ok().map(|miner| SectorRef::new(miner, number))
}

fn one<'r>(subject: &Subject, sector: Option<SectorRef>, rows: &'r Rows) -> Place<'r> {
    match sector.and_then(|sector| rows.sectors.get(&sector)) {
        Some(view) => Place::One(view),
        None if is_settled(&subject.before) => Place::Settled,
        None => Place::Gone(sector),
    }
}

fn many<'r>(subject: &Subject, asked: u32, rows: &'r Rows) -> Place<'r> {
    match rows.requests.get(subject.uid()) {
        None if is_settled(&subject.before) => Place::Settled,
        None => Place::Unasked,
        Some(row) => match row.state {
            RequestState::Pending => Place::Pending(row),
            RequestState::Refused => Place::Refused(row),
            RequestState::Started => {
                // A sector of the request that is in no list has ended, which only proven ones do.
                let listed = row.sectors.iter().filter_map(|sector| rows.sectors.get(sector));
                let open = listed.filter(|view| view.state != SectorState::Proven).collect();
                Place::Many(Many { asked, numbers: row.sectors.iter().map(|sector| sector.number).collect(), open })
            }
        },
    }
}
