//! What a message is for: the word in the outbox, the keys that may send it, and how urgent it is.

use std::fmt;

use crate::seal::outcome;

/// Everything that this program sends messages for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    PreCommit,
    Commit,
    WindowPost,
    DeclareFaults,
    DeclareRecovered,
    Terminate,
    Extend,
}

impl Purpose {
    pub const ALL: [Purpose; 7] = [
        Purpose::PreCommit,
        Purpose::Commit,
        Purpose::WindowPost,
        Purpose::DeclareFaults,
        Purpose::DeclareRecovered,
        Purpose::Terminate,
        Purpose::Extend,
    ];

    /// The word in `send_reason`, idempotency keys, tables and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Purpose::PreCommit => "precommit",
            Purpose::Commit => "commit",
            Purpose::WindowPost => "wdpost",
            Purpose::DeclareFaults => "faults",
            Purpose::DeclareRecovered => "recover",
            Purpose::Terminate => "terminate",
            Purpose::Extend => "extend",
        }
    }

    /// The purpose of a row; none for a word of another version of this program.
    pub fn parse(word: &str) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|purpose| purpose.as_str() == word)
    }

    /// Whether the message is worth nothing after a deadline of the chain: it is sent before all others, and its price
    /// is raised sooner.
    pub const fn is_urgent(self) -> bool {
        match self {
            Purpose::WindowPost | Purpose::DeclareFaults | Purpose::DeclareRecovered => true,
            Purpose::PreCommit | Purpose::Commit | Purpose::Terminate | Purpose::Extend => false,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<outcome::Purpose> for Purpose {
    fn from(purpose: outcome::Purpose) -> Purpose {
        match purpose {
            outcome::Purpose::PreCommit => Purpose::PreCommit,
            outcome::Purpose::Commit => Purpose::Commit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back() {
        for purpose in Purpose::ALL {
            assert_eq!(Purpose::parse(purpose.as_str()), Some(purpose));
        }
        assert_eq!(Purpose::parse("something else"), None);
    }

    #[test]
    fn the_pipeline_and_the_outbox_use_the_same_words() {
        for purpose in [outcome::Purpose::PreCommit, outcome::Purpose::Commit] {
            assert_eq!(Purpose::from(purpose).as_str(), purpose.as_str());
        }
    }
}
