//! A node's part in recording: idle, standby or recorder, whatever breaks.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::{
    health::Health,
    ledger::{Ledger, Recorded, Taken},
    listener::{Ear, Hearing, Listener},
    metrics::Role,
    pen::{Pen, Start, Write},
};
use crate::{
    config::RedisConfig,
    connection::Backoff,
    error::{BACKEND, Failure},
};

/// In how many parts a lease is cut: so often its holder shows that it lives.
const BEATS: u32 = 4;
/// How often a standby asks for a mark that cannot go on yet where the recorder stops.
const READY_POLL: Duration = Duration::from_millis(100);
/// After so many leases in which marks are announced, and are not heard, a link is deaf.
const DEAF_AFTER: u32 = 3;

/// A node's part in recording.
#[derive(Debug)]
pub(super) struct Duty {
    pub(super) ledger: Arc<Ledger>,
    pub(super) hearing: Hearing,
    pub(super) health: Arc<Health>,
    /// The name under which it holds a lease now.
    pub(super) me: Arc<Mutex<Arc<str>>>,
}

/// A name that nobody else has.
fn fresh_name() -> Arc<str> {
    format!("{:016x}", crate::links::fresh_epoch().0).into()
}

/// The recorder's marks, one after the other.
struct Marks {
    token: Arc<str>,
    last: u64,
}

impl Marks {
    fn next(&mut self) -> Arc<str> {
        self.last += 1;
        format!("{}.{}", self.token, self.last).into()
    }
}

impl Duty {
    fn lease(&self) -> Duration {
        self.hearing.config.recorder_lease
    }

    fn beat(&self) -> Duration {
        self.lease() / BEATS
    }

    /// Does it, for ever.
    pub(super) async fn serve(&self) {
        let mut backoff = Backoff::new(self.hearing.config.reconnect_delay);
        loop {
            self.hearing.metrics.set_role(Role::Idle);
            let me = fresh_name();
            *self.me.lock() = me.clone();
            match self.ledger.attend(&me).await {
                Ok(attended) => {
                    self.health
                        .note(attended.has_recorder && attended.has_begun);
                    if attended.is_standby {
                        let begun = Instant::now();
                        self.session(&me).await;
                        if begun.elapsed() > self.lease() {
                            backoff.reset();
                        }
                        sleep(backoff.next()).await;
                        continue;
                    }
                }
                Err(failure) => self.failed("the recorder's lease cannot be read", failure),
            }
            sleep(self.beat()).await;
        }
    }

    fn failed(&self, what: &str, failure: Failure) {
        tracing::debug!(backend = BACKEND, ?failure, what);
        self.health.failed(failure);
    }

    /// From becoming the standby to the end of the link that listens.
    async fn session(&self, me: &str) {
        match Listener::connect(&self.hearing).await {
            Ok(listener) => {
                if let Some(taken) = self.stand_by(me, &listener.ear).await {
                    self.record(me, &listener.ear, taken).await;
                }
            }
            Err(failure) => self.failed("the bus cannot be listened to", failure),
        }
        self.let_go(me).await;
    }

    /// Lets go of the lease, as soon as Redis takes that: the next one need not wait until it has
    /// run out.
    async fn let_go(&self, me: &str) {
        let begun = Instant::now();
        let mut backoff = Backoff::new(self.beat());
        while begun.elapsed() < self.lease() {
            match self.ledger.leave(me).await {
                Ok(()) => return,
                Err(failure) => self.failed("a lease cannot be let go of", failure),
            }
            sleep(backoff.next()).await;
        }
    }

    /// Listens until there is no recorder, and becomes it; `None` where this is over before.
    async fn stand_by(&self, me: &str, ear: &Ear) -> Option<Taken> {
        let (mut marks, mut since) = (0, Instant::now());
        let mut vacant: Option<Instant> = None;
        loop {
            let mut wait = self.beat();
            if ear.is_ready() {
                self.hearing.metrics.set_role(Role::Standby);
            } else {
                wait = wait.min(READY_POLL);
                if let Err(failure) = self.ledger.hello().await {
                    self.failed("a mark cannot be asked for", failure);
                }
            }
            let asked = Instant::now();
            match self.ledger.attend(me).await {
                Ok(attended) => {
                    self.health
                        .note(attended.has_recorder && attended.has_begun);
                    if !attended.is_standby {
                        return None;
                    }
                    if attended.has_recorder {
                        vacant = None;
                    } else if attended.is_free
                        || ear.is_ready()
                        || vacant.get_or_insert(asked).elapsed() > self.lease()
                    {
                        match self.ledger.take(me).await {
                            Ok(Some(taken)) => return Some(taken),
                            Ok(None) => {}
                            Err(failure) => self.failed("the lease cannot be taken", failure),
                        }
                    }
                    // A recorder that holds its lease announces marks.
                    let heard = ear.marks();
                    // A server that stands still lets nobody announce any.
                    let is_slow = asked.elapsed() > self.beat();
                    if heard > marks || !attended.has_recorder || is_slow {
                        (marks, since) = (heard, Instant::now());
                    }
                    if since.elapsed() > self.lease() * DEAF_AFTER {
                        tracing::warn!(backend = BACKEND, "the standby's link is deaf");
                        return None;
                    }
                }
                Err(failure) => {
                    since = Instant::now();
                    self.failed("the recorder's lease cannot be read", failure);
                }
            }
            if ear.has_ended() {
                return None;
            }
            let _ = timeout(wait, ear.turned.notified()).await;
        }
    }

