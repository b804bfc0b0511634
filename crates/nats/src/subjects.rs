//! Which subject stands for which channel, both ways.

use fanfare_core::{
    Channel, InvalidChannel, Pattern,
    mapping::{Dialect, InvalidMapping, Mapping, Source},
};

use crate::envelope::Names;

/// Subjects and channels: our own under the prefix, others' by rules.
#[derive(Debug)]
pub(crate) struct Subjects {
    prefix: String,
    /// What our own begin with; `None` where there are none.
    own: Option<String>,
    own_names: Names,
    rules: Vec<Rule>,
    /// Where our own stream is marked.
    marks: Option<String>,
}

/// A rule for subjects that others write.
#[derive(Debug)]
pub(crate) struct Rule {
    mapping: Mapping,
    names: Names,
}

/// Where a publication goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// The subject.
    pub(crate) subject: String,
    /// Whether only Fanfare writes there.
    pub(crate) own: bool,
    /// Which headers say what.
    pub(crate) names: &'a Names,
}

/// What a subject says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading<'a> {
    /// The channel, where the name gives one.
    pub(crate) channel: Result<Channel, InvalidChannel>,
    /// Which headers say what.
    pub(crate) names: &'a Names,
}

impl Rule {
    pub(crate) fn parse(source: &str, channel: &str, names: Names) -> Result<Self, InvalidMapping> {
        Ok(Self {
            mapping: Mapping::parse(Dialect::Subject, source, channel)?,
            names,
        })
    }
}

impl Subjects {
    pub(crate) fn new(prefix: &str, rules: Vec<Rule>) -> Self {
        Self {
            prefix: prefix.into(),
            own: Some(format!("{prefix}.live.")),
            own_names: Names::default(),
            rules,
            marks: None,
        }
    }

    /// Those of Fanfare's own stream: durable channels.
    pub(crate) fn durable(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
            own: Some(format!("{prefix}.log.")),
            own_names: Names::default(),
            rules: Vec::new(),
            // No channel has this character, so it is none's, to nodes that know no marks, too.
            marks: Some(format!("{prefix}.log.?mark")),
        }
    }

    /// Those of a stream that others write.
    pub(crate) fn of_others(rules: Vec<Rule>) -> Self {
        Self {
            prefix: String::new(),
            own: None,
            own_names: Names::default(),
            rules,
            marks: None,
        }
    }

    /// Whether a rule makes some channel of `pattern`.
    pub(crate) fn claims(&self, pattern: &Pattern) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.mapping.sources_for(pattern).is_some())
    }

    /// The subject of marks of our own stream; it stands for no channel.
    pub(crate) fn marks(&self) -> Option<&str> {
        self.marks.as_deref()
    }

    /// The subject of this node's canary.
    pub(crate) fn probe(&self, node: &str) -> String {
        format!("{}.probe.{node}", self.prefix)
    }

    /// What to subscribe to for followers of `pattern`. It may select more than they follow.
    pub(crate) fn follow(&self, pattern: &Pattern) -> Vec<String> {
        // Channel names hold nothing that a subject forbids, and both use the same wildcards, so
        // the text is taken as it is.
        let own = self.own.iter().map(|own| format!("{own}{pattern}"));
        let mut all: Vec<_> = own.collect();
        for rule in &self.rules {
            if let Some(Source::Name(subject) | Source::Wild(subject)) =
                rule.mapping.sources_for(pattern)
                && !all.contains(&subject)
            {
                all.push(subject);
            }
        }
        all
    }

    /// Where to publish for followers of `channel`: where others publish for it, so that programs
    /// on the bus hear it too, else under our own prefix. `None` where no rule says one subject,
    /// and there are none of our own.
    pub(crate) fn publish(&self, channel: &Channel) -> Option<Target<'_>> {
        for rule in &self.rules {
            if let Some(subject) = rule.mapping.raw_name(channel)
                && self
                    .read(&subject)
                    .is_some_and(|reading| reading.channel.as_ref() == Ok(channel))
            {
                return Some(Target {
                    subject,
                    own: false,
                    names: &rule.names,
                });
            }
        }
        let own = self.own.as_ref()?;
        Some(Target {
            subject: format!("{own}{channel}"),
            own: true,
            names: &self.own_names,
        })
    }

    /// What an arriving subject says; `None` where it stands for no channel.
    pub(crate) fn read(&self, subject: &str) -> Option<Reading<'_>> {
        let own = self.own.as_deref();
        if let Some(name) = own.and_then(|own| subject.strip_prefix(own)) {
            return Some(Reading {
                channel: Channel::parse(name),
                names: &self.own_names,
            });
        }
        self.rules.iter().find_map(|rule| {
            Some(Reading {
                channel: rule.mapping.channel(subject)?,
                names: &rule.names,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::EVENT;

    fn subjects() -> Subjects {
        let rule = |source, channel, event: Option<&str>| {
            let names = Names {
                event: event.unwrap_or(EVENT).into(),
                ..Names::default()
            };
            Rule::parse(source, channel, names).unwrap()
        };
        Subjects::new(
            "fanfare",
            vec![
                rule("shop.*.orders.>", "orders.{1}.{2}", Some("Type")),
                rule("shop.>", "{name}", None),
            ],
        )
    }

    fn channel(text: &str) -> Channel {
        Channel::parse(text).unwrap()
    }

    #[test]
    fn what_is_published_is_followed_and_read_back() {
        let subjects = subjects();
        for (name, subject, own, header) in [
            ("a.b", "fanfare.live.a.b", true, EVENT),
            ("$sys.größe", "fanfare.live.$sys.größe", true, EVENT),
            ("orders.eu.1.2", "shop.eu.orders.1.2", false, "Type"),
            ("shop.x", "shop.x", false, EVENT),
            // The first rule takes this subject for another channel: it cannot stand for this one.
            (
                "shop.eu.orders.1",
                "fanfare.live.shop.eu.orders.1",
                true,
                EVENT,
            ),
        ] {
            let target = subjects.publish(&channel(name)).unwrap();
            assert_eq!((&*target.subject, target.own), (subject, own));
            assert_eq!(&*target.names.event, header);
            let reading = subjects.read(subject).unwrap();
            assert_eq!(reading.channel, Ok(channel(name)));
            assert_eq!(&*reading.names.event, header);
            let followed = subjects.follow(&channel(name).into());
            assert!(followed.contains(&target.subject), "{followed:?}");
        }
        assert_eq!(subjects.read("elsewhere"), None);
    }

    #[test]
    fn a_pattern_is_followed_wherever_its_channels_can_come_from() {
        let all = subjects().follow(&Pattern::parse("orders.*.>").unwrap());
        assert_eq!(all, ["fanfare.live.orders.*.>", "shop.*.orders.>"]);
        let all = subjects().follow(&Pattern::all());
        assert_eq!(all, ["fanfare.live.>", "shop.*.orders.>", "shop.>"]);
    }
}
