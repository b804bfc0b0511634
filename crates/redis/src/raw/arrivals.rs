//! Raw arrivals: makes events of messages and gives them their places.

use std::{fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;
use fanfare_core::{
    BrokerMetrics, Channel, Data, Event, Gap, GapCause, Interest, InvalidChannel, Pattern,
    Position, Tags, Undeliverable,
};
use parking_lot::Mutex;

use super::routes::{Arrival, Routes};
use crate::{complaint::Complaints, reader::Arrivals};

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

    fn undeliverable(
        &self,
        state: &mut State,
        name: &[u8],
        channel: Channel,
        reason: Undeliverable,
    ) {
        self.metrics.undeliverable(reason);
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
        match self.open(message) {
            Ok(data) => self.place(&mut state, channel, data),
            Err(reason) => self.undeliverable(&mut state, name, channel, reason),
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
    }

    /// Pub/sub keeps nothing: what came meanwhile is lost to everyone.
    fn whole(&self) {
        let mut state = self.state.lock();
        let after = state.cut_after.take();
        self.gap(&mut state, Pattern::all(), GapCause::Reconnected, after);
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
