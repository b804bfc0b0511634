//! Following a stream: one consumer with our own account of what it delivered.
//!
//! It delivers the whole stream, because the sequences of a whole stream show what is missing, and
//! one consumer is what keeps the order over all subjects. What it says is not trusted beyond that:
//! each message is numbered, and a number that is left out, a heartbeat that does not come, a cut of
//! the link, all end the consumer. The next one begins at the newest message that was handed on,
//! which it has to deliver again, unchanged, before anything behind it is believed.

use std::{sync::Arc, time::Duration};

use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until};

use super::{
    log::Log,
    look::{Head, look, look_aside, renew},
    message::{Delivery, Entry},
    place::{Place, born},
    read::{Consumer, Made, PLACINGS, nanos},
    stream::{Info, LOOK_EVERY},
    wire::Trouble,
};

/// How often the server says that a consumer is there, when it has nothing to deliver.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After how long without a word a consumer is given up.
const SILENCE: Duration = Duration::from_millis(2500);
/// How long the server keeps a consumer that nobody listens to.
const ABANDONED: Duration = Duration::from_secs(10);
/// The first wait after a failure; each further one is twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(20);
/// How often the memory is looked through for what is too old.
const SWEEP: Duration = Duration::from_secs(1);
/// How often a consumer must find nothing where the stream's leader has something, before that is
/// believed: not all that it counts need be there.
const EMPTY_LOOKS: usize = 2;

/// How a consumer ended.
enum End {
    /// Nobody wants it any more.
    Unwanted,
    /// It cannot be trusted any more, or is gone.
    Broken,
    /// The stream lost what this node has seen of it.
    Torn,
}

