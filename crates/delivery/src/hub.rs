//! This node's fan-out, seen from the edge: join, and what is being followed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfare_core::{Broker, BrokerError, Inlet, LogId, Pattern, Since, feed};
use tokio::{
    runtime,
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
};

use crate::{
    DeliveryConfig, Format, Metrics, Seat, Start, Subscriber, control,
    cursor::MAX_LOGS,
    follow::Follows,
    outbox::{Doorbell, Outbox},
    relay,
    shard::{self, Joining, Message, Poller, Shard},
    sink::{Hold, Keep},
};

/// The most messages that wait for a shard. A relay or a join that finds it full waits.
const INBOX: usize = 256;

/// This node's fan-out. A clone is the same hub; the last one that goes takes its shards along.
#[derive(Clone, Debug)]
pub struct Hub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<DeliveryConfig>,
    broker: Arc<dyn Broker>,
    follows: Arc<Follows>,
    inlet: Inlet,
    shards: Vec<ShardHandle>,
    takes_sockets: bool,
    next_id: AtomicU32,
    draining: AtomicBool,
}

#[derive(Debug)]
struct ShardHandle {
    inbox: mpsc::Sender<Message>,
    doorbell: Arc<Doorbell>,
}

/// How many subscribers there are, each for as long as its sink lives.
#[derive(Debug, Default)]
pub(crate) struct Census {
    subscribers: AtomicUsize,
    left: Notify,
}

/// A pattern that this node follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Followed {
    /// The pattern, or channel.
    pub pattern: Pattern,
    /// How many subscribers share it.
    pub subscribers: usize,
}

/// Why a subscriber was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The node is going away.
    #[error("the node is draining")]
    Draining,
    /// The broker could not follow its channels.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Its channels live in more logs than an id can name.
    #[error("selects channels of {logs} logs; one client can follow at most {MAX_LOGS} of them")]
    TooManyLogs {
        /// How many.
        logs: usize,
    },
}

