//! Where a chain node is and the token it asks for.

use std::fmt;

use url::Url;

/// A value that never shows in logs or errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The value itself, for the header it belongs in.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// One chain node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The JSON-RPC address, `http` or `https`, path included.
    pub url: Url,
    /// Without a token a node answers reads only.
    pub token: Option<Secret>,
}

/// The text names no chain node. It may hold a token, so it is not repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the chain node's address is not understood ({reason}); \
     write it like TOKEN:http://host:1234/rpc/v1 or TOKEN:/ip4/127.0.0.1/tcp/1234/http"
)]
pub struct ParseEndpointError {
    reason: &'static str,
}

const DEFAULT_PATH: &str = "/rpc/v1";

impl Endpoint {
    /// Reads `TOKEN:/ip4/../tcp/../http` (the form of `FULLNODE_API_INFO`), `TOKEN:http://..` or
    /// `http://..`. A missing path becomes `/rpc/v1`; `ws` and `wss` mean `http` and `https`.
    pub fn parse(text: &str) -> Result<Endpoint, ParseEndpointError> {
        let text = text.trim();
        let (token, address) = match text.split_once(':') {
            _ if text.starts_with('/') => (None, text),
            Some((_, rest)) if rest.starts_with("//") => (None, text),
            Some((token, rest)) => (Some(token), rest),
            None => return Err(ParseEndpointError { reason: "it is no URL and no multiaddress" }),
        };
        let url = match address.starts_with('/') {
            true => multiaddress(address)?,
            false => address.to_owned(),
        };
        let url = Url::parse(&url).map_err(|_| ParseEndpointError { reason: "the URL does not parse" })?;
        let token = token.filter(|token| !token.is_empty()).map(Secret::new);
        Endpoint::new(url, token)
    }

    /// An endpoint with the path filled in.
    ///
    /// # Errors
    /// When the URL is not `http`, `https`, `ws` or `wss`, has no host, or the token cannot stand in a
    /// header.
    pub fn new(mut url: Url, token: Option<Secret>) -> Result<Endpoint, ParseEndpointError> {
        let scheme = match url.scheme() {
            "http" | "ws" => "http",
            "https" | "wss" => "https",
            _ => return Err(ParseEndpointError { reason: "only http, https, ws and wss are spoken" }),
        };
        if url.set_scheme(scheme).is_err() || url.host_str().is_none_or(str::is_empty) {
            return Err(ParseEndpointError { reason: "the host is missing" });
        }
        if token.as_ref().is_some_and(|token| !token.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(ParseEndpointError { reason: "the token holds characters that no token has" });
        }
        if url.path() == "/" {
            url.set_path(DEFAULT_PATH);
        }
        Ok(Endpoint { url, token })
    }

    /// The same address for a WebSocket.
    pub fn websocket_url(&self) -> Url {
        let mut url = self.url.clone();
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme).expect("http and ws, https and wss are exchangeable in a URL");
        url
    }

    /// The address as it may be shown: without user, password and query, where tokens are hidden, too.
    pub fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_username("").expect("an http URL with a host can have a user name");
        url.set_password(None).expect("an http URL with a host can have a password");
        url.to_string()
    }
}

fn multiaddress(address: &str) -> Result<String, ParseEndpointError> {
    let error = ParseEndpointError { reason: "the multiaddress is not /ip4|ip6|dns/HOST/tcp/PORT/http|https|ws|wss" };
    let parts: Vec<&str> = address.split('/').skip(1).collect();
    let [kind, host, "tcp", port, scheme @ ("http" | "https" | "ws" | "wss")] = parts[..] else {
        return Err(error);
    };
    match kind {
        "ip4" | "dns" | "dns4" | "dns6" => Ok(format!("{scheme}://{host}:{port}")),
        "ip6" => Ok(format!("{scheme}://[{host}]:{port}")),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_written_form_is_read() {
        for (text, url, token) in [
            ("http://node:1234", "http://node:1234/rpc/v1", None),
            ("http://node:1234/", "http://node:1234/rpc/v1", None),
            ("https://node/filecoin/rpc/v1", "https://node/filecoin/rpc/v1", None),
            ("eyJ.a.b:http://node:1234/rpc/v1", "http://node:1234/rpc/v1", Some("eyJ.a.b")),
            ("eyJ.a.b:/ip4/127.0.0.1/tcp/1234/http", "http://127.0.0.1:1234/rpc/v1", Some("eyJ.a.b")),
            ("eyJ.a.b:/ip6/::1/tcp/1234/http", "http://[::1]:1234/rpc/v1", Some("eyJ.a.b")),
            ("eyJ.a.b:/dns/lotus.lotus.svc/tcp/1234/https", "https://lotus.lotus.svc:1234/rpc/v1", Some("eyJ.a.b")),
            ("/dns4/lotus/tcp/1234/ws", "http://lotus:1234/rpc/v1", None),
            (" ws://node:1234 ", "http://node:1234/rpc/v1", None),
        ] {
            let endpoint = Endpoint::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(endpoint.url.as_str(), url, "{text}");
            assert_eq!(endpoint.token.as_ref().map(Secret::expose), token, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_without_showing_it() {
        for text in [
            "",
            "sec.ret.token",
            "sec.ret.token:",
            "sec.ret.token:node:1234",
            "sec.ret.token:ftp://node",
            "sec.ret.token:/ip4/127.0.0.1/udp/1234",
            "sec.ret.token:/unix/tmp/tcp/1/http",
            "sec ret.token:http://node",
        ] {
            let error = Endpoint::parse(text).expect_err(text);
            assert!(!error.to_string().contains("sec"), "{error}");
        }
    }

    #[test]
    fn a_token_never_shows() {
        let endpoint = Endpoint::parse("sec.ret.token:http://user:sec@node/rpc/v1?token=sec").unwrap();
        assert_eq!(endpoint.shown(), "http://node/rpc/v1");
        assert_eq!(endpoint.websocket_url().scheme(), "ws");
        assert!(!format!("{:?}", endpoint.token).contains("sec.ret"));
    }
}
