//! What callers and the link's task share: commands to be sent, and who waits for their proof.

use std::{collections::VecDeque, mem, sync::Arc, time::Instant};

use bytes::{BufMut, BytesMut};
use fanfare_core::Pattern;
use tokio::sync::oneshot;

use crate::{
    error::Failure,
    follow::{Proof, Table},
    subjects::Subjects,
    wire,
};

/// Whether there is a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Down,
    Live,
    Closed,
}

/// Commands to be sent, and who waits for their proof.
///
/// The server works through a connection's commands in order and answers a `PING` in its turn. So
/// a `PONG` proves that every command before its `PING` was carried out, and what it refused was
/// said before. One `PING` closes whatever was gathered while the one before was being sent: a
/// thousand callers share it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) table: Table,
    out: BytesMut,
    /// Whose commands are in `out`.
    waiting: Vec<Waiter>,
    /// `PING`s without an answer, oldest first.
    asked: VecDeque<Ping>,
    /// The last `PING` that was sent.
    sent: Proof,
    /// The last one that was answered.
    proved: Proof,
}

#[derive(Debug)]
struct Ping {
    at: Instant,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    wants: Wants,
    answer: oneshot::Sender<Result<(), Failure>>,
}

#[derive(Debug)]
enum Wants {
    Publish(Box<str>),
    Follow(Pattern),
}

/// What a caller waits for.
pub(crate) type Answer = oneshot::Receiver<Result<(), Failure>>;

impl State {
    pub(crate) fn new(group: String) -> Self {
        Self {
            phase: Phase::Down,
            table: Table::new(group),
            out: BytesMut::new(),
            waiting: Vec::new(),
            asked: VecDeque::new(),
            sent: 0,
            proved: 0,
        }
    }

    /// How many bytes wait to be sent.
    pub(crate) fn pending(&self) -> usize {
        self.out.len()
    }

    /// Adds a publish.
    pub(crate) fn publish(&mut self, subject: &str, headers: &str, payload: &[u8]) -> Answer {
        wire::publish(&mut self.out, subject, headers, payload);
        self.wait(Wants::Publish(subject.into()))
    }

    /// Adds whatever subscriptions `pattern` lacks; `None` where all of them are proved.
    pub(crate) fn follow(&mut self, pattern: &Pattern, subjects: &Subjects) -> Option<Answer> {
        let next = self.sent + 1;
        let proof = self.table.follow(pattern, subjects, next, &mut self.out);
        (proof > self.proved).then(|| self.wait(Wants::Follow(pattern.clone())))
    }

    fn wait(&mut self, wants: Wants) -> Answer {
        let (answer, receiver) = oneshot::channel();
        self.waiting.push(Waiter { wants, answer });
        receiver
    }

    /// Unsubscribes from what nobody has followed for a linger.
    pub(crate) fn sweep(&mut self, now: Instant, is_followed: impl Fn(&Pattern) -> bool) {
        self.table.sweep(now, is_followed, &mut self.out);
    }

    /// Answers the server's ping.
    pub(crate) fn pong(&mut self) {
        self.out.put_slice(b"PONG\r\n");
    }

    /// Begins a connection: everything that is followed is subscribed to, and the answer is the
    /// proof of that.
    pub(crate) fn attach(&mut self, probe: &str, group: &str) -> Proof {
        self.phase = Phase::Live;
        let next = self.sent + 1;
        wire::subscribe(&mut self.out, probe, group, 0);
        self.table.restore(next, &mut self.out);
        next
    }

    /// Moves what is to be sent into `into`, which is empty. A `PING` is added where somebody waits for proof, or
    /// where one is `due` and none is under way.
    pub(crate) fn take(&mut self, into: &mut BytesMut, due: bool, now: Instant) {
        if !self.waiting.is_empty() || (due && self.asked.is_empty()) {
            self.out.put_slice(b"PING\r\n");
            self.sent += 1;
            self.asked.push_back(Ping {
                at: now,
                waiters: mem::take(&mut self.waiting),
            });
        }
        // The two buffers change places, so that neither is made anew for each turn.
        mem::swap(into, &mut self.out);
    }

