//! How an attempt of a task ended when it did not end well. The scheduler decides by this value
//! alone whether the attempt counts, whether the task runs again, and what its history says.

use std::error::Error;
use std::fmt;

/// The cause, as an error with its sources.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// Why an attempt ended without a result.
#[derive(Debug)]
pub enum Failure {
    /// The attempt counts; the task runs again after its backoff while attempts are left.
    Retry(Cause),
    /// The attempt counts and no further one would help. `reason` is a short closed word for
    /// tables and metrics (at most 20 bytes, such as `ticket-expired`).
    Permanent { reason: &'static str, cause: Cause },
    /// The claim is no longer ours: somebody else owns the task. Nothing was changed, nothing is said.
    Lost,
    /// This runner is shutting down. The attempt does not count.
    Stopping,
    /// The database or the chain node is away, or the thing waited for is not there yet. The attempt
    /// does not count; the task runs again after its backoff.
    Unavailable(Cause),
}

impl Failure {
    /// Retry, from a plain sentence.
    pub fn retry(message: impl Into<String>) -> Failure {
        Failure::Retry(message.into().into())
    }

    /// Permanent, from a plain sentence.
    pub fn permanent(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure::Permanent { reason, cause: message.into().into() }
    }

    /// Unavailable, from a plain sentence.
    pub fn unavailable(message: impl Into<String>) -> Failure {
        Failure::Unavailable(message.into().into())
    }
}

/// An error that knows what it means for the task it happened in.
pub trait Classify: Error + Send + Sync + Sized + 'static {
    /// Turns the error into a failure, itself as the cause.
    fn classify(self) -> Failure;
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Failure {
        error.classify()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Retry(cause) | Failure::Unavailable(cause) => write_chain(f, cause.as_ref()),
            Failure::Permanent { reason, cause } => {
                write!(f, "{reason}: ")?;
                write_chain(f, cause.as_ref())
            }
            Failure::Lost => f.write_str("the claim was lost to another runner"),
            Failure::Stopping => f.write_str("the runner is stopping"),
        }
    }
}

/// Writes an error and its sources in one line, outermost first.
fn write_chain(f: &mut fmt::Formatter<'_>, error: &dyn Error) -> fmt::Result {
    write!(f, "{error}")?;
    let mut source = error.source();
    while let Some(error) = source {
        write!(f, ": {error}")?;
        source = error.source();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to write the layer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_prints_its_whole_chain_once() {
        let failure = Failure::Retry(Box::new(Outer(std::io::Error::other("disk full"))));
        assert_eq!(failure.to_string(), "failed to write the layer: disk full");
    }
}
