//! A bus in this process that keeps nothing, as plain Redis or core NATS do: what nobody follows
//! is gone, places are given on arrival, a cut loses what passes meanwhile.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses a part"
)]

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, Capabilities, Channel, Epoch, ErrorKind, Event, Gap, GapCause, History,
    HistoryQuery, Inlet, Interest, Live, LogId, LogMap, Offset, Pattern, Position, Publication,
    Published, Since, Subscription,
};
use parking_lot::Mutex;

const MAX: usize = 1 << 20;

#[derive(Debug, Default)]
pub struct RawBus {
    nodes: Mutex<Vec<Weak<RawNode>>>,
}

#[derive(Debug)]
pub struct RawNode {
    bus: Arc<RawBus>,
    interest: Interest,
    /// Held while a place is given and what stands there is announced.
    head: Mutex<Position>,
    cut: AtomicBool,
    closed: AtomicBool,
}

impl RawBus {
    pub fn node(self: &Arc<Self>) -> Arc<RawNode> {
        let head = Position {
            log: LogId::parse("raw").unwrap(),
            epoch: Epoch(fastrand::u64(..)),
            offset: Offset(fastrand::u128(..1 << 60)),
        };
        let node = Arc::new(RawNode {
            bus: self.clone(),
            interest: Interest::new(|_| {}),
            head: Mutex::new(head),
            cut: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        self.nodes.lock().push(Arc::downgrade(&node));
        node
    }
}

fn error(kind: ErrorKind, message: &str) -> BrokerError {
    BrokerError::new(kind, "raw", message)
}

fn take_place(head: &mut Position) -> Position {
    head.offset.0 += 1;
    head.clone()
}

impl RawNode {
    pub fn followed(&self) -> Vec<Pattern> {
        self.interest.patterns()
    }

    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    pub fn mend(&self) {
        let mut head = self.head.lock();
        let after = Some(head.clone());
        let next = take_place(&mut head);
        self.interest.offer_gap(&Gap {
            scope: Pattern::all(),
            cause: GapCause::Reconnected,
            after,
            next,
        });
        self.cut.store(false, Ordering::SeqCst);
    }

    fn linked(&self) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(error(ErrorKind::Closed, "closed"));
        }
        if self.cut.load(Ordering::SeqCst) {
            return Err(error(ErrorKind::Unavailable, "cut off"));
        }
        Ok(())
    }

    fn arrive(&self, channel: &Channel, publication: &Publication) {
        let mut head = self.head.lock();
        if self.linked().is_err() || !self.interest.follows(channel) {
            return;
        }
        self.interest.offer(&Arc::new(Event {
            channel: channel.clone(),
            position: take_place(&mut head),
            previous: None,
            event_type: None,
            data: publication.data.clone(),
            tags: Default::default(),
            published_at: std::time::SystemTime::now(),
        }));
    }
}

#[async_trait]
impl Broker for RawNode {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        self.linked()?;
        if publication.key.is_some() {
            return Err(error(ErrorKind::Unsupported, "keeps no keys"));
        }
        if publication.data.len() > MAX {
            return Err(error(ErrorKind::TooLarge, "too large"));
        }
        // Held, so that all nodes see one order.
        let nodes = self.bus.nodes.lock();
        for node in nodes.iter().filter_map(Weak::upgrade) {
            node.arrive(channel, &publication);
        }
        Ok(Published {
            position: None,
            duplicate: false,
        })
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        self.linked()?;
        let mut head = self.head.lock();
        take_place(&mut head);
        Ok(Subscription::new(self.interest.add(pattern, inlet)))
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(error(ErrorKind::Closed, "closed"));
        }
        let head = self.head.lock().clone();
        let cause = match &query.since {
            Since::After(cursor) => match cursor.is_after(&head) {
                None | Some(true) => Some(GapCause::NewEpoch),
                Some(false) if *cursor == head => None,
                Some(false) => Some(GapCause::NotFollowed),
            },
            _ => None,
        };
        let after = match query.since {
            Since::After(cursor) => Some(cursor),
            _ => None,
        };
        let gap = |(scope, cause): (Pattern, GapCause)| {
            Live::Gap(Gap {
                scope,
                cause,
                after: after.clone(),
                next: head.clone(),
            })
        };
        let scopes = query.channels.into_iter();
        Ok(History {
            items: scopes
                .filter_map(|scope| cause.map(|c| gap((scope, c))))
                .collect(),
            upto: head,
            more: false,
        })
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        self.linked()
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.interest.close();
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "raw",
            logs: LogMap::single(LogId::parse("raw").unwrap()),
            history: false,
            shared: false,
            positions: false,
            idempotency: false,
            max_data_bytes: Some(MAX),
        }
    }
}
