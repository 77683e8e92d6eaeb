//! Randomness of the chain, by what it is for.

use curio_core::{Epoch, SpId};

use super::Called;
use crate::client::Client;
use crate::election::as_field_element;
use crate::message::{RandomnessTag, miner_entropy};
use crate::rpc_error::RpcError;
use crate::types::*;
use crate::wire::Json;

impl Client {
    /// Randomness of the tickets at `epoch`, 32 bytes. The empty key is refused by the node, and so is
    /// an epoch above the key's. Negative epochs are answered.
    pub async fn state_get_randomness_from_tickets(
        &self,
        tag: i64,
        epoch: Epoch,
        entropy: &[u8],
        key: &TipSetKey,
    ) -> Called<[u8; 32]> {
        self.draw("Filecoin.StateGetRandomnessFromTickets", tag, epoch, entropy, key).await
    }

    /// Randomness of the beacon at `epoch`, 32 bytes.
    pub async fn state_get_randomness_from_beacon(
        &self,
        tag: i64,
        epoch: Epoch,
        entropy: &[u8],
        key: &TipSetKey,
    ) -> Called<[u8; 32]> {
        self.draw("Filecoin.StateGetRandomnessFromBeacon", tag, epoch, entropy, key).await
    }

    /// The ticket of a sector: bound into SDR. `key` must be that of a real tipset at or above `epoch`.
    pub async fn seal_ticket(&self, sp: SpId, epoch: Epoch, key: &TipSetKey) -> Called<[u8; 32]> {
        let tag = RandomnessTag::SealRandomness.number();
        self.state_get_randomness_from_tickets(tag, epoch, &miner_entropy(sp), key).await
    }

    /// The seed that chooses the challenges of a PoRep.
    pub async fn seal_seed(&self, sp: SpId, epoch: Epoch, key: &TipSetKey) -> Called<[u8; 32]> {
        let tag = RandomnessTag::InteractiveSealChallengeSeed.number();
        self.state_get_randomness_from_beacon(tag, epoch, &miner_entropy(sp), key).await
    }

    /// The randomness that chooses the challenges of a window PoSt: the beacon's at the challenge epoch of
    /// the deadline, as a field element.
    pub async fn window_post_randomness(&self, sp: SpId, challenge: Epoch, key: &TipSetKey) -> Called<[u8; 32]> {
        let tag = RandomnessTag::WindowedPoStChallengeSeed.number();
        let drawn = self.state_get_randomness_from_beacon(tag, challenge, &miner_entropy(sp), key).await?;
        Ok(as_field_element(drawn))
    }

    /// What a window PoSt message carries to say for which chain it was made. `key` must be that of a real
    /// tipset at or above `epoch`.
    pub async fn chain_commit_randomness(&self, epoch: Epoch, key: &TipSetKey) -> Called<[u8; 32]> {
        let tag = RandomnessTag::PoStChainCommit.number();
        self.state_get_randomness_from_tickets(tag, epoch, &[], key).await
    }

    /// The beacon's entry of an epoch; the node waits for one that is still to come.
    pub async fn state_get_beacon_entry(&self, epoch: Epoch) -> Called<BeaconEntry> {
        self.call("Filecoin.StateGetBeaconEntry", (epoch,)).await
    }

    async fn draw(
        &self,
        method: &'static str,
        tag: i64,
        epoch: Epoch,
        entropy: &[u8],
        key: &TipSetKey,
    ) -> Called<[u8; 32]> {
        let Json(bytes): Json<Vec<u8>> = self.call(method, (tag, epoch, Json(entropy.to_vec()), key)).await?;
        let length = bytes.len();
        bytes.try_into().map_err(|_| RpcError::Result {
            method,
            source: serde::de::Error::custom(format!("randomness of {length} bytes, 32 are expected")),
        })
    }
}
