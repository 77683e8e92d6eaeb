//! The node's wallet.

use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;

use super::Called;
use crate::client::{Client, NO_PARAMS, Repeat};
use crate::types::*;
use crate::wire::Json;

impl Client {
    /// Makes a key: `bls` or `secp256k1`.
    pub async fn wallet_new(&self, kind: &str) -> Called<Address> {
        let options = self.options();
        let (timeout, deadline) = (options.attempt_timeout, options.call_deadline);
        let made: Json<Address> =
            self.call_with("Filecoin.WalletNew", (kind,), Repeat::Never, timeout, deadline).await?;
        Ok(made.0)
    }

    pub async fn wallet_list(&self) -> Called<Vec<Address>> {
        Ok(self.call::<_, Json<Vec<Address>>>("Filecoin.WalletList", NO_PARAMS).await?.0)
    }

    pub async fn wallet_default_address(&self) -> Called<Address> {
        Ok(self.call::<_, Json<Address>>("Filecoin.WalletDefaultAddress", NO_PARAMS).await?.0)
    }

    /// Zero for an address that the chain never saw.
    pub async fn wallet_balance(&self, address: &Address) -> Called<TokenAmount> {
        self.amount("Filecoin.WalletBalance", (Json(*address),)).await
    }

    /// Whether the wallet holds the key; ask with the key address, an id address is never held.
    pub async fn wallet_has(&self, address: &Address) -> Called<bool> {
        self.call("Filecoin.WalletHas", (Json(*address),)).await
    }

    /// Signs bytes with the key of an address, which may be an id address.
    pub async fn wallet_sign(&self, address: &Address, data: &[u8]) -> Called<Signature> {
        self.call("Filecoin.WalletSign", (Json(*address), Json(data.to_vec()))).await
    }

    /// Signs a message as it is. The node does not check that `signer` is the sender.
    pub async fn wallet_sign_message(&self, signer: &Address, message: &Message) -> Called<SignedMessage> {
        self.call("Filecoin.WalletSignMessage", (Json(*signer), message)).await
    }

    /// False for every signature that does not fit, never an error.
    pub async fn wallet_verify(&self, signer: &Address, data: &[u8], signature: &Signature) -> Called<bool> {
        self.call("Filecoin.WalletVerify", (Json(*signer), Json(data.to_vec()), signature)).await
    }
}
