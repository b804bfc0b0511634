//! Which keys are streams that a rule selects, and which channels they are.

use fanfare_core::{Channel, InvalidChannel, LogId, Mapping, Pattern, Source};

use super::{entry::Fields, id};
use crate::raw::routes::{Arrival, Routes, Side};

/// The rules for foreign streams. Each channel is one key, and each key that is a channel is that one.
#[derive(Debug)]
pub(crate) struct StreamRules {
    routes: Routes,
    rules: Vec<StreamRule>,
}

/// What a rule says beside its mapping.
#[derive(Debug)]
pub(crate) struct StreamRule {
    pub(super) fields: Fields,
    /// The most streams of the rule that a node follows.
    pub(super) max_streams: usize,
    /// The index log: see [`fanfare_core::Late`].
    pub(super) index: Option<LogId>,
    /// What to look for to find the rule's streams; `None` where the rule names one.
    pub(super) glob: Option<String>,
    /// The one stream, where the rule names one.
    name: Option<String>,
    /// Selects all of the rule's channels.
    pub(super) image: Pattern,
}

/// A channel that is a foreign stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) channel: Channel,
    pub(super) log: LogId,
    /// The rule, by its index.
    pub(super) rule: usize,
}

/// Why a key that a rule selects is no channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum NoPlace {
    /// No rule selects it.
    Other,
    /// It gives no channel name.
    BadName(InvalidChannel),
    /// Its channel is that of another key.
    Taken(Channel),
}

impl StreamRules {
    pub(crate) fn new(prefix: &str, rules: Vec<(Mapping, Fields, usize)>) -> Self {
        let rule = |(mapping, fields, max_streams): &(Mapping, Fields, usize)| StreamRule {
            fields: fields.clone(),
            max_streams: *max_streams,
            index: id::index(&mapping.to_string()),
            glob: match mapping.source() {
                Source::Name(_) => None,
                Source::Wild(glob) => Some(glob),
            },
            name: match mapping.source() {
                Source::Name(name) => Some(name),
                Source::Wild(_) => None,
            },
            image: mapping.image().clone(),
        };
        let mappings = rules
            .iter()
            .map(|(mapping, _, _)| (mapping.clone(), Side::Node));
        let mappings = mappings.collect();
        Self {
            rules: rules.iter().map(rule).collect(),
            routes: Routes::new(prefix, mappings, Side::Node),
        }
    }

    pub(crate) fn rules(&self) -> &[StreamRule] {
        &self.rules
    }

    pub(super) fn rule(&self, place: &Place) -> &StreamRule {
        &self.rules[place.rule]
    }

    /// The key of a rule that names one.
    pub(super) fn names_of(&self, rule: usize) -> Vec<Vec<u8>> {
        let name = self.rules.get(rule).and_then(|rule| rule.name.clone());
        name.into_iter().map(String::into_bytes).collect()
    }

    /// Whether a channel of the pattern is a foreign stream, or can be.
    pub(crate) fn claims(&self, pattern: &Pattern) -> bool {
        match pattern.as_channel() {
            Some(channel) => self.place(&channel).is_some(),
            None => self.rules_of(pattern).next().is_some(),
        }
    }

    /// The rules that make channels of a pattern, by index.
    pub(super) fn rules_of(&self, pattern: &Pattern) -> impl Iterator<Item = usize> {
        let pattern = pattern.clone();
        (0..self.rules.len()).filter(move |rule| self.routes.makes(*rule, &pattern))
    }

    /// The stream of a channel.
    pub(super) fn place(&self, channel: &Channel) -> Option<Place> {
        let (rule, key) = self.routes.usual(channel)?;
        Some(Place {
            log: id::log(&key)?,
            channel: channel.clone(),
            key,
            rule,
        })
    }

    /// The channel of a key.
    pub(super) fn read(&self, key: &[u8]) -> Result<Place, NoPlace> {
        let channel = match self.routes.arrival(key) {
            Arrival::Other => return Err(NoPlace::Other),
            Arrival::Raw(Err(why)) => return Err(NoPlace::BadName(why)),
            Arrival::Raw(Ok(channel)) => channel,
        };
        let place = self.place(&channel);
        let own = place.filter(|place| place.key.as_bytes() == key);
        own.ok_or(NoPlace::Taken(channel))
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::Dialect;

    use super::*;

    fn rules(rules: &[(&str, &str)]) -> StreamRules {
        let rule = |(source, channel): &(&str, &str)| {
            let mapping = Mapping::parse(Dialect::Glob, source, channel).unwrap();
            (mapping, Fields::default(), 10)
        };
        StreamRules::new("ff", rules.iter().map(rule).collect())
    }

    fn channel(text: &str) -> Channel {
        text.parse::<Pattern>().unwrap().as_channel().unwrap()
    }

    #[test]
    fn a_channel_is_one_key_and_that_key_is_the_channel() {
        let rules = rules(&[("orders:*", "orders.{1}"), ("jobs:*", "{name}")]);
        for (text, key) in [
            ("orders.eu", "orders:eu"),
            ("orders.eu.42", "orders:eu.42"),
            ("jobs.a", "jobs:a"),
            // Several keys give this channel; the one with `:` is it.
            ("jobs.a.b", "jobs:a:b"),
        ] {
            let place = rules.place(&channel(text)).unwrap();
            assert_eq!(place.key, key);
            assert_eq!(rules.read(key.as_bytes()), Ok(place));
        }
        assert_eq!(
            rules.read(b"jobs:a/b"),
            Err(NoPlace::Taken(channel("jobs.a.b")))
        );
        assert!(matches!(
            rules.read(b"orders:a b"),
            Err(NoPlace::BadName(_))
        ));
        assert_eq!(rules.read(b"other"), Err(NoPlace::Other));
        assert_eq!(rules.read(b"ff:streams:home"), Err(NoPlace::Other));
        assert_eq!(rules.place(&channel("other")), None);
    }

    #[test]
    fn the_first_rule_that_selects_a_key_counts() {
        let rules = rules(&[("a:x", "first"), ("a:*", "a.{1}")]);
        assert_eq!(rules.place(&channel("a.x")), None);
        assert_eq!(rules.place(&channel("first")).unwrap().rule, 0);
        assert_eq!(rules.place(&channel("a.y")).unwrap().rule, 1);
        assert!(rules.claims(&"a.*".parse().unwrap()) && !rules.claims(&"b.*".parse().unwrap()));
        let of = |text: &str| rules.rules_of(&text.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(of(">"), [0, 1]);
        assert_eq!(of("a.*"), [1]);
        assert_eq!(
            (
                rules.rules()[0].glob.as_deref(),
                rules.rules()[1].glob.as_deref()
            ),
            (None, Some("a:*"))
        );
    }
}