/// Follows the log while it is wanted, until the link is stopped.
pub(super) async fn keep(log: Arc<Log>, linger: Duration, longest_delay: Duration) {
    let stop = log.stream.wire.stop.clone();
    let follow = async {
        loop {
            wait(&log, longest_delay).await;
            follow(&log, linger, longest_delay).await;
            log.flows(false);
        }
    };
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sweep = async {
        loop {
            tick.tick().await;
            log.sweep();
        }
    };
    let mut look = tokio::time::interval(SWEEP);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let renew = async {
        loop {
            look.tick().await;
            renew(&log).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow => {}
        () = sweep => {}
        () = renew => {}
    }
}

/// Waits until somebody wants it. Meanwhile, the stream may lose what only this node knows that it
/// had: that is looked for whenever the link was cut, or a publish shows it.
async fn wait(log: &Arc<Log>, longest_delay: Duration) {
    let mut wanted = log.wanted.subscribe();
    let mut connection = log.stream.wire.connection();
    let aside = async {
        loop {
            tokio::select! {
                _ = connection.changed() => {}
                () = log.kick.notified() => {}
            }
            let mut delay = FIRST_DELAY;
            while log.is_marked() && look_aside(log).await.is_err() {
                sleep(delay).await;
                delay = (delay * 2).min(longest_delay);
            }
        }
    };
    tokio::select! {
        _ = wanted.wait_for(|wanted| *wanted > 0) => {}
        () = aside => {}
    }
}

/// Follows until nobody wants it.
async fn follow(log: &Arc<Log>, linger: Duration, longest_delay: Duration) {
    let mut delay = FIRST_DELAY;
    // Nobody follows yet what was published until now.
    let mut fresh = true;
    loop {
        let before = log.standing().reached;
        let ended = attach(log, &mut fresh, linger).await;
        log.flows(false);
        let moved = log.standing().reached != before;
        match ended {
            Ok(End::Unwanted) => return,
            Ok(End::Broken | End::Torn) if moved => delay = FIRST_DELAY,
            Ok(End::Broken | End::Torn) => {}
            Err(trouble) => {
                if *log.wanted.borrow() == 0 {
                    return;
                }
                tracing::debug!(stream = %log.stream.name, ?trouble, "a stream cannot be followed");
                log.fails(trouble);
            }
        }
        let mut connection = log.stream.wire.connection();
        tokio::select! {
            () = sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            // It is back, perhaps.
            _ = connection.changed() => {}
        }
        delay = (delay * 2).min(longest_delay);
    }
}

/// Looks where the stream stands, and follows it from where this node stands.
async fn attach(log: &Arc<Log>, fresh: &mut bool, linger: Duration) -> Result<End, Trouble> {
    // Before the stream is looked at: a cut after this is seen.
    let connection = log.stream.wire.connection();
    let standing = log.standing();
    // Who begins anew elsewhere will not have it compared by the feed.
    let head = if *fresh { Head::Unsure } else { Head::Comes };
    let found = look(log, &standing, head).await?;
    let info = found.info;
    let life = born(&info.created);
    let (first, last) = (info.state.first_seq, info.state.last_seq);
    if !standing.began {
        log.begin(life, found.mark, beginning(log, &info), last);
    } else if standing.born != Some(life) {
        let survived = Place {
            seq: beginning(log, &info),
            check: 0,
        };
        log.begin_again(life, found.mark, survived);
        if *fresh {
            log.hush(last);
        }
    } else if let Some(survived) = found.survived {
        log.begin_again(life, found.mark, survived);
        return Ok(End::Broken);
    } else if *fresh {
        let replay = log.config.replay_messages as u64;
        // One that is gone is written again.
        let mark = found.mark.or(standing.mark);
        let is_same = match (&mark, &standing.mark) {
            (Some(mark), Some(taken)) => mark.is_same(taken),
            (mark, taken) => mark.is_none() && taken.is_none(),
        };
        if !is_same || last - standing.reached > replay || first > standing.reached + 1 {
            log.begin(life, mark, beginning(log, &info), last);
        } else {
            log.hush(last);
        }
    } else {
        log.comes_to(found.mark);
    }
    let standing = log.standing();
    let healing = if *fresh { 0 } else { last };
    *fresh = false;

    let has_head = standing.head.check != 0;
    let from = standing.head.seq + u64::from(!has_head);
    let (made, messages) = listen(log, &info, from).await?;
    let mut session = Session {
        log,
        delivered: 0,
        head: has_head.then_some(standing.head),
        doubt: false,
        taken: standing.head.seq,
        last,
        alone: info.is_alone(),
        attached: false,
        idle: false,
        healing,
    };
    if made.num_pending == 0 {
        session.nothing_waits();
    }
    log.flows(true);
    log.metrics.subscriptions.inc();
    let end = session.run(messages, connection, linger).await;
    log.attached(false);
    log.metrics.subscriptions.dec();
    log.stream.end(&made.name).await;
    if matches!(end, End::Torn) {
        let found = look(log, &log.standing(), Head::Torn).await?;
        if let Some(survived) = found.survived {
            log.begin_again(life, found.mark, survived);
        }
    }
    Ok(end)
}

/// Makes the consumer, from a sequence on, and listens to it.
async fn listen(log: &Log, info: &Info, from: u64) -> Result<(Made, Subscriber), Trouble> {
    let stream = &log.stream;
    // The leader has something there, unless all of it was deleted.
    let expects = !info.is_alone() && info.state.last_seq >= from.max(info.state.first_seq);
    let mut empty = 0;
    for _ in 0..PLACINGS {
        // Each has its own: what one that was ended had sent already is none of the next one's.
        let inbox = stream.wire.client.new_inbox();
        let subscribed = stream.wire.client.subscribe(inbox.clone()).await;
        let messages = subscribed.map_err(|why| Trouble::Odd(why.to_string()))?;
        let consumer = Consumer {
            deliver_subject: Some(&inbox),
            flow_control: true,
            idle_heartbeat: Some(nanos(HEARTBEAT)),
            ..Consumer::default()
        };
        let Some(made) = stream.consumer(from, ABANDONED, consumer).await? else {
            continue;
        };
        if made.num_pending > 0 || !expects || empty == EMPTY_LOOKS {
            return Ok((made, messages));
        }
        empty += 1;
        stream.end(&made.name).await;
        sleep(LOOK_EVERY).await;
    }
    Err(Trouble::Behind)
}

/// After which sequence a node begins that has seen nothing: so that what it then reads is about as
/// much as it should remember, and one message at least.
fn beginning(log: &Log, info: &Info) -> u64 {
    let state = &info.state;
    let average = state.bytes.checked_div(state.messages).unwrap_or(0).max(1);
    let fits = log.config.store.max_total_bytes as u64 / average;
    let wanted = (log.config.replay_messages as u64).min(fits).max(1);
    let oldest = state.first_seq.saturating_sub(1);
    oldest.max(state.last_seq.saturating_sub(wanted))
}

/// What a consumer delivers, held against what it should.
struct Session<'l> {
    log: &'l Arc<Log>,
    /// How many messages it has delivered.
    delivered: u64,
    /// The newest message that was handed on before; it comes first, once more.
    head: Option<Place>,
    /// That message is gone: what follows it may be, too.
    doubt: bool,
    /// The newest message that was handed on.
    taken: u64,
    /// Where the stream ended before the consumer was made.
    last: u64,
    /// Whether one server has all there is.
    alone: bool,
    /// Whether it has delivered what proves that it goes on from there.
    attached: bool,
    /// Nothing waits to be delivered.
    idle: bool,
    /// What comes up to there was missed live.
    healing: u64,
}

