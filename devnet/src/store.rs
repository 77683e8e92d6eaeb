//! The blockstore of the embedded chain: content-addressed objects in memory, shared by every reader.
//! Nothing is ever removed; a chain lives as long as its process.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use cid::Cid;
use fvm_ipld_blockstore::Blockstore;
use fvm_ipld_encoding::CborStore;
use multihash_codetable::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Objects by CID. Clones share the objects.
#[derive(Clone, Default)]
pub struct Store {
    blocks: Arc<RwLock<HashMap<Cid, Arc<[u8]>>>>,
}

impl Store {
    /// The bytes of an object.
    pub fn bytes(&self, cid: &Cid) -> Option<Arc<[u8]>> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner).get(cid).cloned()
    }

    /// Stores a value as DAG-CBOR under its blake2b-256 CID.
    pub fn put(&self, value: &impl Serialize) -> Cid {
        self.put_cbor(value, Code::Blake2b256).expect("our own types encode, and memory does not refuse them")
    }

    /// Loads a value that this chain itself stored under this CID.
    pub fn load<T: DeserializeOwned>(&self, cid: &Cid) -> anyhow::Result<T> {
        self.get_cbor(cid)?.ok_or_else(|| anyhow::anyhow!("ipld: could not find {cid}"))
    }
}

impl Blockstore for Store {
    fn get(&self, cid: &Cid) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self.bytes(cid).map(|bytes| bytes.to_vec()))
    }

    fn put_keyed(&self, cid: &Cid, block: &[u8]) -> anyhow::Result<()> {
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        blocks.entry(*cid).or_insert_with(|| block.into());
        Ok(())
    }

    fn has(&self, cid: &Cid) -> anyhow::Result<bool> {
        Ok(self.blocks.read().unwrap_or_else(PoisonError::into_inner).contains_key(cid))
    }
}
