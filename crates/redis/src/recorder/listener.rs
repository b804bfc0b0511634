//! The ear of a recorder or a standby: one link that hears all that the rules select, from when
//! everything is subscribed to until the link is cut.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_core::{BrokerError, BrokerMetrics, ErrorKind, Source, Undeliverable};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    message::Message,
    metrics::RecorderMetrics,
    tape::{Spot, Tape},
};
use crate::{
    complaint::Complaints,
    config::RedisConfig,
    error::Failure,
    follow::TopicHold,
    links::Links,
    raw::routes::{Arrival, Routes},
    reader::{Arrivals, Server},
};

/// How long the link may stand still. What it brings then is still the continuation, and it is not
/// the link that tells whether a recorder lives: its lease does. So this is long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a recorder that lets go tells the standby.
pub(super) const FREE: &str = "free";
/// What a standby that begins tells the recorder, which announces a mark then.
pub(super) const HELLO: &str = "hello";

/// A link that listens. Dropping it ends it.
pub(super) struct Listener {
    pub(super) ear: Arc<Ear>,
    _topics: Vec<TopicHold>,
    _links: Links,
}

/// What the link brings.
pub(super) struct Ear {
    routes: Arc<Routes>,
    /// The pub/sub name of marks.
    marks: String,
    max_data_bytes: usize,
    metrics: RecorderMetrics,
    broker_metrics: BrokerMetrics,
    complaints: Complaints,
    state: Mutex<State>,
    /// Something was heard, or the link was cut.
    pub(super) stirred: Notify,
    /// The recorder let go, the link was cut, or what is held has become enough to go on with.
    pub(super) turned: Notify,
    /// A standby wants a mark.
    pub(super) asked: Notify,
}

struct State {
    tape: Tape<Message>,
    run: Arc<str>,
    /// Everything is subscribed to.
    is_open: bool,
    /// How many marks were heard.
    marks: u64,
    /// How many messages and marks were heard.
    heard: u64,
    /// A mark that somebody waits for, until it is heard.
    awaited: Option<Arc<str>>,
    /// It holds a place up to which everything is recorded.
    is_ready: bool,
}

/// What listeners need.
#[derive(Clone, Debug)]
pub(super) struct Hearing {
    pub(super) config: RedisConfig,
    pub(super) routes: Arc<Routes>,
    pub(super) marks: String,
    pub(super) metrics: RecorderMetrics,
    pub(super) broker_metrics: BrokerMetrics,
}

impl Listener {
    /// Makes the link and subscribes to everything.
    pub(super) async fn connect(hearing: &Hearing) -> Result<Self, Failure> {
        let config = RedisConfig {
            command_timeout: PATIENCE.max(hearing.config.command_timeout),
            ..hearing.config.clone()
        };
        let refused = |error: BrokerError| match error.kind() {
            ErrorKind::Rejected => Failure::Refused(error.to_string().into()),
            _ => Failure::Down(error.to_string().into()),
        };
        let ear = Arc::new(Ear {
            routes: hearing.routes.clone(),
            marks: hearing.marks.clone(),
            max_data_bytes: config.max_data_bytes,
            metrics: hearing.metrics.clone(),
            broker_metrics: hearing.broker_metrics.clone(),
            complaints: Complaints::default(),
            state: Mutex::new(State {
                tape: Tape::new(config.recorder_buffer),
                run: "".into(),
                is_open: false,
                marks: 0,
                heard: 0,
                awaited: None,
                is_ready: false,
            }),
            stirred: Notify::new(),
            turned: Notify::new(),
            asked: Notify::new(),
        });
        let client = config.client().map_err(refused)?;
        let links = Links::connect(client, &config, &hearing.broker_metrics, ear.clone());
        let links = links.await.map_err(refused)?;
        let mut sources = hearing.routes.all_sources();
        sources.push(Source::Name(hearing.marks.clone()));
        let topics = links.follow(sources).await?;
        ear.state.lock().is_open = true;
        Ok(Self {
            ear,
            _topics: topics,
            _links: links,
        })
    }
}

