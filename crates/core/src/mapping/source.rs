//! The source of a rule: which raw names it selects, and what it captures of them.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{Dialect, MAX_SOURCE_BYTES, Source, template::Slot};

/// A parsed source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Selector {
    dialect: Dialect,
    text: String,
    /// No two literals and no two captures stand side by side.
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Literal(String),
    Capture(Width),
}

/// How much a placeholder can stand for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    /// Any text, even none.
    Any,
    /// One token without `.`.
    Token,
    /// One token or more.
    Rest,
}

/// What is known of a capture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fill {
    Free,
    Text(String),
    /// In the dialect's own language, with wildcards.
    Open(String),
}

impl Fill {
    pub(super) fn of(text: Option<&str>) -> Self {
        text.map_or(Self::Free, |text| Self::Text(text.into()))
    }
}

impl Selector {
    pub(super) fn parse(dialect: Dialect, text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("is empty; a name on the bus is needed");
        }
        if text.len() > MAX_SOURCE_BYTES {
            return Err("is longer than 255 bytes");
        }
        let parts = match dialect {
            Dialect::Glob => glob(text)?,
            Dialect::Subject => subject(text)?,
        };
        Ok(Self {
            dialect,
            text: text.into(),
            parts,
        })
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn widths(&self) -> impl Iterator<Item = Width> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Capture(width) => Some(*width),
        })
    }

    pub(super) fn width(&self, slot: Slot) -> Width {
        match (slot, self.dialect) {
            (Slot::Capture(index), _) => self.widths().nth(index).unwrap_or(Width::Any),
            (Slot::Name, Dialect::Glob) => Width::Any,
            (Slot::Name, Dialect::Subject) => Width::Rest,
        }
    }

    /// What the source captures of a raw name; `None` where it does not select the name.
    pub(super) fn captures<'r>(&self, raw: &'r str) -> Option<SmallVec<[&'r str; 4]>> {
        let mut found = SmallVec::new();
        let mut rest = raw;
        for (at, part) in self.parts.iter().enumerate() {
            let width = match part {
                Part::Literal(text) => {
                    rest = rest.strip_prefix(text.as_str())?;
                    continue;
                }
                Part::Capture(width) => width,
            };
            let end = match (width, &self.parts[at + 1..]) {
                (Width::Token, _) => rest.find('.').unwrap_or(rest.len()),
                (_, [Part::Literal(last)]) => rest.strip_suffix(last.as_str())?.len(),
                (_, [Part::Literal(next), ..]) => rest.find(next.as_str())?,
                _ => rest.len(),
            };
            if end == 0 && *width != Width::Any {
                return None;
            }
            let (capture, tail) = rest.split_at(end);
            found.push(capture);
            rest = tail;
        }
        rest.is_empty().then_some(found)
    }

    /// What `{name}` stands for.
    pub(super) fn name_of<'r>(&self, raw: &'r str) -> Cow<'r, str> {
        match self.dialect {
            Dialect::Glob => dotted(raw),
            // A subject has dots already, and keeps its other characters: it can be read back.
            Dialect::Subject => raw.into(),
        }
    }

    /// Whether a placeholder can stand for a text.
    pub(super) fn may_be(&self, slot: Slot, text: &str) -> bool {
        match (slot, self.width(slot)) {
            (Slot::Name, Width::Any) => !text.contains([':', '/']),
            (_, Width::Any) => true,
            (_, Width::Token) => !text.is_empty() && !text.contains('.'),
            (_, Width::Rest) => !text.is_empty(),
        }
    }

    /// The source with some of its captures known.
    pub(super) fn fill(&self, fills: &[Fill]) -> Source {
        let glob = self.dialect == Dialect::Glob;
        let is_name = fills.iter().all(|fill| matches!(fill, Fill::Text(_)));
        let plain = is_name || !glob;
        let mut text = String::new();
        let mut fills = fills.iter();
        for part in &self.parts {
            match part {
                Part::Literal(literal) if plain => text.push_str(literal),
                Part::Literal(literal) => text.push_str(&escaped(literal)),
                Part::Capture(width) => match fills.next() {
                    Some(Fill::Text(known)) if plain => text.push_str(known),
                    Some(Fill::Text(known)) => text.push_str(&escaped(known)),
                    Some(Fill::Open(open)) => text.push_str(open),
                    Some(Fill::Free) | None if *width == Width::Rest => text.push('>'),
                    Some(Fill::Free) | None => text.push('*'),
                },
            }
        }
        if is_name {
            Source::Name(text)
        } else {
            Source::Wild(text)
        }
    }

    /// What selects the raw names that `{name}` gives this text for; `None` where none does.
    pub(super) fn named(&self, name: &str) -> Option<Source> {
        if self.dialect == Dialect::Subject {
            return Some(Source::Name(name.into()));
        }
        let (head, tail) = (self.head(), self.tail());
        if self.widths().next().is_none() {
            return (dotted(head) == name).then(|| Source::Name(head.into()));
        }
        // `:` and `/` become `.`, byte for byte: what the source fixes is found at its place.
        let end = name.len().checked_sub(tail.len())?;
        let middle = name.get(head.len()..end)?;
        if dotted(head) != name[..head.len()] || dotted(tail) != name[end..] {
            return None;
        }
        Some(if middle.contains('.') {
            Source::Wild([escaped(head), undotted(middle), escaped(tail)].concat())
        } else {
            Source::Name([head, middle, tail].concat())
        })
    }

    /// The raw name that `{name}` gives this text for, of which every dot was a `:` where the source
    /// leaves it open.
    pub(super) fn usual(&self, name: &str) -> Option<String> {
        match self.named(name)? {
            Source::Name(raw) => Some(raw),
            Source::Wild(_) => {
                let (head, tail) = (self.head(), self.tail());
                let middle = name.get(head.len()..name.len().checked_sub(tail.len())?)?;
                Some([head, &middle.replace('.', ":"), tail].concat())
            }
        }
    }

    /// What selects the raw names that `{name}` gives a text for which begins so.
    pub(super) fn named_from(&self, start: &str) -> Option<Source> {
        if start.contains([':', '/']) {
            return None;
        }
        let head = self.head();
        let dotted_head = dotted(head);
        if let Some(known) = start.strip_prefix(&*dotted_head)
            && !known.is_empty()
            && self.widths().next().is_some()
        {
            return Some(Source::Wild(escaped(head) + &undotted(known) + "*"));
        }
        let whole: Vec<_> = self.widths().map(|_| Fill::Free).collect();
        dotted_head.starts_with(start).then(|| self.fill(&whole))
    }

    /// The subjects that both the source and these tokens select; `None` where there are none.
    pub(super) fn meet(&self, tokens: &[&str]) -> Option<Source> {
        let mine: Vec<_> = self.text.split('.').collect();
        let mut both = Vec::new();
        let (mut a, mut b) = (&mine[..], tokens);
        loop {
            match (a, b) {
                ([">"], rest) | (rest, [">"]) if !rest.is_empty() => {
                    both.extend_from_slice(rest);
                    break;
                }
                ([x, after @ ..], [y, behind @ ..]) => {
                    match (*x, *y) {
                        ("*", known) | (known, "*") => both.push(known),
                        (one, other) if one == other => both.push(one),
                        _ => return None,
                    }
                    (a, b) = (after, behind);
                }
                ([], []) => break,
                _ => return None,
            }
        }
        let text = both.join(".");
        Some(if both.iter().any(|token| matches!(*token, "*" | ">")) {
            Source::Wild(text)
        } else {
            Source::Name(text)
        })
    }

    fn head(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(text)) => text,
            _ => "",
        }
    }

    fn tail(&self) -> &str {
        match self.parts.last() {
            Some(Part::Literal(text)) if self.parts.len() > 1 => text,
            _ => "",
        }
    }
}