impl Session<'_> {
    async fn run(
        &mut self,
        mut messages: Subscriber,
        mut connection: tokio::sync::watch::Receiver<super::wire::Connection>,
        linger: Duration,
    ) -> End {
        let mut wanted = self.log.wanted.subscribe();
        let number = connection.borrow_and_update().number;
        let mut deadline = Instant::now() + SILENCE;
        let nobody = |wanted: usize| (wanted == 0).then(|| Instant::now() + linger);
        let mut leave = nobody(*wanted.borrow_and_update());
        loop {
            let left = async {
                match leave {
                    Some(leave) => sleep_until(leave).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = messages.next() => {
                    deadline = Instant::now() + SILENCE;
                    let Some(message) = message else { return End::Broken };
                    if let Some(end) = self.take(message).await {
                        return end;
                    }
                }
                () = sleep_until(deadline) => {
                    tracing::debug!(stream = %self.log.stream.name, "a consumer is silent");
                    return End::Broken;
                }
                _ = connection.changed() => {
                    let now = *connection.borrow_and_update();
                    if !now.live || now.number != number {
                        return End::Broken;
                    }
                }
                () = self.log.kick.notified() => return End::Broken,
                _ = wanted.changed() => {
                    leave = nobody(*wanted.borrow_and_update());
                }
                () = left => {
                    // In this order: who comes meanwhile sees that nothing flows, or is seen.
                    self.log.flows(false);
                    if *self.log.wanted.borrow() == 0 {
                        return End::Unwanted;
                    }
                    self.log.flows(true);
                    leave = None;
                }
            }
        }
    }

    async fn take(&mut self, message: Message) -> Option<End> {
        if message.status.is_some() {
            return self.status(message).await;
        }
        let delivery = Delivery::of(&message)?;
        if delivery.nth != self.delivered + 1 {
            tracing::debug!(stream = %self.log.stream.name, "a message was not delivered");
            return Some(End::Broken);
        }
        self.delivered = delivery.nth;
        let entry = Entry::read(message, &delivery, &self.log.stream.subjects);
        self.idle = delivery.pending == 0;
        if let Some(head) = self.head.take()
            && entry.place != head
        {
            if delivery.seq == head.seq {
                return Some(End::Torn);
            }
            self.doubt = true;
        }
        if !self.attached {
            self.attached = true;
            self.log.attached(true);
        }
        if delivery.seq > self.taken {
            self.taken = delivery.seq;
            if delivery.seq <= self.healing {
                self.log.metrics.healed.inc();
            }
            self.log.take(entry, std::mem::take(&mut self.doubt));
        }
        if self.idle && self.alone {
            self.nothing_waits();
        }
        None
    }

    /// What stood up to the end of the stream, as it was before the consumer was made, and was not
    /// delivered, is deleted.
    fn nothing_waits(&self) {
        self.log.reached(self.last);
    }

    async fn status(&mut self, message: Message) -> Option<End> {
        if message.status != Some(StatusCode::IDLE_HEARTBEAT) {
            return Some(End::Broken);
        }
        let header = |name| {
            let headers = message.headers.as_ref()?;
            Some(headers.get(name)?.as_str().to_owned())
        };
        // The server waits for it before it goes on.
        let stalled = header("Nats-Consumer-Stalled");
        if let Some(reply) = message.reply.as_ref().map(ToString::to_string).or(stalled) {
            let client = &self.log.stream.wire.client;
            // Where the client cannot, its connection is gone, which is noticed elsewhere.
            let _ = client.publish(reply, Bytes::new()).await;
        }
        // A replica may be a moment behind; one that has nothing for as long as this has all.
        if self.idle {
            self.nothing_waits();
        }
        let last = header("Nats-Last-Consumer").and_then(|last| last.parse::<u64>().ok());
        let missed = last.is_some_and(|last| last > self.delivered);
        missed.then_some(End::Broken)
    }
}
