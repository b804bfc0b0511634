//! Log lines on standard error, and their level, which can be changed while the program runs.

use std::io::IsTerminal;

use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::{
    config::{Format, Log},
    exit::Failure,
};

/// The level, to be changed later.
#[derive(Debug, Clone)]
pub(crate) struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Begins to log. Once in a process.
///
/// # Errors
/// Where something logs already.
pub(crate) fn start(log: &Log) -> Result<Logging, Failure> {
    let (filter, handle) = reload::Layer::new(log.level.filter());
    let lines = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        Format::Text => registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
    };
    started.map_err(|error| Failure::failed(format!("cannot log: {error}")))?;
    Ok(Logging { filter: handle })
}

impl Logging {
    /// Changes the level. The format stays: whoever reads the lines would trip over it.
    pub(crate) fn set_level(&self, log: &Log) {
        if let Err(error) = self.filter.reload(log.level.filter()) {
            tracing::warn!(%error, "the log level cannot be changed");
        }
    }
}
