//! The loop around a shard.

use std::{sync::Arc, time::Duration};

use fanfare_core::BrokerMetrics;
use fanfare_memory::{MemoryBroker, MemoryConfig};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{HANDED_OVER, TICK, run};
use crate::{
    DeliveryConfig,
    shard::{
        Message,
        delay::tests::{Client, World},
    },
};

fn broker() -> Arc<MemoryBroker> {
    let metrics = BrokerMetrics::unregistered("memory");
    Arc::new(MemoryBroker::new(MemoryConfig::default(), metrics))
}

#[tokio::test(start_paused = true)]
async fn a_delay_that_is_over_wakes_it() {
    const DELAY: Duration = Duration::from_millis(10);
    assert!(DELAY < TICK, "a tick would write it too");
    for socket in [true, false] {
        let mut world = World::new(DeliveryConfig {
            write_delay: DELAY,
            ..DeliveryConfig::default()
        });
        let client = world.join(socket, &["a"]);
        let event = world.event("a", "1");
        let (shard, doorbell) = world.into_parts();
        let (inbox, messages) = mpsc::channel(1);
        let began = Instant::now();
        let running = tokio::spawn(run(shard, messages, doorbell, None, broker()));
        inbox.send(Message::Batch([event].into())).await.unwrap();
        sleep_until(began + DELAY - Duration::from_millis(1)).await;
        assert!(client.read().is_empty());
        // The timer counts whole milliseconds, and rounds up.
        sleep_until(began + DELAY + Duration::from_millis(2)).await;
        assert_eq!(client.read(), ["1"], "socket: {socket}");
        drop(inbox);
        running.await.unwrap();
    }
}

#[tokio::test]
async fn a_turn_hands_over_no_more_than_its_bound() {
    const MEMBERS: usize = 1 << 10;
    const EVENTS: usize = 1 << 7;
    const MESSAGES: usize = 8;
    let within = HANDED_OVER as usize / MEMBERS;
    assert!(within.is_multiple_of(EVENTS) && within < MESSAGES * EVENTS);
    let mut world = World::new(DeliveryConfig::default());
    let clients: Vec<Client> = (0..MEMBERS).map(|_| world.join(true, &["a"])).collect();
    let (inbox, messages) = mpsc::channel(MESSAGES);
    for _ in 0..MESSAGES {
        let events = (0..EVENTS).map(|_| world.event("a", "x")).collect();
        inbox.try_send(Message::Batch(events)).unwrap();
    }
    drop(inbox);
    let (shard, doorbell) = world.into_parts();
    run(shard, messages, doorbell, None, broker()).await;
    let writes = clients[0].read();
    let events: Vec<usize> = writes
        .iter()
        .map(|write| write.split(',').count())
        .collect();
    assert_eq!(events[0], within, "{events:?}");
    assert_eq!(events.iter().sum::<usize>(), MESSAGES * EVENTS);
}
