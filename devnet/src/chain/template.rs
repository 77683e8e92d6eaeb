//! Making a miner's block: what `MinerCreateBlock` does. The header follows from template and parents, the
//! signature is the worker's; nothing of the election or the proof is looked at, as in a Lotus node.

use curio_chain::types::{BlockMsg, BlockTemplate, SIGNATURE_BLS, SignedMessage};

use super::block;
use super::{Chain, Refused};

impl Chain {
    /// A signed block from a template.
    ///
    /// # Errors
    /// When the parents are not known, the miner is none, or its worker key is not in the wallet.
    pub fn create_block(&mut self, template: &BlockTemplate) -> Result<BlockMsg, Refused> {
        let parent = self
            .tip_of_key(&template.parents)
            .map_err(|Refused(why)| Refused(format!("failed to load parent tipset: {why}")))?;
        let state = self.lookback(&parent, template.epoch.0).after.clone();
        let worker = self
            .worker_key(&template.miner, &state)
            .map_err(|why| Refused(format!("failed to get miner worker: (get sset) failed to load miner {why}")))?;
        let mut header = block::draft(template, &parent, &self.store, &self.base_fee);
        let signature = self.wallet.sign(&worker, &header.signing_bytes());
        header.block_sig = Some(signature.map_err(|error| Refused(format!("failed to sign new block: {error}")))?);
        template.messages.iter().for_each(|message| self.remember(message));
        let cids = |bls: bool| {
            let messages = template.messages.iter();
            messages
                .filter(|message| (message.signature.kind == SIGNATURE_BLS) == bls)
                .map(SignedMessage::cid)
                .collect()
        };
        Ok(BlockMsg { header, bls_messages: cids(true), secpk_messages: cids(false) })
    }
}
