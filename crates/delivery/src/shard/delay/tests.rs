//! Delayed writes, in times that the test tells. A socket is a pair of datagram sockets here: what
//! the shard writes at once comes as one.

use std::{
    io::ErrorKind,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, SystemTime},
};

use fanfare_core::{
    Channel, Data, Epoch, Event, History, LogId, LogMap, Offset, Pattern, Position, Since, Tags,
};
use prometheus::Registry;
use tokio::sync::oneshot;

use crate::{
    CloseReason, DeliveryConfig, Format, Framing, Metrics, WriteDelayRule,
    follow::Share,
    frame::Frame,
    outbox::{Doorbell, Key, Outbox},
    ring::Passing,
    shard::{Boarding, Joining, JoiningLog, Message, Shard},
    sink::Keep,
};

pub(in crate::shard) struct World {
    pub(in crate::shard) shard: Shard,
    doorbell: Arc<Doorbell>,
    offset: u128,
    joined: u32,
}

/// A client at one of the doors.
pub(in crate::shard) enum Client {
    Socket(Key, UnixDatagram),
    Body(Key, Arc<Outbox>, Arc<Wakes>),
}

#[derive(Default)]
pub(in crate::shard) struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn at(offset: u128) -> Position {
    Position {
        log: LogId::parse("m").unwrap(),
        epoch: Epoch(1),
        offset: Offset(offset),
    }
}

fn rule(channels: &str, millis: u64) -> WriteDelayRule {
    WriteDelayRule {
        channels: Pattern::parse(channels).unwrap(),
        delay: Duration::from_millis(millis),
    }
}

/// `now.*` at once, `slow.*` after 50 ms, all else after 10 ms.
fn config() -> DeliveryConfig {
    DeliveryConfig {
        write_delay: Duration::from_millis(10),
        write_delays: vec![rule("now.*", 0), rule("slow.*", 50), rule("slow.>", 20)],
        ..DeliveryConfig::default()
    }
}

impl World {
    pub(in crate::shard) fn new(config: DeliveryConfig) -> Self {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let map = LogMap::growing([], |_| Vec::new(), |_| None);
        Self {
            shard: Shard::new(Arc::new(config), metrics, map),
            doorbell: Arc::default(),
            offset: 0,
            joined: 0,
        }
    }

    /// A client whose stream has begun, and that has read all of it.
    pub(in crate::shard) fn join(&mut self, socket: bool, channels: &[&str]) -> Client {
        let patterns: Vec<Pattern> = (channels.iter())
            .map(|text| Pattern::parse(text).unwrap())
            .collect();
        let outbox = Arc::new(Outbox::new(self.doorbell.clone()));
        let (seated, mut told) = oneshot::channel();
        let serving = self.shard.metrics.subscribers.get();
        self.joined += 1;
        self.shard.on_message(Message::Join(Box::new(Joining {
            id: self.joined,
            outbox: outbox.clone(),
            logs: vec![JoiningLog {
                log: at(0).log,
                channels: patterns.clone(),
                since: Since::Now,
                foreign: None,
            }],
            channels: patterns.into(),
            format: Format::Sse,
            hello: false,
            resumes: false,
            filter: None,
            ends_at: None,
            abort: Arc::new(|| {}),
            seated,
        })));
        // Who waits for the gauge may publish: what comes then is after the starting place.
        assert_eq!(self.shard.metrics.subscribers.get(), serving);
        let fetch = self.shard.next_fetch().unwrap();
        let page = History {
            items: Vec::new(),
            upto: at(self.offset),
            more: false,
        };
        for key in fetch.keys {
            self.shard.on_page(key, &at(0).log, Ok(page.clone()));
        }
        let key = told.try_recv().unwrap().unwrap();
        assert_eq!(self.shard.metrics.subscribers.get(), serving + 1);
        let client = if socket {
            let (ours, end) = UnixDatagram::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            end.set_nonblocking(true).unwrap();
            self.shard.on_message(Message::Board(Box::new(Boarding {
                key,
                socket: OwnedFd::from(ours).into(),
                head: "HEAD".into(),
                framing: Framing::Plain,
                keep: Keep {
                    _guard: Arc::new(()),
                    share: Share::default(),
                },
            })));
            Client::Socket(key, end)
        } else {
            Client::Body(key, outbox, Arc::default())
        };
        self.flush();
        let begun = client.read();
        assert!(if socket {
            begun == ["HEAD"]
        } else {
            begun.is_empty()
        });
        client
    }

