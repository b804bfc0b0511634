//! From the node's feed to the shards: each event is encoded here, once.

use std::sync::Arc;

use fanfare_core::{Feed, Live};
use tokio::sync::mpsc;

use crate::{Metrics, frame::Frame, ring::Passing, shard::Message};

/// The most items that go to the shards as one message.
const BATCH: usize = 128;

/// Hands on until the feed ends. Waits for a shard whose inbox is full, so that a node that is
/// behind slows its feed down instead of growing.
pub(crate) async fn run(mut feed: Feed, shards: Vec<mpsc::Sender<Message>>, metrics: Metrics) {
    let mut items = Vec::with_capacity(BATCH);
    loop {
        if feed.next_many(&mut items, BATCH).await == 0 {
            break;
        }
        metrics
            .feed_depth
            .set(i64::try_from(feed.depth()).unwrap_or(i64::MAX));
        let batch: Arc<[Passing]> = items.drain(..).map(encode).collect();
        let events = batch
            .iter()
            .filter(|item| matches!(item, Passing::Frame(_)))
            .count();
        metrics.events.inc_by(events as u64);
        for shard in &shards {
            // A shard that is gone takes its subscribers with it; the others go on.
            let _ = shard.send(Message::Batch(batch.clone())).await;
        }
    }
    for shard in &shards {
        let _ = shard.send(Message::FeedEnded).await;
    }
}

fn encode(live: Live) -> Passing {
    match live {
        Live::Event(event) => Passing::Frame(Arc::new(Frame::encode(event))),
        Live::Gap(gap) => Passing::Gap(Arc::new(gap)),
    }
}
