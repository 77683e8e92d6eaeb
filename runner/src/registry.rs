//! The task kinds that this machine runs, by its configuration. One line per kind.

use curio_harmony::Registry;

use crate::deps::Deps;
use crate::message::send::{SendMessage, SendPost};
use crate::post::window::compute::WdPost;
use crate::post::window::recover::WdPostRecover;
use crate::post::window::submit::WdPostSubmit;
use crate::post::winning::mine::WinPost;
use crate::seal::commit::CommitSubmit;
use crate::seal::finalize::Finalize;
use crate::seal::move_storage::MoveStorage;
use crate::seal::porep::PoRep;
use crate::seal::precommit::PreCommitSubmit;
use crate::seal::sdr::Sdr;
use crate::seal::tree_d::TreeD;
use crate::seal::tree_rc::TreeRc;

/// Registers the kinds that the configuration enables.
#[rustfmt::skip]
pub fn registry(deps: &Deps) -> Registry {
    let on = &deps.config.subsystems;
    let mut registry = Registry::new();
    if on.enable_seal_sdr           { registry.register(Sdr::new(deps)); }
    if on.enable_seal_sdr_trees     { registry.register(TreeD::new(deps)); }
    if on.enable_seal_sdr_trees     { registry.register(TreeRc::new(deps)); }
    if on.enable_seal_sdr_trees     { registry.register(Finalize::new(deps)); }
    if on.enable_send_precommit_msg { registry.register(PreCommitSubmit::new(deps)); }
    if on.enable_po_rep_proof       { registry.register(PoRep::new(deps)); }
    if on.enable_send_commit_msg    { registry.register(CommitSubmit::new(deps)); }
    if on.enable_move_storage       { registry.register(MoveStorage::new(deps)); }
    if on.enable_window_post        { registry.register(WdPost::new(deps)); }
    if on.enable_window_post        { registry.register(WdPostSubmit::new(deps)); }
    if on.enable_window_post        { registry.register(WdPostRecover::new(deps)); }
    if on.enable_winning_post       { registry.register(WinPost::new(deps)); }
    if on.sends_messages()          { registry.register(SendMessage::new(deps)); }
    if on.sends_messages()          { registry.register(SendPost::new(deps)); }
    registry
}
