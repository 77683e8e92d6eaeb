//! Why a command was refused: one sentence that says what to do.

use std::error::Error;

use curio_core::Failure;
use curio_harmony::{ConnectError, DbError, MigrateError, SchemaError, TxError};

use crate::run::RunError;
use crate::settings::SettingsError;

/// A command was refused or failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("no database is named; give --db postgres://USER:PASSWORD@HOST:PORT/NAME, or set CURIO_DB_URL")]
    NoDatabase,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Open(#[from] crate::database::OpenError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Start(#[from] crate::seal::start::StartError),
    #[error(transparent)]
    Attach(#[from] crate::storage::path::AttachError),
    #[error(transparent)]
    Params(#[from] curio_proofs::params::ParamsError),
    #[error(transparent)]
    Source(#[from] crate::parameters::SourceError),
    #[error(transparent)]
    Fetch(Box<crate::parameters::FetchError>),
    #[error("failed to use the database")]
    Db(#[from] DbError),
    #[error("failed to use the database")]
    Tx(#[from] TxError),
    #[error("failed to ask the chain node")]
    Chain(#[from] curio_chain::RpcError),
    #[error(transparent)]
    Change(#[from] crate::post::changes::ChangeError),
    #[error("failed to start the runtime")]
    Runtime(#[source] std::io::Error),
    /// The sentence is all there is.
    #[error("{0}")]
    Refused(String),
}

impl From<crate::parameters::FetchError> for CliError {
    fn from(error: crate::parameters::FetchError) -> CliError {
        CliError::Fetch(Box::new(error))
    }
}

/// Work that tasks do, done by a command: there is no other attempt, so only the sentence is left.
impl From<Failure> for CliError {
    fn from(failure: Failure) -> CliError {
        CliError::Refused(failure.to_string())
    }
}

impl CliError {
    /// A refusal with its sentence.
    pub fn refused(sentence: impl Into<String>) -> CliError {
        CliError::Refused(sentence.into())
    }
}

/// An error and its causes in one line; a cause whose text is already there is left out.
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to read the layer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_sentence_is_one_line_with_each_cause_once() {
        let error = Outer(std::io::Error::other("disk\n  full"));
        assert_eq!(sentence(&error), "failed to read the layer: disk full");
    }
}
