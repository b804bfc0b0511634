//! SIGHUP: the configuration read again, and taken as far as nobody is disconnected.

use std::path::PathBuf;

use fanfare_edge::Reloader;

use crate::{config::Config, files, logging::Logging};

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
        let (taken, waiting): (Vec<_>, Vec<_>) = differing.into_iter().partition(|key| takes(key));
        let Config {
            limits,
            auth,
            cors,
            page,
            log,
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
