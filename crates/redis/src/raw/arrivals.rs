//! Raw arrivals: makes events of messages and gives them their places.

use std::{collections::VecDeque, fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;
use fanfare_core::{
    BrokerMetrics, Channel, Data, Event, Gap, GapCause, Interest, InvalidChannel, Pattern,
    Position, Tags, Undeliverable,
};
use parking_lot::Mutex;

use super::routes::{Arrival, Routes};
use crate::{complaint::Complaints, reader::Arrivals};

/// The most messages, and about the most bytes, that are held between a cut and its gap.
const HELD: usize = 10_000;
const HELD_BYTES: usize = 8 << 20;

/// Makes events of messages, in the order of their arrival.
///
/// What it cannot hand on goes into a gap at the inlet. So nothing queues between the socket and
/// the inlets, and order needs no further care.
pub(crate) struct RawArrivals {
    routes: Arc<Routes>,
    interest: Interest,
    metrics: BrokerMetrics,
    max_data_bytes: usize,
    state: Mutex<State>,
    complaints: Complaints,
}

struct State {
    head: Position,
    /// The last place before a cut that has not been told yet.
    cut_after: Option<Position>,
    /// What came since the cut. A client that had it before the gap, broke off and went to another
    /// node, would hold a place behind a hole that nobody tells it.
    held: Held,
}

#[derive(Default)]
struct Held {
    messages: VecDeque<(Channel, Bytes)>,
    bytes: usize,
    /// There was no room: all of it is lost in the gap.
    is_lost: bool,
}

impl RawArrivals {
    pub(crate) fn new(
        routes: Arc<Routes>,
        interest: Interest,
        metrics: BrokerMetrics,
        max_data_bytes: usize,
        start: Position,
    ) -> Self {
        Self {
            routes,
            interest,
            metrics,
            max_data_bytes,
            state: Mutex::new(State {
                head: start,
                cut_after: None,
                held: Held::default(),
            }),
            complaints: Complaints::default(),
        }
    }

    /// The newest place of the log.
    pub(crate) fn head(&self) -> Position {
        self.state.lock().head.clone()
    }

    /// Takes a place without an event: from here on the node follows something that it did not
    /// follow before, and a cursor from before must not pass for one from now.
    pub(crate) fn begin(&self) {
        self.state.lock().mint();
    }

    fn open(&self, message: Bytes) -> Result<Data, Undeliverable> {
        if message.len() > self.max_data_bytes {
            return Err(Undeliverable::TooLarge);
        }
        Data::parse(message).map_err(|_| Undeliverable::NotUtf8)
    }

    fn place(&self, state: &mut State, channel: Channel, data: Data) {
        self.metrics.events.inc();
        self.interest.offer(&Arc::new(Event {
            channel,
            position: state.mint(),
            // Pub/sub does not count what stands on a channel.
            previous: None,
            event_type: None,
            data,
            tags: Tags::default(),
            published_at: SystemTime::now(),
        }));
    }

    fn take(&self, state: &mut State, channel: Channel, message: Bytes) {
        match self.open(message) {
            Ok(data) => self.place(state, channel, data),
            Err(reason) => self.undeliverable(state, channel, reason),
        }
    }

    fn undeliverable(&self, state: &mut State, channel: Channel, reason: Undeliverable) {
        self.metrics.undeliverable(reason);
        let name = channel.as_str().as_bytes();
        self.complaints.of(name, &format!("{reason:?}"));
        let after = Some(state.head.clone());
        self.gap(state, channel.into(), GapCause::Undeliverable, after);
    }

    /// There is no channel to tell of the loss.
    fn nameless(&self, name: &[u8], why: InvalidChannel) {
        self.metrics.undeliverable(Undeliverable::BadChannel);
        self.complaints.of(name, &format!("the channel name {why}"));
    }

    fn gap(&self, state: &mut State, scope: Pattern, cause: GapCause, after: Option<Position>) {
        self.metrics.gap(cause);
        self.interest.offer_gap(&Gap {
            scope,
            cause,
            after,
            next: state.mint(),
        });
    }
}

impl State {
    /// The next place.
    fn mint(&mut self) -> Position {
        self.head.offset.0 += 1;
        self.head.clone()
    }
}

impl Held {
    fn push(&mut self, channel: Channel, message: Bytes) {
        self.bytes += message.len() + channel.as_str().len();
        self.is_lost |= self.bytes > HELD_BYTES || self.messages.len() >= HELD;
        if self.is_lost {
            self.messages = VecDeque::new();
        } else {
            self.messages.push_back((channel, message));
        }
    }
}

impl Arrivals for RawArrivals {
    fn message(&self, name: &[u8], message: Bytes) {
        let channel = match self.routes.arrival(name) {
            Arrival::Raw(Ok(channel)) => channel,
            Arrival::Raw(Err(why)) => return self.nameless(name, why),
            Arrival::Other => return,
        };
        if !self.interest.follows(&channel) {
            // A glob selects more than the pattern it was made of.
            return;
        }
        let mut state = self.state.lock();
        if state.cut_after.is_some() {
            state.held.push(channel, message);
        } else {
            self.take(&mut state, channel, message);
        }
    }

    fn joined(&self) {
        self.begin();
    }

    fn cut(&self) {
        let mut state = self.state.lock();
        if state.cut_after.is_none() {
            state.cut_after = Some(state.head.clone());
        }
        // What the link that is cut now brought lies between two holes, which one gap covers.
        state.held = Held::default();
    }

    /// Pub/sub keeps nothing: what came meanwhile is lost to everyone.
    fn whole(&self) {
        let mut state = self.state.lock();
        let after = state.cut_after.take();
        let held = std::mem::take(&mut state.held);
        self.gap(&mut state, Pattern::all(), GapCause::Reconnected, after);
        for (channel, message) in held.messages {
            self.take(&mut state, channel, message);
        }
    }

    fn rejoined(&self) {
        let mut state = self.state.lock();
        self.gap(&mut state, Pattern::all(), GapCause::Reconnected, None);
    }
}

impl fmt::Debug for RawArrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawArrivals")
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::{
        Dialect, Epoch, Feed, Live, LogId, Mapping, Offset, feed, feed::FeedBounds,
    };

    use super::*;
    use crate::raw::routes::Side;

    fn arrivals() -> (RawArrivals, Feed, impl Sized) {
        let rule = Mapping::parse(Dialect::Glob, "raw:*", "{1}").unwrap();
        let routes = Arc::new(Routes::new("ff", vec![(rule, Side::Node)], Side::Node));
        let interest = Interest::new(|_| {});
        let (inlet, feed) = feed(FeedBounds::default());
        let hold = interest.add(&Pattern::all(), &inlet);
        let start = Position {
            log: LogId::parse("raw").unwrap(),
            epoch: Epoch(1),
            offset: Offset::ZERO,
        };
        let metrics = BrokerMetrics::unregistered("redis");
        let arrivals = RawArrivals::new(routes, interest, metrics, 100, start);
        (arrivals, feed, (hold, inlet))
    }

    fn message(arrivals: &RawArrivals, data: &str) {
        arrivals.message(b"raw:a", Bytes::copy_from_slice(data.as_bytes()));
    }

    async fn next(feed: &mut Feed) -> String {
        match feed.next().await.unwrap() {
            Live::Event(event) => event.data.as_str().to_owned(),
            Live::Gap(gap) => format!("{:?} {:?}", gap.cause, gap.after.map(|at| at.offset.0)),
        }
    }

    #[tokio::test]
    async fn nothing_of_a_new_link_comes_before_the_gap_of_the_cut() {
        let (arrivals, mut feed, _hold) = arrivals();
        message(&arrivals, "before");
        arrivals.cut();
        message(&arrivals, "of a link that is cut too");
        arrivals.cut();
        message(&arrivals, "held");
        assert_eq!(next(&mut feed).await, "before");
        assert_eq!(feed.depth(), 0);
        arrivals.whole();
        message(&arrivals, "after");
        let expected = ["Reconnected Some(1)", "held", "after"];
        for expected in expected {
            assert_eq!(next(&mut feed).await, expected);
        }
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_lost_in_the_gap_whole() {
        let (arrivals, mut feed, _hold) = arrivals();
        arrivals.cut();
        (0..HELD + 5).for_each(|number| message(&arrivals, &number.to_string()));
        arrivals.whole();
        message(&arrivals, "after");
        assert_eq!(next(&mut feed).await, "Reconnected Some(0)");
        assert_eq!(next(&mut feed).await, "after");
    }
}
