//! The JSON forms in which a Lotus node writes values that are plain types here: CIDs as `{"/": ..}`,
//! bytes as base64 or null, amounts as decimal strings, bit fields as run lengths, addresses as text.
//!
//! Struct members use `#[serde(with = "crate::wire")]`; a bare parameter or result is wrapped in
//! [`Json`]. Null and an empty list are both accepted everywhere; what is written is what was recorded
//! from a Lotus node, so that the embedded chain can serve the same types.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cid::Cid;
use fvm_ipld_bitfield::BitField;
use fvm_ipld_bitfield::iter::Ranges;
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;
use num_bigint::BigInt;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address;

/// A value with a JSON form of its own on the wire of a Lotus node.
pub trait LotusJson: Sized {
    /// Writes the form that a Lotus node writes.
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
    /// Reads every form that a Lotus node accepts or writes.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

/// For `#[serde(with = "crate::wire")]`.
pub fn serialize<T: LotusJson, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.write(serializer)
}

/// For `#[serde(with = "crate::wire")]`.
pub fn deserialize<'de, T: LotusJson, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::read(deserializer)
}

/// A bare value in its wire form: `Json(cid)` as a parameter, `Json<BitField>` as a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: LotusJson> Serialize for Json<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

impl<'de, T: LotusJson> Deserialize<'de> for Json<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json<T>, D::Error> {
        T::read(deserializer).map(Json)
    }
}

impl<T: LotusJson> LotusJson for Option<T> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(value) => value.write(serializer),
            None => serializer.serialize_none(),
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<Json<T>>::deserialize(deserializer)?.map(|Json(value)| value))
    }
}

#[derive(Serialize, Deserialize)]
struct Link {
    #[serde(rename = "/")]
    text: String,
}

impl LotusJson for Cid {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Link { text: self.to_string() }.serialize(serializer)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Link { text } = Link::deserialize(deserializer)?;
        Cid::try_from(text.as_str()).map_err(|error| D::Error::custom(format!("'{text}' is not a CID: {error}")))
    }
}

impl LotusJson for Address {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&address::to_text(self))
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        address::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl LotusJson for BigInt {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("'{text}' is not a whole number in decimal")))
    }
}

impl LotusJson for TokenAmount {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.atto().write(serializer)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BigInt::read(deserializer).map(TokenAmount::from_atto)
    }
}

/// Bytes: base64 with padding; null when empty.
impl LotusJson for Vec<u8> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_empty() {
            true => serializer.serialize_none(),
            false => serializer.serialize_str(&STANDARD.encode(self)),
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            Some(text) => STANDARD.decode(&text).map_err(|error| D::Error::custom(format!("not base64: {error}"))),
            None => Ok(Vec::new()),
        }
    }
}

/// A list of CIDs: `[]` when empty.
impl LotusJson for Vec<Cid> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().copied().map(Json))
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_list(deserializer)
    }
}

/// A list of addresses: null when empty, as in `ControlAddresses`.
impl LotusJson for Vec<Address> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_empty() {
            true => serializer.serialize_none(),
            false => serializer.collect_seq(self.iter().copied().map(Json)),
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_list(deserializer)
    }
}

/// A list of byte strings: null when empty, as in `Multiaddrs`.
impl LotusJson for Vec<Vec<u8>> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_empty() {
            true => serializer.serialize_none(),
            false => serializer.collect_seq(self.iter().cloned().map(Json)),
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_list(deserializer)
    }
}

fn read_list<'de, T: LotusJson, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let list = Option::<Vec<Json<T>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(list.into_iter().map(|Json(value)| value).collect())
}

/// Run lengths that start with a run of zeros: `{}` is `[0]`, `{0}` is `[0,1]`, `{2,3}` is `[2,2]`.
impl LotusJson for BitField {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut runs = Vec::new();
        let mut end = 0;
        for range in self.ranges() {
            runs.push(range.start - end);
            runs.push(range.end - range.start);
            end = range.end;
        }
        if runs.is_empty() {
            runs.push(0);
        }
        runs.serialize(serializer)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let runs = Option::<Vec<u64>>::deserialize(deserializer)?.unwrap_or_default();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = 0_u64;
        for (index, length) in runs.into_iter().enumerate() {
            let end = at.checked_add(length).ok_or_else(|| D::Error::custom("bit field is longer than 2^64 bits"))?;
            if index % 2 == 1 && length > 0 {
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => ranges.push(at..end),
                }
            }
            at = end;
        }
        Ok(BitField::from_ranges(Ranges::new(ranges)))
    }
}

