//! What callers want of the link.

use async_nats::{HeaderMap, PublishErrorKind};
use bytes::Bytes;
use fanfare_core::{BrokerError, ErrorKind};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{SemaphorePermit, oneshot},
    time::timeout,
};

use crate::{
    connection::{Link, Phase, UNPROVED},
    error::{Failure, error},
    follow::{Tap, Topic},
    probe::Wants,
};

impl Link {
    /// Publishes, and waits until the server has taken it. The caller bounds the time.
    ///
    /// `sent` is set as soon as the server may have it.
    pub(crate) async fn publish(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        sent: &mut bool,
    ) -> Result<(), Failure> {
        self.live()?;
        let _room = self.room(payload.len()).await?;
        self.live()?;
        let wants = Wants::Publish(subject.as_str().into(), self.connections());
        let ticket = self.probe.enter(wants);
        let queued = if headers.is_empty() {
            self.client.publish(subject, payload).await
        } else {
            let client = &self.client;
            client.publish_with_headers(subject, headers, payload).await
        };
        queued.map_err(|why| match why.kind() {
            PublishErrorKind::Send => Failure::Closed,
            _ => Failure::Refused(why.to_string().into()),
        })?;
        *sent = true;
        ticket.proved().await
    }

    /// Waits for a canary. The caller bounds the time.
    pub(crate) async fn canary(&self) -> Result<(), Failure> {
        self.live()?;
        self.probe.enter(Wants::Canary).proved().await
    }

    /// Waits until the server has the subscription. The caller bounds the time, and holds it.
    ///
    /// Cancel safe: where others wait too, one of them goes on.
    pub(crate) fn open<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<(), Failure>> {
        let open = async move {
            let opened = topic.opened.get_or_try_init(|| self.ask(topic)).await;
            if let Err(why) = &opened {
                self.table.refuse(topic, why.clone());
            }
            opened.copied()
        };
        // Boxed, since it comes back here for each older one.
        open.boxed()
    }

    async fn ask(&self, topic: &Topic) -> Result<(), Failure> {
        if let Some(why) = topic.refused() {
            return Err(why);
        }
        for older in topic.older() {
            // What was refused owns nothing.
            let _ = self.open(&older).await;
        }
        let mut phase = self.phase.subscribe();
        let phase = phase.wait_for(|phase| *phase != Phase::Down).await;
        if phase.is_ok_and(|phase| *phase == Phase::Closed) {
            return Err(Failure::Closed);
        }
        let _room = self.room(0).await?;
        let ticket = self.probe.enter(Wants::Follow(topic.subject.clone()));
        let subscriber = self.client.subscribe(topic.subject.to_string()).await;
        let subscriber = subscriber.map_err(|why| Failure::Refused(why.to_string().into()))?;
        ticket.proved().await?;
        let (open, closed) = oneshot::channel();
        let tap = Tap {
            subscriber,
            others: topic.owned_by_others(),
            closed,
        };
        self.taps.send(tap).await.map_err(|_| Failure::Closed)?;
        topic.is_read_by(open);
        Ok(())
    }

    async fn room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Failure> {
        let least = (self.room_size as usize).div_ceil(UNPROVED);
        let bytes = u32::try_from(bytes.max(least)).unwrap_or(u32::MAX);
        let room = self.room.acquire_many(bytes.min(self.room_size)).await;
        room.map_err(|_| Failure::Closed)
    }

    /// Waits until the first connection is proved.
    pub(crate) async fn attached(&self) -> Result<(), BrokerError> {
        let patience = self.config.command_timeout;
        match timeout(patience, self.probe.enter(Wants::Canary).proved()).await {
            Ok(result) => result.map_err(|failure| failure.of("connect")),
            Err(_) => Err(error(
                ErrorKind::Timeout,
                format!(
                    "connect: a message on `{}` is not back after {patience:?}",
                    self.probe.subject
                ),
            )),
        }
    }

    fn live(&self) -> Result<(), Failure> {
        match *self.phase.borrow() {
            // The client's state is newer than what it told of it.
            Phase::Live if self.is_connected() => Ok(()),
            Phase::Live | Phase::Down => Err(Failure::Down),
            Phase::Closed => Err(Failure::Closed),
        }
    }
}
