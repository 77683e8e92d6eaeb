//! Keys in the node.

use curio_chain::types::Signature;
use curio_chain::wire::Json;
use fvm_shared::address::{Address, Payload};
use serde_json::json;

use super::state::account_key;
use crate::auth::Permission;
use crate::node::Node;
use crate::rpc::fault::Fault;
use crate::rpc::params::SomeMessage;
use crate::rpc::table::{Answer, Table, answer};
use crate::wallet::{self, KeyKind};

pub(super) fn register(table: &mut Table) {
    table
        .sync("WalletNew", Permission::Write, wallet_new)
        .sync("WalletList", Permission::Write, |node: &Node, (): ()| {
            let list: Vec<Json<Address>> = node.chain().wallet.list().into_iter().map(Json).collect();
            answer(list)
        })
        .sync("WalletHas", Permission::Write, |node: &Node, (address,): (Address,)| {
            Ok(json!(node.chain().wallet.has(&address)))
        })
        .sync("WalletDefaultAddress", Permission::Write, |node: &Node, (): ()| {
            answer(node.chain().wallet.default_address().map(Json))
        })
        .read("WalletBalance", |node: &Node, (address,): (Address,)| {
            let chain = node.chain();
            // As with every question about the head, its own messages are not counted yet.
            let tree = &chain.head().before;
            answer(Json(tree.resolve(&address).map(|id| tree.balance(id)).unwrap_or_default()))
        })
        .sync("WalletSign", Permission::Sign, wallet_sign)
        .sync("WalletSignMessage", Permission::Sign, wallet_sign_message)
        .read("WalletVerify", |_, (address, data, signature): (Address, Vec<u8>, Signature)| {
            Ok(json!(wallet::verify(&address, &data, &signature).is_ok()))
        });
}

fn wallet_new(node: &Node, (kind,): (String,)) -> Answer {
    let kind = match kind.as_str() {
        "bls" => KeyKind::Bls,
        "secp256k1" => KeyKind::Secp256k1,
        other => return Err(Fault::other(format!("unknown sig type: {other}"))),
    };
    answer(Json(node.chain().wallet.make(kind)))
}

/// The key for an address: itself, or the one behind an id.
fn key_of(node: &Node, address: &Address) -> Result<Address, Fault> {
    match address.payload() {
        Payload::ID(_) => {
            let head = node.chain().head().clone();
            account_key(&head, address)
                // Go's own slip in formatting, part of the text that clients see.
                .map_err(|_| Fault::other("failed to resolve ID address: %!w(address.Address={})"))
        }
        _ => Ok(*address),
    }
}

fn wallet_sign(node: &Node, (address, data): (Address, Vec<u8>)) -> Answer {
    let key = key_of(node, &address)?;
    answer(node.chain().wallet.sign(&key, &data)?)
}

/// Signs whatever the message says about its sender.
fn wallet_sign_message(node: &Node, (address, message): (Address, SomeMessage)) -> Answer {
    let message = message.0.map_err(|member| Fault::other(format!("message has no '{member}' address")))?;
    let key = key_of(node, &address)?;
    let signed = node
        .chain()
        .wallet
        .sign_message(&key, message)
        .map_err(|error| Fault::other(format!("failed to sign message: {error}")))?;
    answer(signed)
}
