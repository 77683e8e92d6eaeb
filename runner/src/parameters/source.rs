//! A server that has proof parameters: where its files are, and which sector sizes it offers.
//!
//! Any web server will do that serves the files under their names. One that also has an `index.json`
//! tells by it which sizes a machine should hold before a sector needs them.

use std::time::Duration;

use curio_core::SealProof;
use curio_proofs::params::Set;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use url::Url;

/// Environment variable with the address of the source.
pub const SOURCE_VARIABLE: &str = "CURIO_PARAMETERS_URL";

/// Name of the document that lists what a source has.
pub const INDEX: &str = "index.json";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After this silence a transfer counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How tries follow each other after a failure that may pass.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Before the second try; doubles from try to try.
    pub first: Duration,
    pub longest: Duration,
    /// In a row that brought not one byte; each byte starts the count anew.
    pub fruitless_tries: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { first: Duration::from_millis(500), longest: Duration::from_secs(15), fruitless_tries: 5 }
    }
}

/// A server that has parameter files. A clone shares the connections.
#[derive(Clone, Debug)]
pub struct Source {
    base: Url,
    pub(super) client: reqwest::Client,
    pub(super) pace: Pace,
}

/// The source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the address of the parameter source is not understood ({0}); write it like http://HOST:PORT/")]
    Address(String),
    #[error("failed to make an HTTP client")]
    Client(#[source] reqwest::Error),
    #[error("the parameter source does not answer at {url}")]
    Unreachable {
        url: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answered {status}")]
    Status { url: Url, status: StatusCode },
    #[error("{url} is no list of parameters")]
    Index {
        url: Url,
        #[source]
        source: reqwest::Error,
    },
}

/// What a source offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub sectors: Vec<Offer>,
}

/// The parameters of one sector size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Padded bytes.
    pub sector_size: u64,
    /// Whether all files can be fetched now; until then the source is still making some.
    pub ready: bool,
    #[serde(default)]
    pub files: Vec<OfferedFile>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedFile {
    pub name: String,
    pub digest: String,
    pub size_bytes: u64,
}

impl Index {
    /// The sets that it lists or is making. Sizes that this program does not know are left out.
    pub fn sets(&self) -> Vec<Set> {
        let known =
            self.sectors.iter().filter_map(|offer| Some((SealProof::of_sector_size(offer.sector_size)?, offer)));
        known.flat_map(|(proof, offer)| Set::all_of(proof).into_iter().filter(|set| offer.has(*set))).collect()
    }
}

impl Offer {
    /// Whether the files of a set are among those listed; of a size without a list, or with one that is still growing,
    /// all sets are promised.
    fn has(&self, set: Set) -> bool {
        let is_listed = |name: &str| self.files.iter().any(|file| file.name == name);
        !self.ready || self.files.is_empty() || set.files().iter().all(|file| is_listed(&file.name))
    }
}

impl Source {
    /// A source at an address; a missing slash at its end is added.
    ///
    /// # Errors
    /// Text that is no HTTP address.
    pub fn new(text: &str) -> Result<Source, SourceError> {
        let text = text.trim().trim_end_matches('/');
        let base = Url::parse(&format!("{text}/")).map_err(|error| SourceError::Address(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(SourceError::Address(format!("it is not http or https but {}", base.scheme())));
        }
        let client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build();
        Ok(Source { base, client: client.map_err(SourceError::Client)?, pace: Pace::default() })
    }

    /// With other pauses between tries.
    pub fn with_pace(self, pace: Pace) -> Source {
        Source { pace, ..self }
    }

    /// The address without a password.
    pub fn place(&self) -> String {
        let mut shown = self.base.clone();
        if shown.password().is_some() {
            // Only addresses that cannot have a password refuse to lose it.
            let _ = shown.set_password(None);
        }
        shown.to_string()
    }

    /// Where a file is.
    pub fn url(&self, name: &str) -> Url {
        self.base.join(name).expect("names of parameter files are plain words")
    }

    /// What the source offers; nothing when it has no index, which is no fault.
    ///
    /// # Errors
    /// The source does not answer, or something else than an index.
    pub async fn index(&self) -> Result<Option<Index>, SourceError> {
        let url = self.url(INDEX);
        let sent = self.client.get(url.clone()).send().await.map_err(reqwest::Error::without_url);
        let answer = sent.map_err(|source| SourceError::Unreachable { url: url.clone(), source })?;
        match answer.status() {
            StatusCode::OK => match answer.json().await {
                Ok(index) => Ok(Some(index)),
                Err(source) => Err(SourceError::Index { url, source: source.without_url() }),
            },
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(SourceError::Status { url, status }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use curio_proofs::params::Circuit;

    #[test]
    fn files_lie_below_the_address_with_and_without_a_slash_at_its_end() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for text in ["http://host:1/params", "http://host:1/params/", " http://host:1/params// "] {
            let source = Source::new(text).expect("an address");
            assert_eq!(source.url("v28.vk").as_str(), "http://host:1/params/v28.vk", "{text}");
        }
        assert_eq!(Source::new("http://u:s3cret@host/").expect("an address").place(), "http://u@host/");
    }

    #[test]
    fn what_is_no_http_address_is_refused() {
        for text in ["", "host:1", "ftp://host/", "/a/folder"] {
            assert!(matches!(Source::new(text), Err(SourceError::Address(_))), "{text}");
        }
    }

    #[test]
    fn sizes_of_an_index_that_nobody_knows_are_left_out() {
        let text = r#"{"sectors": [{"sector_size": 2048, "ready": true}, {"sector_size": 3000, "ready": true}]}"#;
        let index: Index = serde_json::from_str(text).expect("an index");
        assert_eq!(index.sets(), Set::all_of(SealProof::StackedDrg2KiBV1_1));
    }

    #[test]
    fn a_finished_list_offers_the_sets_whose_files_it_has() {
        let proof = SealProof::StackedDrg32GiBV1_1;
        let window = Set { circuit: Circuit::WindowPost, proof };
        let offered = |name: String| OfferedFile { name, digest: String::new(), size_bytes: 1 };
        let mut files: Vec<_> = window.files().into_iter().map(|file| offered(file.name)).collect();
        let half = Set { circuit: Circuit::WinningPost, proof }.verifying_key();
        files.push(offered(half.name));
        let index = |ready| Index { sectors: vec![Offer { sector_size: 32 << 30, ready, files: files.clone() }] };
        assert_eq!(index(true).sets(), [window]);
        assert_eq!(index(false).sets(), Set::all_of(proof), "others are being made");
    }
}