    fn publish(&mut self, channel: &str, data: &str) {
        self.hand(channel, data);
        self.flush();
    }

    /// An event passes, and nothing is written yet.
    pub(in crate::shard) fn hand(&mut self, channel: &str, data: &str) {
        let passing = self.event(channel, data);
        self.shard.on_batch(&[passing]);
    }

    /// The next event.
    pub(in crate::shard) fn event(&mut self, channel: &str, data: &str) -> Passing {
        self.offset += 1;
        let event = Arc::new(Event {
            channel: Channel::parse(channel).unwrap(),
            position: at(self.offset),
            previous: None,
            event_type: None,
            data: Data::from(data.to_owned()),
            tags: Tags::default(),
            published_at: SystemTime::UNIX_EPOCH,
        });
        Passing::Frame(Arc::new(Frame::encode(event)))
    }

    /// What the loop drives.
    pub(in crate::shard) fn into_parts(self) -> (Shard, Arc<Doorbell>) {
        (self.shard, self.doorbell)
    }

    fn at(&mut self, now: u64) {
        self.shard.set_now(now);
        self.flush();
    }

    fn flush(&mut self) {
        for key in self.doorbell.take() {
            self.shard.on_bell(key);
        }
        self.shard.flush(usize::MAX);
        while !self.shard.is_settled() {
            self.shard.flush(usize::MAX);
        }
    }
}

impl Client {
    fn key(&self) -> Key {
        match self {
            Self::Socket(key, _) | Self::Body(key, ..) => *key,
        }
    }

    /// The writes that came, each as the data of its events: `a,b`. A body reads only when it is
    /// woken, as one does whose task sleeps.
    pub(in crate::shard) fn read(&self) -> Vec<String> {
        let mut writes = Vec::new();
        match self {
            Self::Socket(_, end) => loop {
                let mut bytes = vec![0; 64 << 10];
                match end.recv(&mut bytes) {
                    Ok(0) => break,
                    Ok(count) => writes.push(data(&bytes[..count])),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            },
            Self::Body(_, outbox, wakes) => {
                let waker = Waker::from(wakes.clone());
                let mut cx = Context::from_waker(&waker);
                let woken = wakes.0.swap(0, Ordering::Relaxed) > 0;
                // The outbox holds a waker: the task sleeps.
                if Arc::strong_count(wakes) > 2 && !woken {
                    return writes;
                }
                while let Poll::Ready(Some(piece)) = outbox.poll_take(&mut cx) {
                    writes.push(data(&piece));
                }
            }
        }
        writes
    }
}

fn data(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).unwrap();
    if text == "HEAD" {
        return text.into();
    }
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.collect::<Vec<_>>().join(",")
}

#[test]
fn what_comes_within_a_delay_is_written_once() {
    for socket in [true, false] {
        let mut world = World::new(config());
        let client = world.join(socket, &["a"]);
        for (now, text) in [(0, "1"), (3, "2"), (9, "3")] {
            world.at(now);
            world.publish("a", text);
            assert!(client.read().is_empty());
        }
        assert_eq!(world.shard.next_due(), Some(10));
        world.at(10);
        assert_eq!(client.read(), ["1,2,3"]);
        assert_eq!(world.shard.next_due(), None, "nothing to wait for");
        world.at(30);
        assert!(client.read().is_empty());
        world.publish("a", "4");
        world.at(39);
        assert!(client.read().is_empty(), "a delay begins with its first");
        world.at(40);
        assert_eq!(client.read(), ["4"]);
    }
}

#[test]
fn an_event_that_does_not_wait_takes_along_what_came_before_it() {
    for socket in [true, false] {
        let mut world = World::new(config());
        let both = world.join(socket, &["a", "now.x"]);
        let one = world.join(socket, &["a"]);
        let other = world.join(socket, &["now.x"]);
        world.publish("a", "1");
        world.publish("now.x", "2");
        assert_eq!(both.read(), ["1,2"], "in the order of the log, at once");
        assert_eq!(other.read(), ["2"]);
        assert!(one.read().is_empty(), "nobody else is written for it");
        // The delay that began with the first still holds for what comes now.
        world.at(5);
        world.publish("a", "3");
        assert_eq!(both.read(), [""; 0], "socket: {socket}");
        world.at(10);
        assert_eq!(
            (both.read(), one.read()),
            (vec!["3".into()], vec!["1,3".into()])
        );
    }
}

