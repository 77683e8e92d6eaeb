//! Randomness of the chain's tickets and of the beacon.

use std::sync::Arc;

use curio_chain::message::draw_randomness_from_digest;
use curio_chain::types::TipSetKey;
use curio_chain::wire::Json;
use curio_core::Epoch;

use super::at;
use crate::chain::{Chain, Refused, Tip, beacon};
use crate::node::Node;
use crate::rpc::fault::Fault;
use crate::rpc::table::{Answer, Table, answer};

pub(super) fn register(table: &mut Table) {
    table
        .read("StateGetRandomnessFromTickets", from_tickets)
        .read("StateGetRandomnessFromBeacon", from_beacon)
        .read("StateGetRandomnessDigestFromTickets", digest_from_tickets)
        .read("StateGetRandomnessDigestFromBeacon", digest_from_beacon)
        .read("StateGetBeaconEntry", state_get_beacon_entry);
}

/// A node waits for the entry of an epoch to come; this beacon knows them all.
fn state_get_beacon_entry(node: &Node, (epoch,): (i64,)) -> Answer {
    let chain = node.chain();
    match epoch {
        ..=0 => Err(no_beacon_before_genesis(&chain)),
        _ => answer(chain.beacon_entry(chain.head(), epoch)),
    }
}

/// This method refuses the empty key, unlike its sister.
fn from_tickets(node: &Node, (tag, epoch, entropy, key): (i64, i64, Vec<u8>, TipSetKey)) -> Answer {
    let chain = node.chain();
    let tip = chain.tip_of_key(&key).map_err(|Refused(why)| Fault::other(format!("loading tipset key: {why}")))?;
    let context = "getting chain randomness";
    not_from_the_future(&tip, epoch, context)?;
    let digest = chain.ticket_digest(&tip, epoch);
    answer(Json(draw_randomness_from_digest(&digest, tag, Epoch(epoch), &entropy).to_vec()))
}

fn from_beacon(node: &Node, (tag, epoch, entropy, key): (i64, i64, Vec<u8>, TipSetKey)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    let context = "getting beacon randomness";
    not_from_the_future(&tip, epoch, context)?;
    let digest = beacon_digest(&chain, &tip, epoch).map_err(|fault| fault.within(context))?;
    answer(Json(draw_randomness_from_digest(&digest, tag, Epoch(epoch), &entropy).to_vec()))
}

fn digest_from_tickets(node: &Node, (epoch, key): (i64, TipSetKey)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    not_from_the_future(&tip, epoch, "failed to get randomness digest from tickets")?;
    answer(Json(chain.ticket_digest(&tip, epoch).to_vec()))
}

fn digest_from_beacon(node: &Node, (epoch, key): (i64, TipSetKey)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    // The words of a Lotus node, which speaks of tickets here, too.
    not_from_the_future(&tip, epoch, "failed to get randomness digest from tickets")?;
    answer(Json(beacon_digest(&chain, &tip, epoch)?.to_vec()))
}

fn not_from_the_future(tip: &Arc<Tip>, epoch: i64, context: &str) -> Result<(), Fault> {
    match epoch > tip.height {
        true => Err(Fault::other(format!("{context}: cannot draw randomness from the future"))),
        false => Ok(()),
    }
}

/// Negative epochs get the genesis entry; epoch 0 is an error, as on a Lotus node with the mock beacon.
fn beacon_digest(chain: &Chain, tip: &Arc<Tip>, epoch: i64) -> Result<[u8; 32], Fault> {
    let data = match epoch {
        0 => return Err(no_beacon_before_genesis(chain)),
        ..0 => {
            let first = chain.genesis().tipset.blocks.first().and_then(|block| block.beacon_entries.first());
            first.map(|entry| entry.data.clone()).unwrap_or_default()
        }
        _ => chain.beacon_entry(tip, epoch).data,
    };
    Ok(beacon::blake2b(&data))
}

fn no_beacon_before_genesis(chain: &Chain) -> Fault {
    let parent = chain.genesis().tipset.parents().0.first().map(ToString::to_string).unwrap_or_default();
    Fault::other(format!(
        "failed to load parents when searching back for beacon entry: get block {parent}: cbor input should be of type \
         array"
    ))
}
