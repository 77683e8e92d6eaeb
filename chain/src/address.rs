//! Addresses as text. Both network prefixes are read; `t` is written, as a Lotus node writes it on
//! every network but mainnet. The library's own formatting hangs on a process-wide switch, so it is
//! used in this file only.

use curio_core::SpId;
use fvm_shared::address::{Address, Network, Payload};

/// The text is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a Filecoin address; write it like f01000, f1..., f3... (or with t)")]
pub struct ParseAddressError {
    pub text: String,
}

/// Reads an address with either prefix.
pub fn parse(text: &str) -> Result<Address, ParseAddressError> {
    Network::Mainnet
        .parse_address(text)
        .or_else(|_| Network::Testnet.parse_address(text))
        .map_err(|_| ParseAddressError { text: text.to_owned() })
}

/// The address with the `t` prefix, as it goes to a node.
pub fn to_text(address: &Address) -> String {
    with_prefix('t', address)
}

/// The address with the `f` prefix, as people and the database see it.
pub fn to_mainnet_text(address: &Address) -> String {
    with_prefix('f', address)
}

/// The id address of a storage provider's miner actor.
pub fn id_address(sp: SpId) -> Address {
    Address::new_id(sp.0)
}

/// The storage provider behind an id address; none for any other kind of address.
pub fn sp_id(address: &Address) -> Option<SpId> {
    match address.payload() {
        Payload::ID(id) => Some(SpId(*id)),
        _ => None,
    }
}

fn with_prefix(prefix: char, address: &Address) -> String {
    let text = address.to_string();
    let mut out = String::with_capacity(text.len());
    out.push(prefix);
    out.extend(text.chars().skip(1));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLS: &str = "snctnsb3nab47o3qbmdmma5iztdimwst4ia6lifg2qjjy3zsuyssw25kpjaws3cnbrjb7uwdx2l63wg6nu4a";

    #[test]
    fn both_prefixes_are_read_and_either_can_be_written() {
        for rest in ["01000", "00", "1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za", &format!("3{BLS}")] {
            let address = parse(&format!("f{rest}")).unwrap();
            assert_eq!(parse(&format!("t{rest}")).unwrap(), address);
            assert_eq!(to_text(&address), format!("t{rest}"));
            assert_eq!(to_mainnet_text(&address), format!("f{rest}"));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "<empty>", "x01000", "f9aaa", "t1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3zb"] {
            assert_eq!(parse(text), Err(ParseAddressError { text: text.to_owned() }));
        }
    }

    #[test]
    fn an_id_address_and_a_storage_provider_are_the_same_number() {
        assert_eq!(to_text(&id_address(SpId(1000))), "t01000");
        assert_eq!(sp_id(&parse("f01000").unwrap()), Some(SpId(1000)));
        assert_eq!(sp_id(&parse(&format!("t3{BLS}")).unwrap()), None);
    }
}
