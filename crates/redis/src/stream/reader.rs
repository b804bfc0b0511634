//! The links that follow streams. Each waits for many streams at once with a blocking read, which
//! only says which of them have something; those are looked at, and what is new is handed on.
//!
//! The stream is the truth: a link that is lost is made anew and goes on from where each stream was
//! handed on, so nothing is lost with it. From time to time every stream is looked at, since a stream
//! that was deleted or set back wakes nobody.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use fanfare_core::{Epoch, Gap, GapCause, LinkUp, LogId, Offset};
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{RedisResult, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    base::Base,
    followed::{Followed, Outlet},
    id, index,
    look::{Bounds, Known, Looks, Part},
    rules::StreamRules,
};
use crate::{
    command::Commands,
    config::RedisConfig,
    connection::Backoff,
    error::{BACKEND, Failure},
    home::Home,
};

/// The most streams that one link waits for.
const STREAMS: usize = 1000;
/// The most looks that are under way on one link.
const LOOKS: usize = 32;
/// What one look reads at most.
const LOOK: Bounds = Bounds {
    entries: 512,
    bytes: 256 << 10,
};
/// How long a link waits between two reads for each stream that it waits for, so that one busy stream
/// among many does not make Redis look at all of them all the time.
const PACE: Duration = Duration::from_micros(5);
/// How often the streams are looked at that nothing wakes, in pings.
const VERIFY_PINGS: u32 = 5;
/// How long the bell stays in Redis after its node has gone.
const BELL_KEPT: Duration = Duration::from_secs(600);

/// The links that follow streams.
pub(crate) struct Readers {
    home: Home,
    config: RedisConfig,
    looks: Arc<Looks>,
    outlet: Arc<Outlet>,
    /// The epoch of streams' first lives, as it was seen last.
    base: Mutex<Base>,
    rules: Arc<StreamRules>,
    /// A stream of our own that every link waits for: it wakes them, and brings canaries back.
    bell: String,
    /// Asks for the bell to be rung.
    ring: Notify,
    links: Mutex<Vec<Arc<Link>>>,
    cancel: CancellationToken,
}

/// One link.
struct Link {
    streams: Mutex<HashMap<LogId, Arc<Followed>>>,
    /// The newest ring of the bell that it heard.
    heard: watch::Sender<Offset>,
    /// Why it is down.
    down: Mutex<Option<Failure>>,
}

/// What a blocking read answered.
#[derive(Default)]
struct Woken {
    keys: Vec<String>,
    bell: Option<Offset>,
}

impl Readers {
    /// Starts with one link, which waits for the bell alone.
    pub(super) fn start(
        home: Home,
        config: RedisConfig,
        looks: Arc<Looks>,
        outlet: Arc<Outlet>,
        rules: Arc<StreamRules>,
        base: Epoch,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let readers = Arc::new(Self {
            home,
            config,
            bell: looks.bell(fastrand::u64(..)),
            looks,
            outlet,
            base: Mutex::new(Base::new(base)),
            rules,
            ring: Notify::new(),
            links: Mutex::default(),
            cancel,
        });
        readers.new_link(&mut readers.links.lock());
        readers
    }

    /// The epoch of streams' first lives.
    pub(super) fn base(&self) -> Epoch {
        self.base.lock().now()
    }

    /// Every look says what the base is. Where it is another one, streams may have been lost that no
    /// node had found yet: all who follow a wildcard are told, before anything of the new life is
    /// handed on.
    pub(super) fn saw_base(&self, seen: Epoch) {
        let mut base = self.base.lock();
        let Some(before) = base.moves_to(seen, self.config.command_timeout) else {
            return;
        };
        for rule in self.rules.rules() {
            let Some(index) = &rule.index else { continue };
            self.outlet.gap(Gap {
                scope: rule.image.clone(),
                cause: GapCause::NewEpoch,
                after: Some(index::place(index, before)),
                next: index::place(index, seen),
            });
        }
    }

    /// Follows one more stream.
    pub(super) fn add(self: &Arc<Self>, stream: Arc<Followed>) {
        self.outlet.metrics.subscriptions.inc();
        let mut links = self.links.lock();
        let has_room = |link: &&Arc<Link>| link.streams.lock().len() < STREAMS;
        let found = links.iter().find(has_room).cloned();
        let link = found.unwrap_or_else(|| self.new_link(&mut links));
        link.streams.lock().insert(stream.place.log.clone(), stream);
        self.ring.notify_one();
    }

    /// Follows a stream no more.
    pub(super) fn remove(&self, log: &LogId) {
        let links = self.links.lock();
        for link in links.iter() {
            let mut streams = link.streams.lock();
            if streams.remove(log).is_some() {
                self.outlet.metrics.subscriptions.dec();
                if streams.len() * 8 < streams.capacity() {
                    streams.shrink_to_fit();
                }
                return;
            }
        }
    }

