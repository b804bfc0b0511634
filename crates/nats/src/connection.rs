//! The link to the server, made anew whenever it breaks.

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::ServerAddr;
use bytes::BytesMut;
use fanfare_core::{BrokerError, BrokerMetrics, GapCause, Interest, LogId, Pattern};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::NatsConfig,
    dial::{DialError, Dialled, Stream, dial},
    error::Failure,
    follow::{self, Proof},
    intake::Intake,
    probe::Probe,
    state::{Phase, State},
    subjects::Subjects,
    wire::{Info, NotNats, Op, Parser},
};

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// How often bounds in time are looked at.
const TICK: Duration = Duration::from_millis(250);
/// The first wait of a reconnect; each further one is twice as long, up to the configured bound.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// Within which time a server that is about to stop is left; nodes spread over it.
const LAME_DUCK_WINDOW: Duration = Duration::from_secs(2);
/// The most headers that a message may have beside its data.
const HEADER_BYTES: usize = 64 << 10;

/// The link to the server.
///
/// One task owns the socket. Callers add commands to [`State`] and wait for their proof.
pub(crate) struct Link {
    pub(crate) config: NatsConfig,
    pub(crate) subjects: Arc<Subjects>,
    pub(crate) intake: Intake,
    pub(crate) probe: Probe,
    pub(crate) metrics: BrokerMetrics,
    pub(crate) stop: CancellationToken,
    urls: Vec<ServerAddr>,
    /// The configured servers and those that the cluster told of.
    pool: Mutex<Vec<ServerAddr>>,
    group: String,
    max_payload: AtomicUsize,
    state: Mutex<State>,
    phase: watch::Sender<Phase>,
    /// There is something to send.
    wake: Notify,
    /// Something was sent.
    room: Notify,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the server closed it")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    NotNats(#[from] NotNats),
    #[error("no answer for {0:?}")]
    Silence(Duration),
    #[error("the server is about to stop")]
    LameDuck,
    #[error("{0}")]
    Refused(String),
    #[error("the broker was closed")]
    Stopped,
}

/// What one connection knows.
struct Session {
    server: ServerAddr,
    read: ReadHalf<Box<dyn Stream>>,
    heard: Instant,
    pinged: Instant,
    /// The proof that everything followed is subscribed to; `None` once it is there.
    restoring: Option<Proof>,
    leave: Option<Instant>,
    refused: Option<String>,
    /// Whether the server was silent for too long when last looked at.
    suspect: bool,
}

impl Link {
    /// Reaches a server and answers the link with it; the caller spawns [`run`](Self::run).
    pub(crate) async fn connect(
        config: NatsConfig,
        metrics: BrokerMetrics,
        log: LogId,
    ) -> Result<(Arc<Self>, Dialled), BrokerError> {
        let urls = config.servers()?;
        let subjects = Arc::new(config.subjects()?);
        let dialled = first(&config, &urls).await?;
        let node = format!("{:016x}", fastrand::u64(..));
        let group = format!("{}-{node}", config.prefix);
        let link = Arc::new_cyclic(|link: &Weak<Self>| {
            let link = link.clone();
            let interest = Interest::new(move |pattern| {
                if let Some(link) = link.upgrade() {
                    link.idle(pattern);
                }
            });
            Self {
                intake: Intake::new(log, interest, subjects.clone(), metrics.clone()),
                probe: Probe::new(subjects.probe(&node)),
                subjects,
                metrics,
                stop: CancellationToken::new(),
                pool: Mutex::new(urls.clone()),
                urls,
                max_payload: AtomicUsize::new(dialled.info.max_payload),
                state: Mutex::new(State::new(group.clone())),
                group,
                phase: watch::Sender::new(Phase::Down),
                wake: Notify::new(),
                room: Notify::new(),
                config,
            }
        });
        Ok((link, dialled))
    }

