//! The link for subscriptions and its supervisor.
//!
//! The crate's own reconnecting links lose subscriptions without a word; this one is made, watched
//! and made anew here, for ever.

use std::{sync::Arc, time::Duration};

use fanfare_core::{BrokerMetrics, LinkUp, Source};
use redis::{
    Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    command,
    config::RedisConfig,
    error::{BACKEND, Failure},
    follow::{Follow, Topic},
    home::{Address, Home},
    probe::Probes,
    reader::Reader,
};

/// The most names in one SUBSCRIBE or UNSUBSCRIBE.
const BATCH: usize = 500;
/// The first wait between two attempts.
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// Keeps the link for subscriptions.
pub(crate) struct Supervisor {
    pub(crate) home: Home,
    pub(crate) config: RedisConfig,
    pub(crate) follow: Arc<Follow>,
    pub(crate) reader: Arc<Reader>,
    pub(crate) probes: Arc<Probes>,
    pub(crate) metrics: BrokerMetrics,
    pub(crate) up: LinkUp,
    /// Asked to make the link anew.
    pub(crate) kick: Arc<Notify>,
    pub(crate) cancel: CancellationToken,
}

/// A link that is up.
pub(crate) struct Session {
    connection: MultiplexedConnection,
    at: Address,
    lost: Arc<Notify>,
}

/// Why a session is over.
enum End {
    Cancelled,
    Lost(Failure),
}

/// Growing, jittered waits up to a cap.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    cap: Duration,
}

impl Backoff {
    pub(crate) fn new(cap: Duration) -> Self {
        Self {
            next: FIRST_DELAY.min(cap),
            cap,
        }
    }

    /// How long to wait now: between half of the current step and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.cap);
        now.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.cap);
    }
}

impl Supervisor {
    /// Makes a link that brings canaries back.
    pub(crate) async fn connect(&self) -> Result<Session, Failure> {
        let lost = Arc::new(Notify::new());
        let on_push = {
            let (reader, probes, lost) = (self.reader.clone(), self.probes.clone(), lost.clone());
            let link = reader.next_link();
            move |push: PushInfo| {
                // The canaries' name is left by nobody: where its slot has gone to another server,
                // this one takes all names of the slot away.
                let canaries = || {
                    let name = Value::BulkString(probes.name().into());
                    push.data.first() == Some(&name)
                };
                if push.kind == PushKind::Disconnection
                    || push.kind == PushKind::SUnsubscribe && canaries()
                {
                    lost.notify_one();
                } else {
                    reader.take(link, push);
                }
                Ok(())
            }
        };
        let met = self.home.connect(on_push).await?;
        let session = Session {
            connection: met.connection,
            at: met.at,
            lost,
        };
        let canaries = [self.probes.name()];
        let answer = self.answer(self.subscribe(&session, &canaries)).await?;
        answer.map_err(|error| self.failure(&error))?;
        self.reader.arrivals().linked(&met.server);
        self.follow.set_down(None);
        Ok(session)
    }

    /// Keeps the link until it is cancelled.
    pub(crate) async fn run(self, first: Session) {
        let mut session = first;
        // Whether there was a cut since everything was followed.
        let mut was_cut = false;
        loop {
            let end = tokio::select! {
                () = self.cancel.cancelled() => End::Cancelled,
                () = session.lost.notified() => End::Lost(cut("the server closed the link, or serves no more")),
                () = self.kick.notified() => End::Lost(cut("a probe did not come back")),
                failure = self.serve(&session, &mut was_cut) => End::Lost(failure),
            };
            self.up.set(false);
            let End::Lost(failure) = end else { break };
            tracing::warn!(
                backend = BACKEND,
                ?failure,
                "lost the link for subscriptions"
            );
            was_cut = true;
            self.reader.arrivals().cut();
            self.follow.cut(failure);
            drop(session);
            session = tokio::select! {
                () = self.cancel.cancelled() => break,
                session = self.reconnect() => session,
            };
        }
    }

    async fn reconnect(&self) -> Session {
        let mut backoff = Backoff::new(self.config.reconnect_delay);
        loop {
            sleep(backoff.next()).await;
            match self.connect().await {
                Ok(session) => return session,
                Err(failure) => {
                    tracing::debug!(backend = BACKEND, ?failure, "no link for subscriptions");
                    self.follow.set_down(Some(failure));
                }
            }
        }
    }

    /// Does what is to be done on a link, until that fails.
    async fn serve(&self, session: &Session, was_cut: &mut bool) -> Failure {
        let mut ping = interval(self.config.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.follow.is_whole() {
                self.up.set(true);
                if std::mem::take(was_cut) {
                    self.metrics.reconnects.inc();
                    self.reader.arrivals().whole();
                    tracing::info!(backend = BACKEND, "the link for subscriptions is back");
                }
            }
            let leaving = self.follow.take_due(Instant::now(), BATCH);
            let wanted = self.follow.take_wanted(BATCH);
            let idle = leaving.is_empty() && wanted.is_empty();
            let done = async {
                self.leave(session, leaving).await?;
                self.join(session, wanted).await
            };
            if let Err(failure) = done.await {
                return failure;
            }
            if !idle {
                continue;
            }
            let due = self.follow.next_due();
            tokio::select! {
                () = self.follow.work.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                _ = ping.tick() => {
                    if let Err(failure) = self.ping(session).await {
                        return failure;
                    }
                }
            }
        }
    }