    /// Records until the link is cut, or somebody else does.
    async fn record(&self, me: &str, ear: &Ear, taken: Taken) {
        let token = taken.token.clone();
        let mut marks = Marks {
            token: token.clone(),
            last: 0,
        };
        let Some((pen, start)) = self.begin(ear, &taken, &marks.next()).await else {
            return;
        };
        self.hearing.metrics.took_over(start);
        self.hearing.metrics.set_role(Role::Recorder);
        tracing::info!(backend = BACKEND, %token, ?start, "this node records");
        let pen = Mutex::new(pen);
        tokio::select! {
            () = self.write(me, ear, &token, &pen) => {}
            () = self.announce(ear, &mut marks, &pen) => {}
        }
        tracing::info!(backend = BACKEND, %token, "this node records no more");
    }

    /// Waits for a mark, after which all that the recorder before wrote was heard.
    async fn begin(&self, ear: &Ear, taken: &Taken, mark: &Arc<str>) -> Option<(Pen, Start)> {
        ear.await_mark(mark);
        if let Err(failure) = self.ledger.mark(mark, None).await {
            self.failed("a mark cannot be announced", failure);
            return None;
        }
        for _ in 0..RedisConfig::PATIENCE {
            let before = ear.heard();
            let heard = async {
                while !ear.has_heard_it() && !ear.has_ended() {
                    ear.stirred.notified().await;
                }
            };
            // One that waits behind messages which keep coming is not late.
            if timeout(self.lease().max(self.hearing.config.command_timeout), heard)
                .await
                .is_ok()
                || ear.heard() == before
            {
                break;
            }
        }
        if !ear.has_heard_it() {
            tracing::warn!(backend = BACKEND, "a mark did not come back");
            return None;
        }
        let rules = self.hearing.routes.digest();
        Some(ear.tape(|tape, run| Pen::start(tape, run, rules, taken.place.clone(), mark)))
    }

    /// Writes what is heard. Ends where somebody else must go on.
    async fn write(&self, me: &str, ear: &Ear, token: &str, pen: &Mutex<Pen>) {
        let mut backoff = Backoff::new(self.hearing.config.reconnect_delay);
        let mut ended: Option<Instant> = None;
        loop {
            if ear.has_ended() {
                // What was heard before is still written; what others heard since, they write.
                let since = ended.get_or_insert_with(Instant::now);
                if since.elapsed() > self.lease() {
                    return;
                }
            }
            let Some(write) = self.next(ear, pen) else {
                return;
            };
            let Some(write) = write else {
                if ear.has_ended() {
                    return;
                }
                ear.stirred.notified().await;
                continue;
            };
            let in_doubt = match self.ledger.record(token, me, &write).await {
                Ok(Recorded::Done) => {
                    let count = write.messages.len() as u64;
                    ear.tape(|tape, _| pen.lock().wrote(tape, write.to));
                    self.hearing.metrics.events.inc_by(count);
                    self.health.note(true);
                    backoff.reset();
                    continue;
                }
                Ok(Recorded::Fenced) => return,
                Ok(Recorded::Moved) => None,
                Err(failure) => Some(failure),
            };
            if let Some(failure) = in_doubt {
                tracing::warn!(backend = BACKEND, ?failure, "a recorder's write failed");
                self.health.failed(failure);
                sleep(backoff.next()).await;
            }
            match self.ledger.place(token).await {
                Ok(Some(place)) => {
                    if !ear.tape(|tape, _| pen.lock().realign(tape, place)) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(failure) => {
                    self.failed("what is recorded cannot be read", failure);
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// What to write; outer `None` where this recorder has lost what comes next.
    fn next(&self, ear: &Ear, pen: &Mutex<Pen>) -> Option<Option<Write<super::message::Message>>> {
        ear.tape(|tape, _| {
            let pen = pen.lock();
            if pen.is_torn(tape) {
                tracing::warn!(
                    backend = BACKEND,
                    "more was heard than `recorder_buffer` holds until it is recorded"
                );
                return None;
            }
            Some(pen.next(tape))
        })
    }

    /// Announces marks. Ends where they are not heard.
    async fn announce(&self, ear: &Ear, marks: &mut Marks, pen: &Mutex<Pen>) {
        // What was heard when the oldest mark was announced that was not heard yet.
        let mut unheard: Option<(Instant, u64, u64)> = None;
        loop {
            let _ = timeout(self.beat(), ear.asked.notified()).await;
            let recorded = pen.lock().recorded().cloned();
            let before = (ear.marks(), ear.heard());
            if unheard.is_some_and(|(_, marks, _)| before.0 > marks) {
                unheard = None;
            }
            if let Some((since, _, heard)) = unheard
                && since.elapsed() > self.lease() * DEAF_AFTER
                && before.1 == heard
            {
                tracing::warn!(backend = BACKEND, "the recorder's link is deaf");
                return;
            }
            match self.ledger.mark(&marks.next(), recorded.as_ref()).await {
                Ok(()) => {
                    unheard.get_or_insert((Instant::now(), before.0, before.1));
                }
                Err(failure) => {
                    unheard = None;
                    self.failed("a mark cannot be announced", failure);
                }
            }
        }
    }
}
