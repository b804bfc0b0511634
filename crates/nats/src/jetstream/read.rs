//! Reading a stream: what lies behind a place, by a consumer that lives no longer than the read.

use std::{sync::Arc, time::Duration};

use async_nats::{StatusCode, Subscriber};
use fanfare_core::Pattern;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::{
    message::{Delivery, Entry},
    stream::{Info, Stream},
    tenure::Cluster,
    wire::Trouble,
};

/// How long the server keeps a consumer that nobody asks.
const IDLE: Duration = Duration::from_secs(10);
/// How many consumers are made at most until one is at a server that is not behind.
pub(super) const PLACINGS: usize = 8;
/// How long a batch may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to make.
#[derive(Serialize)]
struct Create<'c> {
    stream_name: &'c str,
    config: Consumer<'c>,
}

/// A consumer that confirms nothing and lives in the server's memory.
#[derive(Serialize, Default)]
pub(super) struct Consumer<'c> {
    pub(super) deliver_policy: &'c str,
    pub(super) opt_start_seq: u64,
    pub(super) ack_policy: &'c str,
    pub(super) replay_policy: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) filter_subject: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deliver_subject: Option<&'c str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) flow_control: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle_heartbeat: Option<u64>,
    pub(super) inactive_threshold: u64,
    pub(super) mem_storage: bool,
    pub(super) num_replicas: usize,
}

/// What was made.
#[derive(Deserialize, Debug)]
pub(super) struct Made {
    pub(super) name: String,
    /// How many messages wait for it.
    #[serde(default)]
    pub(super) num_pending: u64,
    #[serde(default)]
    cluster: Option<Cluster>,
}

#[derive(Serialize)]
struct Next {
    batch: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<usize>,
    expires: u64,
}

impl Stream {
    /// Makes a consumer from a sequence on. `None` where the servers put it at one that is behind
    /// the stream's leader, which would say that there is nothing more; it is ended again.
    pub(super) async fn consumer(
        &self,
        from: u64,
        inactive: Duration,
        consumer: Consumer<'_>,
    ) -> Result<Option<Made>, Trouble> {
        let config = Consumer {
            deliver_policy: "by_start_sequence",
            opt_start_seq: from.max(1),
            ack_policy: "none",
            replay_policy: "instant",
            inactive_threshold: nanos(inactive),
            mem_storage: true,
            num_replicas: 1,
            ..consumer
        };
        let create = Create {
            stream_name: &self.name,
            config,
        };
        let verb = format!("CONSUMER.CREATE.{}", self.name);
        let made: Made = self.wire.ask(&verb, &create).await?;
        let Some(server) = made.cluster.as_ref().and_then(Cluster::leader) else {
            return Ok(Some(made));
        };
        if self.newest().await?.is_current(server) || self.info().await?.is_current(server) {
            return Ok(Some(made));
        }
        self.end(&made.name).await;
        Ok(None)
    }

    /// Ends a consumer, without waiting for it.
    pub(super) async fn end(&self, consumer: &str) {
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{consumer}", self.name);
        // Where this does not arrive, the server ends it for being idle.
        let _ = tokio::time::timeout(PATIENCE, self.wire.client.publish(subject, "".into())).await;
    }

    /// Begins to read from a sequence on.
    pub(super) async fn read(
        self: &Arc<Self>,
        from: u64,
        filter: Option<&str>,
    ) -> Result<Reading, Trouble> {
        for _ in 0..PLACINGS {
            let consumer = Consumer {
                filter_subject: filter,
                ..Consumer::default()
            };
            if let Some(made) = self.consumer(from, IDLE, consumer).await? {
                return Ok(Reading {
                    stream: self.clone(),
                    name: made.name,
                    pending: made.num_pending,
                });
            }
        }
        Err(Trouble::Behind)
    }

    /// The message at a sequence, or else the next one.
    pub(super) async fn message(
        self: &Arc<Self>,
        from: u64,
        filter: Option<&str>,
    ) -> Result<Option<Entry>, Trouble> {
        let mut reading = self.read(from, filter).await?;
        let batch = reading.next(1, usize::MAX).await;
        reading.end().await;
        Ok(batch?.into_iter().next())
    }

