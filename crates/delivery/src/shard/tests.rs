//! The seam against a model, under a seeded scheduler.
//!
//! A model broker keeps logs with small retention. A seed decides what happens next: an event is
//! published, the feed hands some on, a history call is answered and its page arrives later (of
//! several logs in any order, and once in a while not at all), a client joins somewhere, gets a socket, reads a little, leaves, a log begins again. Half of the
//! clients keep to their outboxes, as bodies do; what a turn brought is written in slices of any
//! size. Some channels' writes are delayed. In the end everything is let run out, and each client's bytes, read by the ordinary decoder, are held against what was
//! published: every event after its start came once and in order, or a gap that covers it came.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{ErrorKind, Read},
    num::NonZeroUsize,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use fanfare_core::{
    BrokerError, Channel, Data, Epoch, ErrorKind as CoreErrorKind, Event, Gap, GapCause, History,
    HistoryQuery, Late, Live, LogId, LogMap, Offset, Pattern, Position, Since, Tags,
};
use fanfare_sse::{Decoder, Item};
use prometheus::Registry;
use tokio::sync::oneshot;

use super::{Boarding, Fetch, Message, Shard, member::JoiningLog};
use crate::{
    Cursor, DeliveryConfig, Format, Framing, Metrics, SlowPolicy, SlowRule, WriteDelayRule,
    control,
    follow::Share,
    frame::Frame,
    outbox::{Doorbell, Key, Outbox},
    ring::Passing,
    shard::Joining,
    sink::Keep,
};

/// The log of a channel has its first segment's name. Those from [`LATE`] on come into being one by
/// one.
const CHANNELS: [&str; 12] = [
    "x.a", "x.b", "x.c", "y.a", "y.b", "y.c", "s.a", "t.b", "u.c", "v.a", "w.b", "z.c",
];
const LATE: usize = 6;
const PATTERNS: [&[&str]; 9] = [
    &["x.a"],
    &["x.a", "x.*"],
    &["x.>"],
    &["x.b", "y.b"],
    &[">"],
    &["y.a", "y.c"],
    &["x.c", "y.>"],
    &["*.a", "x.b"],
    &["*.b"],
];
/// The log that a cursor names of who followed a wildcard over logs that come into being.
const INDEX: &str = "i";

fn is_late(log: &LogId) -> bool {
    (CHANNELS[LATE..].iter()).any(|channel| channel.starts_with(log.as_str()))
}

fn late(log: &LogId) -> Option<Late> {
    let at = |log: &str| ModelLog::new(log, 0).at(0);
    is_late(log).then(|| Late {
        index: at(INDEX).log,
        begin: at(log.as_str()),
    })
}

/// Whether a pattern can select channels of a log.
fn reaches(pattern: &Pattern, log: &LogId) -> bool {
    let of_log = |channel: &&&str| channel.starts_with(log.as_str());
    let selected = |channel: &&str| pattern.matches(&Channel::parse(channel).unwrap());
    match log.as_str() {
        INDEX => pattern.is_wild() && CHANNELS[LATE..].iter().any(selected),
        _ => CHANNELS.iter().filter(of_log).any(selected),
    }
}

/// A log of the model broker.
struct ModelLog {
    id: LogId,
    epoch: u64,
    head: u128,
    /// Retained events, oldest first, and the newest evicted offset of each channel.
    retained: VecDeque<Arc<Event>>,
    evicted: BTreeMap<Channel, Offset>,
    last: BTreeMap<Channel, Offset>,
    keep: usize,
}

impl ModelLog {
    fn new(id: &str, keep: usize) -> Self {
        Self {
            id: LogId::parse(id).unwrap(),
            epoch: 1,
            head: 0,
            retained: VecDeque::new(),
            evicted: BTreeMap::new(),
            last: BTreeMap::new(),
            keep,
        }
    }

    fn at(&self, offset: u128) -> Position {
        Position {
            log: self.id.clone(),
            epoch: Epoch(self.epoch),
            offset: Offset(offset),
        }
    }

