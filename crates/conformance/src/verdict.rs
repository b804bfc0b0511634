//! What a law answers.

use std::fmt;

/// What a law answers: it was kept, it does not apply, or how it was broken.
pub type Verdict = Result<Done, Violation>;

/// A law that was not broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// It was checked.
    Kept,
    /// It was not checked, for this reason.
    NotApplicable(&'static str),
}

/// How a law was broken.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl Violation {
    /// The same, of whom.
    pub(crate) fn of(self, whom: &str) -> Self {
        Self(format!("{whom}: {self}"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<fanfare_core::BrokerError> for Violation {
    fn from(error: fanfare_core::BrokerError) -> Self {
        Self(format!("the broker answered {:?}: {error}", error.kind()))
    }
}

macro_rules! violated {
    ($($told:tt)+) => {
        return Err($crate::Violation(format!($($told)+)))
    };
}

macro_rules! ensure {
    ($holds:expr, $($told:tt)+) => {
        if !$holds {
            violated!($($told)+);
        }
    };
}