impl Hub {
    /// Starts the relay and the shards as tasks of the current tokio runtime.
    pub fn spawn(config: DeliveryConfig, broker: Arc<dyn Broker>, metrics: Metrics) -> Self {
        let config = Arc::new(config);
        let (inlet, feed) = feed(config.feed);
        let mut takes_sockets = true;
        let shards: Vec<ShardHandle> = (0..config.shards.max(1))
            .map(|_| {
                let (inbox, messages) = mpsc::channel(INBOX);
                let doorbell = Arc::new(Doorbell::default());
                let map = broker.capabilities().logs;
                let shard = Shard::new(config.clone(), metrics.clone(), map);
                let poller = poller(&config);
                takes_sockets &= poller.is_some();
                tokio::spawn(shard::run(
                    shard,
                    messages,
                    doorbell.clone(),
                    poller,
                    broker.clone(),
                ));
                ShardHandle { inbox, doorbell }
            })
            .collect();
        let inboxes = shards.iter().map(|shard| shard.inbox.clone()).collect();
        tokio::spawn(relay::run(feed, inboxes, metrics.clone()));
        let follows = Arc::new(Follows::new(broker.clone(), inlet.clone(), metrics));
        let inner = Inner {
            config,
            broker,
            follows,
            inlet,
            shards,
            takes_sockets,
            next_id: AtomicU32::new(0),
            draining: AtomicBool::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Takes a subscriber: follows its channels at the broker and hands it to a shard. The answer
    /// is its seat, once the place that it starts from is known: what is published after the
    /// return comes after that place.
    ///
    /// Cancel safe: a dropped call leaves nothing behind.
    ///
    /// # Errors
    /// [`JoinError`]; nothing was taken.
    pub async fn join(&self, mut subscriber: Subscriber) -> Result<Seat, JoinError> {
        let inner = &self.inner;
        if inner.draining.load(Ordering::Acquire) {
            return Err(JoinError::Draining);
        }
        subscriber.channels.sort_unstable();
        subscriber.channels.dedup();
        let share = inner.follows.follow(subscriber.channels).await?;
        let channels = share.channels();
        let map = inner.broker.capabilities().logs;
        let logs = plan(&map, &channels, &subscriber.start);
        if logs.len() > MAX_LOGS {
            return Err(JoinError::TooManyLogs { logs: logs.len() });
        }
        let id = inner.next_id.fetch_add(1, Ordering::Relaxed);
        let shard = &inner.shards[id as usize % inner.shards.len()];
        let outbox = Arc::new(Outbox::new(shard.doorbell.clone()));
        if subscriber.format != Format::Items {
            outbox.force(control::preface(inner.config.jittered_retry()).into());
        }
        let keep = Keep {
            _guard: subscriber.guard,
            share,
        };
        let hold = Hold::new(outbox.clone(), keep);
        let (seated, told) = oneshot::channel();
        let joining = Joining {
            id,
            outbox,
            logs,
            channels,
            format: subscriber.format,
            hello: subscriber.hello,
            resumes: matches!(subscriber.start, Start::After(_)),
            filter: subscriber.filter,
            ends_at: subscriber.ends_at,
            abort: subscriber.abort,
            seated,
        };
        let join = Message::Join(Box::new(joining));
        // Both fail only where the shard is gone, or closed the subscriber before it was seated.
        shard
            .inbox
            .send(join)
            .await
            .map_err(|_| JoinError::Draining)?;
        let key = told.await.map_err(|_| JoinError::Draining)??;
        Ok(Seat::new(hold, key, shard.inbox.clone()))
    }

    /// Whether a [`Seat`] may be given a socket: [`DeliveryConfig::socket`], where the system
    /// allows it.
    pub fn takes_sockets(&self) -> bool {
        self.inner.takes_sockets
    }

    /// Ends every stream that has a socket, at once and without a word.
    pub fn cut(&self) {
        for shard in &self.inner.shards {
            // A shard that is gone has no sockets.
            let Err(TrySendError::Full(cut)) = shard.inbox.try_send(Message::Cut) else {
                continue;
            };
            // Outside of a runtime its shards are gone too.
            if let Ok(runtime) = runtime::Handle::try_current() {
                let inbox = shard.inbox.clone();
                runtime.spawn(async move { inbox.send(cut).await });
            }
        }
    }

    /// What this node follows, most subscribers first, at most `limit` of them.
    pub fn followed(&self, limit: usize) -> Vec<Followed> {
        let mut all: Vec<Followed> = (self.inner.follows.list().into_iter())
            .map(|(pattern, subscribers)| Followed {
                pattern,
                subscribers,
            })
            .collect();
        all.sort_by(|a, b| {
            b.subscribers
                .cmp(&a.subscribers)
                .then_with(|| a.pattern.cmp(&b.pattern))
        });
        all.truncate(limit);
        all
    }

    /// How many subscribers there are.
    pub fn subscribers(&self) -> usize {
        self.inner
            .follows
            .census
            .subscribers
            .load(Ordering::Acquire)
    }

    /// Takes no more subscribers and ends every stream with `fanfare.close`, spread evenly over
    /// `window`. Returns when all are gone, or when the window and the time in which a client
    /// that reads takes what is queued are over.
    ///
    /// A dropped call goes on draining.
    pub async fn drain(&self, window: Duration) {
        let inner = &self.inner;
        inner.draining.store(true, Ordering::Release);
        for shard in &inner.shards {
            // A shard that is gone has nobody to drain.
            let _ = shard.inbox.send(Message::Drain(window)).await;
        }
        let gone = async {
            loop {
                let left = inner.follows.census.left.notified();
                if self.subscribers() == 0 {
                    break;
                }
                left.await;
            }
        };
        let _ = tokio::time::timeout(window + Duration::from_secs(1), gone).await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Ends the relay, which ends the shards.
        self.inlet.close();
    }
}

impl Census {
    pub(crate) fn enter(&self) {
        self.subscribers.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn leave(&self) {
        if self.subscribers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.left.notify_waiters();
        }
    }
}

fn poller(config: &DeliveryConfig) -> Option<Poller> {
    if !config.socket {
        return None;
    }
    let made = Poller::new().inspect_err(|error| {
        tracing::warn!(%error, "sockets cannot be watched: every stream goes through a body");
    });
    made.ok()
}

/// Which channels are followed in which log, and from where on.
fn plan(map: &fanfare_core::LogMap, channels: &[Pattern], start: &Start) -> Vec<shard::JoiningLog> {
    let mut logs: Vec<(LogId, Vec<Pattern>)> = Vec::new();
    for pattern in channels {
        for log in map.of(pattern) {
            match logs.iter_mut().find(|(held, _)| *held == log) {
                Some((_, patterns)) => patterns.push(pattern.clone()),
                None => logs.push((log, vec![pattern.clone()])),
            }
        }
    }
    // A cursor that names none of these logs is of another backend: everything after it is lost
    // to these channels, and they are told. One that names some was made when fewer channels
    // were followed: those that it does not name start now, unless they came into being since.
    let foreign = match start {
        Start::After(cursor) if !logs.iter().any(|(log, _)| cursor.get(log).is_some()) => {
            cursor.places().first().cloned()
        }
        _ => None,
    };
    if let Start::After(cursor) = start {
        let unknown = cursor.places().iter().filter(|place| {
            // From its beginning on it is owed anyway, once it is there.
            let late = map.late(&place.log).filter(|late| late.begin != **place);
            late.is_some() && !logs.iter().any(|(log, _)| *log == place.log)
        });
        let unknown: Vec<_> = unknown.map(|place| place.log.clone()).collect();
        let wild: Vec<_> = channels.iter().filter(|p| p.is_wild()).cloned().collect();
        if !wild.is_empty() {
            // Another node has found these already, and this one will.
            logs.extend(unknown.into_iter().map(|log| (log, wild.clone())));
        }
    }
    let since = |log: &LogId| match start {
        Start::Now => Since::Now,
        Start::Oldest => Since::Oldest,
        Start::Last(count) => Since::Last(*count),
        Start::After(cursor) => match (cursor.get(log), map.late(log)) {
            (Some(place), _) => Since::After(place.clone()),
            (None, Some(late)) if cursor.get(&late.index).is_some() => Since::After(late.begin),
            (None, _) => Since::Now,
        },
    };
    logs.into_iter()
        .map(|(log, channels)| shard::JoiningLog {
            since: since(&log),
            foreign: foreign.clone(),
            log,
            channels,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use fanfare_core::{Epoch, Late, LogMap, Offset, Position};

    use super::*;
    use crate::Cursor;

    fn place(log: &str, offset: u128) -> Position {
        Position {
            log: LogId::parse(log).unwrap(),
            epoch: Epoch(1),
            offset: Offset(offset),
        }
    }

    /// Streams `s1` and `s2` that came into being, with the index `i`; all else lives in `r`.
    fn map() -> LogMap {
        let of = |pattern: &Pattern| {
            let names: &[&str] = match pattern.as_str() {
                "s.*" => &["i", "s1", "s2"],
                "s.1" => &["s1"],
                _ => &["r"],
            };
            names.iter().map(|log| place(log, 0).log).collect()
        };
        let late = |log: &LogId| {
            log.as_str().starts_with('s').then(|| Late {
                index: place("i", 0).log,
                begin: place(log.as_str(), 0),
            })
        };
        LogMap::growing([place("r", 0).log, place("i", 0).log], of, late)
    }

    fn since(channels: &[&str], cursor: &[Position], log: &str) -> Since {
        let channels: Vec<_> = channels.iter().map(|text| text.parse().unwrap()).collect();
        let start = Start::After(cursor.iter().cloned().collect::<Cursor>());
        let logs = plan(&map(), &channels, &start).into_iter();
        let mut found = logs.filter(|joining| joining.log.as_str() == log);
        found.next().unwrap().since
    }

    #[test]
    fn a_log_that_came_since_is_owed_from_its_beginning() {
        let cursor = [place("i", 0), place("s1", 7)];
        assert_eq!(since(&["s.*"], &cursor, "s1"), Since::After(place("s1", 7)));
        assert_eq!(since(&["s.*"], &cursor, "s2"), Since::After(place("s2", 0)));
    }

    /// The cursor is of a node that found the log earlier than this one.
    #[test]
    fn a_log_that_is_not_known_here_yet_is_gone_on_with() {
        let cursor = [
            place("i", 0),
            place("s1", 7),
            place("s9", 5),
            place("s8", 0),
        ];
        assert_eq!(since(&["s.*"], &cursor, "s9"), Since::After(place("s9", 5)));
        let channels = ["s.*".parse().unwrap()];
        let start = Start::After(cursor.iter().cloned().collect::<Cursor>());
        let logs = plan(&map(), &channels, &start);
        assert!(
            !logs.iter().any(|joining| joining.log.as_str() == "s8"),
            "nothing of it was had: it need not be named"
        );
        let by_name = ["s.1".parse().unwrap()];
        assert_eq!(plan(&map(), &by_name, &start).len(), 1);
    }

    #[test]
    fn a_wildcard_that_is_new_to_the_client_starts_now() {
        let cursor = [place("r", 3)];
        assert_eq!(since(&["r", "s.*"], &cursor, "s2"), Since::Now);
        assert_eq!(since(&["r", "s.1"], &cursor, "s1"), Since::Now);
        assert_eq!(since(&["r", "s.*"], &cursor, "i"), Since::Now);
    }
}
