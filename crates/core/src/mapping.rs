//! Mapping rules: the names of a bus that publishers use who do not know us, and our channels.
//!
//! A rule has a source, which selects raw names and captures parts of them, and a template, which
//! makes a channel name of the captures. It is read in both directions: an arriving raw name
//! becomes a channel, and a followed pattern becomes what to subscribe to on the bus.

use std::fmt;

use crate::{Channel, InvalidChannel, Pattern};

mod source;
mod template;
#[cfg(test)]
mod tests;

use source::{Fill, Selector, Width};
use template::{Segment, Slot, Template};

/// The longest source of a rule, in bytes.
pub const MAX_SOURCE_BYTES: usize = 255;

/// The language that a rule's source is written in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dialect {
    /// A Redis glob: each `*` captures any text, even none, and as little as it can. `\` takes the
    /// next character as it is. `?` and `[…]` are refused: they could not be captured.
    Glob,
    /// A NATS subject: each `*` captures one token, a `>` at the end captures the rest.
    Subject,
}

/// A rule that gives raw names of a bus channel names.
///
/// The template is text with placeholders: `{1}`, `{2}`, … are the captures of the source;
/// `{name}` is the whole raw name, in which a glob's `:` and `/` become `.`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    selector: Selector,
    template: Template,
    /// A pattern that selects at least every channel that the rule makes.
    image: Pattern,
}

/// What to subscribe to on a bus, in the rule's dialect.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Source {
    /// Just this raw name. Nothing in it is a wildcard.
    Name(String),
    /// A glob or a subject with wildcards.
    Wild(String),
}

/// Why a source and a template are no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMapping {
    /// The source breaks a rule of its dialect.
    #[error("the source {of:?} {why}")]
    Source {
        /// The source.
        of: String,
        /// The rule, and what is allowed.
        why: &'static str,
    },
    /// The template makes no channel name, whatever is captured.
    #[error("the channel {template:?}, with `x` for every placeholder, {why}")]
    Channel {
        /// The template.
        template: String,
        /// The broken rule.
        why: InvalidChannel,
    },
    /// A brace without its partner.
    #[error("the channel {template:?} has a lone brace; {allowed} are allowed")]
    Brace {
        /// The template.
        template: String,
        /// The placeholders that this source offers.
        allowed: String,
    },
    /// A placeholder that the source does not offer.
    #[error(
        "the channel {template:?} has the placeholder `{{{unknown}}}`; the source allows {allowed}"
    )]
    Placeholder {
        /// The template.
        template: String,
        /// What stands between the braces.
        unknown: String,
        /// The placeholders that this source offers.
        allowed: String,
    },
    /// A capture that the template leaves out, so that names which differ would be one channel.
    #[error(
        "the channel {template:?} does not use `{{{unused}}}`; use every capture, or `{{name}}`"
    )]
    Unused {
        /// The template.
        template: String,
        /// The number of the capture.
        unused: usize,
    },
}

impl Mapping {
    /// Parses a rule.
    ///
    /// # Errors
    /// [`InvalidMapping`] names the source or the template, and what is allowed.
    pub fn parse(dialect: Dialect, source: &str, channel: &str) -> Result<Self, InvalidMapping> {
        let selector = Selector::parse(dialect, source).map_err(|why| InvalidMapping::Source {
            of: source.into(),
            why,
        })?;
        let template = Template::parse(channel, selector.widths().count())?;
        let image = template.image(|slot| selector.width(slot));
        Ok(Self {
            selector,
            template,
            image,
        })
    }

    /// A pattern that selects every channel that the rule makes, and may select more.
    pub fn image(&self) -> &Pattern {
        &self.image
    }

    /// The channel of a raw name; `None` where the source does not select the name.
    ///
    /// # Errors
    /// The inner error, where the name is selected and gives no channel name.
    pub fn channel(&self, raw: &str) -> Option<Result<Channel, InvalidChannel>> {
        let captures = self.selector.captures(raw)?;
        let text = self.template.fill(|slot| match slot {
            Slot::Capture(index) => captures[index].into(),
            Slot::Name => self.selector.name_of(raw),
        });
        Some(Channel::parse(&text))
    }

    /// What to subscribe to on the bus for followers of `pattern`; `None` where no channel of the
    /// pattern can come from this rule.
    ///
    /// It selects every raw name whose channel the pattern selects, and may select more: what
    /// arrives is checked again with [`channel`](Self::channel) and [`Pattern::matches`].
    pub fn sources_for(&self, pattern: &Pattern) -> Option<Source> {
        if !self.image.intersects(pattern) {
            return None;
        }
        match (pattern.as_channel(), self.selector.dialect()) {
            (Some(channel), _) => self.source_of_channel(&channel),
            (None, Dialect::Glob) => self.glob_of_pattern(pattern),
            (None, Dialect::Subject) => self.subject_of_pattern(pattern),
        }
    }

    /// The raw name to publish on so that followers of `channel` get it; `None` where there is no
    /// such name, or more than one.
    pub fn raw_name(&self, channel: &Channel) -> Option<String> {
        match self.sources_for(&channel.into())? {
            Source::Name(name) => Some(name),
            Source::Wild(_) => None,
        }
    }

