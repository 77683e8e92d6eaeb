//! The `Content-Digest` header (RFC 9530), SHA-256 only.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// Name of the header.
pub const CONTENT_DIGEST: &str = "content-digest";

/// Value of the header for a body.
pub fn of(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)))
}

/// Whether a body is the one that the header was made for. A missing or unreadable header is no match.
pub fn matches(header: Option<&str>, body: &[u8]) -> bool {
    header.is_some_and(|header| header.split(',').any(|member| member.trim() == of(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_holds() {
        let body = b"{\"hello\": \"world\"}\n";
        let header = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
        assert_eq!(of(body), header);
        assert!(matches(Some(&format!("sha-512=:xx:, {header}")), body));
        assert!(!matches(Some(header), b"{\"hello\": \"World\"}\n"));
        assert!(!matches(None, body));
    }
}