    /// One subject that selects all that the patterns' channels can come from, as narrow as it is
    /// easily made: `Ok(None)` is the whole stream; `Err(())`, that nothing of it is theirs.
    pub(super) fn filter(&self, info: &Info, patterns: &[Pattern]) -> Result<Option<String>, ()> {
        let mut subjects: Vec<String> = patterns
            .iter()
            .flat_map(|pattern| self.subjects.follow(pattern))
            .collect();
        subjects.sort_unstable();
        subjects.dedup();
        let (Some(first), Some(last)) = (subjects.first(), subjects.last()) else {
            return Err(());
        };
        let one = if subjects.len() == 1 {
            first.clone()
        } else {
            // Sorted: what the first and the last have in common, all have.
            let common = first.split('.').zip(last.split('.'));
            let common: Vec<_> = common
                .take_while(|(a, b)| a == b && !a.contains(['*', '>']))
                .map(|(a, _)| a)
                .chain([">"])
                .collect();
            common.join(".")
        };
        // The server refuses a filter that reaches beyond a stream's subjects.
        let covered = |subject: &String| match (Pattern::parse(subject), Pattern::parse(&one)) {
            (Ok(subject), Ok(one)) => subject.covers(&one),
            _ => false,
        };
        Ok(info.config.subjects.iter().any(covered).then_some(one))
    }
}

/// A read of a stream that is under way.
#[derive(Debug)]
pub(super) struct Reading {
    stream: Arc<Stream>,
    name: String,
    /// How many messages are left.
    pub(super) pending: u64,
}

impl Reading {
    /// The next messages, in order: at most so many, and about so many bytes; at least one, where
    /// there is one. None is the end.
    pub(super) async fn next(
        &mut self,
        batch: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, Trouble> {
        if self.pending == 0 {
            return Ok(Vec::new());
        }
        let batch = batch
            .min(usize::try_from(self.pending).unwrap_or(usize::MAX))
            .max(1);
        let bytes = Some(max_bytes).filter(|bytes| *bytes < 1 << 30);
        let mut entries = self.ask(batch, bytes).await?;
        if entries.is_empty() && self.pending > 0 {
            // The first is larger than all that was asked for.
            entries = self.ask(1, None).await?;
        }
        if entries.is_empty() {
            // What was counted is gone meanwhile.
            self.pending = 0;
        }
        Ok(entries)
    }

    async fn ask(&mut self, batch: usize, max_bytes: Option<usize>) -> Result<Vec<Entry>, Trouble> {
        let client = &self.stream.wire.client;
        let inbox = client.new_inbox();
        let deadline = Instant::now() + PATIENCE;
        let odd = |why: String| Trouble::Odd(why);
        let answers = async {
            let mut answers = client
                .subscribe(inbox.clone())
                .await
                .map_err(|why| odd(why.to_string()))?;
            let next = Next {
                batch,
                max_bytes,
                expires: nanos(PATIENCE / 2),
            };
            let next = serde_json::to_vec(&next).map_err(|why| odd(why.to_string()))?;
            let verb = format!(
                "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
                self.stream.name, self.name
            );
            let asked = client.publish_with_reply(verb, inbox, next.into()).await;
            asked.map_err(|why| odd(why.to_string()))?;
            self.take(batch, &mut answers).await
        };
        let (entries, pending) = tokio::select! {
            () = self.stream.wire.stop.cancelled() => return Err(Trouble::Closed),
            answers = timeout_at(deadline, answers) => answers.map_err(|_| Trouble::NoAnswer)??,
        };
        self.pending = pending;
        Ok(entries)
    }

    async fn take(
        &self,
        batch: usize,
        answers: &mut Subscriber,
    ) -> Result<(Vec<Entry>, u64), Trouble> {
        let (mut entries, mut pending) = (Vec::new(), self.pending);
        while entries.len() < batch && pending > 0 {
            let message = answers.next().await.ok_or(Trouble::Down)?;
            if let Some(delivery) = Delivery::of(&message) {
                pending = delivery.pending;
                entries.push(Entry::read(message, &delivery, &self.stream.subjects));
                continue;
            }
            let why = message.description.unwrap_or_default();
            match message.status {
                Some(StatusCode::NO_RESPONDERS) => return Err(Trouble::Nobody),
                // There is no more, or it would be over the bound in bytes.
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
                Some(_) if why.contains("MaxBytes") => break,
                _ => return Err(Trouble::Odd(format!("the consumer ended: {why}"))),
            }
        }
        Ok((entries, pending))
    }

    /// Lets go of it at once.
    pub(super) async fn end(self) {
        self.stream.end(&self.name).await;
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
