//! The configuration: a TOML file, then the environment.
//!
//! Every key is in `docs/config.toml`, which a test holds against these structs. Values are parsed
//! into types as they are read; what concerns several keys is checked in `check`. A problem names
//! the key, its value, where it came from and what is allowed.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_edge::EdgeConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod broker;
mod check;
mod choice;
mod delivery;
mod edge;
mod load;
mod log;
mod nats;
mod problem;
mod redis;
pub(crate) mod secret;
mod secret_file;
mod section;
#[cfg(test)]
mod tests;
mod tls;
pub(crate) mod values;

pub(crate) use broker::{Broker, Kind};
pub(crate) use edge::{Admin, Anonymous, Auth, Cors, Jwt, Limits, Page, Probe, Server};
pub(crate) use load::{Loaded, load};
pub(crate) use log::{Format, Log};
pub(crate) use secret_file::read_secret;
pub(crate) use tls::Tls;

use delivery::{Delivery, Heartbeat, Retention, Slow, WriteDelay};

/// Everything that can be set.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) admin: Admin,
    pub(crate) broker: Broker,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) delivery: Delivery,
    pub(crate) probe: Probe,
    pub(crate) limits: Limits,
    pub(crate) auth: Auth,
    pub(crate) cors: Cors,
    pub(crate) page: Page,
    pub(crate) log: Log,
    pub(crate) retention: Vec<Retention>,
    pub(crate) slow: Vec<Slow>,
    pub(crate) write_delay: Vec<WriteDelay>,
}

impl Config {
    /// As the edge wants it.
    pub(crate) fn edge(&self) -> EdgeConfig {
        EdgeConfig {
            server: self.server.to_room(),
            admin: self.admin.to_room(),
            limits: self.limits.to_room(),
            auth: self.auth.to_room(),
            cors: self.cors.to_room(),
            delivery: self.delivery.to_room(
                &self.server.node,
                &self.heartbeat,
                &self.slow,
                &self.write_delay,
            ),
            probe: self.probe.to_room(),
            page: self.page.to_room(),
        }
    }

    /// What channels retain.
    pub(crate) fn retention(&self) -> fanfare_core::Retention {
        fanfare_core::Retention::new(self.retention.iter().map(Retention::to_room))
    }

    /// The configuration in effect, as TOML, without secrets.
    ///
    /// # Errors
    /// Where it has no form in TOML, which no value of these types does.
    pub(crate) fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// The keys, or lists, in which two configurations differ.
    pub(crate) fn differing(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (self.flat(), other.flat());
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        let differ = keys
            .into_iter()
            .filter(|key| ours.get(*key) != theirs.get(*key));
        let mut differing: Vec<String> = differ.cloned().collect();
        // Secrets look alike in print: where nothing else of such a section differs, one does.
        for (section, differs) in [
            ("auth", self.auth != other.auth),
            ("broker", self.broker != other.broker),
        ] {
            if differs && !differing.iter().any(|key| key.starts_with(section)) {
                differing.push(format!("{section} (a secret)"));
            }
        }
        differing
    }

    /// Every key outside of lists, dotted, with its default.
    fn known() -> BTreeMap<String, Value> {
        let mut everything = Self::default();
        everything.server.tls = Some(Tls::default());
        everything.auth.jwt = Some(Jwt::default());
        everything.auth.anonymous = Some(Anonymous::default());
        everything.flat()
    }

    /// Every key outside of lists, dotted, with its value as it is printed.
    fn flat(&self) -> BTreeMap<String, Value> {
        fn walk(path: &str, value: Value, keys: &mut BTreeMap<String, Value>) {
            let Value::Object(table) = value else {
                keys.insert(path.to_owned(), value);
                return;
            };
            for (key, value) in table {
                let path = if path.is_empty() {
                    key
                } else {
                    format!("{path}.{key}")
                };
                walk(&path, value, keys);
            }
        }
        let mut keys = BTreeMap::new();
        walk(
            "",
            serde_json::to_value(self).unwrap_or_default(),
            &mut keys,
        );
        keys
    }
}
