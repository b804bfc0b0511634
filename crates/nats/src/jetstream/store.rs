//! Publishing: a publication is stored once the stream says so.

use std::{sync::Arc, time::SystemTime};

use async_nats::HeaderMap;
use fanfare_core::{BrokerError, Channel, ErrorKind, Position, Publication, Published};
use serde::Deserialize;

use super::{
    Shared,
    log::Log,
    place::{self, Place, born},
    wire::Trouble,
};
use crate::{envelope, error::error, subjects::Target};

/// The stream's word that it has a message.
#[derive(Deserialize, PartialEq, Eq, Debug)]
pub(super) struct Ack {
    pub(super) seq: u64,
    #[serde(default)]
    duplicate: bool,
}

impl Shared {
    pub(super) async fn store(
        &self,
        channel: &Channel,
        publication: &Publication,
    ) -> Result<Published, BrokerError> {
        let what = "publish";
        self.open(what)?;
        let rejected = |why: String| error(ErrorKind::Rejected, format!("{what}: {why}"));
        let log = self.log(channel);
        let log = log.ok_or_else(|| rejected("there is no log".into()))?;
        let stream = &log.stream;
        let target = stream.subjects.publish(channel).ok_or_else(|| {
            let name = &stream.name;
            rejected(format!(
                "{channel} comes from the stream {name} by a rule that does not say one subject \
                 for it; publish there"
            ))
        })?;
        // The time is part of the place, so it is said wherever we publish.
        let target = Target {
            own: true,
            ..target
        };
        let now = SystemTime::now();
        let mut headers = envelope::encode(publication, &target, now);
        headers.insert("Nats-Expected-Stream", stream.name.as_str());
        if let Some(key) = &publication.key {
            // A channel has no space, so two channels never share one.
            let key = format!("{channel} {}", envelope::escape(key.as_str()));
            headers.insert("Nats-Msg-Id", key.as_str());
        }
        self.fits(&headers, publication)?;
        let began = log.stay();
        let ack = self
            .put(log, target.subject, headers.clone(), publication)
            .await?;
        let place = if ack.duplicate {
            first_of(log, ack.seq).await?
        } else {
            let at = headers.get(envelope::AT).map(|at| at.as_str().parse());
            let check = place::check(at.and_then(Result::ok), publication.data.bytes(), 0);
            Place {
                seq: ack.seq,
                check,
            }
        };
        let position = self.position(log, place).await;
        if !ack.duplicate {
            log.acked(place, began);
        }
        Ok(Published {
            position: Some(position),
            duplicate: ack.duplicate,
        })
    }

    fn fits(&self, headers: &HeaderMap, publication: &Publication) -> Result<(), BrokerError> {
        let (beside, data) = (envelope::size(headers), publication.data.len());
        let whole = self.wire.client.max_payload();
        if data > self.max_data_bytes || beside + data > whole {
            let message = format!(
                "{data} bytes of data and {beside} of headers; at most {} of data and {whole} \
                 together are taken",
                self.max_data_bytes
            );
            return Err(error(ErrorKind::TooLarge, message));
        }
        Ok(())
    }

    async fn put(
        &self,
        log: &Arc<Log>,
        subject: String,
        headers: HeaderMap,
        publication: &Publication,
    ) -> Result<Ack, BrokerError> {
        let data = publication.data.bytes();
        let put = || {
            self.wire
                .put(subject.clone(), headers.clone(), data.clone())
        };
        let mut ack = put().await;
        if ack == Err(Trouble::Nobody) && log.stream.attend().await.is_ok() {
            // Nobody took it, so it is nowhere; our own stream is made again where it was gone.
            log.kick.notify_one();
            ack = put().await;
        }
        ack.map_err(|trouble| trouble.of("publish"))
    }

    /// A place in the stream's life of now.
    async fn position(&self, log: &Arc<Log>, place: Place) -> Position {
        let standing = log.standing();
        if standing.born.is_none() || place.seq <= standing.reached {
            // It was not seen yet, or is not what it was.
            if let Ok(info) = log.stream.attend().await {
                let life = born(&info.created);
                if !standing.began
                    && standing.born != Some(life)
                    && let Ok(mark) = log.stream.newest_mark().await
                {
                    log.met(life, mark);
                }
                if standing.began && standing.born != Some(life) {
                    log.kick.notify_one();
                    return Position {
                        epoch: life,
                        ..log.position(place)
                    };
                }
            }
        }
        log.position(place)
    }
}

/// The place of the first publication of a key.
async fn first_of(log: &Arc<Log>, seq: u64) -> Result<Place, BrokerError> {
    let check = match log.checked(seq) {
        Some(check) => check,
        None => {
            let there = log.stream.message(seq, None).await;
            let there = there.map_err(|trouble| trouble.of("publish"))?;
            let first = there.filter(|first| first.place.seq == seq);
            // Gone already: then it is the place where it was.
            first.map_or(0, |first| first.place.check)
        }
    };
    Ok(Place { seq, check })
}
