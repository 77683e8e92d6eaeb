//! Gas estimates: the message is executed on top of a tipset, without being sent.

use std::sync::Arc;

use curio_chain::address::to_text;
use curio_chain::types::{Message, MessageSendSpec};
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use fvm_shared::error::ExitCode;

use super::{Chain, Refused, Tip};
use crate::state::Kind;
use crate::vm::Applied;
use crate::vm::abort::exit_name;

/// Gas limit over gas used, in hundredths.
const OVER_ESTIMATE_PERCENT: i64 = 125;
/// Premium that an idle node suggests, attoFIL per unit.
const PREMIUM_ATTO: u64 = 100_000;
/// Blocks within which a message should go in, when nobody says otherwise.
const PREMIUM_BLOCKS: u64 = 10;
/// Blocks for which the fee cap is to cover a rising base fee.
const FEE_CAP_BLOCKS: u64 = 20;
/// Most that a message may cost by default, attoFIL (0.07 FIL).
const DEFAULT_MAX_FEE_ATTO: u64 = 70_000_000_000_000_000;
/// Gas limit of a message that is only tried.
pub const UNLIMITED_GAS: i64 = i64::MAX / 2;

/// Why an estimate has no figure.
#[derive(Debug, thiserror::Error)]
pub enum EstimateError {
    /// The node cannot try the message.
    #[error("{0}")]
    Refused(String),
    /// The message fails when it is executed.
    #[error("message execution failed (exit=[{}({})], vm error=[{text}])", exit_name(*.code), .code.value())]
    Execution { code: ExitCode, text: String },
}

impl Chain {
    /// Executes a message on top of a tipset, its messages and what the sender has pending; nothing is kept.
    ///
    /// # Errors
    /// When the sender has no account.
    pub fn call(&self, message: &Message, tip: &Arc<Tip>) -> Result<(Message, Applied), Refused> {
        let account = tip.between.lookup(&message.from).filter(|(_, actor)| actor.kind == Kind::Account);
        let Some(key) = account.and_then(|(_, actor)| actor.robust) else {
            let sender = to_text(&message.from);
            return Err(Refused(format!("sender {sender} not found on chain: sender validation failed")));
        };
        let nonce = account.map_or(0, |(_, actor)| actor.nonce);
        let pending = self.pool.ready(&key, nonce);
        let nonce = nonce + pending.len() as u64;
        let tried = Message { nonce, gas_limit: UNLIMITED_GAS, ..message.clone() };
        let applied = self.try_message(tip, &pending, &tried);
        Ok((tried, applied))
    }

    /// Gas limit for a message: what it uses and a quarter more.
    ///
    /// # Errors
    /// When it cannot be tried, or fails.
    pub fn estimate_gas_limit(&self, message: &Message, tip: &Arc<Tip>) -> Result<i64, EstimateError> {
        let (_, applied) = self.call(message, tip).map_err(|Refused(why)| {
            EstimateError::Refused(format!("gas estimation failed: CallWithGas failed: {why}"))
        })?;
        let code = ExitCode::new(applied.receipt.exit_code);
        match code.is_success() {
            true => Ok(i64::try_from(applied.receipt.gas_used).unwrap_or(i64::MAX)),
            false => Err(EstimateError::Execution { code, text: applied.error }),
        }
    }

    /// Fills gas limit, premium and fee cap where they are zero, and holds them within the fee given.
    ///
    /// # Errors
    /// When the message cannot be tried, or fails.
    pub fn estimate_message(
        &self,
        message: Message,
        spec: &MessageSendSpec,
        tip: &Arc<Tip>,
    ) -> Result<Message, EstimateError> {
        let mut message = message;
        if message.gas_limit == 0 {
            message.gas_limit = self.estimate_gas_limit(&message, tip)? * OVER_ESTIMATE_PERCENT / 100;
        }
        if message.gas_premium.is_zero() {
            message.gas_premium = premium(PREMIUM_BLOCKS, tip.height);
        }
        if message.gas_fee_cap.is_zero() {
            message.gas_fee_cap = self.fee_cap(&message.gas_premium, FEE_CAP_BLOCKS);
        }
        cap_fee(&mut message, spec);
        Ok(message)
    }

    /// Fee cap that covers a base fee rising for some blocks.
    pub fn fee_cap(&self, premium: &TokenAmount, blocks: u64) -> TokenAmount {
        // The base fee rises by an eighth per full block at most.
        let mut base = self.base_fee() * 1_000_000_u64;
        for _ in 0..blocks.min(100) {
            base = (base * 9_u64).div_floor(8);
        }
        base.div_floor(1_000_000) + premium
    }
}

/// Premium that gets a message in within some blocks; it wavers by a percent, as a node's does.
pub fn premium(blocks: u64, height: ChainEpoch) -> TokenAmount {
    let base = match blocks {
        0 | 1 => 2 * PREMIUM_ATTO,
        2 => PREMIUM_ATTO * 3 / 2,
        _ => PREMIUM_ATTO,
    };
    let noise = height.unsigned_abs().wrapping_mul(2_654_435_761) % 200;
    TokenAmount::from_atto(base * (9_900 + noise) / 10_000)
}

/// Lowers fee cap and premium until the message costs no more than the sender allows.
fn cap_fee(message: &mut Message, spec: &MessageSendSpec) {
    let max_fee = match spec.max_fee.is_zero() {
        true => TokenAmount::from_atto(DEFAULT_MAX_FEE_ATTO),
        false => spec.max_fee.clone(),
    };
    let limit = message.gas_limit.max(1);
    if spec.maximize_fee_cap || message.max_fee() > max_fee {
        message.gas_fee_cap = max_fee.div_floor(limit);
    }
    message.gas_premium = message.gas_premium.clone().min(message.gas_fee_cap.clone());
}