    fn publish(&mut self, channel: &Channel, number: usize) -> Arc<Event> {
        self.head += 1 + (number as u128 % 3);
        let offset = Offset(self.head);
        let event = Arc::new(Event {
            channel: channel.clone(),
            position: self.at(self.head),
            previous: Some(
                self.last
                    .insert(channel.clone(), offset)
                    .unwrap_or(Offset::ZERO),
            ),
            event_type: None,
            data: Data::from(format!("{number}\n{}", "x".repeat(number % 40))),
            tags: Tags::default(),
            published_at: SystemTime::UNIX_EPOCH,
        });
        self.retained.push_back(event.clone());
        while self.retained.len() > self.keep {
            self.evict();
        }
        event
    }

    fn evict(&mut self) {
        if let Some(oldest) = self.retained.pop_front() {
            self.evicted
                .insert(oldest.channel.clone(), oldest.position.offset);
        }
    }

    /// The log is lost and begins again.
    fn restart(&mut self) -> Gap {
        let after = self.at(self.head);
        let keep = self.keep;
        let epoch = self.epoch + 1;
        let id = self.id.clone();
        *self = Self {
            epoch,
            ..Self::new(id.as_str(), keep)
        };
        Gap {
            scope: Pattern::all(),
            cause: GapCause::NewEpoch,
            after: Some(after),
            next: self.at(0),
        }
    }

    fn history(&self, query: &HistoryQuery) -> History {
        let selected =
            |event: &&Arc<Event>| query.channels.iter().any(|p| p.matches(&event.channel));
        let all: Vec<_> = self.retained.iter().filter(selected).cloned().collect();
        let mut items = Vec::new();
        let head = self.at(self.head);
        let mut from = Offset::ZERO;
        match &query.since {
            Since::Now => {
                return History {
                    items,
                    upto: head,
                    more: false,
                };
            }
            Since::Oldest => {}
            Since::Last(count) => {
                let mut left: BTreeMap<&Channel, usize> = BTreeMap::new();
                let mut kept: Vec<_> = all
                    .iter()
                    .rev()
                    .filter(|event| {
                        let seen = left.entry(&event.channel).or_default();
                        *seen += 1;
                        *seen <= count.get()
                    })
                    .cloned()
                    .collect();
                kept.reverse();
                items.extend(kept.into_iter().map(Live::Event));
                return History {
                    items,
                    upto: head,
                    more: false,
                };
            }
            Since::After(place) if place.epoch.0 == self.epoch && place.offset.0 <= self.head => {
                from = place.offset;
                for (channel, evicted) in &self.evicted {
                    if *evicted > from && query.channels.iter().any(|p| p.matches(channel)) {
                        items.push(Live::Gap(Gap {
                            scope: channel.into(),
                            cause: GapCause::Evicted,
                            after: Some(place.clone()),
                            next: self.at(evicted.0),
                        }));
                    }
                }
                // In order: a gap stands where it ends.
                let after: Vec<_> = all
                    .iter()
                    .filter(|event| event.position.offset > from)
                    .cloned()
                    .collect();
                return self.page(query, items, after);
            }
            Since::After(place) => {
                let oldest = all.first().map_or(head.clone(), |event| {
                    self.at(event.position.offset.before().0)
                });
                items.push(Live::Gap(Gap {
                    scope: Pattern::all(),
                    cause: GapCause::NewEpoch,
                    after: Some(place.clone()),
                    next: oldest,
                }));
            }
        }
        let after = all
            .into_iter()
            .filter(|event| event.position.offset > from)
            .collect();
        self.page(query, items, after)
    }

    fn page(&self, query: &HistoryQuery, mut items: Vec<Live>, events: Vec<Arc<Event>>) -> History {
        let more = events.len() > query.limit.get();
        items.extend(events.into_iter().take(query.limit.get()).map(Live::Event));
        items.sort_by_key(|item| (item.position().offset, matches!(item, Live::Event(_))));
        let upto = if more {
            items.iter().rev().find_map(|item| match item {
                Live::Event(event) => Some(event.position.clone()),
                Live::Gap(_) => None,
            })
        } else {
            None
        };
        History {
            items,
            upto: upto.unwrap_or(self.at(self.head)),
            more,
        }
    }
}

/// Where a client's frames come out.
enum Sink {
    Outbox(Arc<Outbox>),
    Socket {
        end: UnixStream,
        framing: Framing,
        /// What came and is not unframed yet.
        raw: Vec<u8>,
    },
    Gone,
}

