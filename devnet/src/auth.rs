//! Tokens: JWTs with a list of permissions, signed with a secret of this process.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::RngCore;
use serde::{Deserialize, Serialize};

/// What a method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    Read,
    Write,
    Sign,
    Admin,
}

impl Permission {
    pub fn name(self) -> &'static str {
        match self {
            Permission::Read => "read",
            Permission::Write => "write",
            Permission::Sign => "sign",
            Permission::Admin => "admin",
        }
    }
}

/// What a caller may do. Names that mean nothing are kept, as a Lotus node keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    #[serde(rename = "Allow")]
    pub allow: Vec<String>,
}

impl Access {
    /// Without a token anyone may read.
    pub fn anonymous() -> Access {
        Access { allow: vec!["read".to_owned()] }
    }

    /// Everything.
    pub fn admin() -> Access {
        let all = [Permission::Read, Permission::Write, Permission::Sign, Permission::Admin];
        Access { allow: all.iter().map(|permission| permission.name().to_owned()).collect() }
    }

    pub fn allows(&self, permission: Permission) -> bool {
        self.allow.iter().any(|allowed| allowed == permission.name())
    }
}

/// The token is not one of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("JWT Verification failed: jwt: HMAC verification failed")]
pub struct BadToken;

/// Signs and verifies tokens.
pub struct Auth {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl Auth {
    /// With a secret made now. Tokens die with the process.
    pub fn new() -> Auth {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        Auth { encoding: EncodingKey::from_secret(&secret), decoding: DecodingKey::from_secret(&secret), validation }
    }

    pub fn token(&self, access: &Access) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), access, &self.encoding)
            .expect("a list of strings encodes, and an HMAC takes any key")
    }

    /// # Errors
    /// [`BadToken`], whatever is wrong with it.
    pub fn verify(&self, token: &str) -> Result<Access, BadToken> {
        let data = jsonwebtoken::decode(token, &self.decoding, &self.validation).map_err(|_| BadToken)?;
        Ok(data.claims)
    }
}

impl Default for Auth {
    fn default() -> Auth {
        Auth::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_it_was_made_for_and_another_secret_refuses_it() {
        let (ours, theirs) = (Auth::new(), Auth::new());
        let token = ours.token(&Access { allow: vec!["read".to_owned(), "sign".to_owned()] });
        let access = ours.verify(&token).unwrap();
        assert!(access.allows(Permission::Read) && access.allows(Permission::Sign));
        assert!(!access.allows(Permission::Write) && !access.allows(Permission::Admin));
        assert_eq!(theirs.verify(&token), Err(BadToken));
        assert_eq!(ours.verify("nonsense"), Err(BadToken));
    }
}
