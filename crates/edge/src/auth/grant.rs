//! What a token, or its absence, allows.

use std::fmt;

use fanfare_core::Pattern;

/// What may be done with a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Follow it, live or in history.
    Subscribe,
    /// Publish on it.
    Publish,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subscribe => "subscribe to",
            Self::Publish => "publish on",
        })
    }
}

/// What a token, or its absence, allows. The default allows nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    subscribe: Vec<Pattern>,
    publish: Vec<Pattern>,
}

impl Grant {
    /// A grant of these patterns.
    pub fn new(subscribe: Vec<Pattern>, publish: Vec<Pattern>) -> Self {
        Self { subscribe, publish }
    }

    /// A grant of everything.
    pub fn everything() -> Self {
        Self::new(vec![Pattern::all()], vec![Pattern::all()])
    }

    /// Whether one granted pattern covers all that `wanted` selects.
    pub fn covers(&self, action: Action, wanted: &Pattern) -> bool {
        self.patterns(action)
            .iter()
            .any(|granted| granted.covers(wanted))
    }

    /// The patterns that it allows.
    pub fn patterns(&self, action: Action) -> &[Pattern] {
        match action {
            Action::Subscribe => &self.subscribe,
            Action::Publish => &self.publish,
        }
    }

    /// All that either allows.
    #[must_use]
    pub(crate) fn with(mut self, other: &Self) -> Self {
        self.subscribe.extend_from_slice(&other.subscribe);
        self.publish.extend_from_slice(&other.publish);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_granted_only_whole() {
        let pattern = |text: &str| Pattern::parse(text).unwrap();
        let grant = Grant::new(vec![pattern("a.*"), pattern("b.>")], vec![pattern("a.x")]);
        for covered in ["a.x", "a.*", "b.x", "b.*.y", "b.>"] {
            assert!(
                grant.covers(Action::Subscribe, &pattern(covered)),
                "{covered}"
            );
        }
        for denied in ["a", "a.>", "a.x.y", "b", "*.x", ">", "c"] {
            assert!(
                !grant.covers(Action::Subscribe, &pattern(denied)),
                "{denied}"
            );
        }
        assert!(grant.covers(Action::Publish, &pattern("a.x")));
        assert!(!grant.covers(Action::Publish, &pattern("a.y")));
        assert!(!Grant::default().covers(Action::Publish, &pattern("a")));
        let both = Grant::new(vec![pattern("c")], vec![]).with(&grant);
        assert!(both.covers(Action::Subscribe, &pattern("c")));
        assert!(both.covers(Action::Subscribe, &pattern("b.x")));
    }
}
