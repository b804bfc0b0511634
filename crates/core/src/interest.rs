//! Who on this node follows what: the table that every backend keeps between its bus and the
//! inlets.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use crate::{Channel, Event, Gap, Inlet, Live, Pattern, PatternMap};

/// Which inlets follow which patterns.
///
/// It keeps the part of law 2 that is the same on every backend: an event reaches an inlet once,
/// however many of the inlet's patterns select it.
/// A clone is the same table.
#[derive(Clone)]
pub struct Interest {
    shared: Arc<Shared>,
}

struct Shared {
    table: Mutex<Table>,
    on_idle: OnIdle,
}

type OnIdle = Box<dyn Fn(Pattern) + Send + Sync>;

#[derive(Default)]
struct Table {
    members: Vec<Member>,
    /// How many holds there are on each pattern, over all inlets.
    holds: HashMap<Pattern, usize>,
    closed: bool,
}

struct Member {
    inlet: Inlet,
    patterns: PatternMap<usize>,
}

/// A hold on a pattern for an inlet. Dropping it lets go.
#[must_use = "dropping it lets go of the pattern"]
pub struct Hold {
    shared: Weak<Shared>,
    pattern: Pattern,
    inlet: Inlet,
}

impl Interest {
    /// An empty table. `on_idle` is called with a pattern that the last hold was let go of,
    /// outside of any lock; a backend unsubscribes from its bus there, if
    /// [`follows_pattern`](Self::follows_pattern) still says no when it comes to it.
    pub fn new(on_idle: impl Fn(Pattern) + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                table: Mutex::default(),
                on_idle: Box::new(on_idle),
            }),
        }
    }

    /// Adds a hold. From here on, what is offered and selected by `pattern` reaches `inlet`.
    pub fn add(&self, pattern: &Pattern, inlet: &Inlet) -> Hold {
        let mut table = self.shared.table.lock();
        if table.closed {
            inlet.close();
        }
        *table.holds.entry(pattern.clone()).or_default() += 1;
        let known = table
            .members
            .iter()
            .position(|member| member.inlet.is_same(inlet));
        let index = known.unwrap_or_else(|| {
            table.members.push(Member {
                inlet: inlet.clone(),
                patterns: PatternMap::new(),
            });
            table.members.len() - 1
        });
        *table.members[index].patterns.entry(pattern, || 0) += 1;
        Hold {
            shared: Arc::downgrade(&self.shared),
            pattern: pattern.clone(),
            inlet: inlet.clone(),
        }
    }

    /// Offers an event to every inlet that follows its channel. Answers how many did.
    /// Calls for events of one log come in offset order.
    pub fn offer(&self, event: &Arc<Event>) -> usize {
        let table = self.shared.table.lock();
        let mut reached = 0;
        for member in &table.members {
            if member.patterns.has_match(&event.channel) {
                member.inlet.offer(Live::Event(event.clone()));
                reached += 1;
            }
        }
        reached
    }

    /// Offers a gap to every inlet that follows anything the gap's scope touches.
    pub fn offer_gap(&self, gap: &Gap) {
        let table = self.shared.table.lock();
        for member in &table.members {
            if member.patterns.intersects(&gap.scope) {
                member.inlet.offer(Live::Gap(gap.clone()));
            }
        }
    }

    /// The inlets that follow `channel`.
    pub fn inlets(&self, channel: &Channel) -> Vec<Inlet> {
        let table = self.shared.table.lock();
        let follows = |member: &&Member| member.patterns.has_match(channel);
        table
            .members
            .iter()
            .filter(follows)
            .map(|member| member.inlet.clone())
            .collect()
    }

    /// Whether any inlet follows `channel`, by name or pattern.
    pub fn follows(&self, channel: &Channel) -> bool {
        self.shared
            .table
            .lock()
            .members
            .iter()
            .any(|member| member.patterns.has_match(channel))
    }

    /// Whether there is a hold on just this pattern.
    pub fn follows_pattern(&self, pattern: &Pattern) -> bool {
        self.shared.table.lock().holds.contains_key(pattern)
    }

    /// Every pattern that is held, for resubscribing.
    pub fn patterns(&self) -> Vec<Pattern> {
        self.shared.table.lock().holds.keys().cloned().collect()
    }

    /// Closes every inlet, now and for later holds.
    pub fn close(&self) {
        let mut table = self.shared.table.lock();
        table.closed = true;
        table.members.iter().for_each(|member| member.inlet.close());
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let idle = shared.table.lock().let_go(&self.pattern, &self.inlet);
        if idle {
            (shared.on_idle)(self.pattern.clone());
        }
    }
}