    async fn join(&self, session: &Session, topics: Vec<Topic>) -> Result<(), Failure> {
        let (names, globs) = split(topics);
        let mut batches = vec![names, globs];
        while let Some(mut batch) = batches.pop() {
            let mut link = session.connection.clone();
            let texts: Vec<_> = batch.iter().map(|topic| topic.as_str()).collect();
            let answer = match batch.first().map(AsRef::as_ref) {
                None => continue,
                Some(Source::Name(_)) => self.answer(self.subscribe(session, &texts)).await?,
                Some(Source::Wild(_)) => self.answer(link.psubscribe(texts)).await?,
            };
            match answer {
                Ok(()) => {
                    self.reader.arrivals().joined();
                    for topic in &batch {
                        if self.follow.confirmed(topic) {
                            self.reader.arrivals().rejoined();
                        }
                    }
                }
                Err(error) if is_fatal(&error) => return Err(self.failure(&error)),
                // A refusal is of the whole batch, whichever of its names is the cause.
                Err(_) if batch.len() > 1 => {
                    let half = batch.split_off(batch.len() / 2);
                    batches.extend([half, batch]);
                }
                Err(error) => {
                    let failure = Failure::of_answer(&error);
                    tracing::warn!(backend = BACKEND, ?failure, "a subscription was refused");
                    self.follow.refused(&batch[0], &failure);
                }
            }
        }
        Ok(())
    }

    async fn leave(&self, session: &Session, topics: Vec<Topic>) -> Result<(), Failure> {
        let (names, globs) = split(topics);
        for batch in [names, globs] {
            let mut link = session.connection.clone();
            let texts: Vec<_> = batch.iter().map(|topic| topic.as_str()).collect();
            let answer = match batch.first().map(AsRef::as_ref) {
                None => continue,
                Some(Source::Name(_)) if self.home.tag().is_some() => {
                    let mut leave = each("SUNSUBSCRIBE", &texts);
                    self.answer(confirm(&mut leave, &mut link)).await?
                }
                Some(Source::Name(_)) => self.answer(link.unsubscribe(texts)).await?,
                Some(Source::Wild(_)) => self.answer(link.punsubscribe(texts)).await?,
            };
            answer.map_err(|error| Failure::of_answer(&error))?;
            batch.iter().for_each(|topic| self.follow.left(topic));
        }
        Ok(())
    }

    async fn ping(&self, session: &Session) -> Result<(), Failure> {
        let mut link = session.connection.clone();
        let answer = self
            .answer(redis::cmd("PING").exec_async(&mut link))
            .await?;
        answer.map_err(|error| Failure::of_answer(&error))?;
        self.home.verify(&session.at, &mut link).await
    }

    async fn subscribe(&self, session: &Session, names: &[&str]) -> RedisResult<()> {
        let mut link = session.connection.clone();
        if self.home.tag().is_none() {
            return link.subscribe(names).await;
        }
        confirm(&mut each("SSUBSCRIBE", names), &mut link).await
    }

    /// What an answer is. It may say who else serves.
    fn failure(&self, error: &RedisError) -> Failure {
        self.home.redirect(error);
        Failure::of_answer(error)
    }

    /// Waits for an answer. One that waits behind messages which keep coming is not late: giving
    /// up the link would lose them too.
    async fn answer<T>(
        &self,
        call: impl Future<Output = RedisResult<T>>,
    ) -> Result<RedisResult<T>, Failure> {
        tokio::pin!(call);
        for _ in 0..RedisConfig::PATIENCE {
            let before = self.reader.pushes();
            if let Ok(answer) = timeout(self.config.command_timeout, &mut call).await {
                return Ok(answer);
            }
            if self.reader.pushes() == before {
                break;
            }
        }
        Err(Failure::late())
    }
}

fn cut(why: &str) -> Failure {
    Failure::Down(why.into())
}

/// Whether it is an answer about the link, not about a name.
fn is_fatal(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || matches!(Failure::of_answer(error), Failure::Moving(_))
}

/// The command with each name. One with several would have as many confirmations as names, which
/// the client knows of SUBSCRIBE and not of its sharded kin.
fn each(command: &str, names: &[&str]) -> Pipeline {
    let mut pipeline = Pipeline::new();
    for name in names {
        pipeline.cmd(command).arg(name);
    }
    pipeline
}

async fn confirm(commands: &mut Pipeline, link: &mut MultiplexedConnection) -> RedisResult<()> {
    let answers = commands.query_async::<Vec<Value>>(link).await;
    answers.map(|_| ()).map_err(command::first)
}

fn split(topics: Vec<Topic>) -> (Vec<Topic>, Vec<Topic>) {
    topics
        .into_iter()
        .partition(|topic| matches!(**topic, Source::Name(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_are_spread() {
        let cap = Duration::from_secs(2);
        let mut backoff = Backoff::new(cap);
        let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits[0] <= FIRST_DELAY && waits[0] >= FIRST_DELAY / 2);
        let late = &waits[10..];
        assert!(late.iter().all(|wait| *wait <= cap && *wait >= cap / 2));
        assert!(late.iter().any(|wait| *wait != late[0]));
        backoff.reset();
        assert!(backoff.next() <= FIRST_DELAY);
    }
}
