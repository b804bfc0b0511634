//! SIGHUP: the configuration read again, and taken as far as nobody is disconnected.

use std::path::PathBuf;

use fanfare_edge::Reloader;

use crate::{
    config::{Config, Tls},
    files,
    logging::Logging,
};

/// What a reload needs.
#[derive(Debug)]
pub(crate) struct Reload {
    /// In force.
    config: Config,
    file: Option<PathBuf>,
    logging: Logging,
}

impl Reload {
    /// Of the configuration in force and the file that it came from.
    pub(crate) fn new(config: Config, file: Option<PathBuf>, logging: Logging) -> Self {
        Self {
            config,
            file,
            logging,
        }
    }

    /// The public listener's TLS in force.
    pub(crate) fn tls(&self) -> Option<Tls> {
        self.config.server.tls.clone()
    }

    /// Reads the configuration again and takes what can change while clients are connected: the
    /// log level and what the edge takes. What differs beyond that is named, and waits for a
    /// restart. A configuration that cannot be used changes nothing.
    pub(crate) fn run(&mut self, edge: &Reloader) {
        let read = crate::load(self.file.as_deref()).map_err(|failure| failure.to_string());
        let new = match read.map(|loaded| loaded.config).and_then(|new| {
            let taken = edge.reload(&new.edge());
            taken.map(|()| new).map_err(|error| error.to_string())
        }) {
            Ok(new) => new,
            Err(why) => {
                tracing::error!("the configuration is not reloaded, the one before stays: {why}");
                return;
            }
        };
        let differing = self.config.differing(&new);
        let tls = match (&self.config.server.tls, &new.server.tls) {
            (Some(held), Some(read)) if held != read => Renewed::Yes,
            (Some(_), Some(_)) => Renewed::No,
            _ => Renewed::Never,
        };
        let (mut taken, waiting): (Vec<_>, Vec<_>) = differing
            .into_iter()
            .partition(|key| takes(key) || tls.takes(key));
        if tls == Renewed::Yes && !taken.iter().any(|key| key.starts_with(TLS)) {
            taken.push("server.tls (the contents of its files)".into());
        }
        let Config {
            limits,
            auth,
            cors,
            page,
            log,
            server,
            ..
        } = new;
        // Before or after: one of the two may be hidden by its level.
        let told = tracing::enabled!(tracing::Level::INFO);
        if told {
            reloaded(&taken);
        }
        self.logging.set_level(&log);
        if !told {
            reloaded(&taken);
        }
        self.config.limits = limits;
        self.config.auth = auth;
        self.config.cors = cors;
        self.config.page = page;
        self.config.log.level = log.level;
        if tls != Renewed::Never {
            self.config.server.tls = server.tls;
        }
        if taken.iter().any(|key| key == "limits.connections") {
            files::make_room(self.config.limits.connections);
        }
        if !waiting.is_empty() {
            tracing::warn!(
                "changes of {} need a restart and are not in effect",
                waiting.join(", ")
            );
        }
    }
}

const TLS: &str = "server.tls.";

/// What a reload means to the public listener's TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Renewed {
    Yes,
    No,
    /// There is none, or there would be none.
    Never,
}

impl Renewed {
    fn takes(self, key: &str) -> bool {
        let setting = key.strip_prefix(TLS);
        // The bounds of connections that are open.
        self != Self::Never && setting.is_some_and(|setting| setting != "http2_streams")
    }
}

/// Whether a reload takes a key, as [`Config::differing`] names it.
fn takes(key: &str) -> bool {
    let section = key.split(['.', ' ']).next().unwrap_or_default();
    key == "log.level" || Reloader::SECTIONS.contains(&section)
}

fn reloaded(taken: &[String]) {
    if taken.is_empty() {
        tracing::info!("the configuration is read again: nothing that can be taken has changed");
    } else {
        tracing::info!(
            "the configuration is read again: {} in effect",
            taken.join(", ")
        );
    }
}