    fn new_link(self: &Arc<Self>, links: &mut Vec<Arc<Link>>) -> Arc<Link> {
        let link = Arc::new(Link {
            streams: Mutex::default(),
            heard: watch::Sender::new(Offset::ZERO),
            down: Mutex::new(Some(Failure::Down("there is no link yet".into()))),
        });
        links.push(link.clone());
        let (readers, up) = (self.clone(), self.outlet.metrics.link());
        let task = link.clone();
        tokio::spawn(async move {
            let cancel = readers.cancel.clone();
            tokio::select! {
                () = cancel.cancelled() => {}
                () = readers.keep(&task, &up) => {}
            }
        });
        link
    }

    /// Rings the bell whenever that is asked for.
    pub(super) async fn keep_ringing(&self, commands: &Commands) {
        loop {
            self.ring.notified().await;
            if let Err(failure) = self.ring_once(commands).await {
                // Links wake by themselves within a ping.
                tracing::debug!(backend = BACKEND, ?failure, "the bell cannot be rung");
            }
        }
    }

    async fn ring_once(&self, commands: &Commands) -> Result<Offset, Failure> {
        let mut ring = redis::pipe();
        ring.cmd("XADD")
            .arg(&self.bell)
            .arg(("MAXLEN", 1, "*", "b", 1));
        ring.cmd("PEXPIRE")
            .arg(&self.bell)
            .arg(BELL_KEPT.as_millis() as u64)
            .ignore();
        let run = |mut link, _| async move { ring.query_async::<(String,)>(&mut link).await };
        let (at,) = commands.run(run).await?;
        Ok(id::offset(&at).unwrap_or_default())
    }

    /// Rings the bell and waits until every link has heard it.
    pub(super) async fn canary(&self, commands: &Commands) -> Result<(), Failure> {
        let links = self.links.lock().clone();
        if let Some(failure) = links.iter().find_map(|link| link.down.lock().clone()) {
            return Err(failure);
        }
        let rung = self.ring_once(commands).await?;
        let heard = links.iter().map(|link| async move {
            let mut heard = link.heard.subscribe();
            // The sender lives as long as the link.
            let _ = heard.wait_for(|heard| *heard >= rung).await;
        });
        let late = timeout(self.config.probe_timeout, join_all(heard)).await;
        late.map(drop).map_err(|_| {
            let why = "an entry of our own did not come back over the links for streams in time";
            Failure::Unknown(why.into())
        })
    }

    /// Takes the bell away.
    pub(super) async fn close(&self, commands: &Commands) {
        let mut unlink = redis::cmd("UNLINK");
        unlink.arg(&self.bell);
        let run = |mut link, _| async move { unlink.exec_async(&mut link).await };
        // It expires by itself too.
        let _ = commands.run(run).await;
    }

    /// Keeps a link, for ever.
    async fn keep(&self, link: &Link, up: &LinkUp) {
        let mut backoff = Backoff::new(self.config.reconnect_delay);
        let mut was_cut = false;
        loop {
            let failure = self.serve(link, up, &mut backoff, &mut was_cut).await;
            let is_first = link.down.lock().replace(failure.clone()).is_none();
            if is_first {
                tracing::warn!(backend = BACKEND, ?failure, "lost a link for streams");
            }
            up.set(false);
            was_cut = true;
            sleep(backoff.next()).await;
        }
    }

    /// Makes a link and serves it until it fails.
    async fn serve(
        &self,
        link: &Link,
        up: &LinkUp,
        backoff: &mut Backoff,
        was_cut: &mut bool,
    ) -> Failure {
        let (mut connection, at) = match self.home.connect(|_| Ok(())).await {
            Ok(met) => (met.connection, met.at),
            Err(failure) => return failure,
        };
        let mut asked = Instant::now();
        let every = self.config.ping_interval * VERIFY_PINGS;
        let mut verified: Option<Instant> = None;
        let mut heard = Offset::ZERO;
        let mut due: Vec<Arc<Followed>> = Vec::new();
        loop {
            if asked.elapsed() >= self.config.ping_interval {
                // A primary that was demoted, or left alone, goes on answering.
                if let Err(failure) = self.home.verify(&at, &mut connection).await {
                    return failure;
                }
                asked = Instant::now();
            }
            let verifies = verified.is_none_or(|at| at.elapsed() >= every);
            if verifies {
                due = link.all();
                // Should the bell's stream have been lost, its ids may begin anew.
                heard = Offset::ZERO;
            }
            let more = match self.look_at(&connection, due).await {
                Ok(more) => more,
                Err(failure) => return failure,
            };
            if verifies {
                verified = Some(Instant::now());
            }
            if link.down.lock().take().is_some() {
                up.set(true);
                backoff.reset();
                if std::mem::take(was_cut) {
                    self.outlet.metrics.reconnects.inc();
                    tracing::info!(backend = BACKEND, "a link for streams is back");
                }
            }
            let woken = match self
                .wait(&mut connection, link, heard, more.is_empty())
                .await
            {
                Ok(woken) => woken,
                Err(failure) => return failure,
            };
            due = more;
            match woken {
                Some(woken) => {
                    if let Some(bell) = woken.bell {
                        heard = bell;
                        link.heard.send_replace(bell);
                    }
                    due.extend(link.named(&woken.keys, &due));
                }
                // A key of another type fails the whole read: each stream is looked at.
                None => verified = None,
            }
        }
    }

