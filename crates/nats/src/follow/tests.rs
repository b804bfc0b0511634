use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fanfare_core::{Channel, Pattern};
use proptest::prelude::*;

use super::*;

const LINGER: Duration = Duration::from_secs(1);
const SUBJECTS: [&str; 4] = ["a.a", "a.b", "b.a", "b.b"];
const PATTERNS: [&str; 9] = ["a.a", "a.b", "b.a", "b.b", "a.*", "*.a", "*.*", "a.>", ">"];

fn table() -> Arc<Table> {
    Arc::new(Table::new(LINGER))
}

fn subjects(table: &Table) -> Vec<String> {
    let rows = table.rows.lock();
    let subjects = rows.all.values().map(|row| row.topic.subject.to_string());
    subjects.collect()
}

#[test]
fn what_is_covered_is_shared() {
    let table = table();
    let wide = table.hold("a.*");
    let (narrow, again) = (table.hold("a.b"), table.hold("a.*"));
    let other = table.hold("*.b");
    assert_eq!(subjects(&table), ["a.*", "*.b"]);
    assert_eq!(narrow.topic.age, again.topic.age);
    assert_eq!(other.topic.older().len(), 1);
    drop(wide);
    drop(again);
    let late = Instant::now() + LINGER * 2;
    assert_eq!(table.sweep(late, 9), 0, "the narrow one holds the wide one");
    drop(narrow);
    assert_eq!(table.sweep(late, 9), 0, "a younger one meets it");
    drop(other);
    assert_eq!(table.sweep(late, 9), 2);
    assert!(table.rows.lock().cover.is_empty() && table.rows.lock().idle.is_empty());
}

#[test]
fn it_lingers_from_when_it_was_last_let_go_of() {
    let table = table();
    let start = Instant::now();
    drop(table.hold("a"));
    assert_eq!(table.sweep(start, 9), 0);
    let again = table.hold("a");
    assert_eq!(table.sweep(start + LINGER * 2, 9), 0, "it is held");
    drop(again);
    assert_eq!(table.sweep(Instant::now(), 9), 0);
    assert_eq!(table.sweep(Instant::now() + LINGER, 9), 1);
}

#[test]
fn what_was_refused_is_asked_for_again_and_owns_nothing() {
    let table = table();
    let refused = table.hold("a.*");
    let wide = table.hold("*.a");
    table.refuse(&refused.topic, Failure::Refused("no".into()));
    assert!(refused.topic.refused().is_some());
    assert!(wide.topic.owned_by_others().is_empty());
    assert_eq!(subjects(&table), ["*.a"]);
    let again = table.hold("a.*");
    assert!(again.topic.age > wide.topic.age);
    drop((refused, wide, again));
    assert_eq!(table.sweep(Instant::now() + LINGER, 9), 2);
}

#[test]
fn a_hundred_thousand_come_and_go() {
    let table = table();
    let start = Instant::now();
    let shares: Vec<_> = (0..100_000)
        .map(|n| table.hold(&format!("live.{n}")))
        .collect();
    let wide = table.hold("live.>");
    assert_eq!(table.len(), 100_001);
    drop((shares, wide));
    let late = Instant::now() + LINGER;
    while table.sweep(late, 1024) > 0 {}
    assert_eq!(table.len(), 0);
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[derive(Clone, Debug)]
enum Step {
    Follow(usize),
    LetGo(usize),
    Publish(usize),
    /// One message of one subscription is taken up.
    Take(usize),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..PATTERNS.len()).prop_map(Step::Follow),
        2 => (0..8_usize).prop_map(Step::LetGo),
        4 => (0..SUBJECTS.len()).prop_map(Step::Publish),
        6 => (0..8_usize).prop_map(Step::Take),
        1 => Just(Step::Sweep),
    ]
}

struct Queue {
    subject: Arc<str>,
    others: Cover,
    messages: VecDeque<(usize, u64)>,
}

/// A server that sends each message once per subscription, and a node that takes the queues up in
/// any order.
#[derive(Default)]
struct Model {
    queues: BTreeMap<u64, Queue>,
    holds: Vec<(Pattern, Share)>,
    published: u64,
    /// What has to come, and what may: who lets go may still get what was under way.
    owed: BTreeSet<(usize, u64)>,
    taken: Vec<(usize, u64)>,
}

impl Model {
    fn selects(text: &str, subject: usize) -> bool {
        let channel = Channel::parse(SUBJECTS[subject]).unwrap();
        Pattern::parse(text).unwrap().matches(&channel)
    }

    fn is_followed(&self, subject: usize) -> bool {
        self.holds
            .iter()
            .any(|(p, _)| Self::selects(p.as_str(), subject))
    }

    fn run(&mut self, table: &Arc<Table>, step: Step) {
        match step {
            Step::Follow(at) => {
                let share = table.hold(PATTERNS[at]);
                let topic = &share.topic;
                self.queues.entry(topic.age).or_insert_with(|| Queue {
                    subject: topic.subject.clone(),
                    others: topic.owned_by_others(),
                    messages: VecDeque::new(),
                });
                self.holds
                    .push((Pattern::parse(PATTERNS[at]).unwrap(), share));
            }
            Step::LetGo(at) if at < self.holds.len() => {
                self.holds.remove(at);
                let followed: Vec<_> = (0..SUBJECTS.len()).map(|s| self.is_followed(s)).collect();
                self.owed.retain(|(subject, _)| followed[*subject]);
            }
            Step::Publish(subject) => {
                self.published += 1;
                let message = (subject, self.published);
                for queue in self.queues.values_mut() {
                    if Self::selects(&queue.subject, subject) {
                        queue.messages.push_back(message);
                    }
                }
                if self.is_followed(subject) {
                    self.owed.insert(message);
                }
            }
            Step::Take(at) => {
                let age = self.queues.keys().copied().nth(at);
                age.map(|age| self.take(age));
            }
            Step::Sweep => {
                table.sweep(Instant::now() + LINGER, usize::MAX);
                let there: BTreeSet<u64> = table.rows.lock().all.keys().copied().collect();
                self.queues.retain(|age, _| there.contains(age));
            }
            Step::LetGo(_) => {}
        }
    }

    fn take(&mut self, age: u64) -> bool {
        let queue = self.queues.get_mut(&age).unwrap();
        let Some(message) = queue.messages.pop_front() else {
            return false;
        };
        if queue.others.oldest(SUBJECTS[message.0]).is_none() && self.is_followed(message.0) {
            self.owed.remove(&message);
            self.taken.push(message);
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn each_message_is_taken_once_and_in_its_subjects_order(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let table = table();
        let mut model = Model::default();
        for step in steps {
            model.run(&table, step);
        }
        for age in model.queues.keys().copied().collect::<Vec<_>>() {
            while model.take(age) {}
        }
        prop_assert!(model.owed.is_empty(), "lost: {:?}", model.owed);
        for subject in 0..SUBJECTS.len() {
            let of = model.taken.iter().filter(|(s, _)| *s == subject).map(|(_, n)| *n);
            let numbers: Vec<u64> = of.collect();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
        }
        model.holds.clear();
        while table.sweep(Instant::now() + LINGER * 2, 1) > 0 {}
        prop_assert_eq!(table.len(), 0);
    }
}
