//! One message, one event: Redis sends a message once for every subscription that selects it.

use smallvec::SmallVec;

/// Tells the further copies of a message from the next message.
///
/// Redis puts all copies of one `PUBLISH` into a client's output at once, by each matching
/// subscription once, and the subscriptions of a link change only at their confirmations, which
/// stand in the same stream. So a message is a copy of the one before it exactly where it has the
/// same name and came by a subscription that had not yet brought it since. No payload is compared:
/// equal messages published twice are two events.
#[derive(Debug, Default)]
pub(crate) struct Overlap {
    name: Vec<u8>,
    /// The globs that brought the message; `None` for the subscription by name.
    seen: SmallVec<[Option<Vec<u8>>; 4]>,
}

impl Overlap {
    /// Whether the message that arrives is one that was seen.
    pub(crate) fn is_copy(&mut self, name: &[u8], glob: Option<Vec<u8>>) -> bool {
        let copy = !self.seen.is_empty() && name == self.name && !self.seen.contains(&glob);
        if !copy {
            self.seen.clear();
            self.name.clear();
            self.name.extend_from_slice(name);
        }
        self.seen.push(glob);
        copy
    }

    /// The subscriptions changed, or the link is another.
    pub(crate) fn reset(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Publish(u8),
        Toggle(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..3).prop_map(Step::Publish),
            1 => (0u8..6).prop_map(Step::Toggle),
        ]
    }

    proptest! {
        /// The model is a server with three names, subscribed to by name (0 to 2) or by globs
        /// (3 to 5) that select all of them.
        #[test]
        fn every_publish_is_one_event(steps in proptest::collection::vec(step(), 0..60)) {
            let mut overlap = Overlap::default();
            let mut subscribed = [false; 6];
            for step in steps {
                match step {
                    Step::Toggle(which) => {
                        subscribed[usize::from(which)] ^= true;
                        overlap.reset();
                    }
                    Step::Publish(name) => {
                        let by_name = subscribed[usize::from(name)].then_some(None);
                        let globs = (3..6u8).filter(|glob| subscribed[usize::from(*glob)]);
                        let copies: Vec<_> =
                            by_name.into_iter().chain(globs.map(|glob| Some(vec![glob]))).collect();
                        let expected = usize::from(!copies.is_empty());
                        let events =
                            copies.into_iter().filter(|by| !overlap.is_copy(&[name], by.clone()));
                        prop_assert_eq!(events.count(), expected);
                    }
                }
            }
        }
    }
}
