//! The suite catches brokers that are broken on purpose.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helpers")]

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fanfare_conformance::{Fixture, Verdict, all_laws};
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, History, HistoryQuery, Inlet, Live,
    Offset, Pattern, Position, Publication, Published, Since, Subscription, feed,
};
use fanfare_memory::{MemoryBroker, MemoryConfig};
use parking_lot::Mutex;

/// What is wrong. Live faults hit one event in a hundred.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    LosesLive,
    LosesStored,
    DoublesLive,
    DoublesStored,
    ExchangesLive,
    TakesForeignEpochs,
    TakesPlacesBeyondTheHead,
    ForgetsTheCutOfAPage,
    HidesEviction,
    IgnoresKeys,
    StaysOpen,
    NeverLetsGo,
    ReversesBatches,
}

const EVERY: usize = 100;

#[derive(Debug)]
struct Broken {
    inner: MemoryBroker,
    fault: Fault,
    count: Arc<AtomicUsize>,
    /// For each inlet outside, the one inside that is read, spoiled and passed on.
    inlets: Mutex<Vec<(Inlet, Inlet)>>,
    kept: Mutex<Vec<Subscription>>,
}

impl Broken {
    fn hundredth(&self) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst) % EVERY == EVERY - 1
    }

    fn inside(&self, outside: &Inlet) -> Inlet {
        let mut inlets = self.inlets.lock();
        if let Some((_, inside)) = inlets.iter().find(|(known, _)| known.is_same(outside)) {
            return inside.clone();
        }
        let (inside, mut feed) = feed(Default::default());
        inlets.push((outside.clone(), inside.clone()));
        let (outside, fault) = (outside.clone(), self.fault);
        tokio::spawn(async move {
            let (mut count, mut held) = (0, None);
            while let Some(live) = feed.next().await {
                // What it spoils is told by nobody, but a slow reader is still told of its own.
                outside.room(Duration::from_millis(20)).await;
                count += 1;
                let hit = count % EVERY == EVERY / 2;
                match fault {
                    Fault::LosesLive if hit => {}
                    Fault::DoublesLive if hit => {
                        outside.offer(live.clone());
                        outside.offer(live);
                    }
                    Fault::ExchangesLive if hit => held = Some(live),
                    _ => {
                        outside.offer(live);
                        held.take().into_iter().for_each(|held| outside.offer(held));
                    }
                }
            }
            outside.close();
        });
        inside
    }

    fn spoil(&self, query: &mut HistoryQuery, head: &Position) {
        let Since::After(cursor) = &mut query.since else {
            return;
        };
        let foreign = cursor.epoch != head.epoch;
        match self.fault {
            Fault::TakesForeignEpochs if foreign => {
                *cursor = head.at(cursor.offset.min(head.offset));
            }
            Fault::TakesPlacesBeyondTheHead if !foreign && cursor.offset > head.offset => {
                *cursor = head.clone();
            }
            _ => {}
        }
    }
}

#[async_trait]
impl Broker for Broken {
    async fn publish(
        &self,
        channel: &Channel,
        mut publication: Publication,
    ) -> Result<Published, BrokerError> {
        if self.fault == Fault::IgnoresKeys {
            publication.key = None;
        }
        self.inner.publish(channel, publication).await
    }

