//! Marks: what says to every node that Fanfare's own stream lost its newest messages.
//!
//! Who knows of a message that the stream has lost writes a mark into it, on a subject that stands
//! for no channel. The newest mark names the life of the stream, so that all nodes name it alike,
//! whoever was there at the loss, and a cursor from before the loss is of another life at each of
//! them. Of several nodes that find a loss one writes the mark: it says which mark it found there,
//! and the server takes it only if that is the newest still.
//!
//! A mark is younger than all that it is about, and limits take the oldest first. So that it is
//! there as long as anything is, it is written again before they come to it.

use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use fanfare_core::Epoch;
use serde::{Deserialize, Serialize};

use super::{
    message::Content,
    place::{self, Place},
    store::Ack,
    stream::{Info, Stream},
    wire::Trouble,
};

/// How many marks are read at a time.
const BATCH: usize = 64;
/// Another message is the newest on the subject.
const WRONG_LAST: [u64; 2] = [10071, 10164];

/// A mark, as it stands in the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) seq: u64,
    /// When the stream took it, in nanoseconds since 1970.
    stored: u64,
    pub(super) text: Text,
}

/// What a mark says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Text {
    /// A number that no other life of the stream has: drawn by lot, since a mark can be lost, too.
    life: u64,
    /// The epoch that it ended.
    ended: u64,
    /// The last place of that epoch behind which nothing was lost, as its writer knows.
    seq: u64,
    check: u32,
}

impl Text {
    /// For a stream that lost something behind a place of this epoch.
    pub(super) fn new(ended: Epoch, survived: Place) -> Self {
        Self {
            life: fastrand::u64(..),
            ended: ended.0,
            seq: survived.seq,
            check: survived.check,
        }
    }
}

impl Mark {
    /// `None` where the message is none: then it says nothing.
    pub(super) fn read(seq: u64, stored: u64, payload: &[u8]) -> Option<Self> {
        let text = serde_json::from_slice(payload).ok()?;
        Some(Self { seq, stored, text })
    }

    /// The epoch of a stream whose newest mark it is.
    pub(super) fn epoch(&self, born: Epoch) -> Epoch {
        place::marked(born, self.text.life)
    }

    /// Whether it says the same, perhaps written again.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.text.life == other.text.life
    }

    /// Whether it was written after a node had taken up this mark, being in this epoch.
    pub(super) fn is_news_to(&self, taken: Option<&Self>, epoch: Epoch) -> bool {
        taken.is_none_or(|taken| self.seq > taken.seq && !self.is_same(taken)) || self.ends(epoch)
    }

    /// Whether it ended this epoch.
    fn ends(&self, epoch: Epoch) -> bool {
        self.text.ended == epoch.0
    }

    /// The last place of an epoch, up to `place`, behind which nothing was lost when it ended. Of
    /// an epoch that others were between, it says nothing.
    pub(super) fn survived(&self, epoch: Epoch, place: Place) -> Place {
        let survived = Place {
            seq: self.text.seq,
            check: self.text.check,
        };
        if self.ends(epoch) {
            survived.min(place)
        } else {
            Place::default()
        }
    }

    /// Whether limits will come to it before long.
    pub(super) fn is_old(&self, info: &Info, now: SystemTime) -> bool {
        let (config, state) = (&info.config, &info.state);
        let age = now
            .duration_since(SystemTime::UNIX_EPOCH + Duration::from_nanos(self.stored))
            .unwrap_or_default();
        let by_age = config.max_age > Duration::ZERO && age > config.max_age / 2;
        let middle = state.first_seq + state.last_seq.saturating_sub(state.first_seq) / 2;
        let is_full = u64::try_from(config.max_bytes).is_ok_and(|most| state.bytes > most / 2);
        by_age || is_full && self.seq < middle
    }
}

impl Stream {
    /// The newest mark.
    pub(super) async fn newest_mark(self: &std::sync::Arc<Self>) -> Result<Option<Mark>, Trouble> {
        let Some(subject) = &self.marks else {
            return Ok(None);
        };
        let mut newest = None;
        let mut reading = self.read(1, Some(subject)).await?;
        loop {
            let marks = reading.next(BATCH, usize::MAX).await?;
            if marks.is_empty() {
                break;
            }
            for entry in marks {
                if let Content::Mark(mark) = entry.content {
                    newest = Some(mark);
                }
            }
        }
        reading.end().await;
        Ok(newest)
    }

    /// Writes a mark behind the newest one.
    ///
    /// # Errors
    /// [`Trouble::Behind`] where there is a newer one. After others it may be there.
    pub(super) async fn mark(&self, text: Text, newest: Option<u64>) -> Result<Mark, Trouble> {
        let subject = self.marks.clone().ok_or(Trouble::Nobody)?;
        let payload = serde_json::to_vec(&text).map_err(|why| Trouble::Odd(why.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", self.name.as_str());
        let newest = newest.unwrap_or(0).to_string();
        headers.insert("Nats-Expected-Last-Subject-Sequence", newest.as_str());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ack = self.wire.put::<Ack>(subject, headers, payload.into()).await;
        let ack = ack.map_err(|trouble| match trouble {
            Trouble::Refused { number, .. } if WRONG_LAST.contains(&number) => Trouble::Behind,
            trouble => trouble,
        })?;
        Ok(Mark {
            seq: ack.seq,
            stored: super::read::nanos(now.unwrap_or_default()),
            text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(seq: u64) -> Place {
        Place { seq, check: 2 }
    }

    fn mark(seq: u64, text: Text) -> Mark {
        Mark {
            seq,
            stored: 1,
            text,
        }
    }

    #[test]
    fn what_is_written_is_read_and_names_a_life_alone() {
        let born = Epoch(7);
        let text = Text::new(born, place(5));
        let payload = serde_json::to_vec(&text).unwrap();
        let read = Mark::read(9, 1, &payload).unwrap();
        assert_eq!(read, mark(9, text));
        assert_eq!(Mark::read(9, 1, b"{}"), None);
        assert_eq!(Mark::read(9, 1, b"\xff"), None);
        // Written again, it names the same; another one does not, wherever it stands.
        assert_eq!(mark(30, text).epoch(born), read.epoch(born));
        let other = mark(9, Text::new(born, place(5)));
        assert_ne!(other.epoch(born), read.epoch(born));
        assert_ne!(read.epoch(born), born);
        assert_ne!(read.epoch(Epoch(8)), read.epoch(born));
    }

    #[test]
    fn a_mark_is_news_where_it_was_written_since() {
        let (old, now) = (Epoch(1), Epoch(2));
        let taken = mark(20, Text::new(old, place(5)));
        let is_news =
            |seq, ended| mark(seq, Text::new(ended, place(5))).is_news_to(Some(&taken), now);
        assert!(is_news(21, old) && is_news(21, now));
        // In the place of the one that was taken, or before it: that may be an older one.
        assert!(is_news(20, now) && is_news(10, now));
        assert!(!is_news(20, old) && !is_news(10, old));
        assert!(!taken.is_news_to(Some(&taken), now));
        assert!(!mark(30, taken.text).is_news_to(Some(&taken), now));
        assert!(taken.is_news_to(None, now));
    }

    #[test]
    fn it_says_what_survived_of_the_epoch_that_it_ended_alone() {
        let mark = mark(9, Text::new(Epoch(1), place(5)));
        assert_eq!(mark.survived(Epoch(1), place(8)), place(5));
        assert_eq!(mark.survived(Epoch(1), place(3)), place(3));
        assert_eq!(mark.survived(Epoch(2), place(3)), Place::default());
    }
}
