//! Which subjects select which others.
//!
//! Subjects have the grammar of [`Pattern`](fanfare_core::Pattern), yet they are longer by the
//! prefix, and those that arrive hold whatever a stranger likes; so they are compared as text.

use std::collections::HashMap;

/// Whether some subject is selected by both.
pub(crate) fn meet(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

pub(crate) fn is_wild(subject: &str) -> bool {
    subject.split('.').any(|token| matches!(token, "*" | ">"))
}

/// Subjects and how old each is, found by what they cover.
#[derive(Debug, Default)]
pub(crate) struct Cover {
    /// `*` stands here like any token; `>` is `rest`.
    children: HashMap<Box<str>, Cover>,
    here: Option<u64>,
    rest: Option<u64>,
}

impl Cover {
    pub(crate) fn insert(&mut self, subject: &str, age: u64) {
        let mut node = self;
        for token in subject.split('.') {
            if token == ">" {
                node.rest = Some(age);
                return;
            }
            if !node.children.contains_key(token) {
                node.children.insert(token.into(), Self::default());
            }
            let Some(child) = node.children.get_mut(token) else {
                return;
            };
            node = child;
        }
        node.here = Some(age);
    }

    pub(crate) fn remove(&mut self, subject: &str) {
        let (token, tail) = split(subject);
        if token == ">" {
            self.rest = None;
            return;
        }
        let Some(child) = self.children.get_mut(token) else {
            return;
        };
        match tail {
            Some(tail) => child.remove(tail),
            None => child.here = None,
        }
        if child.is_empty() {
            self.children.remove(token);
            // A storm of short-lived subjects must not leave its table behind.
            if self.children.len() * 8 < self.children.capacity() {
                self.children.shrink_to(self.children.len() * 2);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_none() && self.rest.is_none()
    }

    /// The oldest that selects everything that `subject` selects.
    // No deeper than the longest subject inserted.
    pub(crate) fn oldest(&self, subject: &str) -> Option<u64> {
        let (token, tail) = split(subject);
        // A `*` does not cover a `>`.
        let any = (token != ">" && token != "*").then_some("*");
        let below = [Some(token), any].into_iter().flatten();
        below
            .filter_map(|token| self.children.get(token))
            .filter_map(|child| match tail {
                Some(tail) => child.oldest(tail),
                None => child.here,
            })
            .chain(self.rest)
            .min()
    }
}

fn split(subject: &str) -> (&str, Option<&str>) {
    match subject.split_once('.') {
        Some((token, tail)) => (token, Some(tail)),
        None => (subject, None),
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::Pattern;
    use proptest::prelude::*;

    use super::*;

    fn subject() -> impl Strategy<Value = String> {
        prop_oneof!["[ab*](\\.[ab*]){0,2}(\\.>)?", Just(">".to_owned())]
    }

    proptest! {
        #[test]
        fn agrees_with_patterns(
            held in proptest::collection::vec(subject(), 0..8),
            gone in proptest::collection::vec(subject(), 0..4),
            asked in subject(),
        ) {
            let parse = |text: &String| Pattern::parse(text).unwrap();
            let mut cover = Cover::default();
            let mut model: Vec<(u64, &String)> = Vec::new();
            for (age, text) in (1..).zip(&held) {
                model.retain(|(_, other)| *other != text);
                model.push((age, text));
                cover.insert(text, age);
            }
            for text in &gone {
                model.retain(|(_, other)| *other != text);
                cover.remove(text);
            }
            let covers = |(_, text): &&(u64, &String)| parse(text).covers(&parse(&asked));
            let oldest = model.iter().filter(covers).map(|(age, _)| *age).min();
            prop_assert_eq!(cover.oldest(&asked), oldest);
            for (_, text) in &model {
                prop_assert_eq!(meet(text, &asked), parse(text).intersects(&parse(&asked)));
                prop_assert_eq!(is_wild(text), parse(text).is_wild());
            }
            for (_, text) in &model {
                cover.remove(text);
            }
            prop_assert!(cover.is_empty());
        }
    }
}