/// Lists of types with a serde form of their own: `[]` when empty.
pub mod list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        list.serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or_default())
    }
}

/// Lists of types with a serde form of their own: null when empty.
pub mod null_list {
    use serde::{Serialize, Serializer};

    pub use super::list::deserialize;

    pub fn serialize<T: Serialize, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        match list.is_empty() {
            true => serializer.serialize_none(),
            false => list.serialize(serializer),
        }
    }
}

/// Lists of CIDs that are null when empty.
pub mod null_cids {
    use super::*;

    pub fn serialize<S: Serializer>(cids: &[Cid], serializer: S) -> Result<S::Ok, S::Error> {
        match cids.is_empty() {
            true => serializer.serialize_none(),
            false => serializer.collect_seq(cids.iter().copied().map(Json)),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Cid>, D::Error> {
        read_list(deserializer)
    }
}

/// An address that may be undefined, which a Lotus node writes as the text `<empty>`.
pub mod undefined_address {
    use super::*;

    const UNDEFINED: &str = "<empty>";

    pub fn serialize<S: Serializer>(address: &Option<Address>, serializer: S) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => address.write(serializer),
            None => serializer.serialize_str(UNDEFINED),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Address>, D::Error> {
        match Option::<String>::deserialize(deserializer)?.as_deref() {
            None | Some("" | UNDEFINED) => Ok(None),
            Some(text) => address::parse(text).map(Some).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn bits(bits: &[u64]) -> BitField {
        BitField::try_from_bits(bits.iter().copied()).unwrap()
    }

    #[test]
    fn bit_fields_are_run_lengths_that_start_with_zeros() {
        for (set, runs) in [
            (&[][..], json!([0])),
            (&[0], json!([0, 1])),
            (&[0, 1], json!([0, 2])),
            (&[2, 3], json!([2, 2])),
            (&[3], json!([3, 1])),
            (&[1, 2, 3, 10], json!([1, 3, 6, 1])),
        ] {
            assert_eq!(serde_json::to_value(Json(bits(set))).unwrap(), runs);
            assert_eq!(serde_json::from_value::<Json<BitField>>(runs).unwrap(), Json(bits(set)));
        }
        for empty in [json!(null), json!([]), json!([0]), json!([5])] {
            assert_eq!(serde_json::from_value::<Json<BitField>>(empty).unwrap(), Json(bits(&[])));
        }
    }

    #[test]
    fn a_bit_field_beyond_64_bits_is_refused() {
        assert!(serde_json::from_value::<Json<BitField>>(json!([u64::MAX, 2])).is_err());
    }

    #[test]
    fn null_and_empty_are_both_read() {
        assert_eq!(serde_json::from_value::<Json<Vec<Cid>>>(json!(null)).unwrap().0, Vec::new());
        assert_eq!(serde_json::from_value::<Json<Vec<u8>>>(json!(null)).unwrap().0, Vec::<u8>::new());
        assert_eq!(serde_json::from_value::<Json<Vec<u8>>>(json!("")).unwrap().0, Vec::<u8>::new());
        assert_eq!(serde_json::to_value(Json(Vec::<u8>::new())).unwrap(), json!(null));
        assert_eq!(serde_json::to_value(Json(vec![1_u8, 2])).unwrap(), json!("AQI="));
    }

    #[test]
    fn an_amount_must_be_a_string() {
        assert_eq!(serde_json::from_value::<Json<TokenAmount>>(json!("15")).unwrap().0, TokenAmount::from_atto(15));
        assert!(serde_json::from_value::<Json<TokenAmount>>(json!(15)).is_err());
        assert!(serde_json::from_value::<Json<TokenAmount>>(json!("1.5")).is_err());
    }

    proptest! {
        #[test]
        fn any_bit_field_survives_the_wire(set in proptest::collection::btree_set(0_u64..500, 0..60)) {
            let field = BitField::try_from_bits(set).unwrap();
            let text = serde_json::to_string(&Json(field.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Json<BitField>>(&text).unwrap().0, field);
        }
    }
}
