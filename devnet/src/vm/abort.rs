//! How a message fails: an exit code and the backtrace that a Lotus node shows for it.

use fil_actors_shared::v18::{ActorDowncast, ActorError};
use fvm_shared::ActorID;
use fvm_shared::error::ExitCode;

/// A refused invocation on its way up to the message.
#[derive(Clone, Debug)]
pub struct Abort {
    pub code: ExitCode,
    /// What the actor that refused said; empty for refusals of the machine itself.
    message: String,
    /// Refusals already passed through, innermost first, one line each.
    below: Vec<Line>,
}

#[derive(Clone, Debug)]
enum Line {
    Actor { id: ActorID, method: u64, message: String, code: ExitCode },
    Machine(String),
}

impl Abort {
    /// An actor refuses.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Abort {
        Abort { code, message: message.into(), below: Vec::new() }
    }

    pub fn illegal_argument(message: impl Into<String>) -> Abort {
        Abort::new(ExitCode::USR_ILLEGAL_ARGUMENT, message)
    }

    pub fn forbidden(message: impl Into<String>) -> Abort {
        Abort::new(ExitCode::USR_FORBIDDEN, message)
    }

    pub fn illegal_state(message: impl Into<String>) -> Abort {
        Abort::new(ExitCode::USR_ILLEGAL_STATE, message)
    }

    pub fn insufficient_funds(message: impl Into<String>) -> Abort {
        Abort::new(ExitCode::USR_INSUFFICIENT_FUNDS, message)
    }

    /// The machine refuses before any actor ran, in the words of its send call.
    pub fn machine(code: ExitCode, message: impl Into<String>) -> Abort {
        Abort { code, message: String::new(), below: vec![Line::Machine(message.into())] }
    }

    /// The refusal as seen by the caller of a send: the actor's line is written down, and the caller's
    /// own message is `message`.
    pub fn through(mut self, id: ActorID, method: u64, message: impl Into<String>) -> Abort {
        self.close(id, method);
        self.message = message.into();
        self
    }

    /// Writes down the line of the actor that refused last.
    pub fn close(&mut self, id: ActorID, method: u64) {
        if !self.message.is_empty() {
            let message = std::mem::take(&mut self.message);
            self.below.push(Line::Actor { id, method, message, code: self.code });
        }
    }

    /// The text that a node gives for the failed message, outermost actor first.
    pub fn backtrace(&self) -> String {
        let mut text = String::from("message failed with backtrace:\n");
        let actors = self.below.iter().rev().filter(|line| matches!(line, Line::Actor { .. }));
        for (depth, line) in actors.enumerate() {
            if let Line::Actor { id, method, message, code } = line {
                let code = code.value();
                text.push_str(&format!("{depth:02}: f0{id} (method {method}) -- {message} ({code})\n"));
            }
        }
        for line in &self.below {
            if let Line::Machine(message) = line {
                text.push_str(&format!("--> caused by: {message}\n"));
            }
        }
        text.push_str(&format!(" (RetCode={})", self.code.value()));
        text
    }
}

impl From<ActorError> for Abort {
    fn from(error: ActorError) -> Abort {
        Abort::new(error.exit_code(), error.msg())
    }
}

impl From<fvm_ipld_encoding::Error> for Abort {
    fn from(error: fvm_ipld_encoding::Error) -> Abort {
        Abort::from(ActorError::from(error))
    }
}

/// A step of the published state machine that may refuse.
pub trait Within<T> {
    /// Puts words before the refusal, as the actors do. Its code stays; what is no refusal is a broken state.
    fn within(self, words: impl FnOnce() -> String) -> Result<T, Abort>;
}

impl<T> Within<T> for anyhow::Result<T> {
    fn within(self, words: impl FnOnce() -> String) -> Result<T, Abort> {
        self.map_err(|error| error.downcast_default(ExitCode::USR_ILLEGAL_STATE, words()).into())
    }
}

/// Errors of the published state machine: actor errors keep their code, everything else is a broken state.
impl From<anyhow::Error> for Abort {
    fn from(error: anyhow::Error) -> Abort {
        match error.downcast::<ActorError>() {
            Ok(error) => error.into(),
            Err(error) => error.downcast_default(ExitCode::USR_ILLEGAL_STATE, "illegal state").into(),
        }
    }
}

/// Name of an exit code as the Go node prints it.
pub fn exit_name(code: ExitCode) -> &'static str {
    match code.value() {
        0 => "Ok",
        1 => "SysErrSenderInvalid",
        2 => "SysErrSenderStateInvalid",
        5 => "SysErrInvalidReceiver",
        6 => "SysErrInsufficientFunds",
        7 => "SysErrOutOfGas",
        16 => "ErrIllegalArgument",
        17 => "ErrNotFound",
        18 => "ErrForbidden",
        19 => "ErrInsufficientFunds",
        20 => "ErrIllegalState",
        21 => "ErrSerialization",
        22 => "ErrUnhandledMessage",
        23 => "ErrUnspecified",
        24 => "ErrAssertionFailed",
        _ => "Unknown",
    }
}
