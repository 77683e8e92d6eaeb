//! Judging a miner's block, as a Lotus node does: first what costs nothing and ends the matter, then everything
//! else, all faults told at once.

use std::collections::HashMap;
use std::sync::Arc;

use curio_chain::address::sp_id;
use curio_chain::election;
use curio_chain::message::comm_r;
use curio_chain::types::{BlockHeader, ElectionProof, MiningBaseInfo, SIGNATURE_BLS, Signature, SignedMessage, Ticket};
use curio_core::{SealProof, SpId};
use curio_proofs::PublicSector;
use fvm_shared::address::Address;

use super::block;
use super::{Chain, Tip};
use crate::proof::PostClaim;
use crate::wallet;

/// How far a block may be ahead of this machine's clock, seconds.
const CLOCK_DRIFT_SECONDS: u64 = 1;

impl Chain {
    /// Judges a block on top of its parents. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// What is wrong with it, as text.
    pub(super) fn validate(
        &self,
        header: &BlockHeader,
        messages: &[SignedMessage],
        parent: &Arc<Tip>,
        now: u64,
    ) -> Result<(), String> {
        let whole = Whole::of(header)?;
        self.check_time(header, parent, now)?;
        let info = self.base_info(&header.miner, header.height.0, parent);
        let info = info.map_err(|refused| format!("failed to get miner's base info: {refused}"))?;
        let sp = sp_id(&header.miner).ok_or("block miner is not an id address")?;
        let info = info.ok_or("received block was from miner not eligible to mine")?;
        let faults = [
            check_messages(messages, parent, &whole),
            self.check_parents(header, parent),
            check_election(header, sp, &info, &whole),
            check_signature(header, &info, &whole),
            check_beacon(header, &info),
            check_ticket(header, sp, parent, &info, &whole),
            self.check_winning_post(header, sp, &info),
        ];
        let faults: Vec<String> = faults.into_iter().filter_map(Result::err).collect();
        match faults.len() {
            0 => Ok(()),
            1 => Err(format!("1 error occurred:\n\t* {}\n\n", faults[0])),
            many => Err(format!("{many} errors occurred:\n\t* {}\n\n", faults.join("\n\t* "))),
        }
    }

    fn check_time(&self, header: &BlockHeader, parent: &Tip, now: u64) -> Result<(), String> {
        let (height, below) = (header.height.0, parent.height);
        if height <= below {
            return Err(format!("block height not greater than parent height: {height} != {below}"));
        }
        let (got, want) = (header.timestamp, self.blocks.timestamp(&parent.tipset, height));
        if got != want {
            return Err(format!("block has wrong timestamp: {got} != {want}"));
        }
        match got > now + CLOCK_DRIFT_SECONDS {
            true => Err(format!("block was from the future (now={now}, blk={got}): temporal error")),
            false => Ok(()),
        }
    }

    /// What follows from the parents.
    fn check_parents(&self, header: &BlockHeader, parent: &Tip) -> Result<(), String> {
        let BlockHeader { parent_weight, parent_state_root, parent_message_receipts, parent_base_fee, .. } = header;
        if *parent_base_fee != self.base_fee {
            let (got, want) = (parent_base_fee.atto(), self.base_fee.atto());
            return Err(format!("base fee doesn't match: {got} (header) != {want} (computed)"));
        }
        if *parent_weight != parent.weight {
            return Err(format!("parent weight different: {parent_weight} (header) != {} (computed)", parent.weight));
        }
        if *parent_state_root != parent.after_root {
            let want = parent.after_root;
            return Err(format!("parent state root did not match computed state ({parent_state_root} != {want})"));
        }
        if *parent_message_receipts != parent.receipts_root {
            let (got, want) = (parent_message_receipts, parent.receipts_root);
            return Err(format!("parent receipts root did not match computed value ({got} != {want})"));
        }
        Ok(())
    }

    fn check_winning_post(&self, header: &BlockHeader, sp: SpId, info: &MiningBaseInfo) -> Result<(), String> {
        let invalid = |why: &str| format!("invalid election post:\n  - failed to verify election post:\n  - {why}");
        let proof = SealProof::of_sector_size(info.sector_size).ok_or_else(|| invalid("unknown sector size"))?;
        let [post] = &header.win_post_proof[..] else { return Err(invalid("expected exactly one proof")) };
        if post.post_proof != proof.winning_post() {
            return Err(invalid("proof type of another sector size"));
        }
        let sectors = info.sectors.iter().map(|sector| {
            let comm_r = comm_r(&sector.sealed_cid).map_err(|error| invalid(&error.to_string()))?;
            Ok(PublicSector { number: sector.sector_number, comm_r })
        });
        let sectors = sectors.collect::<Result<Vec<_>, String>>()?;
        let randomness = election::winning_post_randomness(info.beacon(), header.height, sp);
        let claim = PostClaim { proof, sp, randomness, sectors: &sectors, post: &post.proof_bytes };
        match self.verifier.verify_winning_post(&claim) {
            true => Ok(()),
            false => Err(invalid("winning post was invalid")),
        }
    }
}

