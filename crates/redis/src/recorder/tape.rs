//! What a listener heard and nobody is known to have recorded yet, and where that stands: the
//! alignment of a recorder with the one before it. No socket, no clock.
//!
//! All listeners of one server hear the same messages and marks in the same order. So a place is
//! named by a mark and by how many messages came since, and every listener that heard the mark finds
//! it. Nothing is compared with what was recorded but a hash, which only guards: equal messages stay
//! apart, because they are counted.

use std::{collections::VecDeque, sync::Arc};

/// What a mark, or the structures around a message, weigh against the bound, in bytes.
pub(crate) const FLAT: usize = 128;

/// A place in what one server announces: so many messages after a mark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spot {
    pub(crate) mark: Arc<str>,
    pub(crate) count: u64,
    /// A hash over these messages, in order.
    pub(crate) check: u64,
}

/// A message, as far as a tape must know it.
pub(crate) trait Heard {
    /// The same on every node that hears it.
    fn hash(&self) -> u64;

    /// What it weighs, in bytes.
    fn weight(&self) -> usize;
}

/// What was heard, from a place on, without a break.
#[derive(Debug)]
pub(crate) struct Tape<M> {
    /// The place before the first item; `None` until a mark was heard.
    base: Option<Spot>,
    items: VecDeque<Item<M>>,
    messages: usize,
    bytes: usize,
    max_bytes: usize,
    /// The link was cut: nothing is heard any more.
    has_ended: bool,
}

#[derive(Debug)]
enum Item<M> {
    Mark(Arc<str>),
    Message(Arc<M>, u64),
}

/// The messages from the base of a tape up to a place.
#[derive(Debug)]
pub(crate) struct Batch<M> {
    pub(crate) to: Spot,
    pub(crate) messages: Vec<Arc<M>>,
}

impl Spot {
    /// The place of a mark.
    fn of(mark: Arc<str>) -> Self {
        Self {
            mark,
            count: 0,
            check: 0,
        }
    }

    /// The place after one more message.
    pub(super) fn step(&mut self, hash: u64) {
        self.count += 1;
        self.check = (self.check.rotate_left(7) ^ hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// `mark count check`; a mark has no space.
    pub(crate) fn to_text(&self) -> String {
        format!("{} {} {}", self.mark, self.count, self.check)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let spot = Self {
            mark: words.next().filter(|mark| !mark.is_empty())?.into(),
            count: words.next()?.parse().ok()?,
            check: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(spot)
    }
}

impl<M> Item<M> {
    fn pass(&self, spot: &mut Spot) {
        match self {
            Self::Mark(mark) => *spot = Spot::of(mark.clone()),
            Self::Message(_, hash) => spot.step(*hash),
        }
    }
}

impl<M: Heard> Tape<M> {
    /// An empty one, which holds about so many bytes.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            base: None,
            items: VecDeque::new(),
            messages: 0,
            bytes: 0,
            max_bytes,
            has_ended: false,
        }
    }

    /// A message was heard. Before the first mark, none can be placed.
    pub(crate) fn hear(&mut self, message: M) {
        if self.base.is_none() || self.has_ended {
            return;
        }
        self.bytes += message.weight() + FLAT;
        self.messages += 1;
        let hash = message.hash();
        self.items.push_back(Item::Message(Arc::new(message), hash));
        // For want of room the oldest falls off: the base moves on, past what was not recorded.
        while self.bytes > self.max_bytes && self.pop() {}
    }

    /// A mark was heard.
    pub(crate) fn mark(&mut self, mark: Arc<str>) {
        if self.has_ended {
            return;
        }
        if self.base.is_none() {
            self.base = Some(Spot::of(mark));
        } else {
            self.bytes += FLAT;
            self.items.push_back(Item::Mark(mark));
        }
    }

    /// The link was cut: what comes later is not the continuation.
    pub(crate) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Lets go of everything up to a place. Answers no, and does nothing, where the tape does not
    /// hold the place.
    pub(crate) fn skip_to(&mut self, place: &Spot) -> bool {
        let Some(mut spot) = self.base.clone() else {
            return false;
        };
        let mut passed = 0;
        while spot != *place {
            let Some(item) = self.items.get(passed) else {
                return false;
            };
            item.pass(&mut spot);
            passed += 1;
        }
        (0..passed).for_each(|_| {
            self.pop();
        });
        true
    }

    /// Lets go of everything up to a mark, if the tape holds it.
    pub(crate) fn skip_to_mark(&mut self, mark: &Arc<str>) {
        self.skip_to(&Spot::of(mark.clone()));
    }

    /// What comes first, at most so many messages and about so many bytes, and the marks right
    /// after them; `None` where there is nothing.
    pub(crate) fn batch(&self, limit: usize, max_bytes: usize) -> Option<Batch<M>> {
        let mut batch = Batch {
            to: self.base.clone()?,
            messages: Vec::new(),
        };
        let mut bytes = 0;
        for item in &self.items {
            if let Item::Message(message, _) = item {
                let is_full = batch.messages.len() >= limit || bytes >= max_bytes;
                if is_full {
                    break;
                }
                bytes += message.weight();
                batch.messages.push(message.clone());
            }
            item.pass(&mut batch.to);
        }
        (!self.items.is_empty()).then_some(batch)
    }

    /// The place before everything that is held.
    pub(crate) fn base(&self) -> Option<&Spot> {
        self.base.as_ref()
    }

    /// Whether the link was cut.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// How many messages are held.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// About how many bytes are held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of the first item. Answers whether there was one.
    fn pop(&mut self) -> bool {
        let Some(item) = self.items.pop_front() else {
            return false;
        };
        if let Some(base) = &mut self.base {
            item.pass(base);
        }
        self.bytes -= FLAT;
        if let Item::Message(message, _) = item {
            self.bytes -= message.weight();
            self.messages -= 1;
        }
        true
    }
}
