//! What may have been taken away behind a cursor.

use fanfare_core::{
    Pattern, Position,
    history::{MAX_GAPS, scopes},
};

use super::{
    super::{place::Place, stream::Info, wire::Trouble},
    Page,
};

/// The most sequences that hold nothing that are looked at.
pub(super) const DELETED: u64 = 100_000;

/// What was taken away behind a cursor.
pub(super) struct Loss {
    pub(super) scope: Pattern,
    /// Whether it lies before all that is left of its channel behind the cursor.
    pub(super) oldest: bool,
}

impl Page<'_> {
    /// The last place up to a cursor behind which nothing is lost, in the cursor's life.
    pub(super) fn survived(&self, cursor: &Position) -> Position {
        let (mark, place) = (self.standing.mark, Place::of(cursor.offset));
        match (mark, place) {
            (Some(mark), Some(place)) if cursor.epoch != self.standing.epoch => {
                cursor.at(mark.survived(cursor.epoch, place).offset())
            }
            _ => cursor.clone(),
        }
    }

    pub(super) fn everyone(&self, oldest: bool) -> Vec<Loss> {
        let scopes = scopes(&self.query.channels).into_iter();
        scopes.map(|scope| Loss { scope, oldest }).collect()
    }

    /// What may have been taken away between a sequence and the end of a page. What cannot be
    /// proved to be whole counts.
    pub(super) async fn losses(
        &self,
        info: &Info,
        after: u64,
        upto: Place,
    ) -> Result<Vec<Loss>, Trouble> {
        if info.state.first_seq > after + 1 && info.state.last_seq > after {
            return Ok(self.everyone(true));
        }
        if info.state.num_deleted == 0 {
            return Ok(Vec::new());
        }
        if info.only_limits_take() {
            return self.trimmed(info, after).await;
        }
        if info.state.num_deleted <= DELETED {
            let deleted = self.log.stream.deleted().await?;
            if !deleted
                .iter()
                .any(|seq| (after + 1..=upto.seq).contains(seq))
            {
                return Ok(Vec::new());
            }
        }
        Ok(self.everyone(false))
    }

    /// The channels of which the stream's limit for each subject may have taken something behind a
    /// sequence. It takes the oldest, and leaves as many as the limit says: where there are fewer,
    /// it took nothing, and where one stands before the cursor, nothing behind it.
    async fn trimmed(&self, info: &Info, after: u64) -> Result<Vec<Loss>, Trouble> {
        let stream = &self.log.stream;
        let limit = u64::try_from(info.config.max_messages_per_subject).unwrap_or(0);
        if limit == 0 {
            return Ok(self.everyone(false));
        }
        let mut losses = Vec::new();
        for pattern in &self.query.channels {
            let mut full = Vec::new();
            for filter in stream.subjects.follow(pattern) {
                let Some(counts) = stream.counts(filter).await? else {
                    return Ok(self.everyone(true));
                };
                full.extend(counts.into_iter().filter(|(_, count)| *count >= limit));
            }
            if full.len() > MAX_GAPS {
                losses.push(Loss {
                    scope: pattern.clone(),
                    oldest: false,
                });
                continue;
            }
            for (subject, _) in full {
                let oldest = stream.message(1, Some(&subject)).await?;
                let reading = stream.subjects.read(&subject);
                if let Some(Ok(channel)) = reading.map(|reading| reading.channel)
                    && oldest.is_none_or(|oldest| oldest.place.seq > after)
                {
                    losses.push(Loss {
                        scope: channel.into(),
                        oldest: true,
                    });
                }
            }
        }
        Ok(losses)
    }
}
