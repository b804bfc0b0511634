//! What one client saw, in order, over all its connections.

/// How many digits the name of an index log has after its letter.
const INDEX_DIGITS: usize = 12;

/// What one client saw, in order, over all its connections.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    /// Its number in the campaign.
    pub client: usize,
    /// What it asked for.
    pub selectors: Vec<String>,
    /// The channels that this selects, by index.
    pub channels: Vec<usize>,
    /// What came.
    pub seen: Vec<Seen>,
    /// The time was over before it had the last words: what it lacks may still be on its way.
    pub is_unfinished: bool,
}

/// One thing that a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The first `fanfare.hello`: of each of its channels, every publication from this number on
    /// was begun later, and is owed.
    Joined(Vec<usize>),
    /// An event.
    Event {
        /// The channel's index.
        channel: usize,
        /// Its number.
        number: usize,
        /// The length of its data.
        bytes: usize,
        /// The `id:`.
        id: Box<str>,
    },
    /// A `fanfare.gap`.
    Gap(GapSeen),
    /// The connection ended, one way or another.
    Broke(&'static str),
    /// It was not let in, for this reason; the same one again is left out.
    Refused(Box<str>),
    /// It is connected again, to this node.
    Back(Box<str>),
    /// What no publisher of the campaign can have sent.
    Stranger(Box<str>),
}

/// The data of a `fanfare.gap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapSeen {
    /// A channel or pattern.
    pub scope: String,
    /// Why.
    pub cause: String,
    /// The last place before the loss.
    pub after: Option<String>,
    /// Where it ends.
    pub next: String,
    /// When it came, as [`Publication::begun`](super::Publication::begun) counts.
    pub at: u64,
}

/// One place of an id: `<log>.<epoch>.<offset>`, numbers in base 36. To clients an id is opaque;
/// a judge may look inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The log.
    pub log: &'a str,
    /// Its epoch.
    pub epoch: &'a str,
    /// The offset.
    pub offset: u128,
}

impl<'a> Place<'a> {
    /// Every place of an id; nothing of what is no place.
    pub fn all(id: &'a str) -> impl Iterator<Item = Self> {
        id.split('~').filter_map(Self::parse)
    }

    /// The place of an id that has just one.
    pub fn only(id: &'a str) -> Option<Self> {
        match id.contains('~') {
            true => None,
            false => Self::parse(id),
        }
    }

    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '.');
        let offset = parts.next()?;
        let (epoch, log) = (parts.next()?, parts.next()?);
        let digit = |sum: u128, c: char| sum.checked_mul(36)?.checked_add(c.to_digit(36)?.into());
        let offset = offset.chars().try_fold(0, digit)?;
        Some(Self { log, epoch, offset })
    }
}

impl GapSeen {
    /// Whether the log began again within the gap, so that what came before may come once more.
    pub fn begins_anew(&self) -> bool {
        if self.is_of_index() {
            return false;
        }
        let life =
            |id: &str| Place::only(id).map(|place| (place.log.to_owned(), place.epoch.to_owned()));
        self.after
            .as_ref()
            .is_none_or(|after| life(after) != life(&self.next))
            || self.cause == "new_epoch"
    }

    /// Whether it is of the index of a rule over other services' streams, which holds no event: the
    /// bus lost everything, and so streams that nobody had found. What comes of each stream is told
    /// by gaps of its own.
    pub fn is_of_index(&self) -> bool {
        let Some(next) = Place::only(&self.next) else {
            return false;
        };
        let digits = next.log.strip_prefix('t').unwrap_or_default();
        digits.len() == INDEX_DIGITS && digits.bytes().all(|digit| digit.is_ascii_alphanumeric())
    }

    /// Whether it names the channel.
    pub fn names(&self, channel: &str) -> bool {
        let mut segments = channel.split('.');
        let mut pattern = self.scope.split('.').peekable();
        while let Some(wanted) = pattern.next() {
            match (wanted, segments.next()) {
                (">", Some(_)) if pattern.peek().is_none() => return true,
                ("*", Some(_)) => {}
                (wanted, Some(segment)) if wanted == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// Whether an event of this id lies within it: then what was missing before that event is told,
    /// though late. A link that was cut is made whole channel by channel, and what comes on the
    /// first ones comes before the gap can be closed.
    pub fn encloses(&self, id: &str) -> bool {
        let Some(next) = Place::only(&self.next) else {
            return false;
        };
        let after = self.after.as_deref().map(Place::only);
        if self.is_of_index() {
            // Order holds within a log: an event of a stream's new life may come first, to one who by
            // its id has not been told yet, and is told whenever it comes back.
            let is_new = |place: Place<'_>| place.epoch == next.epoch && place.log != next.log;
            let is_untold = |place: Place<'_>| Some(Some(place)) == after;
            return Place::all(id).any(is_new) && Place::all(id).any(is_untold);
        }
        // Of an id over several logs, the place in this one: what its client had of it by then.
        Place::all(id).any(|place| {
            let is_in = |bound: &Place<'_>| (bound.log, bound.epoch) == (place.log, place.epoch);
            let is_beyond = match after {
                None => true,
                Some(after) => {
                    after.is_some_and(|after| is_in(&after) && after.offset < place.offset)
                }
            };
            is_beyond && is_in(&next) && place.offset <= next.offset
        })
    }

    /// Whether its bounds leave room for an event of this id: it covers what lies after `after`, up
    /// to and including `next`. Bounds of another epoch say nothing about a place.
    pub fn has_room_for(&self, id: &str) -> bool {
        let Some(place) = Place::only(id) else {
            return true;
        };
        let Some(next) = Place::only(&self.next) else {
            return false;
        };
        if self.is_of_index() {
            return true;
        }
        if next.log != place.log || next.epoch == place.epoch && place.offset > next.offset {
            return false;
        }
        let after = self.after.as_deref().and_then(Place::only);
        !after.is_some_and(|after| {
            (after.log, after.epoch) == (place.log, place.epoch) && place.offset <= after.offset
        })
    }
}