    async fn publish_all(
        &self,
        batch: &[(Channel, Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        let mut batch: Vec<_> = batch.to_vec();
        if self.fault == Fault::IgnoresKeys {
            batch.iter_mut().for_each(|(_, one)| one.key = None);
        }
        if self.fault == Fault::ReversesBatches {
            batch.reverse();
        }
        let mut results = self.inner.publish_all(&batch).await;
        if self.fault == Fault::ReversesBatches {
            results.reverse();
        }
        results
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        let subscription = self.inner.subscribe(pattern, &self.inside(inlet)).await?;
        if self.fault == Fault::NeverLetsGo {
            self.kept.lock().push(subscription);
            return Ok(Subscription::new(()));
        }
        Ok(subscription)
    }

    async fn history(&self, mut query: HistoryQuery) -> Result<History, BrokerError> {
        let now = HistoryQuery {
            since: Since::Now,
            ..query.clone()
        };
        let head = self.inner.history(now).await?.upto;
        self.spoil(&mut query, &head);
        let mut page = self.inner.history(query).await?;
        match self.fault {
            Fault::LosesStored => page.items.retain(|_| !self.hundredth()),
            Fault::DoublesStored => {
                let twice = |item: Live| {
                    if self.hundredth() {
                        vec![item.clone(), item]
                    } else {
                        vec![item]
                    }
                };
                page.items = page.items.into_iter().flat_map(twice).collect();
            }
            Fault::ForgetsTheCutOfAPage if page.more => {
                page.upto = page.upto.at(Offset(page.upto.offset.0 + 1));
            }
            Fault::HidesEviction => page.items.retain(|item| matches!(item, Live::Event(_))),
            _ => {}
        }
        Ok(page)
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        self.inner.probe().await
    }

    async fn close(&self) {
        if self.fault != Fault::StaysOpen {
            self.inner.close().await;
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

struct Spoiled(Arc<Broken>);

#[async_trait]
impl Fixture for Spoiled {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.0.clone()
    }

    async fn evict(&self, channels: &Pattern) -> bool {
        self.0.inner.purge(channels);
        true
    }

    /// What is lost never comes: there is no sense in waiting long for it.
    fn patience(&self) -> Duration {
        Duration::from_secs(2)
    }
}

fn spoiled(fault: Fault) -> Arc<Spoiled> {
    let config = MemoryConfig {
        patience: Duration::from_millis(20),
        ..MemoryConfig::default()
    };
    let inner = MemoryBroker::new(config, BrokerMetrics::unregistered("memory"));
    Arc::new(Spoiled(Arc::new(Broken {
        inner,
        fault,
        count: Arc::default(),
        inlets: Mutex::default(),
        kept: Mutex::default(),
    })))
}

/// The names of the laws that a fault breaks.
async fn broken_laws(fault: Fault) -> HashSet<&'static str> {
    let checks: Vec<_> = all_laws()
        .into_iter()
        .map(|law| tokio::spawn(async move { (law.name, law.check(spoiled(fault)).await) }))
        .collect();
    let mut broken = HashSet::new();
    for check in checks {
        let (name, verdict): (_, Verdict) = check.await.unwrap();
        if let Err(how) = verdict {
            println!("{fault:?} breaks {name}: {how:.200?}");
            broken.insert(name);
        }
    }
    broken
}

async fn caught(fault: Fault, by: &[&str]) {
    let broken = broken_laws(fault).await;
    for law in by {
        assert!(
            broken.contains(law),
            "{fault:?} passes {law}; caught by {broken:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrapper_itself_breaks_nothing() {
    assert_eq!(broken_laws(Fault::None).await, HashSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_one_event_in_a_hundred_is_caught() {
    let live = [
        "order::offsets_rise_in_order_of_announcement",
        "concurrency::many_publishers_make_one_order",
        "seam::joining_under_load_misses_nothing",
    ];
    caught(Fault::LosesLive, &live).await;
    let stored = [
        "history::pages_join_without_a_seam",
        "seam::joining_under_load_misses_nothing",
    ];
    caught(Fault::LosesStored, &stored).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubling_one_event_is_caught() {
    let live = [
        "order::offsets_rise_in_order_of_announcement",
        "pattern::an_inlet_gets_an_event_once_whatever_selects_it",
    ];
    caught(Fault::DoublesLive, &live).await;
    caught(
        Fault::DoublesStored,
        &["history::pages_join_without_a_seam"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanging_two_events_is_caught() {
    let by = [
        "order::offsets_rise_in_order_of_announcement",
        "concurrency::two_inlets_see_one_order",
    ];
    caught(Fault::ExchangesLive, &by).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_places_of_another_life_of_the_log_is_caught() {
    caught(Fault::TakesForeignEpochs, &["gap::another_epoch_is_a_gap"]).await;
    caught(
        Fault::TakesPlacesBeyondTheHead,
        &["gap::a_place_beyond_the_head_is_a_gap"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_in_history_are_caught() {
    caught(
        Fault::ForgetsTheCutOfAPage,
        &["history::pages_join_without_a_seam"],
    )
    .await;
    let by = [
        "gap::deleted_history_is_a_gap",
        "model::the_broker_agrees_with_the_model",
    ];
    caught(Fault::HidesEviction, &by).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_faults_are_caught() {
    caught(
        Fault::IgnoresKeys,
        &[
            "order::a_known_key_stores_nothing_again",
            "order::racing_publications_of_a_key_are_stored_once",
        ],
    )
    .await;
    caught(
        Fault::StaysOpen,
        &["close::closing_ends_feeds_and_refuses_calls"],
    )
    .await;
    caught(Fault::NeverLetsGo, &["pattern::letting_go_ends_the_flow"]).await;
    caught(
        Fault::ReversesBatches,
        &["order::a_batch_is_stored_in_its_order"],
    )
    .await;
}
