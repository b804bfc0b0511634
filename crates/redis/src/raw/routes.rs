//! The raw names on the bus: what a channel is published on, what to subscribe to for a pattern, and
//! what an arriving name means.

use std::borrow::Cow;

use fanfare_core::{Channel, InvalidChannel, Mapping, Pattern, Source};

use crate::durable::names::fnv1a;

/// The names on the bus.
#[derive(Debug)]
pub(crate) struct Routes {
    /// `{prefix}:`, which nobody else's names begin with.
    own: String,
    /// What our names with a hash tag begin with.
    durable: String,
    rules: Vec<Rule>,
    side: Side,
}

/// Whose a channel is: that of the first rule which can make it. What arrives by a later rule
/// belongs there too, so that a channel lives in one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// The node's own, or nobody's: [`RedisBroker`](crate::RedisBroker).
    Node,
    /// Recorded for all: [`RedisRecorded`](crate::RedisRecorded).
    Shared,
}

#[derive(Debug)]
struct Rule {
    mapping: Mapping,
    side: Side,
    /// Whether a rule of the other side before this one may make some of its channels.
    is_disputed: bool,
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
    /// The names of one side's channels.
    pub(crate) fn new(prefix: &str, rules: Vec<(Mapping, Side)>, side: Side) -> Self {
        let is_disputed = |at: usize| {
            let (mapping, side) = &rules[at];
            let mut before = rules[..at].iter();
            before.any(|(other, of)| of != side && other.image().intersects(mapping.image()))
        };
        let disputed: Vec<_> = (0..rules.len()).map(is_disputed).collect();
        let rules = rules.into_iter().zip(disputed);
        let rule = |((mapping, side), is_disputed)| Rule {
            mapping,
            side,
            is_disputed,
        };
        Self {
            own: format!("{prefix}:"),
            durable: format!("{{{prefix}:"),
            rules: rules.map(rule).collect(),
            side,
        }
    }

    /// Whether a rule has channels of this side.
    pub(crate) fn has_side(&self) -> bool {
        self.rules.iter().any(|rule| rule.side == self.side)
    }

    /// A number that is the same where the same names are taken in the same way.
    pub(crate) fn digest(&self) -> u64 {
        // Counts with the rules: what is taken, and how it is counted.
        const VERSION: &str = "1";
        let mut text = format!("{VERSION}\n{}\n", self.own);
        for rule in &self.rules {
            text += &format!("{:?} {}\n", rule.side, rule.mapping);
        }
        fnv1a(text.as_bytes())
    }

    /// Whose a channel is that this rule made.
    fn side_of(&self, at: usize, channel: &Channel) -> Side {
        let rule = &self.rules[at];
        if !rule.is_disputed {
            return rule.side;
        }
        let pattern = Pattern::from(channel);
        let mut before = self.rules[..at].iter();
        let first = before.find(|rule| rule.mapping.sources_for(&pattern).is_some());
        first.unwrap_or(rule).side
    }

    /// The hash tag of the idempotency keys: in a cluster, one node knows them all.
    pub(crate) fn tag(&self) -> String {
        format!("{}raw}}", self.durable)
    }

    /// The key under which a publication's idempotency key is known. A channel has no space, so two
    /// channels never share one.
    pub(crate) fn key(&self, channel: &Channel, key: &str) -> String {
        format!("{}:key:{channel} {key}", self.tag())
    }

