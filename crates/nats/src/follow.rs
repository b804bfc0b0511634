//! What this node subscribes to, and which proof each subscription waits for.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use fanfare_core::Pattern;

use crate::{subjects::Subjects, wire};

/// The number of a `PING`; its `PONG` proves everything that was written before it.
pub(crate) type Proof = u64;

/// Patterns and their subscriptions on the bus.
#[derive(Debug)]
pub(crate) struct Table {
    /// The queue group of every subscription: this node alone is in it, so that a message that
    /// several subscriptions select is sent once.
    group: String,
    patterns: HashMap<Pattern, Followed>,
    subjects: HashMap<Arc<str>, Member>,
    idle: VecDeque<(Instant, Pattern)>,
    last_sid: u64,
}

#[derive(Debug)]
struct Followed {
    subjects: Vec<Arc<str>>,
    proof: Proof,
    /// When it may go, where nobody follows it.
    until: Option<Instant>,
    /// Whether it stands in `idle`.
    queued: bool,
}

/// A subscription on the bus.
#[derive(Debug, Default)]
struct Member {
    sid: u64,
    patterns: usize,
    /// Whether the server was asked for it on this connection and did not refuse.
    asked: bool,
}

impl Table {
    pub(crate) fn new(group: String) -> Self {
        Self {
            group,
            patterns: HashMap::new(),
            subjects: HashMap::new(),
            idle: VecDeque::new(),
            last_sid: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Subscribes to whatever of `pattern` is not subscribed to, and answers the proof to wait for.
    /// `next` is the proof of what is written now.
    pub(crate) fn follow(
        &mut self,
        pattern: &Pattern,
        subjects: &Subjects,
        next: Proof,
        out: &mut BytesMut,
    ) -> Proof {
        if !self.patterns.contains_key(pattern) {
            let names: Vec<Arc<str>> = subjects
                .follow(pattern)
                .into_iter()
                .map(Arc::from)
                .collect();
            for name in &names {
                self.subjects.entry(name.clone()).or_default().patterns += 1;
            }
            let followed = Followed {
                subjects: names,
                proof: next,
                until: None,
                queued: false,
            };
            self.patterns.insert(pattern.clone(), followed);
        }
        let Some(followed) = self.patterns.get_mut(pattern) else {
            return next;
        };
        for name in &followed.subjects {
            if let Some(member) = self.subjects.get_mut(name)
                && !member.asked
            {
                self.last_sid += 1;
                member.ask(name, &self.group, self.last_sid, out);
                followed.proof = next;
            }
        }
        followed.proof
    }

    /// Subscribes to everything on a new connection.
    pub(crate) fn restore(&mut self, next: Proof, out: &mut BytesMut) {
        for (name, member) in &mut self.subjects {
            self.last_sid += 1;
            member.ask(name, &self.group, self.last_sid, out);
        }
        for followed in self.patterns.values_mut() {
            followed.proof = next;
        }
    }

    /// Notes that nobody follows `pattern` any more.
    pub(crate) fn idle(&mut self, pattern: Pattern, until: Instant) {
        let Some(followed) = self.patterns.get_mut(&pattern) else {
            return;
        };
        followed.until = Some(until);
        if !followed.queued {
            followed.queued = true;
            self.idle.push_back((until, pattern));
        }
    }

    /// Unsubscribes from what nobody has followed for a linger.
    pub(crate) fn sweep(
        &mut self,
        now: Instant,
        is_followed: impl Fn(&Pattern) -> bool,
        out: &mut BytesMut,
    ) {
        while self.idle.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, pattern)) = self.idle.pop_front() else {
                break;
            };
            let Some(followed) = self.patterns.get_mut(&pattern) else {
                continue;
            };
            followed.queued = false;
            if is_followed(&pattern) {
                continue;
            }
            match followed.until {
                // It was followed again meanwhile, and let go of again: the linger counts anew.
                Some(until) if until > now => {
                    followed.queued = true;
                    self.idle.push_back((until, pattern));
                }
                _ => self.remove(&pattern, out),
            }
        }
    }

    fn remove(&mut self, pattern: &Pattern, out: &mut BytesMut) {
        let Some(followed) = self.patterns.remove(pattern) else {
            return;
        };
        for name in followed.subjects {
            if let Some(member) = self.subjects.get_mut(&name) {
                member.patterns -= 1;
                if member.patterns == 0 {
                    if member.asked {
                        wire::unsubscribe(out, member.sid);
                    }
                    self.subjects.remove(&name);
                }
            }
        }
        // A storm of short-lived patterns must not leave its tables behind.
        shrink(&mut self.patterns);
        shrink(&mut self.subjects);
    }

    /// Notes that the server refused a subject, so that the next follower asks again.
    pub(crate) fn refused(&mut self, subject: &str, out: &mut BytesMut) {
        if let Some(member) = self.subjects.get_mut(subject)
            && std::mem::take(&mut member.asked)
        {
            // Where the server did take it, as one of a batch of which one was refused.
            wire::unsubscribe(out, member.sid);
        }
    }

    /// Whether there is a subscription to `subject`.
    pub(crate) fn knows(&self, subject: &str) -> bool {
        self.subjects.contains_key(subject)
    }

    /// The subjects of a pattern.
    pub(crate) fn subjects(&self, pattern: &Pattern) -> &[Arc<str>] {
        self.patterns
            .get(pattern)
            .map_or(&[], |followed| &followed.subjects)
    }
}

