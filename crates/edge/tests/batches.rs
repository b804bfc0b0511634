//! How many publications of a stream of lines go to the broker at a time.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use common::{NDJSON, PATIENCE, answer, config, head, memory, serve};
use fanfare_core::{
    Broker, BrokerError, Capabilities, Channel, History, HistoryQuery, Inlet, MAX_BATCH, Pattern,
    Publication, Published, Subscription,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

/// A broker that takes its time for the first batch, and notes the size of each.
#[derive(Debug)]
struct Slow {
    inner: Arc<dyn Broker>,
    gate: Semaphore,
    sizes: Mutex<Vec<usize>>,
}

#[async_trait]
impl Broker for Slow {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        self.inner.publish(channel, publication).await
    }

    async fn publish_all(
        &self,
        batch: &[(Channel, Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        self.sizes.lock().push(batch.len());
        drop(self.gate.acquire().await);
        self.inner.publish_all(batch).await
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        self.inner.subscribe(pattern, inlet).await
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        self.inner.history(query).await
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        self.inner.probe().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[tokio::test]
async fn lines_that_came_while_the_broker_was_busy_are_published_together() {
    const LINES: usize = 2 * MAX_BATCH;
    let slow = Arc::new(Slow {
        inner: memory(),
        gate: Semaphore::new(0),
        sizes: Mutex::default(),
    });
    let server = serve(config(), slow.clone(), |edge| edge);
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    let headers = [
        NDJSON,
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
    ];
    let head = head("POST", "/publish", &headers, None);
    socket.write_all(head.as_bytes()).await.unwrap();
    // A chunk for each line, and so a piece of the body each.
    let chunk = |n: usize| {
        let line = format!("{{\"channel\":\"a\",\"data\":\"{n}\"}}\n");
        format!("{:x}\r\n{line}\r\n", line.len())
    };
    socket.write_all(chunk(0).as_bytes()).await.unwrap();
    let held = async {
        while slow.sizes.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, held).await.unwrap();
    let rest: String = (1..=LINES).map(chunk).collect();
    let rest = rest + "0\r\n\r\n";
    socket.write_all(rest.as_bytes()).await.unwrap();
    slow.gate.close();
    let mut heard = Vec::new();
    let read = socket.read_to_end(&mut heard);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(answer(&heard).text().lines().count(), 1 + LINES);
    let sizes = slow.sizes.lock().clone();
    assert_eq!(sizes.iter().sum::<usize>(), 1 + LINES);
    // The kernel may be late with a part of it.
    assert!(sizes.len() <= 2 * LINES / MAX_BATCH, "{sizes:?}");
}