struct Client {
    patterns: Vec<Pattern>,
    sink: Sink,
    seated: oneshot::Receiver<Result<Key, BrokerError>>,
    key: Option<Key>,
    keeps_outbox: bool,
    decoder: Decoder,
    bytes: Vec<u8>,
    ended: bool,
    left: bool,
    /// Where each log stood when it joined, and from where it asked.
    joined: Vec<(Position, Option<Position>)>,
    started: BTreeSet<LogId>,
    start: &'static str,
}

struct World {
    rng: fastrand::Rng,
    logs: Vec<ModelLog>,
    published: Vec<Arc<Event>>,
    feed: VecDeque<Passing>,
    shard: Shard,
    doorbell: Arc<Doorbell>,
    clients: Vec<Client>,
    asked: Vec<Fetch>,
    answered: Vec<(Key, LogId, History)>,
    now: u64,
    keep: usize,
    /// How many channels have events.
    born: usize,
    /// The most pages that were on their way to one client, and how many may be.
    pages_at_once: usize,
    most_pages: usize,
    /// The most clients that shared a history call.
    sharers: usize,
    /// Nothing more happens: all that waits is done.
    runs_out: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let rule = |channels: &str, policy| SlowRule {
            channels: Pattern::parse(channels).unwrap(),
            policy,
        };
        let delay = |channels: &str, millis| WriteDelayRule {
            channels: Pattern::parse(channels).unwrap(),
            delay: std::time::Duration::from_millis(millis),
        };
        let config = DeliveryConfig {
            node: "n".into(),
            outbox_bytes: rng.usize(300..3000),
            burst_bytes: rng.usize(300..6000),
            slow_after: std::time::Duration::from_millis(rng.u64(0..800)),
            ring_bytes: rng.usize(500..8000),
            page_events: rng.usize(1..6),
            history_calls_per_client: rng.usize(1..5),
            slow: vec![
                rule("*.a", SlowPolicy::Gap),
                rule("*.b", SlowPolicy::Latest),
            ],
            write_delays: vec![
                delay("x.a", rng.u64(0..300)),
                delay("y.>", rng.u64(0..60)),
                delay("*.b", rng.u64(0..900)),
            ],
            ..DeliveryConfig::default()
        };
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let keep = rng.usize(2..40);
        Self {
            pages_at_once: 0,
            sharers: 0,
            runs_out: false,
            most_pages: config.history_calls_per_client,
            logs: ["x", "y", INDEX].map(|log| ModelLog::new(log, keep)).into(),
            keep,
            born: LATE,
            rng,
            published: Vec::new(),
            feed: VecDeque::new(),
            shard: Shard::new(
                Arc::new(config),
                metrics,
                LogMap::growing([], |_| Vec::new(), late),
            ),
            doorbell: Arc::default(),
            clients: Vec::new(),
            asked: Vec::new(),
            answered: Vec::new(),
            now: 0,
        }
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..35 => self.publish(),
            35..60 => self.hand_on(),
            60..66 => self.join(),
            66..70 => self.board(),
            70..78 => self.answer(),
            78..86 => self.arrive(),
            86..95 => self.read(),
            95 => self.leave(),
            96 => {
                let log = self.rng.usize(0..self.logs.len());
                self.logs[log].evict();
            }
            97 if self.rng.u32(0..4) == 0 => {
                let log = self.rng.usize(0..self.logs.len());
                let gap = self.logs[log].restart();
                self.feed.push_back(Passing::Gap(Arc::new(gap)));
            }
            _ => {
                self.now += self.rng.u64(1..400);
                self.shard.set_now(self.now);
                self.shard.on_tick();
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        for key in self.doorbell.take() {
            self.shard.on_bell(key);
        }
        self.shard.flush(self.rng.usize(1..12));
        // As many as there is room for: the others wait, and may be shared.
        while self.runs_out || self.rng.u32(0..4) > 0 {
            let Some(fetch) = self.shard.next_fetch() else {
                break;
            };
            self.sharers = self.sharers.max(fetch.keys.len());
            self.asked.push(fetch);
        }
        let asked = self.asked.iter().flat_map(|fetch| fetch.keys.clone());
        let answered = self.answered.iter().map(|(key, _, _)| *key);
        let mut on_their_way: BTreeMap<u32, usize> = BTreeMap::new();
        for key in asked.chain(answered) {
            *on_their_way.entry(key.id).or_default() += 1;
        }
        let most = on_their_way.into_values().max().unwrap_or(0);
        assert!(most <= self.most_pages, "{most} pages at once");
        self.pages_at_once = self.pages_at_once.max(most);
    }

