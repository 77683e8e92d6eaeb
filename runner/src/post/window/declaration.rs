//! What a look at the sectors of some partitions found, and the messages that declare it. Pure.

use std::collections::BTreeMap;

use curio_chain::message::{
    Cbor, DeclareFaultsParams, DeclareFaultsRecoveredParams, FaultDeclaration, RecoveryDeclaration, method,
};

use super::{Window, select};

/// What was found in one partition. Sectors ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub recoverable: Vec<u64>,
    pub bad: Vec<u64>,
    pub lost: Vec<u64>,
}

/// By partition.
pub(super) type FoundIn = BTreeMap<u64, Found>;

/// The declaration of what can be read again; none when that is nothing.
pub(super) fn recoveries(window: Window, found: &FoundIn) -> Option<(u64, Vec<u8>)> {
    let recoveries: Vec<RecoveryDeclaration> = found
        .iter()
        .filter(|(_, found)| !found.recoverable.is_empty())
        .map(|(partition, found)| RecoveryDeclaration {
            deadline: window.deadline,
            partition: *partition,
            sectors: select::bits(&found.recoverable),
        })
        .collect();
    let params = (!recoveries.is_empty()).then_some(DeclareFaultsRecoveredParams { recoveries })?;
    Some((method::DECLARE_FAULTS_RECOVERED, params.to_cbor()))
}

/// The declaration of what was lost; none when that is nothing.
pub(super) fn faults(window: Window, found: &FoundIn) -> Option<(u64, Vec<u8>)> {
    let faults: Vec<FaultDeclaration> = found
        .iter()
        .filter(|(_, found)| !found.lost.is_empty())
        .map(|(partition, found)| FaultDeclaration {
            deadline: window.deadline,
            partition: *partition,
            sectors: select::bits(&found.lost),
        })
        .collect();
    let params = (!faults.is_empty()).then_some(DeclareFaultsParams { faults })?;
    Some((method::DECLARE_FAULTS, params.to_cbor()))
}

#[cfg(test)]
mod tests {
    use curio_core::{Epoch, SpId};

    use super::*;

    const WINDOW: Window = Window { sp: SpId(1000), period_start: Epoch(0), deadline: 3 };

    fn found() -> FoundIn {
        BTreeMap::from([
            (0, Found { recoverable: vec![1, 2], bad: vec![3], lost: vec![] }),
            (2, Found { recoverable: vec![], bad: vec![8], lost: vec![9] }),
        ])
    }

    #[test]
    fn only_partitions_with_something_to_declare_are_named() {
        let (method, params) = recoveries(WINDOW, &found()).expect("two sectors recover");
        let params = DeclareFaultsRecoveredParams::from_cbor(&params).expect("our own parameters are read");
        let named: Vec<(u64, u64, Vec<u64>)> =
            params.recoveries.iter().map(|of| (of.deadline, of.partition, of.sectors.iter().collect())).collect();
        assert_eq!((method, named), (11, vec![(3, 0, vec![1, 2])]));
        let (method, params) = faults(WINDOW, &found()).expect("a sector is lost");
        let params = DeclareFaultsParams::from_cbor(&params).expect("our own parameters are read");
        let named: Vec<(u64, u64, Vec<u64>)> =
            params.faults.iter().map(|of| (of.deadline, of.partition, of.sectors.iter().collect())).collect();
        assert_eq!((method, named), (10, vec![(3, 2, vec![9])]));
    }

    #[test]
    fn nothing_to_declare_is_no_message() {
        let found = FoundIn::from([(0, Found { bad: vec![1], ..Found::default() })]);
        assert_eq!(recoveries(WINDOW, &found), None);
        assert_eq!(faults(WINDOW, &found), None);
    }
}
