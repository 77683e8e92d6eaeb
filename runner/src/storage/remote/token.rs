//! Tokens of `/remote`: who may do what to which file, for a few minutes.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curio_core::SectorRef;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::storage::SectorFile;

/// Whom the tokens are for; a token of the web UI or of another API with the same secret is refused.
const AUDIENCE: &str = "curio-remote";

/// Long enough for one request to be made, short enough to be worth little when stolen.
const LIFETIME: Duration = Duration::from_secs(300);

/// By how much two machines' clocks may differ.
const LEEWAY: Duration = Duration::from_secs(120);

/// Fewest bytes of a secret: HS256 is as strong as the shorter of key and digest.
const SECRET_BYTES: usize = 32;

/// The secret that all runners of a cluster share. Printing it prints nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct StorageSecret {
    bytes: Arc<[u8]>,
}

/// The text is not a usable secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("the storage secret is not base64; make one with `openssl rand -base64 32`")]
    NotBase64,
    #[error("the storage secret has {0} bytes and needs {SECRET_BYTES}; make one with `openssl rand -base64 32`")]
    Short(usize),
}

impl StorageSecret {
    /// Reads the secret as it stands in the configuration: base64 of at least 32 bytes.
    pub fn from_base64(text: &str) -> Result<StorageSecret, SecretError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| SecretError::NotBase64)?;
        if bytes.len() < SECRET_BYTES {
            return Err(SecretError::Short(bytes.len()));
        }
        Ok(StorageSecret { bytes: bytes.into() })
    }

    /// A fresh one, from the system's randomness.
    pub fn generate() -> StorageSecret {
        let mut bytes = [0; SECRET_BYTES];
        rand::rng().fill(&mut bytes);
        StorageSecret { bytes: bytes.to_vec().into() }
    }

    /// The text for the configuration.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.bytes)
    }
}

impl fmt::Debug for StorageSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageSecret(..)")
    }
}

/// What a token allows: one operation on one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Scope {
    /// Figures of a storage path.
    Stat { path: String },
    /// Reading one sector file.
    Read { path: String, file: SectorFile, sector: SectorRef },
    /// Removing one copy of a sector file.
    Delete { path: String, file: SectorFile, sector: SectorRef },
    /// A vanilla proof of a sector.
    Vanilla { sector: SectorRef },
    /// Vanilla PoSts: this very request, by the digest of its body.
    Posts { body: String },
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    /// Who asks, for the log.
    iss: String,
    /// Seconds since 1970.
    exp: u64,
    #[serde(flatten)]
    scope: Scope,
}

/// A token was not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a bearer token is needed here")]
    Missing,
    #[error("this token is not valid here: {0}")]
    Invalid(String),
    #[error("this token has run out; are the clocks of both machines right?")]
    RunOut,
    #[error("this token is for something else")]
    OutOfScope,
}

/// A token for one operation by this machine, valid for five minutes.
pub fn sign(secret: &StorageSecret, machine: &str, scope: Scope) -> String {
    sign_until(secret, machine, scope, SystemTime::now() + LIFETIME)
}

fn sign_until(secret: &StorageSecret, machine: &str, scope: Scope, until: SystemTime) -> String {
    let exp = until.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let claims = Claims { aud: AUDIENCE.to_owned(), iss: machine.to_owned(), exp, scope };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&secret.bytes))
        .expect("these claims always serialise and any key suits HS256")
}

/// A token that is genuine and has not run out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The machine that signed it.
    pub issuer: String,
    scope: Scope,
}

impl Bearer {
    /// Whether it is for what the request is about to do.
    ///
    /// # Errors
    /// [`TokenError::OutOfScope`].
    pub fn allows(&self, needed: &Scope) -> Result<(), TokenError> {
        if self.scope == *needed { Ok(()) } else { Err(TokenError::OutOfScope) }
    }
}

