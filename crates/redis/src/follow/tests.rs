use proptest::prelude::*;

use super::*;

const LINGER: Duration = Duration::from_secs(5);

fn follow() -> Arc<Follow> {
    Follow::new(LINGER, 3, IntGauge::new("topics", "topics").unwrap())
}

fn name(text: &str) -> Source {
    Source::Name(text.into())
}

fn confirm_all(follow: &Follow) -> usize {
    let batch = follow.take_wanted(100);
    batch
        .iter()
        .for_each(|topic| assert!(!follow.confirmed(topic)));
    batch.len()
}

fn is_empty(follow: &Follow) -> bool {
    let table = follow.table.lock();
    let sets = table.wanted.is_empty() && table.due.is_empty();
    table.topics.is_empty() && sets && table.lost == 0
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_asked_for_once_and_lingers() {
    let follow = follow();
    let (one, confirmation) = follow.hold(name("a"));
    let (two, _) = follow.hold(name("a"));
    assert_eq!(confirm_all(&follow), 1);
    assert!(confirmation.unwrap().await.unwrap().is_ok());
    assert!(
        follow.hold(name("a")).1.is_none(),
        "confirmed: nothing to wait for"
    );
    drop((one, two));
    assert!(follow.take_due(Instant::now(), 10).is_empty());
    let (again, _) = follow.hold(name("a"));
    assert_eq!(follow.next_due(), None);
    drop(again);
    let due = follow.next_due().unwrap();
    assert_eq!(due, Instant::now() + LINGER);
    let leaving = follow.take_due(due, 10);
    assert_eq!(leaving.len(), 1);
    let (late, confirmation) = follow.hold(name("a"));
    assert!(confirmation.is_some(), "its end was asked for");
    follow.left(&leaving[0]);
    assert_eq!(confirm_all(&follow), 1);
    drop(late);
    follow
        .take_due(Instant::now() + LINGER, 10)
        .iter()
        .for_each(|topic| follow.left(topic));
    assert!(is_empty(&follow));
}

#[tokio::test(start_paused = true)]
async fn over_the_bound_the_oldest_end_early() {
    let follow = follow();
    for text in ["a", "b", "c", "d", "e"] {
        let (hold, _) = follow.hold(name(text));
        confirm_all(&follow);
        drop(hold);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let leaving: Vec<_> = follow.take_due(Instant::now(), 10);
    let names: Vec<_> = leaving.iter().map(|topic| topic.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_never_reached_the_bus_leaves_nothing() {
    let follow = follow();
    for _ in 0..1000 {
        let _ = follow.hold(name("a"));
    }
    assert!(is_empty(&follow));
    let (_hold, _) = follow.hold(name("a"));
    for _ in 0..1000 {
        let _ = follow.hold(name("a"));
    }
    let table = follow.table.lock();
    assert!(table.topics.values().all(|state| state.waiting.len() <= 4));
}

#[tokio::test(start_paused = true)]
async fn after_a_cut_all_that_is_held_is_asked_for_again() {
    let follow = follow();
    let (_held, _) = follow.hold(name("held"));
    let (idle, _) = follow.hold(name("idle"));
    confirm_all(&follow);
    drop(idle);
    let (_fresh, confirmation) = follow.hold(name("fresh"));
    follow.cut(Failure::Down("cut".into()));
    assert!(!follow.is_whole());
    assert!(matches!(follow.down(), Some(Failure::Down(_))));
    assert_eq!(follow.take_wanted(10).len(), 2);
    // A second cut before the first was healed.
    follow.cut(Failure::Down("cut".into()));
    assert!(!follow.is_whole());
    assert_eq!(confirm_all(&follow), 2);
    assert!(follow.is_whole());
    assert!(confirmation.unwrap().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refused_topic_tells_its_waiters_and_is_tried_again_while_held() {
    let follow = follow();
    let (_held, _) = follow.hold(name("a"));
    confirm_all(&follow);
    follow.cut(Failure::Down("cut".into()));
    let (fresh, confirmation) = follow.hold(name("a"));
    let topic = follow.take_wanted(1).remove(0);
    follow.refused(&topic, &Failure::Refused("no".into()));
    assert!(
        follow.is_whole(),
        "the gap for the cut does not wait for it"
    );
    assert!(matches!(
        confirmation.unwrap().await.unwrap(),
        Err(Failure::Refused(_))
    ));
    drop(fresh);
    assert!(follow.take_due(Instant::now(), 10).is_empty());
    assert!(follow.take_due(follow.next_due().unwrap(), 10).is_empty());
    let topic = follow.take_wanted(1).remove(0);
    assert!(follow.confirmed(&topic), "its holders missed something");
    assert!(!follow.confirmed(&topic));
}

#[derive(Clone, Debug)]
enum Step {
    Hold(u8),
    LetGo(usize),
    Take,
    Answer(bool),
    Due(u64),
    Left,
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4).prop_map(Step::Hold),
        4 => (0usize..8).prop_map(Step::LetGo),
        3 => Just(Step::Take),
        3 => any::<bool>().prop_map(Step::Answer),
        2 => (0u64..8).prop_map(Step::Due),
        2 => Just(Step::Left),
        1 => Just(Step::Cut),
    ]
}

proptest! {
    /// Whatever the order of things, what is held ends up followed, and nothing else stays.
    #[test]
    fn in_the_end_the_bus_follows_what_is_held(steps in proptest::collection::vec(step(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let follow = follow();
            let (mut holds, mut asked, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
            // What the server follows for us.
            let mut server: HashSet<Topic> = HashSet::new();
            for step in steps {
                match step {
                    Step::Hold(which) => holds.push(follow.hold(name(&which.to_string())).0),
                    Step::LetGo(at) if at < holds.len() => drop(holds.swap_remove(at)),
                    Step::LetGo(_) => {}
                    Step::Take => asked.extend(follow.take_wanted(2)),
                    Step::Answer(yes) => if let Some(topic) = asked.pop() {
                        if yes {
                            server.insert(topic.clone());
                            follow.confirmed(&topic);
                        } else {
                            follow.refused(&topic, &Failure::late());
                        }
                    },
                    Step::Due(secs) => {
                        tokio::time::advance(Duration::from_secs(secs)).await;
                        leaving.extend(follow.take_due(Instant::now(), 2));
                    }
                    Step::Left => if let Some(topic) = leaving.pop() {
                        server.remove(&topic);
                        follow.left(&topic);
                    },
                    Step::Cut => {
                        server.clear();
                        asked.clear();
                        leaving.clear();
                        follow.cut(Failure::late());
                    }
                }
            }
            for _ in 0..4 {
                for topic in asked.drain(..).chain(follow.take_wanted(100)) {
                    server.insert(topic.clone());
                    follow.confirmed(&topic);
                }
                tokio::time::advance(Duration::from_secs(10)).await;
                for topic in leaving.drain(..).chain(follow.take_due(Instant::now(), 100)) {
                    server.remove(&topic);
                    follow.left(&topic);
                }
            }
            let held: HashSet<Topic> = holds.iter().map(|hold| hold.topic.clone()).collect();
            assert_eq!(server, held);
            assert!(follow.is_whole());
            assert_eq!(follow.gauge.get(), i64::try_from(held.len()).unwrap());
            holds.clear();
            tokio::time::advance(Duration::from_secs(10)).await;
            follow.take_due(Instant::now(), 100).iter().for_each(|topic| follow.left(topic));
            assert!(is_empty(&follow));
        });
    }
}