    /// The largest message that the server takes, headers included.
    pub(crate) fn max_payload(&self) -> usize {
        self.max_payload.load(Ordering::Relaxed)
    }

    /// Publishes, and waits until the server has taken it. The caller bounds the time.
    ///
    /// `sent` is set as soon as the server may have it.
    pub(crate) async fn publish(
        &self,
        subject: &str,
        headers: &str,
        payload: &[u8],
        sent: &mut bool,
    ) -> Result<(), Failure> {
        let answer = loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before the look, so that no wake-up falls between the two.
            room.as_mut().enable();
            {
                let mut state = self.state.lock();
                live(&state)?;
                if state.pending() < self.config.outbound_bytes {
                    break state.publish(subject, headers, payload);
                }
            }
            room.await;
        };
        *sent = true;
        self.wake.notify_one();
        answer.await.unwrap_or(Err(Failure::Cut))
    }

    /// Waits until the server sends what `pattern` selects. The caller bounds the time, and holds
    /// the pattern in the interest meanwhile.
    pub(crate) async fn follow(&self, pattern: &Pattern) -> Result<(), Failure> {
        let mut phase = self.phase.subscribe();
        loop {
            phase.mark_unchanged();
            let asked = {
                let mut state = self.state.lock();
                match live(&state) {
                    Ok(()) => Some(state.follow(pattern, &self.subjects)),
                    Err(Failure::Down) => None,
                    Err(closed) => return Err(closed),
                }
            };
            match asked {
                Some(None) => return Ok(()),
                Some(Some(answer)) => {
                    self.wake.notify_one();
                    match answer.await.unwrap_or(Err(Failure::Cut)) {
                        // A new connection subscribes by itself; its proof is waited for.
                        Err(Failure::Down | Failure::Cut) => {}
                        other => return other,
                    }
                }
                None => {
                    if phase.changed().await.is_err() {
                        return Err(Failure::Closed);
                    }
                }
            }
        }
    }

    /// Waits until the task has taken the first connection up.
    pub(crate) async fn attached(&self) {
        // The sender lives in `self`.
        let _ = self
            .phase
            .subscribe()
            .wait_for(|phase| *phase != Phase::Down)
            .await;
    }

    pub(crate) fn is_live(&self) -> bool {
        *self.phase.borrow() == Phase::Live
    }

    fn idle(&self, pattern: Pattern) {
        let until = follow::after(self.config.linger);
        self.state.lock().table.idle(pattern, until);
    }

    /// Keeps the link until it is stopped.
    pub(crate) async fn run(self: Arc<Self>, first: Dialled) {
        let mut next = Some(first);
        let mut owed = None;
        let mut left = None;
        while let Some(dialled) = match next.take() {
            Some(dialled) => Some(dialled),
            None => self.redial(left.as_ref()).await,
        } {
            left = Some(dialled.server.clone());
            let cut = self.serve(dialled, &mut owed).await;
            self.metrics.up.set(0);
            if matches!(cut, Cut::Stopped) {
                break;
            }
            let slow =
                matches!(&cut, Cut::Refused(why) if why.eq_ignore_ascii_case("slow consumer"));
            owed = Some(if slow {
                GapCause::Lagged
            } else {
                owed.unwrap_or(GapCause::Reconnected)
            });
            self.enter(Phase::Down);
            tracing::warn!(why = %cut, "the link to NATS is cut");
        }
        self.enter(Phase::Closed);
        self.intake.interest.close();
    }

    /// Ends a connection for all who wait.
    fn enter(&self, phase: Phase) {
        self.state.lock().detach(phase);
        self.phase.send_replace(phase);
        self.room.notify_waiters();
    }

    /// Tries servers until one takes us; `None` once stopped.
    async fn redial(&self, left: Option<&ServerAddr>) -> Option<Dialled> {
        let mut delay = FIRST_DELAY;
        loop {
            let mut servers = self.pool.lock().clone();
            fastrand::shuffle(&mut servers);
            // The one that was lost comes last.
            servers.sort_by_key(|server| Some(server) == left);
            for server in servers {
                let wait = delay.mul_f64(0.5 + fastrand::f64() / 2.0);
                tokio::select! {
                    () = self.stop.cancelled() => return None,
                    () = tokio::time::sleep(wait) => {}
                }
                let place = format!("{}:{}", server.host(), server.port());
                let attempt = dial(&self.config, &self.urls, server);
                let result = tokio::select! {
                    () = self.stop.cancelled() => return None,
                    result = attempt => result,
                };
                match result {
                    Ok(dialled) => return Some(dialled),
                    Err(DialError::Io(why)) => tracing::debug!(%place, %why, "no link to NATS"),
                    Err(why) => tracing::warn!(%place, %why, "no link to NATS"),
                }
            }
            delay = (delay * 2).min(self.config.reconnect_delay);
        }
    }

    /// Reads and writes one connection until it ends. This is the only task that mints offsets.
    async fn serve(&self, dialled: Dialled, owed: &mut Option<GapCause>) -> Cut {
        let now = Instant::now();
        let (read, mut write) = tokio::io::split(dialled.stream);
        self.learn(&dialled.info);
        let mut session = Session {
            server: dialled.server,
            read,
            heard: now,
            pinged: now,
            restoring: Some(self.state.lock().attach(&self.probe.subject, &self.group)),
            leave: None,
            refused: None,
            suspect: false,
        };
        self.phase.send_replace(Phase::Live);
        let mut parser = Parser::new(self.config.max_data_bytes.saturating_add(HEADER_BYTES));
        let mut input = dialled.read;
        let mut output = BytesMut::new();
        let mut flush = false;
        let mut due = true;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if output.is_empty() && !flush {
                self.state.lock().take(&mut output, due, Instant::now());
                due = false;
                self.room.notify_waiters();
            }
            if input.capacity() - input.len() < READ_BYTES / 8 {
                input.reserve(READ_BYTES);
            }
            let idle = output.is_empty() && !flush;
            let step = tokio::select! {
                read = session.read.read_buf(&mut input) => match read {
                    Ok(0) => Err(Cut::Closed),
                    Ok(_) => self.take_in(&mut session, &mut parser, &mut input, owed),
                    Err(why) => Err(why.into()),
                },
                wrote = send(&mut write, &mut output), if !idle => {
                    // The turn that wrote the last bytes is followed by one that flushes.
                    flush = matches!(wrote, Ok(true));
                    wrote.map(drop).map_err(Cut::from)
                }
                () = self.wake.notified(), if idle => Ok(()),
                _ = tick.tick() => self.look(&mut session, &mut due),
                () = self.stop.cancelled() => Err(Cut::Stopped),
            };
            if let Err(cut) = step {
                // What the server said last is the better reason.
                return match (session.refused, cut) {
                    (_, Cut::Stopped) => Cut::Stopped,
                    (Some(why), _) => Cut::Refused(why),
                    (None, cut) => cut,
                };
            }
        }
    }

    /// Looks at bounds in time.
    fn look(&self, session: &mut Session, due: &mut bool) -> Result<(), Cut> {
        let now = Instant::now();
        let patience = self.config.command_timeout;
        let mut state = self.state.lock();
        if now.saturating_duration_since(session.pinged) >= self.config.ping_interval {
            session.pinged = now;
            *due = true;
        }
        let silent = |since: Instant| now.saturating_duration_since(since) > patience;
        let suspect = state.unanswered_since().is_some_and(silent) && silent(session.heard);
        // Where this process stood still, the answer may be here and unread: it gets one more turn.
        if std::mem::replace(&mut session.suspect, suspect) && suspect {
            return Err(Cut::Silence(now.saturating_duration_since(session.heard)));
        }
        state.sweep(now, |pattern| self.intake.interest.follows_pattern(pattern));
        let followed = i64::try_from(state.table.len()).unwrap_or(i64::MAX);
        self.metrics.subscriptions.set(followed);
        drop(state);
        self.intake.settle(now);
        match session.leave {
            Some(at) if at <= now => Err(Cut::LameDuck),
            _ => Ok(()),
        }
    }

    /// Takes everything in that is here.
    fn take_in(
        &self,
        session: &mut Session,
        parser: &mut Parser,
        input: &mut BytesMut,
        owed: &mut Option<GapCause>,
    ) -> Result<(), Cut> {
        session.heard = Instant::now();
        while let Some(op) = parser.next(input)? {
            match op {
                Op::Message(message) if message.subject == self.probe.subject.as_bytes() => {
                    self.probe.arrived(&message.payload);
                }
                Op::Message(message) if message.payload.len() > self.config.max_data_bytes => {
                    self.intake.too_large(&message.subject);
                }
                Op::Message(message) => self.intake.message(message),
                Op::TooLarge { subject, bytes } => {
                    tracing::debug!(bytes, "a message over the bound");
                    self.intake.too_large(&subject);
                }
                Op::Ping => self.state.lock().pong(),
                Op::Pong => {
                    let proof = self.state.lock().proved();
                    if proof.is_some() && session.restoring.is_some_and(|next| proof >= Some(next))
                    {
                        session.restoring = None;
                        self.restored(owed.take());
                    }
                }
                Op::Info(info) => {
                    self.learn(&info);
                    let elsewhere = self.pool.lock().iter().any(|s| *s != session.server);
                    if info.lame_duck && elsewhere && session.leave.is_none() {
                        let wait = LAME_DUCK_WINDOW.mul_f64(fastrand::f64());
                        session.leave = Some(session.heard + wait);
                    }
                }
                Op::Err(why) => {
                    if !self.state.lock().refused(&why) {
                        session.refused = Some(why.clone());
                    }
                    tracing::warn!(%why, "NATS refused");
                }
            }
        }
        Ok(())
    }

    /// Everything that is followed is subscribed to again: what was missed ends here.
    fn restored(&self, owed: Option<GapCause>) {
        self.metrics.up.set(1);
        if let Some(cause) = owed {
            self.metrics.reconnects.inc();
            self.intake.gap(cause, Pattern::all());
            tracing::info!("the link to NATS is back");
        }
    }

    fn learn(&self, info: &Info) {
        if info.max_payload > 0 {
            self.max_payload.store(info.max_payload, Ordering::Relaxed);
        }
        let told = info.connect_urls.iter().filter_map(|url| url.parse().ok());
        let mut pool = self.urls.clone();
        for server in told {
            if !pool.contains(&server) {
                pool.push(server);
            }
        }
        *self.pool.lock() = pool;
    }
}

/// Writes some of `output`, or flushes where nothing is left; answers whether it wrote.
/// Cancel safe: a dropped call wrote nothing.
async fn send(write: &mut WriteHalf<Box<dyn Stream>>, output: &mut BytesMut) -> io::Result<bool> {
    if output.is_empty() {
        write.flush().await?;
        return Ok(false);
    }
    if write.write_buf(output).await? == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(true)
}

fn live(state: &State) -> Result<(), Failure> {
    match state.phase {
        Phase::Live => Ok(()),
        Phase::Down => Err(Failure::Down),
        Phase::Closed => Err(Failure::Closed),
    }
}

/// Tries each configured server once.
async fn first(config: &NatsConfig, urls: &[ServerAddr]) -> Result<Dialled, BrokerError> {
    let mut last = None;
    for server in urls {
        match dial(config, urls, server.clone()).await {
            Ok(dialled) => return Ok(dialled),
            Err(why) => last = Some(why.into_broker_error(server)),
        }
    }
    Err(last.unwrap_or_else(|| Failure::Down.of("connect")))
}
