//! The raw names on the bus: what a channel is published on, what to subscribe to for a pattern, and
//! what an arriving name means.

use std::borrow::Cow;

use fanfare_core::{Channel, InvalidChannel, Mapping, Pattern, Source};

/// The names on the bus.
#[derive(Debug)]
pub(crate) struct Routes {
    /// `{prefix}:`, which nobody else's names begin with.
    own: String,
    /// What the names of durable channels begin with.
    durable: String,
    rules: Vec<Mapping>,
}

/// Where a publication goes.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Target<'r> {
    /// A raw channel.
    Raw(String),
    /// A raw channel for which the rule does not say one name.
    Ambiguous(&'r Mapping),
    /// No rule makes it.
    Nowhere,
}

/// What an arriving name means.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// A raw channel.
    Raw(Result<Channel, InvalidChannel>),
    /// Nothing of ours.
    Other,
}

impl Routes {
    pub(crate) fn new(prefix: &str, rules: Vec<Mapping>) -> Self {
        Self {
            own: format!("{prefix}:"),
            durable: format!("{{{prefix}:"),
            rules,
        }
    }

    /// The key under which a publication's idempotency key is known. A channel has no space, so two
    /// channels never share one.
    pub(crate) fn key(&self, channel: &Channel, key: &str) -> String {
        format!("{}key:{channel} {key}", self.own)
    }

    /// Where a publication to `channel` goes.
    pub(crate) fn target(&self, channel: &Channel) -> Target<'_> {
        let pattern = Pattern::from(channel);
        let mut ambiguous = None;
        for rule in &self.rules {
            // A rule before this one may take the name for another channel.
            let raw = rule
                .raw_name(channel)
                .filter(|raw| self.arrival(raw.as_bytes()) == Arrival::Raw(Ok(channel.clone())));
            if let Some(raw) = raw {
                return Target::Raw(raw);
            }
            if rule.sources_for(&pattern).is_some() {
                ambiguous = ambiguous.or(Some(rule));
            }
        }
        match ambiguous {
            Some(rule) => Target::Ambiguous(rule),
            None => Target::Nowhere,
        }
    }

    /// Whether a rule makes some channel of `pattern`.
    pub(crate) fn claims(&self, pattern: &Pattern) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.sources_for(pattern).is_some())
    }

    /// What to subscribe to for followers of `pattern`, each source once.
    pub(crate) fn sources(&self, pattern: &Pattern) -> Vec<Source> {
        let mut sources = Vec::new();
        for source in self
            .rules
            .iter()
            .filter_map(|rule| rule.sources_for(pattern))
        {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources
    }

    /// What a name means that a message arrived on.
    pub(crate) fn arrival(&self, name: &[u8]) -> Arrival {
        // What is written under our prefix, a rule does not take.
        let is_ours = [&self.own, &self.durable].map(|ours| name.starts_with(ours.as_bytes()));
        if is_ours.contains(&true) {
            return Arrival::Other;
        }
        // What is not UTF-8 gets a character that no channel name keeps it from having; such a
        // name is nobody's, and must not become one.
        let text = String::from_utf8_lossy(name);
        let selected = self.rules.iter().find_map(|rule| rule.channel(&text));
        match (selected, &text) {
            (None, _) => Arrival::Other,
            (Some(_), Cow::Owned(_)) => Arrival::Raw(Err(InvalidChannel::Character('\u{fffd}'))),
            (Some(channel), Cow::Borrowed(_)) => Arrival::Raw(channel),
        }
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::Dialect;

    use super::*;

    fn routes(rules: &[(&str, &str)]) -> Routes {
        let rule = |(source, channel): &(&str, &str)| {
            Mapping::parse(Dialect::Glob, source, channel).unwrap()
        };
        Routes::new("ff", rules.iter().map(rule).collect())
    }

    fn channel(text: &str) -> Channel {
        Channel::parse(text).unwrap()
    }

    fn follow(routes: &Routes, pattern: &str) -> Vec<String> {
        let sources = routes.sources(&Pattern::parse(pattern).unwrap());
        let text = |source: &Source| match source {
            Source::Name(name) => name.clone(),
            Source::Wild(glob) => format!("glob {glob}"),
        };
        sources.iter().map(text).collect()
    }

    #[test]
    fn a_pattern_is_followed_by_name_or_by_glob() {
        let routes = routes(&[("orders:*", "orders.{1}"), ("orders:*", "{name}")]);
        assert!(follow(&routes, "a.b").is_empty());
        assert_eq!(follow(&routes, "orders.eu"), ["orders:eu"]);
        assert_eq!(follow(&routes, ">"), ["glob orders:*"]);
        assert!(routes.claims(&"*.eu".parse().unwrap()) && routes.claims(&">".parse().unwrap()));
        assert!(!routes.claims(&"a.*".parse().unwrap()));
    }

    #[test]
    fn a_publication_goes_where_its_followers_listen() {
        let routes = routes(&[("a:*", "{1}"), ("b:*", "b.{1}"), ("c:*", "{name}")]);
        assert_eq!(routes.target(&channel("b.x")), Target::Raw("a:b.x".into()));
        let routes = self::routes(&[("b:*", "b.{1}"), ("b:x", "y"), ("c:*", "{name}")]);
        assert_eq!(routes.target(&channel("b.x")), Target::Raw("b:x".into()));
        assert_eq!(routes.target(&channel("z")), Target::Nowhere);
        assert!(matches!(
            routes.target(&channel("c.x.y")),
            Target::Ambiguous(_)
        ));
        let taken = routes.target(&channel("y"));
        assert!(
            matches!(taken, Target::Ambiguous(_)),
            "b:x is taken for b.x: {taken:?}"
        );
    }

    #[test]
    fn our_own_names_are_not_raw() {
        let routes = routes(&[("*", "{name}")]);
        assert_eq!(routes.arrival(b"ff:live:a.b"), Arrival::Other);
        assert_eq!(routes.arrival(b"ff:probe:1"), Arrival::Other);
        assert_eq!(routes.arrival(b"{ff:p0}:live:a"), Arrival::Other);
        assert_eq!(routes.arrival(b"ff:key:1"), Arrival::Other);
        assert_eq!(routes.arrival(b"a:b"), Arrival::Raw(Ok(channel("a.b"))));
        assert!(matches!(routes.arrival(b"a:\xff"), Arrival::Raw(Err(_))));
        assert!(matches!(routes.arrival(b"a: "), Arrival::Raw(Err(_))));
    }
}