fn glob(text: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Parts::default();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' if parts.ends_with_capture() => {
                return Err("has two `*` side by side; put text between them");
            }
            '*' => parts.capture(Width::Any),
            '?' | '[' => {
                return Err("has `?` or `[`; only `*` is allowed, or `\\` before the character");
            }
            '\\' => parts.literal(
                chars
                    .next()
                    .ok_or("ends in `\\`; a character must follow")?,
            ),
            c => parts.literal(c),
        }
    }
    Ok(parts.0)
}

fn subject(text: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Parts::default();
    let mut tokens = text.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return Err("has an empty token; tokens are separated by single dots"),
            "*" => parts.capture(Width::Token),
            ">" if tokens.peek().is_none() => parts.capture(Width::Rest),
            _ if token.contains(['*', '>']) => {
                return Err(
                    "has a misplaced wildcard; `*` stands for one whole token, `>` for the rest, last",
                );
            }
            _ if token.contains(|c: char| c.is_whitespace() || c.is_control()) => {
                return Err("has white space or a control character; subjects have none");
            }
            _ => token.chars().for_each(|c| parts.literal(c)),
        }
        if tokens.peek().is_some() {
            parts.literal('.');
        }
    }
    Ok(parts.0)
}

#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn literal(&mut self, c: char) {
        if let Some(Part::Literal(text)) = self.0.last_mut() {
            text.push(c);
        } else {
            self.0.push(Part::Literal(c.into()));
        }
    }

    fn capture(&mut self, width: Width) {
        self.0.push(Part::Capture(width));
    }

    fn ends_with_capture(&self) -> bool {
        matches!(self.0.last(), Some(Part::Capture(_)))
    }
}

fn dotted(raw: &str) -> Cow<'_, str> {
    if raw.contains([':', '/']) {
        raw.replace([':', '/'], ".").into()
    } else {
        raw.into()
    }
}

/// A glob for the names that become this one when `:` and `/` become `.`.
fn undotted(name: &str) -> String {
    escaped(name).replace('.', "[.:/]")
}

/// A text as a glob that selects just that text.
pub(super) fn escaped(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            glob.push('\\');
        }
        glob.push(c);
    }
    glob
}