    /// Where a publication to `channel` goes.
    pub(crate) fn target(&self, channel: &Channel) -> Target<'_> {
        let pattern = Pattern::from(channel);
        let mut ambiguous = None;
        for rule in &self.rules {
            // A rule before this one may take the name for another channel.
            let rule = &rule.mapping;
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

    /// The one raw name that stands for a channel, and the rule, where every channel has to have one:
    /// see [`Mapping::usual_name`].
    pub(crate) fn usual(&self, channel: &Channel) -> Option<(usize, String)> {
        self.rules.iter().enumerate().find_map(|(at, rule)| {
            let raw = rule.mapping.usual_name(channel)?;
            let is_it = self.arrival(raw.as_bytes()) == Arrival::Raw(Ok(channel.clone()));
            is_it.then_some((at, raw))
        })
    }

    /// Whether one rule makes some channel of `pattern`.
    pub(crate) fn makes(&self, rule: usize, pattern: &Pattern) -> bool {
        let rule = self.rules.get(rule);
        rule.is_some_and(|rule| rule.mapping.sources_for(pattern).is_some())
    }

    /// Whether some channel of `pattern` can be of this side.
    pub(crate) fn claims(&self, pattern: &Pattern) -> bool {
        let makes = |rule: &&Rule| rule.mapping.sources_for(pattern).is_some();
        let mut rules = self.rules.iter().filter(makes);
        if pattern.is_wild() {
            return rules.any(|rule| rule.side == self.side);
        }
        rules.next().is_some_and(|rule| rule.side == self.side)
    }

    /// What to subscribe to for all channels of this side, each source once.
    pub(crate) fn all_sources(&self) -> Vec<Source> {
        let ours: Vec<_> = self
            .rules
            .iter()
            .filter(|rule| rule.side == self.side)
            .map(|rule| rule.mapping.image())
            .collect();
        let mut sources = Vec::new();
        for rule in &self.rules {
            let mut ours = ours.iter();
            if ours.any(|image| rule.mapping.image().intersects(image)) {
                let source = rule.mapping.source();
                if !sources.contains(&source) {
                    sources.push(source);
                }
            }
        }
        sources
    }

    /// What to subscribe to for followers of `pattern`, each source once.
    pub(crate) fn sources(&self, pattern: &Pattern) -> Vec<Source> {
        let mut sources = Vec::new();
        for source in self
            .rules
            .iter()
            .filter_map(|rule| rule.mapping.sources_for(pattern))
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
        let mut rules = self.rules.iter().enumerate();
        let selected = rules.find_map(|(at, rule)| Some((at, rule.mapping.channel(&text)?)));
        match (selected, &text) {
            (None, _) => Arrival::Other,
            (Some((at, _)), _) if !self.may_be_ours(at) => Arrival::Other,
            (Some(_), Cow::Owned(_)) => Arrival::Raw(Err(InvalidChannel::Character('\u{fffd}'))),
            (Some((at, Ok(channel))), Cow::Borrowed(_)) => {
                if self.side_of(at, &channel) == self.side {
                    Arrival::Raw(Ok(channel))
                } else {
                    Arrival::Other
                }
            }
            (Some((_, why)), Cow::Borrowed(_)) => Arrival::Raw(why),
        }
    }

    /// Whether what arrives by a rule can be of this side.
    fn may_be_ours(&self, at: usize) -> bool {
        let rule = &self.rules[at];
        rule.side == self.side || rule.is_disputed
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
        let rules = rules.iter().map(|parts| (rule(parts), Side::Node));
        Routes::new("ff", rules.collect(), Side::Node)
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
    fn a_channel_has_one_side_whichever_rule_it_arrives_by() {
        let rules = |side| {
            let rule = |source, channel, side| {
                (
                    Mapping::parse(Dialect::Glob, source, channel).unwrap(),
                    side,
                )
            };
            let rules = vec![
                rule("orders:*", "orders.{1}", Side::Shared),
                rule("*", "{name}", Side::Node),
                rule("x:*", "{1}", Side::Shared),
            ];
            Routes::new("ff", rules, side)
        };
        let (node, shared) = (rules(Side::Node), rules(Side::Shared));
        let raw = |name: &str| Arrival::Raw(Ok(channel(name)));
        for (name, of, is_shared) in [
            ("orders:eu", "orders.eu", true),
            // By the second rule, and the channel is the first one's.
            ("orders/eu", "orders.eu", true),
            ("other:eu", "other.eu", false),
            ("x:y", "x.y", false),
        ] {
            let (here, there) = if is_shared {
                (&shared, &node)
            } else {
                (&node, &shared)
            };
            assert_eq!(here.arrival(name.as_bytes()), raw(of), "{name}");
            assert_eq!(there.arrival(name.as_bytes()), Arrival::Other, "{name}");
            assert!(here.claims(&of.parse().unwrap()) && !there.claims(&of.parse().unwrap()));
        }
        assert!(node.claims(&">".parse().unwrap()) && shared.claims(&"orders.>".parse().unwrap()));
        let heard: Vec<_> = shared.all_sources();
        assert!(heard.contains(&Source::Wild("*".into())), "{heard:?}");
        assert_eq!(node.digest(), shared.digest());
        let others = routes(&[("orders:*", "orders.{1}"), ("*", "{name}")]);
        assert_ne!(others.digest(), node.digest());
    }

    #[test]
    fn our_own_names_are_not_raw() {
        let routes = routes(&[("*", "{name}")]);
        assert_eq!(routes.arrival(b"ff:live:a.b"), Arrival::Other);
        assert_eq!(routes.arrival(b"ff:probe:1"), Arrival::Other);
        assert_eq!(routes.arrival(b"{ff:p0}:live:a"), Arrival::Other);
        assert_eq!(routes.arrival(b"{ff:raw}:key:1"), Arrival::Other);
        assert_eq!(routes.arrival(b"a:b"), Arrival::Raw(Ok(channel("a.b"))));
        assert!(matches!(routes.arrival(b"a:\xff"), Arrival::Raw(Err(_))));
        assert!(matches!(routes.arrival(b"a: "), Arrival::Raw(Err(_))));
    }
}
