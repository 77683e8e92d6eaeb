//! Tokens: JWTs with a list of permissions, signed with a secret of this process, and one token that a
//! person may fix for all starts.

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

/// A token with all permissions that does not change from start to start: whoever connects may know it
/// before the chain runs. Any text that can stand in `TOKEN:ADDRESS,TOKEN:ADDRESS`.
#[derive(Clone, PartialEq, Eq)]
pub struct FixedToken(String);

impl FixedToken {
    /// Shorter ones are guessed.
    const MIN_LENGTH: usize = 16;

    fn is(&self, token: &str) -> bool {
        // Every byte is looked at, so that the time tells nothing about the place of the first difference.
        let difference = self.0.bytes().zip(token.bytes()).fold(0, |found, (ours, theirs)| found | (ours ^ theirs));
        self.0.len() == token.len() && difference == 0
    }

    /// The text of the token.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for FixedToken {
    type Err = String;

    fn from_str(text: &str) -> Result<FixedToken, String> {
        let text = text.trim();
        if text.len() < FixedToken::MIN_LENGTH {
            return Err(format!("a token has at least {} characters", FixedToken::MIN_LENGTH));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':' && byte != b',') {
            return Err("a token has no space, colon, comma or character outside ASCII".to_owned());
        }
        Ok(FixedToken(text.to_owned()))
    }
}

impl std::fmt::Debug for FixedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FixedToken(..)")
    }
}

/// Signs and verifies tokens.
pub struct Auth {
    fixed: Option<FixedToken>,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl Auth {
    /// With a secret made now. Tokens signed with it die with the process; a fixed one is good in the next, too.
    pub fn new(fixed: Option<FixedToken>) -> Auth {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        let (encoding, decoding) = (EncodingKey::from_secret(&secret), DecodingKey::from_secret(&secret));
        Auth { fixed, encoding, decoding, validation }
    }

    /// The token with all permissions: the fixed one when there is one.
    pub fn admin_token(&self) -> String {
        match &self.fixed {
            Some(fixed) => fixed.expose().to_owned(),
            None => self.token(&Access::admin()),
        }
    }

    pub fn token(&self, access: &Access) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), access, &self.encoding)
            .expect("a list of strings encodes, and an HMAC takes any key")
    }

    /// # Errors
    /// [`BadToken`], whatever is wrong with it.
    pub fn verify(&self, token: &str) -> Result<Access, BadToken> {
        if self.fixed.as_ref().is_some_and(|fixed| fixed.is(token)) {
            return Ok(Access::admin());
        }
        let data = jsonwebtoken::decode(token, &self.decoding, &self.validation).map_err(|_| BadToken)?;
        Ok(data.claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_it_was_made_for_and_another_secret_refuses_it() {
        let (ours, theirs) = (Auth::new(None), Auth::new(None));
        let token = ours.token(&Access { allow: vec!["read".to_owned(), "sign".to_owned()] });
        let access = ours.verify(&token).unwrap();
        assert!(access.allows(Permission::Read) && access.allows(Permission::Sign));
        assert!(!access.allows(Permission::Write) && !access.allows(Permission::Admin));
        assert_eq!(theirs.verify(&token), Err(BadToken));
        assert_eq!(ours.verify("nonsense"), Err(BadToken));
    }

    #[test]
    fn a_fixed_token_is_good_in_every_start_and_only_as_a_whole() {
        let fixed: FixedToken = "evaluation-token-1\n".parse().unwrap();
        let auth = Auth::new(Some(fixed));
        assert_eq!(auth.admin_token(), "evaluation-token-1");
        assert!(auth.verify("evaluation-token-1").unwrap().allows(Permission::Admin));
        for other in ["evaluation-token-", "evaluation-token-12", "evaluation-token-2", ""] {
            assert_eq!(auth.verify(other), Err(BadToken), "{other}");
        }
    }

    #[test]
    fn a_token_that_cannot_stand_in_an_address_is_refused() {
        for text in ["", "short", "with a space in it", "has:a-colon-in-it", "has,a-comma-in-it-too"] {
            assert!(text.parse::<FixedToken>().is_err(), "{text}");
        }
    }
}
