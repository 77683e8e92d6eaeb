//! The node's wallet: BLS and secp256k1 keys, derived one after the other from the chain's seed. They
//! are as secret as the seed is, which is not at all.

use std::collections::BTreeMap;

use bls_signatures::Serialize as _;
use curio_chain::address::to_text;
use curio_chain::types::{Message, SIGNATURE_BLS, SIGNATURE_SECP256K1, Signature, SignedMessage};
use fvm_shared::address::{Address, Payload};

use crate::chain::beacon::blake2b;

/// Kind of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Bls,
    Secp256k1,
}

enum Key {
    Bls(bls_signatures::PrivateKey),
    Secp256k1(k256::ecdsa::SigningKey),
}

/// The address has no key here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("key not found for {}", to_text(.0))]
pub struct NoKey(pub Address);

/// Keys by address.
pub struct Wallet {
    keys: BTreeMap<Address, Key>,
    seed: u64,
    /// Keys made so far.
    made: u64,
    default: Option<Address>,
}

impl Wallet {
    /// Empty wallet whose keys follow from the seed. The first key made is the default address.
    pub fn new(seed: u64) -> Wallet {
        Wallet { keys: BTreeMap::new(), seed, made: 0, default: None }
    }

    /// Makes a key and answers its address.
    pub fn make(&mut self, kind: KeyKind) -> Address {
        let secret = self.secret(self.made);
        self.made += 1;
        let (address, key) = match kind {
            KeyKind::Bls => {
                let key = bls_signatures::PrivateKey::new(secret);
                let address = Address::new_bls(&key.public_key().as_bytes()).expect("a BLS key has 48 bytes");
                (address, Key::Bls(key))
            }
            KeyKind::Secp256k1 => {
                let key =
                    k256::ecdsa::SigningKey::from_slice(&secret).expect("a hash above the group order is one in 2^127");
                let public = key.verifying_key().to_encoded_point(false);
                let address = Address::new_secp256k1(public.as_bytes()).expect("an uncompressed key has 65 bytes");
                (address, Key::Secp256k1(key))
            }
        };
        self.keys.insert(address, key);
        self.default.get_or_insert(address);
        address
    }

    fn secret(&self, index: u64) -> [u8; 32] {
        let mut text = b"curio-devnet key".to_vec();
        text.extend_from_slice(&self.seed.to_be_bytes());
        text.extend_from_slice(&index.to_be_bytes());
        blake2b(&text)
    }

    pub fn has(&self, address: &Address) -> bool {
        self.keys.contains_key(address)
    }

    /// The address that pays when nobody else is named.
    pub fn default_address(&self) -> Option<Address> {
        self.default
    }

    /// All addresses, sorted as text.
    pub fn list(&self) -> Vec<Address> {
        let mut list: Vec<Address> = self.keys.keys().copied().collect();
        list.sort_by_key(to_text);
        list
    }

    /// Signs any bytes.
    pub fn sign(&self, address: &Address, data: &[u8]) -> Result<Signature, NoKey> {
        match self.keys.get(address).ok_or(NoKey(*address))? {
            Key::Bls(key) => Ok(Signature { kind: SIGNATURE_BLS, data: key.sign(data).as_bytes() }),
            Key::Secp256k1(key) => {
                let (signature, recovery) =
                    key.sign_prehash_recoverable(&blake2b(data)).expect("a 32-byte hash can be signed");
                let mut data = signature.to_bytes().to_vec();
                data.push(recovery.to_byte());
                Ok(Signature { kind: SIGNATURE_SECP256K1, data })
            }
        }
    }

    /// Signs a message with the key of `address`, whatever its sender says.
    pub fn sign_message(&self, address: &Address, message: Message) -> Result<SignedMessage, NoKey> {
        let signature = self.sign(address, &message.cid().to_bytes())?;
        Ok(SignedMessage { message, signature })
    }
}

/// Why a signature is not good.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    #[error("must resolve ID addresses before using them to verify a signature")]
    IdAddress,
    #[error("bls signature failed to verify")]
    Bls,
    #[error("secp256k1 signature failed to verify")]
    Secp256k1,
    #[error("unrecognized signature type: {0}")]
    Kind(u8),
}

/// Judges a signature of a key address.
pub fn verify(address: &Address, data: &[u8], signature: &Signature) -> Result<(), BadSignature> {
    if let Payload::ID(_) = address.payload() {
        return Err(BadSignature::IdAddress);
    }
    match signature.kind {
        SIGNATURE_BLS => verify_bls(address, data, &signature.data).ok_or(BadSignature::Bls),
        SIGNATURE_SECP256K1 => verify_secp256k1(address, data, &signature.data).ok_or(BadSignature::Secp256k1),
        kind => Err(BadSignature::Kind(kind)),
    }
}

fn verify_bls(address: &Address, data: &[u8], signature: &[u8]) -> Option<()> {
    let Payload::BLS(key) = address.payload() else { return None };
    let key = bls_signatures::PublicKey::from_bytes(key).ok()?;
    let signature = bls_signatures::Signature::from_bytes(signature).ok()?;
    key.verify(signature, data).then_some(())
}

fn verify_secp256k1(address: &Address, data: &[u8], signature: &[u8]) -> Option<()> {
    use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
    let (recovery, signature) = signature.split_last()?;
    let recovery = RecoveryId::from_byte(*recovery)?;
    let signature = Signature::from_slice(signature).ok()?;
    let key = VerifyingKey::recover_from_prehash(&blake2b(data), &signature, recovery).ok()?;
    let signer = Address::new_secp256k1(key.to_encoded_point(false).as_bytes()).ok()?;
    (signer == *address).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_from_the_seed() {
        let make = |seed| {
            let mut wallet = Wallet::new(seed);
            (wallet.make(KeyKind::Bls), wallet.make(KeyKind::Secp256k1))
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }

    #[test]
    fn a_signature_is_good_for_its_key_and_its_bytes_only() {
        let mut wallet = Wallet::new(7);
        for kind in [KeyKind::Bls, KeyKind::Secp256k1] {
            let (key, other) = (wallet.make(kind), wallet.make(kind));
            let signature = wallet.sign(&key, b"data").unwrap();
            assert_eq!(verify(&key, b"data", &signature), Ok(()));
            assert!(verify(&key, b"date", &signature).is_err());
            assert!(verify(&other, b"data", &signature).is_err());
            assert_eq!(verify(&Address::new_id(100), b"data", &signature), Err(BadSignature::IdAddress));
        }
    }

    #[test]
    fn a_key_that_is_not_here_signs_nothing() {
        let stranger = Wallet::new(1).make(KeyKind::Bls);
        assert_eq!(Wallet::new(2).sign(&stranger, b"data"), Err(NoKey(stranger)));
    }
}
