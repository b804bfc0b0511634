//! The link of durable channels to the server: requests with their answers, and whether it is
//! there.
//!
//! It is a link of its own, beside that of raw channels: the client says that a subscription could
//! not keep up, but not which, and a raw channel that floods must not cost a stream's followers
//! anything.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use async_nats::{
    Client, Event, HeaderMap, Message, Request, RequestError, RequestErrorKind, connection::State,
};
use bytes::Bytes;
use fanfare_core::{BrokerError, BrokerMetrics, ErrorKind, LinkUp};
use futures_util::{StreamExt, future::ready};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    config::NatsConfig,
    error::{Failure, error},
    login,
};

/// Within which time a server that is about to stop is left; nodes spread over it.
const LAME_DUCK_WINDOW: Duration = Duration::from_secs(2);

/// The link to the server. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) client: Client,
    pub(super) stop: CancellationToken,
    pub(super) metrics: BrokerMetrics,
    /// The longest time for an answer.
    pub(super) patience: Duration,
    state: watch::Sender<Connection>,
    canary: String,
}

/// The link's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Connection {
    /// How many there were.
    pub(super) number: u64,
    /// Whether it is there.
    pub(super) live: bool,
    /// How often a queue was full, so that something was dropped.
    pub(super) overflows: u64,
}

/// Why the server did not do it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// The broker was closed.
    Closed,
    /// There is no link; nothing was sent.
    Down,
    /// No answer in time; it may have been done.
    NoAnswer,
    /// Nobody is there who could do it: no JetStream, no such stream, or no leader now.
    Nobody,
    /// Who answers for the stream has less of it than is known, and may be behind.
    Behind,
    /// It said no.
    Refused {
        /// As of HTTP.
        code: u16,
        /// The server's own number of the error.
        number: u64,
        /// In its words.
        why: String,
    },
    /// The answer cannot be read.
    Odd(String),
}

impl Trouble {
    /// No stream of the name.
    const NO_STREAM: u64 = 10059;
    /// A message of the same `Nats-Msg-Id` is with the stream's servers, and has no place yet.
    const ID_IN_PROCESS: u64 = 10158;

    pub(super) fn is_no_stream(&self) -> bool {
        matches!(self, Self::Refused { number, .. } if *number == Self::NO_STREAM)
    }

    pub(super) fn is_id_in_process(&self) -> bool {
        matches!(self, Self::Refused { number, .. } if *number == Self::ID_IN_PROCESS)
    }

    /// The error that a caller gets who wanted `what`.
    pub(super) fn of(self, what: &str) -> BrokerError {
        let (kind, why) = match self {
            Self::Closed => return Failure::Closed.of(what),
            Self::Down => return Failure::Down.of(what),
            Self::NoAnswer => (ErrorKind::Timeout, "no answer in time".into()),
            Self::Nobody => (
                ErrorKind::Unavailable,
                "no stream takes it now: it is missing, or has no leader".into(),
            ),
            Self::Behind => (
                ErrorKind::Unavailable,
                "the stream's servers may be behind what is known of it".into(),
            ),
            Self::Refused { code, number, why } => {
                let kind = match code {
                    500.. | 404 => ErrorKind::Unavailable,
                    _ if number == Self::ID_IN_PROCESS => ErrorKind::Unavailable,
                    _ => ErrorKind::Rejected,
                };
                (kind, format!("{why} (JetStream error {number})"))
            }
            Self::Odd(why) => (ErrorKind::Unavailable, format!("an odd answer: {why}")),
        };
        error(kind, format!("{what}: {why}"))
    }
}

