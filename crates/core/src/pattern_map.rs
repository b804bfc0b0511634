//! A map from patterns to values that finds the patterns which select a channel without trying
//! each of them.

use std::collections::HashMap;

use crate::{Channel, Pattern};

/// A map from patterns to values.
///
/// A look-up costs one hash for channel names that stand in it as they are, plus a walk over the
/// channel's segments for the patterns with wildcards; how many patterns there are does not count.
/// Hashing is the standard library's keyed one: channel names come from strangers.
#[derive(Debug)]
pub struct PatternMap<V> {
    literals: HashMap<Box<str>, V>,
    wild: Node<V>,
    wild_len: usize,
}

#[derive(Debug)]
struct Node<V> {
    children: HashMap<Box<str>, Node<V>>,
    any: Option<Box<Node<V>>>,
    rest: Option<V>,
    here: Option<V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self {
            children: HashMap::new(),
            any: None,
            rest: None,
            here: None,
        }
    }
}

impl<V> Default for PatternMap<V> {
    fn default() -> Self {
        Self {
            literals: HashMap::new(),
            wild: Node::default(),
            wild_len: 0,
        }
    }
}

impl<V> PatternMap<V> {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many patterns it holds.
    pub fn len(&self) -> usize {
        self.literals.len() + self.wild_len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of just this pattern.
    pub fn get_mut(&mut self, pattern: &Pattern) -> Option<&mut V> {
        if !pattern.is_wild() {
            return self.literals.get_mut(pattern.as_str());
        }
        let mut node = &mut self.wild;
        for segment in pattern.as_str().split('.') {
            match segment {
                ">" => return node.rest.as_mut(),
                "*" => node = node.any.as_deref_mut()?,
                name => node = node.children.get_mut(name)?,
            }
        }
        node.here.as_mut()
    }

    /// The value of just this pattern, put there by `make` where it is absent.
    pub fn entry(&mut self, pattern: &Pattern, make: impl FnOnce() -> V) -> &mut V {
        if !pattern.is_wild() {
            return self
                .literals
                .entry(pattern.as_str().into())
                .or_insert_with(make);
        }
        let mut node = &mut self.wild;
        let mut slot = None;
        for segment in pattern.as_str().split('.') {
            match segment {
                ">" => {
                    slot = Some(&mut node.rest);
                    break;
                }
                "*" => node = node.any.get_or_insert_default(),
                name => node = node.children.entry(name.into()).or_default(),
            }
        }
        let slot = slot.unwrap_or(&mut node.here);
        let count = &mut self.wild_len;
        slot.get_or_insert_with(|| {
            *count += 1;
            make()
        })
    }

    /// Takes out the value of just this pattern, and every node that it leaves empty.
    pub fn remove(&mut self, pattern: &Pattern) -> Option<V> {
        if !pattern.is_wild() {
            let value = self.literals.remove(pattern.as_str());
            // A storm of short-lived channels must not leave its table behind.
            if self.literals.len() * 8 < self.literals.capacity() {
                self.literals.shrink_to(self.literals.len() * 2);
            }
            return value;
        }
        let value = self.wild.remove(&mut pattern.as_str().split('.'));
        self.wild_len -= usize::from(value.is_some());
        value
    }

    /// Calls `found` with the value of every pattern that selects `channel`.
    pub fn each_match<'a>(&'a self, channel: &Channel, mut found: impl FnMut(&'a V)) {
        if let Some(value) = self.literals.get(channel.as_str()) {
            found(value);
        }
        if self.wild_len > 0 {
            self.wild.each_match(channel.as_str(), &mut found);
        }
    }

    /// Whether some channel could be selected both by `pattern` and by a pattern of the map.
    /// Costs a walk over the map where `pattern` has a wildcard.
    pub fn intersects(&self, pattern: &Pattern) -> bool {
        if let Some(channel) = pattern.as_channel() {
            return self.has_match(&channel);
        }
        let literal = |text: &str| Channel::parse(text).is_ok_and(|c| pattern.matches(&c));
        self.literals.keys().any(|text| literal(text))
            || self.wild_len > 0 && self.wild.intersects(pattern.as_str())
    }

    /// Whether any pattern selects `channel`.
    pub fn has_match(&self, channel: &Channel) -> bool {
        let mut any = false;
        self.each_match(channel, |_| any = true);
        any
    }
}

impl<V> Node<V> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.rest.is_none() && self.here.is_none()
    }

    // Patterns have at most 128 segments, which bounds the depth of both recursions.
    fn remove<'a>(&mut self, segments: &mut impl Iterator<Item = &'a str>) -> Option<V> {
        match segments.next() {
            None => self.here.take(),
            Some(">") => self.rest.take(),
            Some("*") => {
                let child = self.any.as_deref_mut()?;
                let value = child.remove(segments);
                if child.is_empty() {
                    self.any = None;
                }
                value
            }
            Some(name) => {
                let child = self.children.get_mut(name)?;
                let value = child.remove(segments);
                if child.is_empty() {
                    self.children.remove(name);
                }
                value
            }
        }
    }

    fn intersects(&self, rest: &str) -> bool {
        if self.rest.is_some() {
            return true;
        }
        if rest == ">" {
            // No empty node is kept, so a child has some channel at it or below it.
            return self.any.is_some() || !self.children.is_empty();
        }
        let (segment, tail) = match rest.split_once('.') {
            Some((segment, tail)) => (segment, Some(tail)),
            None => (rest, None),
        };
        let meets = |child: &Self| match tail {
            Some(tail) => child.intersects(tail),
            None => child.here.is_some(),
        };
        let named = match segment {
            "*" => self.children.values().any(meets),
            name => self.children.get(name).is_some_and(meets),
        };
        named || self.any.as_deref().is_some_and(meets)
    }

    fn each_match<'a>(&'a self, rest: &str, found: &mut impl FnMut(&'a V)) {
        found_all(&self.rest, found);
        let (segment, tail) = match rest.split_once('.') {
            Some((segment, tail)) => (segment, Some(tail)),
            None => (rest, None),
        };
        for child in [self.children.get(segment), self.any.as_deref()]
            .into_iter()
            .flatten()
        {
            match tail {
                Some(tail) => child.each_match(tail, found),
                None => found_all(&child.here, found),
            }
        }
    }
}