impl Member {
    fn ask(&mut self, subject: &str, group: &str, sid: u64, out: &mut BytesMut) {
        self.sid = sid;
        self.asked = true;
        wire::subscribe(out, subject, group, sid);
    }
}

fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
    if map.len() * 8 < map.capacity() {
        map.shrink_to(map.len() * 2);
    }
}

/// When something let go of now may go.
pub(crate) fn after(linger: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(linger).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects::Rule;

    const LINGER: Duration = Duration::from_secs(1);

    struct Bed {
        table: Table,
        subjects: Subjects,
        start: Instant,
    }

    impl Bed {
        fn new() -> Self {
            let rule = Rule::parse("raw.*", "{1}", None).unwrap();
            Self {
                table: Table::new("g".into()),
                subjects: Subjects::new("f", vec![rule]),
                start: Instant::now(),
            }
        }

        fn follow(&mut self, text: &str, next: Proof) -> (Proof, String) {
            let mut out = BytesMut::new();
            let pattern = Pattern::parse(text).unwrap();
            let proof = self.table.follow(&pattern, &self.subjects, next, &mut out);
            (proof, String::from_utf8(out.to_vec()).unwrap())
        }

        fn idle(&mut self, text: &str, at: Duration) {
            let pattern = Pattern::parse(text).unwrap();
            self.table.idle(pattern, self.start + at + LINGER);
        }

        fn sweep(&mut self, at: Duration, followed: &[&str]) -> String {
            let mut out = BytesMut::new();
            let is_followed = |pattern: &Pattern| followed.contains(&pattern.as_str());
            self.table.sweep(self.start + at, is_followed, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        }
    }

    #[test]
    fn a_pattern_is_asked_for_once_and_its_proof_shared() {
        let mut bed = Bed::new();
        let (proof, out) = bed.follow("a", 1);
        assert_eq!((proof, &*out), (1, "SUB f.live.a g 1\r\nSUB raw.a g 2\r\n"));
        assert_eq!(bed.follow("a", 2), (1, String::new()));
        let mut out = BytesMut::new();
        bed.table.restore(5, &mut out);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 2);
        assert_eq!(bed.follow("a", 6), (5, String::new()));
    }

    #[test]
    fn what_was_refused_is_asked_for_again() {
        let mut bed = Bed::new();
        bed.follow("a", 1);
        let mut out = BytesMut::new();
        bed.table.refused("raw.a", &mut out);
        assert_eq!(out, "UNSUB 2\r\n");
        assert_eq!(bed.follow("a", 2), (2, "SUB raw.a g 3\r\n".into()));
    }

    #[test]
    fn an_idle_pattern_lingers_from_when_it_was_last_let_go_of() {
        let mut bed = Bed::new();
        let ms = Duration::from_millis;
        bed.follow("a", 1);
        bed.idle("a", ms(0));
        assert_eq!(bed.sweep(ms(900), &[]), "");
        bed.follow("a", 2);
        assert_eq!(bed.sweep(ms(1000), &["a"]), "");
        bed.idle("a", ms(1100));
        bed.follow("a", 3);
        bed.idle("a", ms(1900));
        assert_eq!(bed.sweep(ms(2100), &[]), "");
        assert_eq!(bed.sweep(ms(2900), &[]), "UNSUB 1\r\nUNSUB 2\r\n");
        assert_eq!(bed.table.len(), 0);
        assert!(bed.table.subjects.is_empty() && bed.table.idle.is_empty());
    }
}
