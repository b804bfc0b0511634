//! What a link for subscriptions brings, and to whom: the part of reading that all brokers share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};

use crate::{overlap::Overlap, probe::Probes};

/// What a broker does with what its link for subscriptions brings.
///
/// Calls come from the task that reads the socket or from the link's supervisor; none waits.
pub(crate) trait Arrivals: Send + Sync + 'static {
    /// A message on a name that is subscribed to: each `PUBLISH` once, in the server's order.
    fn message(&self, name: &[u8], message: Bytes);

    /// From here on the link is to this process of the server.
    fn linked(&self, _server: &Server) {}

    /// The server confirmed subscriptions.
    fn joined(&self) {}

    /// The link was cut. Messages come again before everything is followed again.
    fn cut(&self);

    /// Everything that was followed before the cut is followed again.
    fn whole(&self);

    /// Something that was followed before a cut, and was left out of [`whole`](Self::whole) because
    /// the server refused it, is followed again.
    fn rejoined(&self);
}

/// The process of a server at the other end of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Server {
    /// Another one after every start; empty where we may not ask.
    pub(crate) run: Arc<str>,
    /// Its release; empty where we may not ask.
    pub(crate) version: Arc<str>,
    /// `standalone`, `cluster` or `sentinel`; empty where we may not ask.
    pub(crate) mode: Arc<str>,
}

/// Reads what the link brings, each message once, and nothing of a link that is no more.
///
/// It runs inside the task that reads the socket: nothing queues in between.
pub(crate) struct Reader {
    arrivals: Arc<dyn Arrivals>,
    probes: Arc<Probes>,
    state: Mutex<State>,
    pushes: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Which link is read. What a link before it still brings is not.
    link: u64,
    overlap: Overlap,
}

impl Reader {
    pub(crate) fn new(arrivals: Arc<dyn Arrivals>, probes: Arc<Probes>) -> Self {
        Self {
            arrivals,
            probes,
            state: Mutex::default(),
            pushes: AtomicU64::new(0),
        }
    }

    /// To whom it brings.
    pub(crate) fn arrivals(&self) -> &dyn Arrivals {
        &*self.arrivals
    }

    /// From here on another link is read. Answers its number.
    pub(crate) fn next_link(&self) -> u64 {
        let mut state = self.state.lock();
        state.link += 1;
        state.overlap.reset();
        state.link
    }

    /// How many messages of any kind have come: while this moves, the link is alive.
    pub(crate) fn pushes(&self) -> u64 {
        self.pushes.load(Ordering::Relaxed)
    }

    /// Takes a message of a link.
    pub(crate) fn take(&self, link: u64, push: PushInfo) {
        let mut state = self.state.lock();
        if state.link != link {
            return;
        }
        self.pushes.fetch_add(1, Ordering::Relaxed);
        let mut data = push.data.into_iter();
        let glob = match push.kind {
            PushKind::Message | PushKind::SMessage => None,
            PushKind::PMessage => match data.next() {
                Some(Value::BulkString(glob)) => Some(glob),
                _ => return,
            },
            // Our subscriptions are others from here on.
            PushKind::Subscribe
            | PushKind::PSubscribe
            | PushKind::SSubscribe
            | PushKind::Unsubscribe
            | PushKind::PUnsubscribe
            | PushKind::SUnsubscribe => return state.overlap.reset(),
            _ => return,
        };
        let (Some(Value::BulkString(name)), Some(Value::BulkString(message))) =
            (data.next(), data.next())
        else {
            return;
        };
        if state.overlap.is_copy(&name, glob) {
            return;
        }
        if name == self.probes.name().as_bytes() {
            self.probes.back(&message);
        } else {
            self.arrivals.message(&name, message.into());
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} pushes)", self.pushes())
    }
}
