//! Errors as they go over the wire.

use serde::Serialize;

use crate::chain::Refused;
use crate::chain::estimate::EstimateError;
use crate::vm::abort::Abort;
use crate::wallet::NoKey;

/// An error member of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub code: i64,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'static str>,
}

const PANIC: i64 = 0;
const OTHER: i64 = 1;
const EXECUTION_FAILED: i64 = 3;
const ACTOR_NOT_FOUND: i64 = 11;
const PARSE: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const NO_METHOD: i64 = -32601;
const PARAM_COUNT: i64 = -32602;

impl Fault {
    fn new(code: i64, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into(), data: None }
    }

    /// Everything that a method refuses.
    pub fn other(message: impl Into<String>) -> Fault {
        Fault::new(OTHER, message)
    }

    /// A request or a parameter that cannot be read.
    pub fn parse(message: impl Into<String>) -> Fault {
        Fault::new(PARSE, message)
    }

    pub fn invalid_request() -> Fault {
        Fault::new(INVALID_REQUEST, "Invalid request")
    }

    pub fn no_method(message: impl Into<String>) -> Fault {
        Fault::new(NO_METHOD, message)
    }

    pub fn param_count(message: impl Into<String>) -> Fault {
        Fault::new(PARAM_COUNT, message)
    }

    /// A method that crashed.
    pub fn panic(message: impl Into<String>) -> Fault {
        Fault::new(PANIC, message)
    }

    /// The bare form, which one method only gives.
    pub fn actor_not_found() -> Fault {
        Fault::new(ACTOR_NOT_FOUND, "actor not found")
    }

    /// HTTP status of an answer with this error.
    pub fn http_status(&self) -> u16 {
        match self.code {
            INVALID_REQUEST => 400,
            PARSE | NO_METHOD | PARAM_COUNT | PANIC => 500,
            _ => 200,
        }
    }

    /// The same with words in front.
    pub fn within(self, context: &str) -> Fault {
        Fault { message: format!("{context}: {}", self.message), ..self }
    }

    /// The same with words in brackets in front, as some methods have it.
    pub fn within_brackets(self, context: &str) -> Fault {
        Fault { message: format!("({context}) {}", self.message), ..self }
    }
}

impl From<Refused> for Fault {
    fn from(Refused(message): Refused) -> Fault {
        Fault::other(message)
    }
}

impl From<NoKey> for Fault {
    fn from(error: NoKey) -> Fault {
        Fault::other(error.to_string())
    }
}

impl From<EstimateError> for Fault {
    fn from(error: EstimateError) -> Fault {
        match &error {
            EstimateError::Refused(_) => Fault::other(error.to_string()),
            EstimateError::Execution { .. } => {
                Fault { code: EXECUTION_FAILED, message: error.to_string(), data: Some("0x") }
            }
        }
    }
}

/// The chain's own state cannot be read.
impl From<Abort> for Fault {
    fn from(abort: Abort) -> Fault {
        Fault::other(abort.backtrace())
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Fault {
        Fault::other(format!("{error:#}"))
    }
}

impl From<fil_actors_shared::v18::ActorError> for Fault {
    fn from(error: fil_actors_shared::v18::ActorError) -> Fault {
        Fault::other(error.msg())
    }
}
