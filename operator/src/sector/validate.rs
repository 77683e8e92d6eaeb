//! What a SealingSector means: rows to be made for it, a sector to be shown, or a wish that this cluster refuses.

use std::collections::BTreeSet;

use curio_core::{SectorRef, SpId};
use curio_pipeline::request::{RequestPiece, SealRequest};
use kube::ResourceExt;

use crate::api::SealingSector;
use crate::api::conditions::reason;

/// What an object asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Sectors that are made under the object's uid.
    Ask(SealRequest),
    /// A sector that exists.
    Watch(SectorRef),
    /// Nothing is done: a reason and a sentence.
    Refused(&'static str, String),
}

/// Miners as a CurioCluster lists them. What is no miner's id was refused by the API server.
pub fn miners(listed: &[String]) -> BTreeSet<SpId> {
    listed.iter().filter_map(|miner| miner.parse().ok()).collect()
}

/// Reads an object's spec. `allowed` are the cluster's miners; empty means any.
pub fn wish(object: &SealingSector, allowed: &BTreeSet<SpId>) -> Wish {
    let spec = &object.spec;
    let miner: SpId = match spec.miner.parse() {
        Ok(miner) => miner,
        Err(error) => return Wish::Refused(reason::REFUSED, format!("{error}")),
    };
    if let Some(number) = spec.number {
        return Wish::Watch(SectorRef::new(miner, number.unsigned_abs()));
    }
    if !allowed.is_empty() && !allowed.contains(&miner) {
        let listed: Vec<String> = allowed.iter().map(SpId::to_string).collect();
        return Wish::Refused(
            reason::MINER_NOT_ALLOWED,
            format!(
                "miner {miner} is not one of CurioCluster {}'s ({}); add it to spec.miners there, or ask for another",
                spec.cluster,
                listed.join(", ")
            ),
        );
    }
    Wish::Ask(SealRequest {
        uid: object.uid().unwrap_or_default(),
        miner: spec.miner.clone(),
        count: spec.count.map_or(1, i32::unsigned_abs),
        piece: spec.piece.as_ref().map(|piece| RequestPiece {
            url: piece.url.clone(),
            piece_cid: piece.cid.clone(),
            raw_size: piece.raw_size.map(i64::unsigned_abs),
        }),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn object(spec: Value) -> SealingSector {
        let mut whole = json!({"cluster": "curio", "miner": "f01000"});
        whole.as_object_mut().expect("it is an object").append(&mut spec.as_object().expect("it is an object").clone());
        let spec = serde_json::from_value(whole).expect("it has the fields of a spec");
        let mut object = SealingSector::new("one", spec);
        object.metadata.uid = Some("uid-1".to_owned());
        object
    }

    #[rstest]
    #[case(json!({}), 1)]
    #[case(json!({"count": 1}), 1)]
    #[case(json!({"count": 7}), 7)]
    fn without_more_words_empty_sectors_are_asked_for(#[case] spec: Value, #[case] count: u32) {
        let Wish::Ask(request) = wish(&object(spec), &BTreeSet::new()) else { panic!("it asks") };
        assert_eq!((request.uid.as_str(), request.count, request.piece), ("uid-1", count, None));
    }

    #[test]
    fn a_piece_makes_one_sector_with_it() {
        let piece = json!({"piece": {"url": "https://data.example/a", "cid": "baga6ea4", "rawSize": 7}});
        let Wish::Ask(request) = wish(&object(piece), &BTreeSet::new()) else { panic!("it asks") };
        let expected = RequestPiece {
            url: "https://data.example/a".to_owned(),
            piece_cid: Some("baga6ea4".to_owned()),
            raw_size: Some(7),
        };
        assert_eq!((request.count, request.piece), (1, Some(expected)));
    }

    #[test]
    fn a_number_is_a_sector_to_watch_whatever_miners_are_listed() {
        let watched = wish(&object(json!({"number": 7})), &miners(&["f09".to_owned()]));
        assert_eq!(watched, Wish::Watch(SectorRef::new(SpId(1000), 7)));
    }

    #[rstest]
    #[case(&[], true)]
    #[case(&["f01000"], true)]
    #[case(&["t01000"], true)]
    #[case(&["f09", "f01"], false)]
    fn only_listed_miners_may_be_asked_for(#[case] listed: &[&str], #[case] accepted: bool) {
        let listed: Vec<String> = listed.iter().map(|miner| (*miner).to_owned()).collect();
        let found = wish(&object(json!({})), &miners(&listed));
        assert_eq!(matches!(found, Wish::Ask(_)), accepted, "{found:?}");
        if let Wish::Refused(reason, message) = found {
            assert_eq!(reason, reason::MINER_NOT_ALLOWED);
            assert!(message.contains("f01, f09") && message.contains("spec.miners"), "{message}");
        }
    }
}
