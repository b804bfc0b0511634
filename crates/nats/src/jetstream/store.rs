//! Publishing: a publication is stored once the stream says so.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::HeaderMap;
use fanfare_core::{BrokerError, Channel, ErrorKind, Position, Publication, Published};
use futures_util::future::join_all;
use serde::Deserialize;
use tokio::{
    task::unconstrained,
    time::{Instant, sleep, timeout},
};

use super::{
    Shared,
    acked::Stay,
    log::Log,
    place::{self, Place, born},
    wire::Trouble,
};
use crate::{envelope, error::error, subjects::Target};

const WHAT: &str = "publish";
/// The wait before a publication is tried again that the stream could not take yet.
const WAIT: Duration = Duration::from_millis(20);
/// How long a stream that nobody answered for is asked for where it stands, before each such try.
const ELECTION_WAIT: Duration = Duration::from_millis(250);

/// The stream's word that it has a message.
#[derive(Deserialize, PartialEq, Eq, Debug)]
pub(super) struct Ack {
    pub(super) seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// A publication as it goes to a stream.
struct Ready<'p> {
    log: &'p Arc<Log>,
    subject: String,
    headers: HeaderMap,
    publication: &'p Publication,
    began: Stay,
    /// How far the feed was by then.
    head: u64,
}

impl Shared {
    /// Stores publications, in their order. All are sent before the first answer is waited for: the
    /// link and the stream keep their order.
    pub(super) async fn store(
        &self,
        batch: &[(&Channel, &Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        let ready = batch
            .iter()
            .map(|(channel, publication)| self.ready(channel, publication));
        let ready: Vec<_> = ready.collect();
        let good: Vec<&Ready<'_>> = ready.iter().flatten().collect();
        // All waits for what is not ready yet end here, those for an answer by the link's own bound.
        let until = Instant::now() + self.wire.patience;
        let mut acks = self.put_all(&good, until).await;
        // Nobody took any, so they are nowhere.
        while !acks.is_empty()
            && acks.iter().all(|ack| *ack == Err(Trouble::Nobody))
            && self.is_coming_back(&good, until).await
        {
            acks = self.put_all(&good, until).await;
        }
        let placed = good
            .iter()
            .zip(acks)
            .map(|(ready, ack)| self.placed(ready, ack, until));
        let mut placed = join_all(placed).await.into_iter();
        let silent = || Err(Trouble::NoAnswer.of(WHAT));
        let result = |ready: &Result<_, BrokerError>| match ready {
            Ok(_) => placed.next().unwrap_or_else(silent),
            Err(refused) => Err(refused.clone()),
        };
        ready.iter().map(result).collect()
    }

    /// What goes to which stream.
    fn ready<'p>(
        &'p self,
        channel: &Channel,
        publication: &'p Publication,
    ) -> Result<Ready<'p>, BrokerError> {
        self.open(WHAT)?;
        let rejected = |why: String| error(ErrorKind::Rejected, format!("{WHAT}: {why}"));
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
        Ok(Ready {
            log,
            subject: target.subject,
            headers,
            publication,
            began: log.stay(),
            head: log.standing().head.seq,
        })
    }

    /// Whether a stream that nobody answered for may take publications after all: our own is made
    /// again where it was gone, and one whose servers elect has a leader soon.
    async fn is_coming_back(&self, good: &[&Ready<'_>], until: Instant) -> bool {
        let wanted = |log: &&Arc<Log>| good.iter().any(|ready| Arc::ptr_eq(ready.log, log));
        let attends = self.logs.iter().filter(wanted).map(async |log| {
            // Who elects does not answer at all.
            let there = timeout(ELECTION_WAIT, log.stream.attend()).await;
            log.kick.notify_one();
            !matches!(there, Ok(Err(trouble)) if !matches!(trouble, Trouble::Nobody | Trouble::NoAnswer))
        });
        let is_coming = join_all(attends).await.contains(&true);
        sleep(WAIT).await;
        is_coming && Instant::now() < until
    }

    async fn put_all(&self, all: &[&Ready<'_>], until: Instant) -> Vec<Result<Ack, Trouble>> {
        // Each is sent when it is first polled, in their order: the runtime must not put off one of
        // them because those before it used up a task's budget.
        unconstrained(join_all(all.iter().map(|ready| self.put(ready, until)))).await
    }

    /// Puts one; again while another publication of its key is with the stream's servers and has no
    /// place yet: then nothing was done with this one.
    async fn put(&self, ready: &Ready<'_>, until: Instant) -> Result<Ack, Trouble> {
        loop {
            let (subject, headers) = (ready.subject.clone(), ready.headers.clone());
            let data = ready.publication.data.bytes().clone();
            let answer: Result<Ack, Trouble> = self.wire.put(subject, headers, data).await;
            let is_in_process = match &answer {
                // Older servers say it so.
                Ok(ack) => ack.duplicate && ack.seq == 0,
                Err(trouble) => trouble.is_id_in_process(),
            };
            if !is_in_process {
                return answer;
            }
            if Instant::now() + WAIT >= until {
                return answer.and(Err(Trouble::NoAnswer));
            }
            sleep(WAIT).await;
        }
    }

    /// The place of what the stream has.
    async fn placed(
        &self,
        ready: &Ready<'_>,
        ack: Result<Ack, Trouble>,
        until: Instant,
    ) -> Result<Published, BrokerError> {
        let ack = ack.map_err(|trouble| trouble.of(WHAT))?;
        let log = ready.log;
        let place = if ack.duplicate {
            first_of(log, ack.seq, until).await?
        } else {
            let at = ready.headers.get(envelope::AT);
            let at = at.map(|at| at.as_str().parse());
            let data = ready.publication.data.bytes();
            Place {
                seq: ack.seq,
                check: place::check(at.and_then(Result::ok), data, 0),
            }
        };
        let position = self.position(log, place).await;
        if !ack.duplicate {
            log.acked(place, ready.began, ready.head);
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
///
/// Who is read may be behind who took it: what it does not have is gone where the stream says so.
async fn first_of(log: &Arc<Log>, seq: u64, until: Instant) -> Result<Place, BrokerError> {
    loop {
        if let Some(check) = log.checked(seq) {
            return Ok(Place { seq, check });
        }
        let trouble = match look_up(log, seq).await {
            Ok(Some(place)) => return Ok(place),
            Ok(None) => Trouble::Behind,
            Err(trouble) => trouble,
        };
        if trouble == Trouble::Closed || Instant::now() + WAIT >= until {
            return Err(trouble.of(WHAT));
        }
        sleep(WAIT).await;
    }
}

/// Reads the place of a message that was once stored. `None` where it is not there yet.
async fn look_up(log: &Arc<Log>, seq: u64) -> Result<Option<Place>, Trouble> {
    let there = log.stream.message(seq, None).await?;
    let is_gone = match there {
        Some(first) if first.place.seq == seq => return Ok(Some(first.place)),
        // Who has a later one has had it.
        Some(_) => true,
        None => log.stream.is_gone(seq).await?,
    };
    // Where it is gone, it is the place where it was.
    Ok(is_gone.then_some(Place { seq, check: 0 }))
}