    fn publish(&mut self) {
        let born = self.born < CHANNELS.len() && self.rng.usize(0..20) == 0;
        self.born += usize::from(born);
        let channel = if born {
            self.born - 1
        } else {
            self.rng.usize(0..self.born)
        };
        let channel = Channel::parse(CHANNELS[channel]).unwrap();
        let of = &channel.as_str()[..1];
        let index = self.logs.iter().position(|log| log.id.as_str() == of);
        let index = index.unwrap_or_else(|| {
            self.logs.push(ModelLog::new(of, self.keep));
            self.logs.len() - 1
        });
        let event = self.logs[index].publish(&channel, self.published.len());
        self.published.push(event.clone());
        self.feed
            .push_back(Passing::Frame(Arc::new(Frame::encode(event))));
    }

    fn hand_on(&mut self) {
        let count = self.rng.usize(0..=self.feed.len().min(12));
        let batch: Vec<Passing> = self.feed.drain(..count).collect();
        self.shard.on_batch(&batch);
    }

    fn join(&mut self) {
        let patterns: Vec<Pattern> = PATTERNS[self.rng.usize(0..PATTERNS.len())]
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect();
        let kind = self.rng.u32(0..5);
        let start = ["now", "oldest", "last", "after", "foreign"][kind as usize];
        let mut joined = Vec::new();
        let mut logs = Vec::new();
        for log in &self.logs {
            let own: Vec<Pattern> = (patterns.iter())
                .filter(|pattern| reaches(pattern, &log.id))
                .cloned()
                .collect();
            if own.is_empty() {
                continue;
            }
            let since = match start {
                "now" => Since::Now,
                "oldest" => Since::Oldest,
                "last" => Since::Last(NonZeroUsize::new(self.rng.usize(1..4)).unwrap()),
                "after" => Since::After(log.at(self.rng.u128(0..=log.head))),
                _ => Since::After(Position {
                    epoch: Epoch(99),
                    ..log.at(self.rng.u128(0..=log.head + 5))
                }),
            };
            let asked = match &since {
                Since::After(place) if start == "after" => Some(place.clone()),
                _ => None,
            };
            joined.push((log.at(log.head), asked));
            logs.push(JoiningLog {
                log: log.id.clone(),
                channels: own,
                since,
                foreign: None,
            });
        }
        let outbox = Arc::new(Outbox::new(self.doorbell.clone()));
        outbox.force(control::preface(std::time::Duration::from_secs(1)).into());
        let (seated, told) = oneshot::channel();
        self.shard.on_message(Message::Join(Box::new(Joining {
            id: self.clients.len() as u32,
            outbox: outbox.clone(),
            logs,
            channels: patterns.clone().into(),
            format: Format::Sse,
            hello: true,
            resumes: true,
            filter: None,
            ends_at: None,
            abort: Arc::new(|| {}),
            seated,
        })));
        self.clients.push(Client {
            patterns,
            sink: Sink::Outbox(outbox),
            seated: told,
            key: None,
            keeps_outbox: self.rng.bool(),
            decoder: Decoder::new(),
            bytes: Vec::new(),
            ended: false,
            left: false,
            joined,
            started: BTreeSet::new(),
            start,
        });
    }