    /// Takes a `PONG` and answers which proof it is; `None` where nothing was asked.
    pub(crate) fn proved(&mut self) -> Option<Proof> {
        let ping = self.asked.pop_front()?;
        self.proved += 1;
        for waiter in ping.waiters {
            // A caller that is gone needs no answer.
            let _ = waiter.answer.send(Ok(()));
        }
        Some(self.proved)
    }

    /// Since when the oldest `PING` is unanswered.
    pub(crate) fn unanswered_since(&self) -> Option<Instant> {
        self.asked.front().map(|ping| ping.at)
    }

    /// Takes what the server says no to. Answers whether it was about a command.
    pub(crate) fn refused(&mut self, why: &str) -> bool {
        let lower = why.to_ascii_lowercase();
        let about = |text| lower.contains(text);
        let subject = why.split('"').nth(1);
        if about("violation for publish") {
            self.refuse_publish(subject, why);
        } else if about("violation for subscription")
            || about("maximum subscriptions")
            || about("invalid subject")
        {
            self.refuse_follow(subject, why);
        } else {
            return false;
        }
        true
    }

    fn refuse_publish(&mut self, subject: Option<&str>, why: &str) {
        let Some(ping) = self.asked.front_mut() else {
            return;
        };
        let publishes = |w: &Waiter| matches!(w.wants, Wants::Publish(_));
        let named = |w: &Waiter| matches!(&w.wants, Wants::Publish(s) if Some(&**s) == subject);
        // Where the server's spelling of the subject is not ours, it may be any of the batch:
        // better a publish that is called refused than one that is called done.
        if ping.waiters.iter().any(named) {
            refuse(&mut ping.waiters, named, why);
        } else {
            refuse(&mut ping.waiters, publishes, why);
        }
    }

    fn refuse_follow(&mut self, subject: Option<&str>, why: &str) {
        let Self {
            table,
            out,
            asked,
            waiting,
            ..
        } = self;
        let known = subject.filter(|subject| table.knows(subject));
        let Some(subject) = known else {
            // It may be any of the batch.
            if let Some(ping) = asked.front_mut() {
                for waiter in &ping.waiters {
                    if let Wants::Follow(pattern) = &waiter.wants {
                        for name in table.subjects(pattern).to_vec() {
                            table.refused(&name, out);
                        }
                    }
                }
                let follows = |w: &Waiter| matches!(w.wants, Wants::Follow(_));
                refuse(&mut ping.waiters, follows, why);
            }
            return;
        };
        table.refused(subject, out);
        // Later callers leaned on the same subscription.
        let leans = |w: &Waiter| match &w.wants {
            Wants::Follow(pattern) => table.subjects(pattern).iter().any(|s| **s == *subject),
            Wants::Publish(_) => false,
        };
        for ping in asked {
            refuse(&mut ping.waiters, leans, why);
        }
        refuse(waiting, leans, why);
    }

    /// Ends a connection: nothing that was asked on it will be answered.
    pub(crate) fn detach(&mut self, phase: Phase) {
        self.phase = phase;
        self.out.clear();
        let closed = phase == Phase::Closed;
        let unsent = if closed {
            Failure::Closed
        } else {
            Failure::Down
        };
        let sent = if closed {
            Failure::Closed
        } else {
            Failure::Cut
        };
        for waiter in mem::take(&mut self.waiting) {
            let _ = waiter.answer.send(Err(unsent.clone()));
        }
        for waiter in mem::take(&mut self.asked)
            .into_iter()
            .flat_map(|p| p.waiters)
        {
            let _ = waiter.answer.send(Err(sent.clone()));
        }
        self.proved = self.sent;
    }
}

