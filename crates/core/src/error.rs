//! What a broker can answer instead.

use std::{error::Error, fmt, sync::Arc};

/// A broker's failure: a kind to branch on, the backend that failed, and the source.
#[derive(Clone, Debug)]
pub struct BrokerError {
    kind: ErrorKind,
    backend: &'static str,
    message: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What to branch on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The broker was closed.
    Closed,
    /// The bus said no: permissions, a wrong type of key, a bad configuration.
    Rejected,
    /// The bus did not answer in time. A publication may or may not have been stored.
    Timeout,
    /// The publication is larger than the bus takes.
    TooLarge,
    /// The bus cannot be reached. Nothing was stored.
    Unavailable,
    /// The backend does not do this; see its capabilities.
    Unsupported,
}

impl BrokerError {
    /// An error of a kind, with a message in lower case that says what was tried.
    pub fn new(kind: ErrorKind, backend: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            backend,
            message: message.into(),
            source: None,
        }
    }

    /// Adds what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What to branch on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The backend that failed.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// The error of what was not tried after this one: nothing of it was stored.
    #[must_use]
    pub fn not_tried(&self) -> Self {
        let message = format!("was not tried after a failure: {}", self.message);
        Self::new(ErrorKind::Unavailable, self.backend, message)
    }

    /// Whether the same call may go through later.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Timeout | ErrorKind::Unavailable)
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.backend, self.message)
    }
}

impl Error for BrokerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