    /// A client that is seated gets a socket, with a small buffer in the kernel.
    fn board(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.clients.len());
        let client = &mut self.clients[index];
        if let Ok(Ok(key)) = client.seated.try_recv() {
            client.key = Some(key);
        }
        let (Some(key), Sink::Outbox(_)) = (client.key, &client.sink) else {
            return;
        };
        if client.keeps_outbox || client.left || client.ended {
            return;
        }
        let (ours, end) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&ours)
            .set_send_buffer_size(1)
            .unwrap();
        ours.set_nonblocking(true).unwrap();
        end.set_nonblocking(true).unwrap();
        let framing = if self.rng.bool() {
            Framing::Chunked
        } else {
            Framing::Plain
        };
        let keep = Keep {
            _guard: Arc::new(()),
            share: Share::default(),
        };
        self.shard.on_message(Message::Board(Box::new(Boarding {
            key,
            socket: OwnedFd::from(ours).into(),
            head: "HEAD".into(),
            framing,
            keep,
        })));
        assert_eq!(self.shard.arrivals().count(), 1);
        client.sink = Sink::Socket {
            end,
            framing,
            raw: Vec::new(),
        };
    }

    /// A history call reads the log now; its page arrives later.
    fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let fetch = self.asked.swap_remove(self.rng.usize(0..self.asked.len()));
        let log = self
            .logs
            .iter()
            .find(|log| log.id == fetch.query.log)
            .unwrap();
        // A client's start is where the log stands when its first page is read.
        for key in fetch.keys {
            let client = &mut self.clients[key.id as usize];
            if client.started.insert(log.id.clone()) {
                // A log that came later has no start: all of it is owed.
                for (joined, _) in &mut client.joined {
                    if joined.log == log.id {
                        *joined = log.at(log.head);
                    }
                }
            }
            let page = log.history(&fetch.query);
            self.answered.push((key, fetch.query.log.clone(), page));
        }
    }

    fn arrive(&mut self) {
        if self.answered.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.answered.len());
        let (key, log, page) = self.answered.swap_remove(index);
        let fails = self.rng.u32(0..60) == 0;
        let page = match fails {
            true => Err(BrokerError::new(CoreErrorKind::Unavailable, "model", "no")),
            false => Ok(page),
        };
        self.shard.on_page(key, &log, page);
        let client = &mut self.clients[key.id as usize];
        if fails && matches!(client.seated.try_recv(), Ok(Err(_))) {
            // Refused before anything was sent: the edge lets go of it.
            client.leave();
        }
    }

    fn read(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.clients.len());
        for _ in 0..self.rng.usize(0..4) {
            let most = self.rng.usize(1..5000);
            self.clients[index].read(most);
        }
        self.say_ready(index, false);
    }

    /// What the kernel would say of a client's socket.
    fn say_ready(&mut self, index: usize, readable: bool) {
        let client = &self.clients[index];
        if let (Some(key), Sink::Socket { .. } | Sink::Gone) = (client.key, &client.sink) {
            // Of a slot with another tenant too: the kernel's word may come late.
            self.shard.on_socket(key.slot, readable, true);
        }
    }

    fn leave(&mut self) {
        if !self.clients.is_empty() {
            let index = self.rng.usize(0..self.clients.len());
            self.clients[index].leave();
            self.say_ready(index, true);
        }
    }

    fn run_out(&mut self) {
        self.runs_out = true;
        for _ in 0..20_000 {
            let batch: Vec<Passing> = self.feed.drain(..).collect();
            self.shard.on_batch(&batch);
            // Every delay is over.
            self.now += 1_000;
            self.shard.set_now(self.now);
            self.settle();
            while !self.asked.is_empty() {
                self.answer();
            }
            while !self.answered.is_empty() {
                self.arrive();
                self.settle();
            }
            let mut moved = false;
            for index in 0..self.clients.len() {
                moved |= self.clients[index].read(usize::MAX);
                self.say_ready(index, false);
            }
            self.settle();
            moved |= !self.shard.is_settled();
            if !moved && self.asked.is_empty() && self.answered.is_empty() {
                return;
            }
        }
        panic!("does not run out");
    }
}