fn found_all<'a, V>(value: &'a Option<V>, found: &mut impl FnMut(&'a V)) {
    value.iter().for_each(found);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(wild: bool) -> impl Strategy<Value = String> {
        let segment = if wild { "[ab*]" } else { "[ab]" };
        let tail = if wild { "(\\.>)?" } else { "" };
        proptest::string::string_regex(&format!("{segment}(\\.{segment}){{0,3}}{tail}")).unwrap()
    }

    proptest! {
        #[test]
        fn finds_what_matching_one_by_one_finds(
            patterns in proptest::collection::vec(name(true), 0..20),
            removed in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
            channels in proptest::collection::vec(name(false), 1..10),
        ) {
            let mut model: Vec<Pattern> = Vec::new();
            let mut map = PatternMap::new();
            for text in &patterns {
                let pattern = Pattern::parse(text).unwrap();
                map.entry(&pattern, || pattern.clone());
                if !model.contains(&pattern) {
                    model.push(pattern);
                }
            }
            for index in removed {
                if model.is_empty() {
                    break;
                }
                let pattern = model.swap_remove(index.index(model.len()));
                prop_assert_eq!(map.remove(&pattern), Some(pattern.clone()));
                prop_assert_eq!(map.remove(&pattern), None);
            }
            prop_assert_eq!(map.len(), model.len());
            for text in channels {
                let channel = Channel::parse(&text).unwrap();
                let mut found = Vec::new();
                map.each_match(&channel, |pattern| found.push(pattern.clone()));
                found.sort();
                let mut expected: Vec<_> =
                    model.iter().filter(|pattern| pattern.matches(&channel)).cloned().collect();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
            for text in patterns {
                let pattern = Pattern::parse(&text).unwrap();
                let expected = model.iter().any(|held| held.intersects(&pattern));
                prop_assert_eq!(map.intersects(&pattern), expected, "{}", pattern);
            }
            for pattern in model {
                map.remove(&pattern);
            }
            prop_assert!(map.is_empty() && map.wild.is_empty());
        }
    }
}
