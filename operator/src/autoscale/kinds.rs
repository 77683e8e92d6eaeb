//! What a scheduler of runners has to know of each kind of task: which switch turns it on, what it takes, and whether
//! another runner helps at all.

use curio_core::Resources;
use curio_core::config::Subsystems;
use curio_core::resources::GIB;
use curio_pipeline::kind;

/// A kind that a runner does, with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled {
    pub kind: &'static str,
    /// At a time; 0 is no limit.
    pub limit: u32,
    /// What one task takes with sectors of 32 GiB; none where it is next to nothing. The runner itself measures
    /// and decides; this only has to be near, and never too low.
    pub cost: Option<Resources>,
    /// Whether any runner can do it. The trees and the finalising happen where the sector's cache lies, so that
    /// one more runner does not shorten their queue; the runner that has the cache counts as pinned.
    pub anywhere: bool,
}

const SDR_COST: Resources = Resources { cpu: 4, ram_bytes: 65 * GIB, gpu_milli: 0 };
const TREE_COST: Resources = Resources { cpu: 1, ram_bytes: 8 * GIB, gpu_milli: 1000 };
const SNARK_COST: Resources = Resources { cpu: 1, ram_bytes: 128 * GIB, gpu_milli: 1000 };
const WINDOW_POST_COST: Resources = Resources { cpu: 1, ram_bytes: 25 * GIB, gpu_milli: 1000 };
const WINNING_POST_COST: Resources = Resources { cpu: 1, ram_bytes: 2 * GIB, gpu_milli: 0 };
const MOVE_COST: Resources = Resources { cpu: 1, ram_bytes: GIB / 8, gpu_milli: 0 };

/// The kinds that a runner with this configuration does.
#[rustfmt::skip]
pub fn enabled(on: &Subsystems) -> Vec<Enabled> {
    let trees = on.seal_sdr_trees_max_tasks;
    let all = [
        (on.enable_seal_sdr,           kind::SDR,              on.seal_sdr_max_tasks,     Some(SDR_COST),   true),
        (on.enable_seal_sdr_trees,     kind::TREE_D,           trees,                     Some(TREE_COST),  false),
        (on.enable_seal_sdr_trees,     kind::TREE_RC,          trees,                     Some(TREE_COST),  false),
        (on.enable_seal_sdr_trees,     kind::FINALIZE,         on.finalize_max_tasks,     None,             false),
        (on.enable_send_precommit_msg, kind::PRECOMMIT_SUBMIT, 0,                         None,             true),
        (on.enable_po_rep_proof,       kind::POREP,            on.po_rep_proof_max_tasks, Some(SNARK_COST), true),
        (on.enable_send_commit_msg,    kind::COMMIT_SUBMIT,    0,                         None,             true),
        (on.enable_move_storage,       kind::MOVE_STORAGE,     on.move_storage_max_tasks, Some(MOVE_COST),  true),
        (on.enable_window_post,        kind::WD_POST,          on.window_post_max_tasks,  Some(WINDOW_POST_COST), true),
        (on.enable_window_post,        kind::WD_POST_SUBMIT,   0,                         None,             true),
        (on.enable_window_post,        kind::WD_POST_RECOVER,  0,                         None,             true),
        (on.enable_winning_post,       kind::WIN_POST,         on.winning_post_max_tasks, Some(WINNING_POST_COST), true),
        (on.sends_messages(),          kind::SEND_MESSAGE,     0,                         None,             true),
        (on.sends_messages(),          kind::SEND_POST,        0,                         None,             true),
    ];
    all.into_iter()
        .filter(|(enabled, ..)| *enabled)
        .map(|(_, kind, limit, cost, anywhere)| Enabled { kind: kind.as_str(), limit, cost, anywhere })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_pipeline_is_known() {
        let on = Subsystems {
            enable_seal_sdr: true,
            enable_seal_sdr_trees: true,
            enable_send_precommit_msg: true,
            enable_po_rep_proof: true,
            enable_send_commit_msg: true,
            enable_move_storage: true,
            enable_window_post: true,
            enable_winning_post: true,
            ..Subsystems::default()
        };
        let mut kinds: Vec<&str> = enabled(&on).iter().map(|enabled| enabled.kind).collect();
        kinds.sort_unstable();
        let expected = [
            "CommitSubmit",
            "Finalize",
            "MoveStorage",
            "PoRep",
            "PreCommitSubmit",
            "SDR",
            "SendMessage",
            "SendPost",
            "TreeD",
            "TreeRC",
            "WdPost",
            "WdPostRecover",
            "WdPostSubmit",
            "WinPost",
        ];
        assert_eq!(kinds, expected);
        assert_eq!(enabled(&Subsystems::default()), []);
    }

    #[test]
    fn messages_are_sent_where_something_submits() {
        let on = Subsystems { enable_send_commit_msg: true, ..Subsystems::default() };
        let kinds: Vec<&str> = enabled(&on).iter().map(|enabled| enabled.kind).collect();
        assert_eq!(kinds, ["CommitSubmit", "SendMessage", "SendPost"]);
    }
}