impl Ear {
    /// Works on the tape, which knows this run of the server.
    pub(super) fn tape<T>(&self, work: impl FnOnce(&mut Tape<Message>, &Arc<str>) -> T) -> T {
        let mut state = self.state.lock();
        let State { tape, run, .. } = &mut *state;
        let done = work(tape, run);
        self.measure(&state);
        done
    }

    /// Whether the link was cut.
    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().tape.has_ended()
    }

    /// Whether it holds all that is not recorded: who hears it can go on exactly.
    pub(super) fn is_ready(&self) -> bool {
        let state = self.state.lock();
        state.is_ready && !state.tape.has_ended()
    }

    /// How many marks were heard.
    pub(super) fn marks(&self) -> u64 {
        self.state.lock().marks
    }

    /// How many messages and marks were heard: while this moves, the link is alive.
    pub(super) fn heard(&self) -> u64 {
        self.state.lock().heard
    }

    /// From here on, [`has_heard_it`](Self::has_heard_it) is about this mark.
    pub(super) fn await_mark(&self, mark: &Arc<str>) {
        self.state.lock().awaited = Some(mark.clone());
    }

    /// Whether the mark was heard that is waited for.
    pub(super) fn has_heard_it(&self) -> bool {
        self.state.lock().awaited.is_none()
    }

    fn control(&self, state: &mut State, text: &str) {
        match text {
            FREE => return self.turned.notify_one(),
            HELLO => return self.asked.notify_one(),
            _ => {}
        }
        let (mark, recorded) = match text.split_once(' ') {
            Some((mark, recorded)) => (mark, Spot::parse(recorded)),
            None => (text, None),
        };
        state.marks += 1;
        if state.awaited.as_deref() == Some(mark) {
            state.awaited = None;
        }
        if let Some(recorded) = recorded {
            let was_ready = state.is_ready;
            state.is_ready = state.tape.skip_to(&recorded);
            if state.is_ready && !was_ready {
                self.turned.notify_one();
            }
        }
        state.tape.mark(mark.into());
    }

    fn measure(&self, state: &State) {
        self.metrics.buffer_events.set(state.tape.messages() as i64);
        self.metrics.buffer_bytes.set(state.tape.bytes() as i64);
    }
}

/// What a mark is published as: its name, and up to where everything is recorded.
pub(super) fn mark_text(mark: &str, recorded: Option<&Spot>) -> String {
    match recorded {
        Some(spot) => format!("{mark} {}", spot.to_text()),
        None => mark.to_owned(),
    }
}

impl Arrivals for Ear {
    fn message(&self, name: &[u8], message: Bytes) {
        let is_mark = name == self.marks.as_bytes();
        let heard = if is_mark {
            None
        } else {
            match self.routes.arrival(name) {
                Arrival::Raw(Ok(channel)) => Some(Message::new(
                    channel,
                    name,
                    message.clone(),
                    self.max_data_bytes,
                )),
                Arrival::Raw(Err(why)) => {
                    // There is no channel to tell of the loss.
                    self.broker_metrics.undeliverable(Undeliverable::BadChannel);
                    return self.complaints.of(name, &format!("the channel name {why}"));
                }
                Arrival::Other => return,
            }
        };
        let mut state = self.state.lock();
        if !state.is_open {
            return;
        }
        state.heard += 1;
        match heard {
            Some(heard) => state.tape.hear(heard),
            None => self.control(&mut state, &String::from_utf8_lossy(&message)),
        }
        self.measure(&state);
        drop(state);
        self.stirred.notify_one();
    }

    fn linked(&self, server: &Server) {
        let mut state = self.state.lock();
        if !state.tape.has_ended() {
            state.run = server.run.clone();
        }
    }

    fn cut(&self) {
        self.state.lock().tape.end();
        self.stirred.notify_one();
        self.turned.notify_one();
    }

    /// The tape has ended: there is another listener by then.
    fn whole(&self) {}

    fn rejoined(&self) {}
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.metrics.buffer_events.set(0);
        self.metrics.buffer_bytes.set(0);
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear")
            .field("heard", &self.heard())
            .finish_non_exhaustive()
    }
}