fn refuse(waiters: &mut Vec<Waiter>, which: impl Fn(&Waiter) -> bool, why: &str) {
    let why: Arc<str> = format!("the server refused it: {why}").into();
    for waiter in waiters.extract_if(.., |waiter| which(waiter)) {
        let _ = waiter.answer.send(Err(Failure::Refused(why.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (State, Subjects) {
        (State::new("g".into()), Subjects::new("f", Vec::new()))
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn take(state: &mut State) -> String {
        let mut into = BytesMut::new();
        state.take(&mut into, false, Instant::now());
        String::from_utf8(into.to_vec()).unwrap()
    }

    #[test]
    fn callers_share_a_ping_and_its_proof() {
        let (mut state, subjects) = state();
        state.attach("p", "g");
        let mut one = state.follow(&pattern("a"), &subjects).unwrap();
        let mut two = state.follow(&pattern("a"), &subjects).unwrap();
        let mut three = state.publish("s", "", b"x");
        let sent = take(&mut state);
        assert_eq!(
            sent,
            "SUB p g 0\r\nSUB f.live.a g 1\r\nPUB s 1\r\nx\r\nPING\r\n"
        );
        // One more, after the ping: the pong does not prove it.
        let mut late = state.publish("s", "", b"y");
        assert!(one.try_recv().is_err());
        assert_eq!(state.proved(), Some(1));
        for answer in [&mut one, &mut two, &mut three] {
            assert!(matches!(answer.try_recv(), Ok(Ok(()))));
        }
        assert!(late.try_recv().is_err());
        assert!(state.follow(&pattern("a"), &subjects).is_none(), "proved");
        assert_eq!(take(&mut state), "PUB s 1\r\ny\r\nPING\r\n");
    }

    #[test]
    fn a_refusal_reaches_whoever_it_is_about() {
        let (mut state, subjects) = state();
        state.attach("p", "g");
        let mut good = state.follow(&pattern("a"), &subjects).unwrap();
        let mut bad = state.follow(&pattern("b"), &subjects).unwrap();
        let mut published = state.publish("f.live.b", "", b"x");
        take(&mut state);
        let mut leaning = state.follow(&pattern("b"), &subjects).unwrap();
        let why = "Permissions Violation for Subscription to \"f.live.b\" using queue \"g\"";
        assert!(state.refused(why));
        for answer in [&mut bad, &mut leaning] {
            assert!(matches!(answer.try_recv(), Ok(Err(Failure::Refused(_)))));
        }
        assert!(state.refused("Permissions Violation for Publish to \"f.live.b\""));
        assert!(matches!(published.try_recv(), Ok(Err(Failure::Refused(_)))));
        assert!(good.try_recv().is_err());
        assert!(!state.refused("Slow Consumer"));
        state.proved();
        assert!(matches!(good.try_recv(), Ok(Ok(()))));
        assert!(
            state.follow(&pattern("b"), &subjects).is_some(),
            "asked again"
        );
        assert!(take(&mut state).contains("SUB f.live.b g 3"));
    }

    #[test]
    fn a_cut_tells_what_was_sent_from_what_was_not() {
        let (mut state, subjects) = state();
        state.attach("p", "g");
        let mut sent = state.publish("s", "", b"x");
        take(&mut state);
        let mut unsent = state.publish("s", "", b"y");
        let mut followed = state.follow(&pattern("a"), &subjects).unwrap();
        state.detach(Phase::Down);
        assert!(matches!(sent.try_recv(), Ok(Err(Failure::Cut))));
        assert!(matches!(unsent.try_recv(), Ok(Err(Failure::Down))));
        assert!(matches!(followed.try_recv(), Ok(Err(Failure::Down))));
        assert_eq!(state.attach("p", "g"), 2);
        assert!(state.follow(&pattern("a"), &subjects).is_some(), "unproved");
        assert_eq!(
            take(&mut state),
            "SUB p g 0\r\nSUB f.live.a g 2\r\nPING\r\n"
        );
        assert_eq!(state.proved(), Some(2));
    }
}
