//! Making blocks.

use curio_core::Epoch;
use fvm_shared::address::Address;

use super::Called;
use crate::client::Client;
use crate::types::*;
use crate::wire::Json;

impl Client {
    /// What the election for `round` on top of `base` is held with. None for a miner without power.
    ///
    /// # Errors
    /// The node refuses the empty key, and an actor that is no miner.
    pub async fn miner_get_base_info(
        &self,
        miner: &Address,
        round: Epoch,
        base: &TipSetKey,
    ) -> Called<Option<MiningBaseInfo>> {
        self.call("Filecoin.MinerGetBaseInfo", (Json(*miner), round, base)).await
    }

    /// Messages for a block on top of a tipset, best paying first. `ticket_quality` is from 0 to 1, see
    /// [`crate::election::ticket_quality`].
    pub async fn mpool_select(&self, key: &TipSetKey, ticket_quality: f64) -> Called<Vec<SignedMessage>> {
        self.list("Filecoin.MpoolSelect", (key, ticket_quality)).await
    }

    /// Makes a block and signs it with the worker key in the node's wallet. The node checks neither the
    /// winning PoSt nor the number of wins nor the timestamp.
    pub async fn miner_create_block(&self, template: &BlockTemplate) -> Called<BlockMsg> {
        self.call("Filecoin.MinerCreateBlock", (template,)).await
    }

    /// Gives a block to the network. The identical block may be submitted again. A node remembers the first
    /// block of a miner for an epoch, and on the same parents, even one that was refused, and takes no other:
    /// never submit a block that was not checked.
    pub async fn sync_submit_block(&self, block: &BlockMsg) -> Called<()> {
        self.call("Filecoin.SyncSubmitBlock", (block,)).await
    }
}