    /// Looks at streams and hands on what is new. Answers those that have more.
    async fn look_at(
        &self,
        connection: &MultiplexedConnection,
        mut due: Vec<Arc<Followed>>,
    ) -> Result<Vec<Arc<Followed>>, Failure> {
        let mut more = Vec::new();
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(LOOKS));
            let looks = due.iter().map(|stream| self.look(connection, stream));
            let patience = self.config.command_timeout;
            let answers = timeout(patience, join_all(looks)).await;
            let answers = answers.map_err(|_| Failure::late())?;
            for (stream, answer) in due.into_iter().zip(answers) {
                match answer {
                    Some((known, Ok(seen))) => {
                        self.saw_base(seen.base);
                        stream.set_refused(false);
                        if stream.take(&known, seen, &self.outlet) {
                            more.push(stream);
                        }
                    }
                    Some((_, Err(error))) => match Failure::of_answer(&error) {
                        Failure::Refused(why) => {
                            if stream.set_refused(true) {
                                let key = stream.place.key.as_bytes();
                                self.outlet.complaints.of(key, &why);
                            }
                        }
                        failure => return Err(failure),
                    },
                    None => {}
                }
            }
            due = rest;
            // What was read may be much.
            tokio::task::yield_now().await;
        }
        Ok(more)
    }

    async fn look(
        &self,
        connection: &MultiplexedConnection,
        stream: &Followed,
    ) -> Option<(Known, RedisResult<super::look::Seen>)> {
        let known = stream.known()?;
        let (key, fields) = (&stream.place.key, &stream.fields);
        let part = Part::After(known.offset);
        let link = connection.clone();
        let seen = self.looks.look(link, key, fields, Some(&known), part, LOOK);
        let seen = seen.await;
        Some((known, seen))
    }

    /// Waits until a stream of the link has something, or a ping is due. `None` where one of the keys
    /// is no stream.
    async fn wait(
        &self,
        connection: &mut MultiplexedConnection,
        link: &Link,
        heard: Offset,
        blocks: bool,
    ) -> Result<Option<Woken>, Failure> {
        let waiting: Vec<_> = {
            let streams = link.streams.lock();
            let readable = streams.values().filter(|stream| !stream.is_refused());
            let place =
                |stream: &Arc<Followed>| Some((stream.place.key.clone(), stream.known()?.offset));
            readable.filter_map(place).collect()
        };
        if blocks {
            sleep(PACE * waiting.len() as u32).await;
        }
        let mut read = redis::cmd("XREAD");
        read.arg(("COUNT", 1));
        let mut patience = self.config.command_timeout;
        if blocks {
            let block = self.config.ping_interval;
            read.arg("BLOCK").arg(block.as_millis().max(1) as u64);
            patience += block;
        }
        read.arg("STREAMS").arg(&self.bell);
        waiting.iter().for_each(|(key, _)| {
            read.arg(key);
        });
        read.arg(id::id(heard));
        waiting.iter().for_each(|(_, offset)| {
            read.arg(id::id(*offset));
        });
        let answer = timeout(patience, read.query_async::<Value>(connection)).await;
        match answer.map_err(|_| Failure::late())? {
            Ok(answer) => Ok(Some(Woken::read(answer, &self.bell))),
            Err(error) => match Failure::of_answer(&error) {
                Failure::Refused(_) if !waiting.is_empty() => {
                    sleep(self.config.ping_interval.min(Duration::from_millis(100))).await;
                    Ok(None)
                }
                failure => Err(failure),
            },
        }
    }
}

impl Link {
    fn all(&self) -> Vec<Arc<Followed>> {
        self.streams.lock().values().cloned().collect()
    }

    /// The streams of these keys that are not among `known`.
    fn named(&self, keys: &[String], known: &[Arc<Followed>]) -> Vec<Arc<Followed>> {
        let streams = self.streams.lock();
        let logs = keys.iter().filter_map(|key| id::log(key));
        let found = logs.filter_map(|log| streams.get(&log).cloned());
        found
            .filter(|stream| !known.iter().any(|known| Arc::ptr_eq(known, stream)))
            .collect()
    }
}

impl Woken {
    fn read(answer: Value, bell: &str) -> Self {
        let mut woken = Self::default();
        let streams: Vec<(Value, Value)> = match answer {
            Value::Map(streams) => streams,
            _ => Vec::new(),
        };
        for (key, entries) in streams {
            let Ok(key) = redis::from_redis_value::<String>(key) else {
                continue;
            };
            if key != bell {
                woken.keys.push(key);
                continue;
            }
            let rings: Vec<(String, Value)> = redis::from_redis_value(entries).unwrap_or_default();
            woken.bell = rings.last().and_then(|(at, _)| id::offset(at));
        }
        woken
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = self.links.lock();
        let streams: Vec<_> = links.iter().map(|link| link.streams.lock().len()).collect();
        f.debug_struct("Readers")
            .field("streams", &streams)
            .finish_non_exhaustive()
    }
}
