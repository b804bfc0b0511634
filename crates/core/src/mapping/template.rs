//! The template of a rule: how a channel name is made of captures, and read back into them.

use std::borrow::Cow;

use super::{InvalidMapping, source::Width};
use crate::{Channel, Pattern};

/// How many steps a reading back may take before it is given up and the rule's whole source is
/// taken instead. Channel names come from strangers, and a template of many captures has very many
/// readings.
const MAX_STEPS: usize = 4_096;

/// A parsed template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Template {
    text: String,
    parts: Vec<Part>,
    captures: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Literal(String),
    Slot(Slot),
}

/// A placeholder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// By its index, from 0.
    Capture(usize),
    Name,
}

/// A segment of the template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Segment {
    /// Just one placeholder.
    Whole(Slot),
    /// Text, and the placeholders among it.
    Mixed(Vec<Slot>),
}

impl Segment {
    /// Whether it is one segment of every channel name.
    pub(super) fn is_one(&self, width: impl Fn(Slot) -> Width) -> bool {
        match self {
            Self::Whole(slot) => width(*slot) == Width::Token,
            Self::Mixed(slots) => slots.iter().all(|slot| width(*slot) == Width::Token),
        }
    }
}

/// One way in which a channel name can have been made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reading<'c> {
    pub(super) captures: Vec<Option<&'c str>>,
    pub(super) name: Option<&'c str>,
}

impl Template {
    pub(super) fn parse(text: &str, captures: usize) -> Result<Self, InvalidMapping> {
        let allowed = || match captures {
            0 => "`{name}`".to_owned(),
            1 => "`{name}` and `{1}`".to_owned(),
            n => format!("`{{name}}` and `{{1}}` to `{{{n}}}`"),
        };
        let template = || text.to_owned();
        let lone_brace = || InvalidMapping::Brace {
            template: template(),
            allowed: allowed(),
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, tail) = rest.split_at(at);
            let (placeholder, after) = tail
                .strip_prefix('{')
                .and_then(|tail| tail.split_once('}'))
                .ok_or_else(lone_brace)?;
            let number = placeholder.parse::<usize>().ok();
            let slot = match number.filter(|_| !placeholder.starts_with(['0', '+'])) {
                _ if placeholder == "name" => Slot::Name,
                Some(n) if n <= captures => Slot::Capture(n - 1),
                _ => {
                    return Err(InvalidMapping::Placeholder {
                        template: template(),
                        unknown: placeholder.into(),
                        allowed: allowed(),
                    });
                }
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            parts.push(Part::Slot(slot));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.into()));
        }
        let uses = |slot| parts.contains(&Part::Slot(slot));
        let unused = (0..captures).find(|index| !uses(Slot::Capture(*index)));
        if let (Some(index), false) = (unused, uses(Slot::Name)) {
            return Err(InvalidMapping::Unused {
                template: template(),
                unused: index + 1,
            });
        }
        let made = Self {
            text: template(),
            parts,
            captures,
        };
        Channel::parse(&made.fill(|_| "x".into())).map_err(|why| InvalidMapping::Channel {
            template: template(),
            why,
        })?;
        Ok(made)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn fill<'a>(&self, value: impl Fn(Slot) -> Cow<'a, str>) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Slot(slot) => text.push_str(&value(*slot)),
            }
        }
        text
    }

    /// The text before the first placeholder, the placeholder, and what follows that.
    pub(super) fn head(&self) -> (&str, Option<(Slot, Option<&Part>)>) {
        match &self.parts[..] {
            [Part::Literal(text), Part::Slot(slot), rest @ ..] => {
                (text, Some((*slot, rest.first())))
            }
            [Part::Slot(slot), rest @ ..] => ("", Some((*slot, rest.first()))),
            [Part::Literal(text), ..] => (text, None),
            [] => ("", None),
        }
    }

    /// What each segment is made of.
    pub(super) fn segments(&self) -> Vec<Segment> {
        let mut slots = self.parts.iter().filter_map(|part| match part {
            Part::Slot(slot) => Some(*slot),
            Part::Literal(_) => None,
        });
        // `\0` stands for a placeholder: no literal has one.
        let filled = self.fill(|_| "\0".into());
        let segment = |text: &str| {
            let inside: Vec<_> = slots.by_ref().take(text.matches('\0').count()).collect();
            match inside[..] {
                [slot] if text == "\0" => Segment::Whole(slot),
                _ => Segment::Mixed(inside),
            }
        };
        filled.split('.').map(segment).collect()
    }

    /// A pattern that selects at least every channel that the template makes.
    pub(super) fn image(&self, width: impl Fn(Slot) -> Width) -> Pattern {
        let filled = self.fill(|_| "\0".into());
        let mut segments = Vec::new();
        for (text, segment) in filled.split('.').zip(self.segments()) {
            if !segment.is_one(&width) {
                segments.push(">");
                break;
            }
            segments.push(if text.contains('\0') { "*" } else { text });
        }
        // A template that makes channel names makes patterns; the fallback is never taken.
        Pattern::parse(&segments.join(".")).unwrap_or_else(|_| Pattern::all())
    }

    /// Every way in which `channel` can have been made; `None` where there are too many.
    pub(super) fn readings<'c>(
        &self,
        channel: &'c str,
        fits: impl Fn(Slot, &str) -> bool,
    ) -> Option<Vec<Reading<'c>>> {
        let mut search = Search {
            fits,
            reading: Reading {
                captures: vec![None; self.captures],
                name: None,
            },
            found: Vec::new(),
            steps: 0,
        };
        search.read(&self.parts, channel);
        (search.steps <= MAX_STEPS).then_some(search.found)
    }
}