/// The members that a block of a miner must have.
struct Whole<'a> {
    ticket: &'a Ticket,
    election_proof: &'a ElectionProof,
    bls_aggregate: &'a Signature,
    block_sig: &'a Signature,
}

impl<'a> Whole<'a> {
    fn of(header: &'a BlockHeader) -> Result<Whole<'a>, String> {
        let BlockHeader { ticket, election_proof, bls_aggregate, block_sig, .. } = header;
        Ok(Whole {
            ticket: ticket.as_ref().ok_or("block cannot have nil ticket")?,
            election_proof: election_proof.as_ref().ok_or("block cannot have nil election proof")?,
            bls_aggregate: bls_aggregate.as_ref().ok_or("block had nil bls aggregate signature")?,
            block_sig: block_sig.as_ref().ok_or("block had nil signature")?,
        })
    }
}

/// Nonces that follow each other from the parents' state on, and the aggregate of the BLS signatures.
fn check_messages(messages: &[SignedMessage], parent: &Tip, whole: &Whole<'_>) -> Result<(), String> {
    let mut nonces: HashMap<Address, u64> = HashMap::new();
    for (index, message) in messages.iter().enumerate() {
        let invalid = |why: String| format!("block had invalid message at index {index}: {why}");
        let from = message.message.from;
        let Some((_, account)) = parent.after.lookup(&from) else {
            return Err(invalid("failed to load sender: actor not found".to_owned()));
        };
        let expected = nonces.entry(from).or_insert(account.nonce);
        let got = message.message.nonce;
        if got != *expected {
            return Err(invalid(format!("wrong nonce (exp: {expected}, got: {got})")));
        }
        *expected += 1;
        wallet::verify(&from, &message.message.cid().to_bytes(), &message.signature)
            .map_err(|error| invalid(format!("signature is not valid: {error}")))?;
    }
    match block::aggregate(messages) == *whole.bls_aggregate {
        true => Ok(()),
        false => Err("bls aggregate signature was invalid".to_owned()),
    }
}

fn check_election(header: &BlockHeader, sp: SpId, info: &MiningBaseInfo, whole: &Whole<'_>) -> Result<(), String> {
    let ElectionProof { win_count, vrf_proof } = whole.election_proof;
    if *win_count < 1 {
        return Err("block is not claiming to be a winner".to_owned());
    }
    if !info.eligible_for_mining {
        return Err("received block was from miner not eligible to mine".to_owned());
    }
    let input = election::election_input(info.beacon(), header.height, sp);
    check_vrf(info, &input, vrf_proof).map_err(|why| format!("validating block election proof failed: {why}"))?;
    let computed = election::win_count(vrf_proof, &info.miner_power, &info.network_power);
    match *win_count == computed {
        true => Ok(()),
        false => Err(format!("miner claims wrong number of wins: miner: {win_count}, computed: {computed}")),
    }
}

fn check_signature(header: &BlockHeader, info: &MiningBaseInfo, whole: &Whole<'_>) -> Result<(), String> {
    wallet::verify(&info.worker_key, &header.signing_bytes(), whole.block_sig)
        .map_err(|error| format!("check block signature failed:\n  - {error}"))
}

fn check_beacon(header: &BlockHeader, info: &MiningBaseInfo) -> Result<(), String> {
    match header.beacon_entries == info.beacon_entries {
        true => Ok(()),
        false => {
            let (got, want) = (header.beacon_entries.len(), info.beacon_entries.len());
            Err(format!("failed to validate blocks random beacon values: {got} entries are not the {want} expected"))
        }
    }
}

fn check_ticket(
    header: &BlockHeader,
    sp: SpId,
    parent: &Tip,
    info: &MiningBaseInfo,
    whole: &Whole<'_>,
) -> Result<(), String> {
    let failed = |why: String| format!("validating block tickets failed: {why}");
    let below = election::min_ticket(&parent.tipset).ok_or_else(|| failed("the parents have no ticket".to_owned()))?;
    let input = election::ticket_input(info.beacon(), header.height, sp, below);
    check_vrf(info, &input, &whole.ticket.vrf_proof).map_err(failed)
}

/// A VRF proof is a BLS signature of the worker.
fn check_vrf(info: &MiningBaseInfo, input: &[u8], vrf_proof: &[u8]) -> Result<(), String> {
    let signature = Signature { kind: SIGNATURE_BLS, data: vrf_proof.to_vec() };
    wallet::verify(&info.worker_key, input, &signature).map_err(|error| format!("vrf was invalid: {error}"))
}