impl Table {
    fn let_go(&mut self, pattern: &Pattern, inlet: &Inlet) -> bool {
        if let Some(index) = self
            .members
            .iter()
            .position(|member| member.inlet.is_same(inlet))
        {
            let patterns = &mut self.members[index].patterns;
            if let Some(count) = patterns.get_mut(pattern) {
                *count -= 1;
                if *count == 0 {
                    patterns.remove(pattern);
                }
            }
            if patterns.is_empty() {
                self.members.swap_remove(index);
            }
        }
        let Some(count) = self.holds.get_mut(pattern) else {
            return false;
        };
        *count -= 1;
        let idle = *count == 0;
        if idle {
            self.holds.remove(pattern);
            if self.holds.len() * 8 < self.holds.capacity() {
                let keep = self.holds.len() * 2;
                self.holds.shrink_to(keep);
            }
        }
        idle
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.shared.table.lock();
        f.debug_struct("Interest")
            .field("inlets", &table.members.len())
            .field("patterns", &table.holds.len())
            .finish()
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({})", self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{Data, Epoch, LogId, Offset, Position, Tags, feed, feed::FeedBounds};

    fn event(channel: &str, offset: u128) -> Arc<Event> {
        Arc::new(Event {
            channel: Channel::parse(channel).unwrap(),
            position: Position {
                log: LogId::parse("l").unwrap(),
                epoch: Epoch(1),
                offset: Offset(offset),
            },
            previous: None,
            event_type: None,
            data: Data::from(""),
            tags: Tags::default(),
            published_at: SystemTime::UNIX_EPOCH,
        })
    }

    #[tokio::test]
    async fn an_inlet_gets_an_event_once_whatever_selects_it() {
        let idle = Arc::new(Mutex::new(Vec::new()));
        let seen = idle.clone();
        let interest = Interest::new(move |pattern| seen.lock().push(pattern.to_string()));
        let (inlet, mut feed) = feed(FeedBounds::default());
        let patterns = ["a.b", "a.*", ">", "a.*"].map(|text| Pattern::parse(text).unwrap());
        let mut holds: Vec<_> = patterns.iter().map(|p| interest.add(p, &inlet)).collect();
        assert_eq!(interest.offer(&event("a.b", 1)), 1);
        assert_eq!(feed.depth(), 1);
        feed.next().await;

        drop(holds.remove(3));
        assert!(idle.lock().is_empty(), "a.* is still held once");
        drop(holds.remove(2));
        assert_eq!(*idle.lock(), [">"]);
        assert_eq!(interest.offer(&event("c", 2)), 0);
        drop(holds);
        assert!(interest.patterns().is_empty());
        assert_eq!(interest.offer(&event("a.b", 3)), 0);
    }

    #[tokio::test]
    async fn a_gap_reaches_whoever_it_touches() {
        let interest = Interest::new(|_| {});
        let (inlet, feed) = feed(FeedBounds::default());
        let _hold = interest.add(&Pattern::parse("a.*").unwrap(), &inlet);
        let next = event("x", 1).position.clone();
        let gap = |scope: &str| Gap {
            scope: Pattern::parse(scope).unwrap(),
            cause: crate::GapCause::Reconnected,
            after: None,
            next: next.clone(),
        };
        interest.offer_gap(&gap("b.>"));
        assert_eq!(feed.depth(), 0);
        interest.offer_gap(&gap("a.b"));
        interest.offer_gap(&gap(">"));
        assert_eq!(feed.depth(), 2);
    }
}