struct Search<'c, F> {
    fits: F,
    reading: Reading<'c>,
    found: Vec<Reading<'c>>,
    steps: usize,
}

impl<'c, F: Fn(Slot, &str) -> bool> Search<'c, F> {
    // A source of 255 bytes has at most 128 captures, which bounds the depth.
    fn read(&mut self, parts: &[Part], rest: &'c str) {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return;
        }
        let Some((part, after)) = parts.split_first() else {
            if rest.is_empty() {
                self.found.push(self.reading.clone());
            }
            return;
        };
        let slot = match part {
            Part::Literal(text) => {
                if let Some(rest) = rest.strip_prefix(text.as_str()) {
                    self.read(after, rest);
                }
                return;
            }
            Part::Slot(slot) => *slot,
        };
        if let Some(known) = *self.known(slot) {
            if let Some(rest) = rest.strip_prefix(known) {
                self.read(after, rest);
            }
            return;
        }
        let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
        for end in ends {
            let (text, tail) = rest.split_at(end);
            let follows = match after.first() {
                None => tail.is_empty(),
                Some(Part::Literal(next)) => tail.starts_with(next.as_str()),
                Some(Part::Slot(_)) => true,
            };
            if follows && (self.fits)(slot, text) {
                *self.known(slot) = Some(text);
                self.read(after, tail);
                *self.known(slot) = None;
            }
        }
    }

    fn known(&mut self, slot: Slot) -> &mut Option<&'c str> {
        match slot {
            Slot::Capture(index) => &mut self.reading.captures[index],
            Slot::Name => &mut self.reading.name,
        }
    }
}

/// What a placeholder certainly begins with, where it and the part after it begin with `known`.
pub(super) fn certain_start<'k>(known: &'k str, next: Option<&Part>) -> &'k str {
    let ends_at = |at: &usize| match next {
        None => false,
        Some(Part::Slot(_)) => true,
        Some(Part::Literal(next)) => {
            next.starts_with(&known[*at..]) || known[*at..].starts_with(next.as_str())
        }
    };
    let mut ends = known.char_indices().map(|(at, _)| at);
    &known[..ends.find(ends_at).unwrap_or(known.len())]
}
