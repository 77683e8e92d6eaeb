//! Giving a sector up, in two steps. `Requested` makes the operator say what would be lost. `Confirmed` acts only when
//! that was said for an earlier generation of the object: whoever confirms has had the chance to read it, also when an
//! object is created with `Confirmed` in it, which no rule of the API server can refuse.

use curio_pipeline::act::{RemovalPreview, Removed};

use super::observe::Subject;
use crate::api::conditions::{reason, sector};
use crate::api::sealing_sector::Removal;
use crate::conditions::{Said, find};

/// Files that a message names; the rest are counted.
const FILES_NAMED: usize = 6;

/// Whether the sector is to be removed now.
pub fn is_due(subject: &Subject) -> bool {
    let shown = find(&subject.before.conditions, sector::REMOVAL_PENDING).filter(|shown| shown.status == "True");
    subject.object.spec.removal == Removal::Confirmed
        && shown.is_some_and(|shown| {
            shown.reason == reason::STOPPING
                || shown.observed_generation.is_some_and(|generation| generation < subject.generation())
        })
}

/// The condition; none while nobody asks for a removal.
pub fn said(subject: &Subject, preview: Option<&RemovalPreview>, removed: Option<&Removed>) -> Option<Said> {
    let asked = subject.object.spec.removal;
    if asked == Removal::None {
        return None;
    }
    let type_ = sector::REMOVAL_PENDING;
    Some(match (removed, preview) {
        (Some(Removed::Done), _) => {
            Said::no(type_, reason::REMOVED, "the sector is removed; its files go when their runners have deleted them")
        }
        (Some(Removed::Waiting(why)), _) => Said::yes(type_, reason::STOPPING, why),
        (Some(Removed::Refused(why)), _) => Said::no(type_, reason::REMOVAL_REFUSED, why),
        (None, None) => Said::no(type_, reason::REMOVAL_REFUSED, "there is no sector to remove"),
        (None, Some(preview)) if !preview.allowed => Said::no(type_, reason::REMOVAL_REFUSED, preview.reason.clone()),
        (None, Some(_)) if is_due(subject) => {
            Said::yes(type_, reason::STOPPING, "the removal is confirmed and has not been carried out yet")
        }
        (None, Some(preview)) => Said::yes(type_, reason::AWAITING_CONFIRMATION, cost(preview, asked)),
    })
}

fn cost(preview: &RemovalPreview, asked: Removal) -> String {
    let files = match preview.files.len() {
        0 => "no file of it is stored".to_owned(),
        count if count <= FILES_NAMED => format!("these files would go: {}", preview.files.join("; ")),
        count => format!(
            "these files would go: {}; and {} more",
            preview.files[..FILES_NAMED].join("; "),
            count - FILES_NAMED
        ),
    };
    let next = match asked {
        Removal::None | Removal::Requested => "set spec.removal to Confirmed to remove it, to None to keep it",
        Removal::Confirmed => {
            "it was confirmed before this could be read: set spec.removal to Requested, then to Confirmed"
        }
    };
    let chain = if preview.on_chain { "; a message of it is on chain" } else { "" };
    format!("{}{chain}; {files}; {next}", preview.reason)
}
