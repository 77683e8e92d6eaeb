//! Who announces the steps of a start.

use crate::say::Steps;

/// The command itself, or a longer command in which it is one step.
pub enum Progress<'a> {
    Steps(&'a mut Steps),
    Notes(&'a Steps),
}

impl Progress<'_> {
    pub fn next(&mut self, what: &str) {
        match self {
            Progress::Steps(steps) => steps.next(what),
            Progress::Notes(steps) => steps.note(what),
        }
    }

    pub fn end(&self) {
        match self {
            Progress::Steps(steps) => steps.end(),
            Progress::Notes(_) => {}
        }
    }

    pub fn note(&self, text: &str) {
        self.steps().note(text);
    }

    pub fn steps(&self) -> &Steps {
        match self {
            Progress::Steps(steps) => steps,
            Progress::Notes(steps) => steps,
        }
    }
}