    /// The raw name of `channel` where each channel has to have one: [`raw_name`](Self::raw_name), or,
    /// where several raw names give the channel, the one that reads back most plainly. Its captures
    /// have no `.`; for `{name}` each dot was a `:`. `None` where that is none, or still several.
    pub fn usual_name(&self, channel: &Channel) -> Option<String> {
        if let Some(name) = self.raw_name(channel) {
            return Some(name);
        }
        let plain = |slot, text: &str| match slot {
            Slot::Capture(_) => self.selector.may_be(slot, text) && !text.contains('.'),
            Slot::Name => self.selector.may_be(slot, text),
        };
        let readings = self.template.readings(channel.as_str(), plain)?;
        let mut found: Vec<String> = Vec::new();
        for reading in readings {
            let raw = match reading.name {
                Some(name) => self.selector.usual(name),
                None => {
                    let fills: Vec<_> = reading.captures.iter().copied().map(Fill::of).collect();
                    match self.selector.fill(&fills) {
                        Source::Name(raw) => Some(raw),
                        Source::Wild(_) => None,
                    }
                }
            };
            let gives = |raw: &String| self.channel(raw).is_some_and(|c| c.as_ref() == Ok(channel));
            found.extend(raw.filter(gives));
        }
        found.dedup();
        let one = found.pop();
        one.filter(|_| found.is_empty())
    }

    /// Everything that the rule selects.
    pub fn source(&self) -> Source {
        self.selector.fill(&self.free())
    }

    fn free(&self) -> Vec<Fill> {
        self.selector.widths().map(|_| Fill::Free).collect()
    }

    fn source_of_channel(&self, channel: &Channel) -> Option<Source> {
        let fits = |slot, text: &str| self.selector.may_be(slot, text);
        let Some(readings) = self.template.readings(channel.as_str(), fits) else {
            return Some(self.source());
        };
        let mut found: Vec<(Vec<Fill>, Source)> = Vec::new();
        for reading in readings {
            let (fills, source) = match reading.name {
                Some(name) => match self.selector.named(name) {
                    Some(source) => (self.free(), source),
                    None => continue,
                },
                None => {
                    let fills: Vec<_> = reading.captures.iter().copied().map(Fill::of).collect();
                    let source = self.selector.fill(&fills);
                    (fills, source)
                }
            };
            let real = match &source {
                Source::Name(raw) => self.channel(raw).is_some_and(|c| c.as_ref() == Ok(channel)),
                Source::Wild(_) => true,
            };
            if real && !found.iter().any(|(_, known)| *known == source) {
                found.push((fills, source));
            }
        }
        if found.len() <= 1 {
            return found.pop().map(|(_, source)| source);
        }
        // Several raw names give this channel: what they share stays, the rest is open.
        let mut shared = self.free();
        for (index, fill) in shared.iter_mut().enumerate() {
            let first = &found[0].0[index];
            if found.iter().all(|(fills, _)| fills[index] == *first) {
                *fill = first.clone();
            }
        }
        Some(self.selector.fill(&shared))
    }

    /// A glob that is narrowed by what the pattern says before its first wildcard.
    fn glob_of_pattern(&self, pattern: &Pattern) -> Option<Source> {
        let wildcard = pattern.as_str().find(['*', '>']).unwrap_or_default();
        let head = &pattern.as_str()[..wildcard];
        let (fixed, first) = self.template.head();
        let Some(known) = head.strip_prefix(fixed) else {
            return fixed.starts_with(head).then(|| self.source());
        };
        let Some((slot, next)) = first else {
            return Some(self.source());
        };
        let known = template::certain_start(known, next);
        match slot {
            Slot::Name => self.selector.named_from(known),
            Slot::Capture(_) if known.is_empty() => Some(self.source()),
            Slot::Capture(index) => {
                let mut fills = self.free();
                fills[index] = Fill::Open(source::escaped(known) + "*");
                Some(self.selector.fill(&fills))
            }
        }
    }

    /// A subject that is narrowed token by token.
    fn subject_of_pattern(&self, pattern: &Pattern) -> Option<Source> {
        let wanted: Vec<_> = pattern.as_str().split('.').collect();
        let mut fills = self.free();
        let segments = self.template.segments();
        for (at, segment) in segments.iter().enumerate() {
            let tail = wanted.get(at..).unwrap_or_default();
            let Some(token) = tail.first() else { break };
            let Segment::Whole(slot) = segment else {
                if segment.is_one(|slot| self.selector.width(slot)) && *token != ">" {
                    continue;
                }
                break;
            };
            let last = at + 1 == segments.len();
            match (*slot, self.selector.width(*slot)) {
                (Slot::Capture(index), Width::Token) if *token != ">" => {
                    if *token != "*" {
                        fills[index] = Fill::Text((*token).into());
                    }
                    continue;
                }
                (Slot::Capture(index), Width::Rest) if last => {
                    fills[index] = Fill::Open(tail.join("."));
                }
                (Slot::Name, _) if last => return self.selector.meet(tail),
                _ => {}
            }
            break;
        }
        Some(self.selector.fill(&fills))
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.selector.text(), self.template.text())
    }
}

impl Source {
    /// The text, to hand to the bus.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Name(text) | Self::Wild(text) => text,
        }
    }
}