impl From<RequestError> for Trouble {
    fn from(why: RequestError) -> Self {
        match why.kind() {
            RequestErrorKind::TimedOut => Self::NoAnswer,
            RequestErrorKind::NoResponders => Self::Nobody,
            _ => Self::Odd(why.to_string()),
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    error: Option<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Wire {
    /// Reaches a server.
    pub(super) async fn connect(
        config: &NatsConfig,
        metrics: BrokerMetrics,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, BrokerError> {
        let servers = config.servers()?;
        let listener: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let (told, up) = (listener.clone(), metrics.link());
        let client = login::connect(config, &servers, |options| {
            options.event_callback(move |event| {
                note(&told, &up, event);
                ready(())
            })
        });
        let client = client.await?;
        let canary = format!("{}.probe.{:016x}", config.prefix, fastrand::u64(..));
        let wire = Arc::new(Self {
            client,
            stop,
            metrics,
            patience: config.command_timeout,
            state: watch::Sender::new(Connection {
                number: 1,
                live: true,
                overflows: 0,
            }),
            canary,
        });
        let _ = listener.set(Arc::downgrade(&wire));
        wire.sing().await?;
        Ok(wire)
    }

    /// Answers this node's own canaries until the end.
    async fn sing(&self) -> Result<(), BrokerError> {
        let subscribed = self.client.subscribe(self.canary.clone()).await;
        let mut canaries = subscribed.map_err(|_| Failure::Closed.of("connect"))?;
        let (client, stop) = (self.client.clone(), self.stop.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    canary = canaries.next() => match canary {
                        Some(Message { reply: Some(reply), .. }) => {
                            // Where the queue is full, the probe fails as it should.
                            let _ = client.publish(reply, Bytes::new()).await;
                        }
                        Some(_) => {}
                        None => return,
                    },
                }
            }
        });
        Ok(())
    }

    /// Sends a message through the bus to ourselves and back.
    pub(super) async fn canary(&self, patience: Duration) -> Result<(), Trouble> {
        let request = Request::new().payload(Bytes::new());
        self.send(self.canary.clone(), request, patience).await?;
        Ok(())
    }

    pub(super) fn connection(&self) -> watch::Receiver<Connection> {
        self.state.subscribe()
    }

    pub(super) fn is_live(&self) -> bool {
        // The client's own state is newer than what it told of it.
        self.state.borrow().live && self.client.connection_state() == State::Connected
    }

    /// Asks the JetStream API.
    ///
    /// Cancel safe; the server may do it all the same.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, Trouble> {
        let body = serde_json::to_vec(body).map_err(|why| Trouble::Odd(why.to_string()))?;
        let request = Request::new().payload(body.into());
        let subject = format!("$JS.API.{verb}");
        let answer = self.send(subject, request, self.patience).await?;
        read(&answer.payload)
    }

    /// Puts a message into the stream that takes its subject, and waits for its word.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<T, Trouble> {
        let request = Request::new().headers(headers).payload(payload);
        let answer = self.send(subject, request, self.patience).await?;
        read(&answer.payload)
    }

    async fn send(
        &self,
        subject: String,
        request: Request,
        patience: Duration,
    ) -> Result<Message, Trouble> {
        if self.stop.is_cancelled() {
            return Err(Trouble::Closed);
        }
        if !self.is_live() {
            return Err(Trouble::Down);
        }
        // The client's own bound leaves out the wait for room in its queue.
        let request = self.client.send_request(subject, request.timeout(None));
        tokio::select! {
            () = self.stop.cancelled() => Err(Trouble::Closed),
            answer = timeout(patience, request) => match answer {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(Trouble::NoAnswer),
            },
        }
    }
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Trouble> {
    let odd = |why: serde_json::Error| Trouble::Odd(why.to_string());
    let answer: Answer = serde_json::from_slice(payload).map_err(odd)?;
    if let Some(error) = answer.error {
        return Err(Trouble::Refused {
            code: error.code,
            number: error.err_code,
            why: error.description,
        });
    }
    serde_json::from_slice(payload).map_err(odd)
}

/// Takes what the client tells. It drops what it cannot tell at once: so this never waits.
fn note(wire: &OnceLock<Weak<Wire>>, up: &LinkUp, event: Event) {
    let wire = wire.get().and_then(Weak::upgrade);
    match event {
        Event::Connected => up.set(true),
        Event::Disconnected | Event::Closed => up.set(false),
        _ => {}
    }
    let Some(wire) = wire else { return };
    match event {
        Event::Connected => {
            wire.state.send_modify(|state| {
                state.number += 1;
                state.live = true;
            });
            wire.metrics.reconnects.inc();
        }
        Event::Disconnected => {
            wire.state.send_modify(|state| state.live = false);
            tracing::warn!("the link to JetStream is cut");
        }
        Event::SlowConsumer(_) => wire.state.send_modify(|state| state.overflows += 1),
        Event::LameDuckMode => leave(&wire),
        Event::ServerError(why) => tracing::warn!(%why, "JetStream refused"),
        Event::ClientError(why) => tracing::debug!(%why, "no link to JetStream"),
        Event::Draining | Event::Closed => {}
    }
}

/// Goes elsewhere in a while, if there is another server.
fn leave(wire: &Arc<Wire>) {
    let number = wire.state.borrow().number;
    let wire = wire.clone();
    tokio::spawn(async move {
        tokio::time::sleep(LAME_DUCK_WINDOW.mul_f64(fastrand::f64())).await;
        let pool = timeout(wire.patience, wire.client.server_pool()).await;
        let elsewhere = matches!(pool, Ok(Ok(pool)) if pool.len() > 1);
        if elsewhere && wire.state.borrow().number == number {
            let _ = timeout(wire.patience, wire.client.force_reconnect()).await;
        }
    });
}