/// Reads an `Authorization` header. The signature is compared in constant time.
///
/// # Errors
/// [`TokenError`] other than [`TokenError::OutOfScope`], which [`Bearer::allows`] decides.
pub fn read(secret: &StorageSecret, authorization: Option<&str>) -> Result<Bearer, TokenError> {
    let token = authorization.and_then(|value| value.strip_prefix("Bearer ")).ok_or(TokenError::Missing)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY.as_secs();
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "aud"]);
    let decoded = jsonwebtoken::decode::<Claims>(token.trim(), &DecodingKey::from_secret(&secret.bytes), &validation);
    match decoded {
        Ok(decoded) => Ok(Bearer { issuer: decoded.claims.iss, scope: decoded.claims.scope }),
        Err(error) => Err(match error.kind() {
            jsonwebtoken::errors::ErrorKind::ExpiredSignature => TokenError::RunOut,
            kind => TokenError::Invalid(format!("{kind:?}")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use curio_core::SpId;

    use super::*;

    fn read(number: u64) -> Scope {
        let sector = SectorRef::new(SpId(1000), number);
        Scope::Read { path: "a".into(), file: SectorFile::Sealed, sector }
    }

    fn verify(secret: &StorageSecret, header: Option<&str>, needed: &Scope) -> Result<String, TokenError> {
        let bearer = super::read(secret, header)?;
        bearer.allows(needed)?;
        Ok(bearer.issuer)
    }

    fn bearer(token: &str) -> String {
        format!("Bearer {token}")
    }

    #[test]
    fn a_token_is_good_for_its_own_scope_only() {
        let secret = StorageSecret::generate();
        let header = bearer(&sign(&secret, "snark-0", read(1)));
        assert_eq!(verify(&secret, Some(&header), &read(1)).as_deref(), Ok("snark-0"));
        let sector = SectorRef::new(SpId(1000), 1);
        let others = [
            read(2),
            Scope::Delete { path: "a".into(), file: SectorFile::Sealed, sector },
            Scope::Read { path: "b".into(), file: SectorFile::Sealed, sector },
            Scope::Read { path: "a".into(), file: SectorFile::Cache, sector },
            Scope::Vanilla { sector },
            Scope::Stat { path: "a".into() },
            Scope::Posts { body: "sha-256=:x:".into() },
        ];
        for other in others {
            assert_eq!(verify(&secret, Some(&header), &other), Err(TokenError::OutOfScope), "{other:?}");
        }
    }

    #[test]
    fn tokens_that_are_not_ours_are_refused() {
        let secret = StorageSecret::generate();
        let good = sign(&secret, "snark-0", read(1));
        let (head, rest) = good.split_once('.').unwrap();
        let (payload, signature) = rest.split_once('.').unwrap();
        let none = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(br#"{"alg":"none","typ":"JWT"}"#);
        let refused = [
            bearer(&sign(&StorageSecret::generate(), "snark-0", read(1))),
            bearer(&format!("{none}.{payload}.")),
            bearer(&format!("{none}.{payload}.{signature}")),
            bearer(&format!("{head}.{payload}.")),
            bearer(&format!("{head}.{payload}")),
            bearer("nonsense"),
            bearer(""),
        ];
        for header in refused {
            let verdict = verify(&secret, Some(&header), &read(1));
            assert!(matches!(verdict, Err(TokenError::Invalid(_))), "{header}: {verdict:?}");
        }
        for header in [None, Some(good.as_str()), Some("Basic YTpi")] {
            assert_eq!(verify(&secret, header, &read(1)), Err(TokenError::Missing), "{header:?}");
        }
        let old = sign_until(&secret, "snark-0", read(1), SystemTime::now() - LEEWAY - Duration::from_secs(1));
        assert_eq!(verify(&secret, Some(&bearer(&old)), &read(1)), Err(TokenError::RunOut));
    }

    #[test]
    fn a_secret_is_read_as_it_is_written_and_never_printed() {
        let secret = StorageSecret::generate();
        assert_eq!(StorageSecret::from_base64(&secret.to_base64()), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "StorageSecret(..)");
        assert_eq!(StorageSecret::from_base64("ä"), Err(SecretError::NotBase64));
        assert_eq!(StorageSecret::from_base64("c2hvcnQ="), Err(SecretError::Short(5)));
    }
}