impl Client {
    /// Reads a piece, or at most so many bytes. Answers whether anything came.
    fn read(&mut self, most: usize) -> bool {
        if self.left || self.ended {
            return false;
        }
        let piece: Vec<u8> = match &mut self.sink {
            Sink::Outbox(outbox) => {
                match outbox.poll_take(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Some(piece)) => piece.into(),
                    Poll::Ready(None) => {
                        self.ended = true;
                        return false;
                    }
                    Poll::Pending => return false,
                }
            }
            Sink::Socket { end, framing, raw } => {
                let mut bytes = vec![0; most.min(8192)];
                match end.read(&mut bytes) {
                    Ok(0) => {
                        self.ended = true;
                        assert!(raw.is_empty(), "ended within a chunk: {raw:?}");
                        return false;
                    }
                    Ok(count) => raw.extend_from_slice(&bytes[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                    Err(error) => panic!("{error}"),
                }
                unframed(raw, *framing)
            }
            Sink::Gone => return false,
        };
        self.bytes.extend_from_slice(&piece);
        self.decoder.push(&piece);
        true
    }

    fn leave(&mut self) {
        self.left = true;
        if let Sink::Outbox(outbox) = std::mem::replace(&mut self.sink, Sink::Gone) {
            outbox.leave();
        }
    }

    /// What came, in order: the place of an event or a gap, with the cursor after an event.
    fn received(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        for item in self.decoder.by_ref() {
            let item = item.expect("well formed");
            let Item::Event(event) = item else { continue };
            match &*event.event_type {
                "message" => {
                    let number = event.data.split('\n').next().unwrap().parse().unwrap();
                    let cursor = Cursor::parse(&event.id).unwrap();
                    all.push(Received::Event(number, cursor));
                }
                "fanfare.gap" => {
                    let gap: serde_json::Value = serde_json::from_str(&event.data).unwrap();
                    let place = |key: &str| {
                        let text = gap[key].as_str()?;
                        Some(Cursor::parse(text).unwrap().places()[0].clone())
                    };
                    all.push(Received::Gap(Gap {
                        scope: Pattern::parse(gap["channel"].as_str().unwrap()).unwrap(),
                        cause: GapCause::Evicted,
                        after: place("after"),
                        next: place("next").unwrap(),
                    }));
                }
                "fanfare.hello" => all.push(Received::Hello(
                    (!event.id.is_empty()).then(|| Cursor::parse(&event.id).unwrap()),
                )),
                "fanfare.close" => all.push(Received::Close),
                other => panic!("{other}"),
            }
        }
        all
    }
}

/// Takes whole chunks, and the head before them, out of what came.
fn unframed(raw: &mut Vec<u8>, framing: Framing) -> Vec<u8> {
    if raw.starts_with(b"HEAD") {
        raw.drain(..4);
    } else if b"HEAD".starts_with(raw) {
        return Vec::new();
    }
    if framing == Framing::Plain {
        return std::mem::take(raw);
    }
    let mut out = Vec::new();
    while let Some(end) = raw.windows(2).position(|pair| pair == b"\r\n") {
        let digits = std::str::from_utf8(&raw[..end]).unwrap();
        let size = usize::from_str_radix(digits, 16).unwrap();
        let whole = end + 2 + size + 2;
        if raw.len() < whole {
            break;
        }
        assert!(raw[..whole].ends_with(b"\r\n"), "a chunk ends in CRLF");
        out.extend_from_slice(&raw[end + 2..whole - 2]);
        raw.drain(..whole);
        if size == 0 {
            assert!(raw.is_empty(), "nothing after the last chunk");
        }
    }
    out
}

enum Received {
    Hello(Option<Cursor>),
    Event(usize, Cursor),
    Gap(Gap),
    Close,
}

/// Holds what a client got against what was published.
fn check(client: &mut Client, published: &[Arc<Event>]) {
    let received = client.received();
    let mut numbers = Vec::new();
    let mut gaps: Vec<Gap> = Vec::new();
    let mut closed = client.left;
    let mut newest: BTreeMap<LogId, Position> = BTreeMap::new();
    for (index, item) in received.iter().enumerate() {
        match item {
            Received::Hello(cursor) => {
                assert_eq!(index, 0, "hello comes first");
                let cursor = cursor.as_ref().expect("hello carries the starting cursor");
                for (joined, asked) in &client.joined {
                    let place = cursor.get(&joined.log).expect("every log");
                    // Coming back with it gives all that was asked for.
                    if let Some(asked) = asked {
                        assert_ne!(place.is_after(asked), Some(true), "{place:?} {asked:?}");
                    }
                }
            }
            Received::Event(number, cursor) => {
                let event = &published[*number];
                assert!(!closed || client.left, "an event after the close");
                assert!(
                    client.patterns.iter().any(|p| p.matches(&event.channel)),
                    "not its channel"
                );
                let own = cursor.get(&event.position.log).expect("its own log");
                assert_eq!(
                    *own, event.position,
                    "the id is the event's place in its log"
                );
                for place in cursor.places() {
                    if let Some(before) = newest.insert(place.log.clone(), place.clone()) {
                        assert_ne!(before.is_after(place), Some(true), "the cursor fell back");
                    }
                }
                numbers.push(*number);
            }
            Received::Gap(gap) => gaps.push(gap.clone()),
            Received::Close => closed = true,
        }
    }
    for log in CHANNELS.map(|channel| &channel[..1]) {
        let of_log = |number: &&usize| published[**number].position.log.as_str() == log;
        let own: Vec<usize> = numbers.iter().filter(of_log).copied().collect();
        assert!(
            own.windows(2).all(|pair| pair[0] < pair[1]),
            "out of order or twice: {own:?}"
        );
    }
    // Of a stream that was closed, nothing before its last event may be missing; what comes after
    // that, the client's id asks for.
    check_whole(client, published, &numbers, &gaps, closed);
}

fn check_whole(
    client: &Client,
    published: &[Arc<Event>],
    numbers: &[usize],
    gaps: &[Gap],
    cut: bool,
) {
    for (number, event) in published.iter().enumerate() {
        let position = &event.position;
        if !client.patterns.iter().any(|p| p.matches(&event.channel)) || numbers.contains(&number) {
            continue;
        }
        let found = client
            .joined
            .iter()
            .find(|(joined, _)| joined.log == position.log);
        let begin = late(&position.log).map(|late| late.begin);
        let start = match found {
            Some((joined, asked)) => asked.as_ref().unwrap_or(joined),
            // It came into being later: all of it is owed.
            None => begin.as_ref().expect("a log that came into being"),
        };
        // Epochs of the model count up, so places have an order here.
        let place = |p: &Position| (p.epoch.0, p.offset);
        if place(position) <= place(start) {
            continue;
        }
        if cut
            && !numbers.iter().any(|n| {
                let other = &published[*n].position;
                other.log == position.log && place(other) > place(position)
            })
        {
            continue;
        }
        let covered = gaps.iter().any(|gap| {
            gap.next.log == position.log
                && gap.scope.matches(&event.channel)
                && place(&gap.next) >= place(position)
                && gap
                    .after
                    .as_ref()
                    .is_none_or(|after| after.epoch.0 == 99 || place(after) < place(position))
        });
        let (start, patterns) = (client.start, &client.patterns);
        assert!(
            covered,
            "event {number} {position:?} is missing: {start} {patterns:?} {gaps:?}"
        );
    }
}

/// Answers how many pages were on their way to one client at most, and how many clients shared one.
fn run(seed: u64) -> (usize, usize) {
    let mut world = World::new(seed);
    let steps = world.rng.usize(50..400);
    for _ in 0..steps {
        world.step();
    }
    world.run_out();
    let published = std::mem::take(&mut world.published);
    for client in &mut world.clients {
        check(client, &published);
    }
    // Everybody leaves, and nothing stays.
    for index in 0..world.clients.len() {
        world.clients[index].leave();
        world.say_ready(index, true);
    }
    for key in world.doorbell.take() {
        world.shard.on_bell(key);
    }
    while !world.shard.is_settled() {
        world.shard.flush(usize::MAX);
    }
    assert!(world.shard.members.is_empty() && world.shard.interest.is_empty());
    assert_eq!(
        world.shard.ring.bytes(),
        0,
        "a log that nobody has holds nothing"
    );
    (world.pages_at_once, world.sharers)
}

/// Thousands of interleavings; a failure names its seed. `FANFARE_SEED` runs one alone,
/// `FANFARE_SEEDS` sets how many.
#[test]
fn every_event_once_in_order_or_covered_by_a_gap() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("FANFARE_SEED") {
        run(seed);
        return;
    }
    let (mut pages_at_once, mut sharers) = (0, 0);
    for seed in 0..number("FANFARE_SEEDS").unwrap_or(4_000) {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok((pages, clients)) => {
                (pages_at_once, sharers) = (pages_at_once.max(pages), sharers.max(clients));
            }
            Err(panic) => {
                eprintln!("FANFARE_SEED={seed} fails");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(pages_at_once > 1, "pages of several logs come at once");
    assert!(sharers > 2, "clients share pages");
}
