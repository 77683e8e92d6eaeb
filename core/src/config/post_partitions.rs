//! How many partitions one window PoSt message carries.

use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

use super::schema::Leaf;

/// The most partitions that the chain takes in one window PoSt message (policy of the miner actor).
pub const MAX_PARTITIONS_PER_POST: u8 = 3;

/// 1 to [`MAX_PARTITIONS_PER_POST`] partitions; written as 0 when it is as many as the chain takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PostPartitions(Option<NonZeroU8>);

/// More partitions than the chain takes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a window PoSt message carries at most {MAX_PARTITIONS_PER_POST} partitions, not {0}")]
pub struct TooManyPartitions(pub u8);

impl PostPartitions {
    /// As many as the chain takes.
    pub const MOST: PostPartitions = PostPartitions(None);

    /// The number of partitions, at least 1.
    pub fn get(self) -> usize {
        usize::from(self.0.map_or(MAX_PARTITIONS_PER_POST, NonZeroU8::get))
    }
}

impl Leaf for PostPartitions {
    const EXPECTED: &'static str = "a whole number from 0 to 3";
}

impl TryFrom<u8> for PostPartitions {
    type Error = TooManyPartitions;

    fn try_from(partitions: u8) -> Result<PostPartitions, TooManyPartitions> {
        match partitions {
            0..=MAX_PARTITIONS_PER_POST => Ok(PostPartitions(NonZeroU8::new(partitions))),
            more => Err(TooManyPartitions(more)),
        }
    }
}

impl From<PostPartitions> for u8 {
    fn from(partitions: PostPartitions) -> u8 {
        partitions.0.map_or(0, NonZeroU8::get)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::layers::{Layer, merge};

    fn merged(value: &str) -> Result<usize, String> {
        let layer = Layer::new("post", format!("[Proving]\nMaxPartitionsPerPoStMessage = {value}"));
        merge(&[layer])
            .map(|merged| merged.config.proving.max_partitions_per_po_st_message.get())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn zero_is_as_many_as_the_chain_takes_and_more_is_refused() {
        assert_eq!([merged("0"), merged("1"), merged("3")], [Ok(3), Ok(1), Ok(3)]);
        let refused = "Proving.MaxPartitionsPerPoStMessage in layer 'post' must be a whole number from 0 to 3, not 4";
        assert_eq!(merged("4"), Err(refused.to_owned()));
    }
}