#[test]
fn what_is_to_be_written_now_waits_for_no_delay() {
    let mut world = World::new(config());
    let client = world.join(true, &["a", "now.x"]);
    world.hand("now.x", "1");
    world.hand("a", "2");
    world.flush();
    assert_eq!(client.read(), ["1,2"]);
    assert_eq!(world.shard.next_due(), None);
}

#[test]
fn of_two_delays_the_first_to_end_writes_all() {
    let mut world = World::new(config());
    let client = world.join(true, &["a", "slow.*"]);
    world.publish("slow.x", "1");
    world.at(20);
    assert!(client.read().is_empty(), "the first rule counts");
    world.publish("a", "2");
    world.at(30);
    assert_eq!(client.read(), ["1,2"]);
    world.at(50);
    assert!(client.read().is_empty());
    assert_eq!(world.shard.next_due(), None);
}

#[test]
fn a_full_door_is_written_early_and_loses_nothing() {
    for socket in [true, false] {
        let config = DeliveryConfig {
            outbox_bytes: 100,
            ..config()
        };
        let mut world = World::new(config);
        let client = world.join(socket, &["a"]);
        let all: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        let mut came = Vec::new();
        for number in &all {
            world.publish("a", number);
            came.extend(client.read());
            world.flush();
        }
        assert!((2..20).contains(&came.len()), "{came:?}");
        world.at(10);
        came.extend(client.read());
        assert_eq!(came.join(","), all.join(","));
    }
}

#[test]
fn a_close_comes_at_once_and_after_what_waits() {
    for socket in [true, false] {
        let mut world = World::new(config());
        let client = world.join(socket, &["a"]);
        world.publish("a", "1");
        let (key, reason) = (client.key(), CloseReason::Drain);
        world.shard.on_message(Message::Close { key, reason });
        world.flush();
        let came = client.read().join(",");
        assert!(came.starts_with("1,{\"reason\":\"drain\""), "{came}");
    }
}

#[test]
fn who_leaves_meanwhile_leaves_nothing_to_the_next_in_its_slot() {
    let mut world = World::new(config());
    let stays = world.join(true, &["a"]);
    let leaves = world.join(true, &["a"]);
    world.publish("a", "1");
    let slot = leaves.key().slot;
    world.shard.on_unwatchable(slot);
    let next = world.join(true, &["a"]);
    assert_eq!(next.key().slot, slot);
    world.at(5);
    world.publish("a", "2");
    world.at(10);
    assert_eq!(
        (stays.read(), next.read()),
        (vec!["1,2".into()], vec!["2".into()])
    );
    assert_eq!(world.shard.next_due(), None);
}

#[test]
fn many_different_runs_end_a_delay_early() {
    let mut world = World::new(config());
    let client = world.join(true, &["a"]);
    let other = world.join(true, &["now.x"]);
    world.publish("a", "1");
    let mut events = 0;
    while client.read().is_empty() {
        events += 1;
        assert_eq!(other.read().len(), usize::from(events > 1));
        assert!(events < 10_000, "runs have no bound");
        // Each makes a run, which stays for as long as anybody holds one.
        world.publish("now.x", "2");
    }
    assert!(events > 1_000, "{events}");
}

#[test]
fn a_socket_that_always_has_something_held_is_not_stalled() {
    let mut world = World::new(DeliveryConfig {
        stall_timeout: Duration::from_secs(5),
        ..config()
    });
    let client = world.join(true, &["slow.x"]);
    let mut came = 0;
    for now in 0..3_000 {
        world.shard.set_now(now * 10);
        // Looked at before it is written, as where the fan-out to others takes all the time.
        world.publish("slow.x", "1");
        world.shard.on_tick();
        came += client.read().len();
    }
    assert!(came > 100);
    assert_eq!(world.shard.members.len(), 1, "cut off as stalled");
}

#[test]
fn delays_have_bounds() {
    let mut config = config();
    config.write_delays = (1..=12).map(|n| rule(&format!("c{n}"), n)).collect();
    config.write_delays.push(rule("d", 5_000_000));
    let delays = super::Delays::new(&config);
    assert_eq!(delays.lanes.len(), DeliveryConfig::MAX_WRITE_DELAYS);
    let of = |channel: &str| delays.of(&Channel::parse(channel).unwrap());
    assert!(of("c7").is_some() && of("c10").is_some() && of("c8").is_none());
    assert!(of("else").is_some());
    config.write_delays = vec![rule("d", 5_000_000)];
    let mut world = World::new(config);
    let _client = world.join(true, &["d"]);
    world.publish("d", "1");
    assert_eq!(world.shard.next_due(), Some(1_000));
}
