//! A page of history: from this node's memory where that is whole, else from the stream.

mod losses;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use fanfare_core::{
    Channel, Event, Gap, GapCause, History, HistoryQuery, Live, Offset, Pattern, Position, Since,
    history::{scopes, told},
};
use tokio::{sync::Semaphore, time::timeout};

use self::losses::DELETED;
use super::{
    log::{Log, Standing},
    message::{Content, Entry},
    place::{Place, born},
    stream::Info,
    wire::Trouble,
};

/// How many messages are asked for at a time.
const BATCH: usize = 512;
/// How many messages are looked at for one page.
const SCANNED: usize = 1 << 15;
/// The least bytes that are asked for at a time.
const LEAST_BYTES: usize = 1 << 18;
/// How many of the newest messages are looked at first for the newest of each channel.
const WINDOW: u64 = 1024;

/// Where a cursor is.
enum Found {
    /// After this sequence, surely.
    After(u64),
    /// After this sequence, as far as one can tell: its message is gone.
    Perhaps(u64),
    /// In another life of the stream.
    Elsewhere,
}

/// What was read of the stream.
struct Cut {
    items: Vec<Live>,
    upto: Place,
    more: bool,
}

impl Log {
    /// Answers a question.
    pub(super) async fn history(
        self: &Arc<Self>,
        query: &HistoryQuery,
        patience: Duration,
        reads: &Semaphore,
    ) -> Result<History, Trouble> {
        let _want = self.want();
        let info = self.settled(patience).await?;
        let lost = match &query.since {
            Since::After(cursor) => self.lost(cursor, patience).await?,
            _ => false,
        };
        self.forget_deleted(&info).await?;
        let page = Page {
            log: self,
            query,
            standing: self.standing(),
            lost,
            reads,
        };
        match &query.since {
            Since::Now => Ok(page.history(Vec::new(), page.standing.head, false)),
            Since::Oldest => page.oldest(&info).await,
            Since::Last(each) => page.last(&info, *each).await,
            Since::After(cursor) => match page.find(cursor).await? {
                Found::After(seq) => page.after(cursor, seq, false).await,
                Found::Perhaps(seq) => page.after(cursor, seq, true).await,
                Found::Elsewhere => page.elsewhere(cursor, &info).await,
            },
        }
    }

    /// What somebody deleted is not answered from memory either. What limits took may be.
    async fn forget_deleted(&self, info: &Info) -> Result<(), Trouble> {
        let (first, deleted) = (info.state.first_seq, info.state.num_deleted);
        if info.only_limits_take() || self.knows_bounds(first, deleted) {
            return Ok(());
        }
        let deleted = match deleted {
            1..=DELETED => self.stream.deleted().await?,
            _ => Vec::new(),
        };
        self.forget(first, &deleted);
        Ok(())
    }

    /// Where the stream stands, once this node has followed it up to there, or for as long as it is
    /// right to wait for that: what is not handed on yet comes live.
    async fn settled(self: &Arc<Self>, patience: Duration) -> Result<Arc<Info>, Trouble> {
        let info = self.stream.attend().await?;
        let life = Some(born(&info.created));
        if self.standing().began && self.standing().born != life {
            self.kick.notify_one();
        }
        let mut stage = self.stage.subscribe();
        let there = stage.wait_for(|s| s.born == life && s.reached >= info.state.last_seq);
        if timeout(patience, there).await.is_ok() {
            return Ok(info);
        }
        let stage = self.stage.borrow().clone();
        if stage.born == life && stage.flows {
            return Ok(info);
        }
        Err(stage.failing.unwrap_or(Trouble::NoAnswer))
    }

    /// Whether the stream surely ends before a cursor. Else waits until this node stands there: the
    /// cursor may be from another node, a little ahead.
    async fn lost(&self, cursor: &Position, patience: Duration) -> Result<bool, Trouble> {
        let standing = self.standing();
        let Some(Place { seq, .. }) = Place::of(cursor.offset) else {
            return Ok(true);
        };
        if cursor.epoch != standing.epoch || seq <= standing.reached {
            return Ok(false);
        }
        let (_, lost) = self.stream.ends_before(seq, standing.born).await?;
        if !lost {
            let mut stage = self.stage.subscribe();
            let there = stage.wait_for(|s| s.born != standing.born || s.reached >= seq);
            // Where it does not come there in time, the cursor cannot be looked at: see `find`.
            let _ = timeout(patience, there).await;
        }
        Ok(lost)
    }
}

/// A page that is being made.
struct Page<'p> {
    log: &'p Arc<Log>,
    query: &'p HistoryQuery,
    standing: Standing,
    /// The stream surely ends before the cursor.
    lost: bool,
    reads: &'p Semaphore,
}

impl Page<'_> {
    fn at(&self, place: Place) -> Position {
        Position {
            log: self.log.id.clone(),
            epoch: self.standing.epoch,
            offset: place.offset(),
        }
    }

    fn history(&self, mut items: Vec<Live>, upto: Place, more: bool) -> History {
        // Stable: a gap that ends where an event stands comes after it.
        items.sort_by_key(|item| item.position().offset);
        History {
            items,
            upto: self.at(upto),
            more,
        }
    }

    /// Compares a cursor with the message that stands there.
    async fn find(&self, cursor: &Position) -> Result<Found, Trouble> {
        let place = Place::of(cursor.offset).filter(|_| cursor.epoch == self.standing.epoch);
        let Some(place @ Place { seq, .. }) = place else {
            return Ok(Found::Elsewhere);
        };
        if seq > self.standing.reached {
            // Nobody knows yet what stands there, unless nothing does.
            return self.lost.then_some(Found::Elsewhere).ok_or(Trouble::Behind);
        }
        if seq == 0 {
            return Ok(Found::After(0));
        }
        let there = match self.log.checked(seq) {
            Some(check) => Some(check).filter(|check| *check != 0),
            None => {
                let _read = self.reads.acquire().await.map_err(|_| Trouble::Closed)?;
                self.whole().await?;
                let entry = self.log.stream.message(seq, None).await?;
                let entry = entry.filter(|entry| entry.place.seq == seq);
                entry.map(|entry| entry.place.check)
            }
        };
        Ok(match there {
            Some(check) if place.check == check => Found::After(seq),
            Some(check) if place.check == check - 1 => Found::After(seq - 1),
            Some(_) => Found::Elsewhere,
            None if place.check == 0 => Found::After(seq),
            None => Found::Perhaps(seq),
        })
    }

    /// What this node remembers, where that is all that there is behind a sequence.
    fn kept(&self, after: u64, since: Since) -> Option<History> {
        let query = HistoryQuery {
            since,
            ..self.query.clone()
        };
        self.log.kept(|store, floor| {
            let place = Place {
                seq: after,
                check: u32::MAX,
            };
            let whole = after >= floor && store.is_whole(&query.channels, place.offset());
            // Between the look at the log and this one, it may have begun again.
            let same = store.head().epoch == self.standing.epoch;
            (whole && same).then(|| store.history(&query))
        })
    }

    async fn after(&self, cursor: &Position, seq: u64, doubt: bool) -> Result<History, Trouble> {
        if !doubt && let Some(page) = self.kept(seq, Since::After(cursor.clone())) {
            return Ok(page);
        }
        let (cut, info) = self.read(seq).await?;
        let losses = if doubt {
            self.everyone(true)
        } else {
            self.losses(&info, seq, cut.upto).await?
        };
        let upto = self.at(cut.upto).offset;
        let gaps: Vec<_> = losses
            .into_iter()
            .map(|loss| Gap {
                next: self.log_at(if loss.oldest {
                    before_first(&cut.items, &loss.scope).unwrap_or(upto)
                } else {
                    upto
                }),
                scope: loss.scope,
                cause: GapCause::Evicted,
                after: Some(cursor.clone()),
            })
            .collect();
        let gaps = told(gaps, &self.query.channels);
        let items = gaps.into_iter().map(Live::Gap).chain(cut.items).collect();
        Ok(self.history(items, cut.upto, cut.more))
    }

    fn log_at(&self, offset: Offset) -> Position {
        self.at(Place::default()).at(offset)
    }

    async fn oldest(&self, info: &Info) -> Result<History, Trouble> {
        let before = info.state.first_seq.saturating_sub(1);
        if let Some(page) = self.kept(before, Since::Oldest) {
            return Ok(page);
        }
        let (cut, _) = self.read(before).await?;
        Ok(self.history(cut.items, cut.upto, cut.more))
    }

    /// The cursor means nothing here: says so, and goes on with all that there is.
    async fn elsewhere(&self, cursor: &Position, info: &Info) -> Result<History, Trouble> {
        let mut page = self.oldest(info).await?;
        let first = page.items.iter().find_map(|item| match item {
            Live::Event(event) => Some(event.position.offset.before()),
            Live::Gap(_) => None,
        });
        let next = self.log_at(first.unwrap_or(page.upto.offset));
        let gaps = scopes(&self.query.channels).into_iter().map(|scope| {
            Live::Gap(Gap {
                scope,
                cause: GapCause::NewEpoch,
                after: Some(self.survived(cursor)),
                next: next.clone(),
            })
        });
        page.items = gaps.chain(page.items).collect();
        Ok(page)
    }

    async fn last(&self, info: &Info, each: NonZeroUsize) -> Result<History, Trouble> {
        let before = info.state.first_seq.saturating_sub(1);
        if let Some(page) = self.kept(before, Since::Last(each)) {
            return Ok(page);
        }
        if let Some(page) = self.last_kept(each) {
            return Ok(page);
        }
        let _read = self.reads.acquire().await.map_err(|_| Trouble::Closed)?;
        self.whole().await?;
        let mut window = WINDOW;
        loop {
            let from = info
                .state
                .first_seq
                .max(self.standing.head.seq.saturating_sub(window));
            let newest = self.newest(info, from, each.get()).await?;
            if newest.len() == self.query.limit.get() || from <= info.state.first_seq {
                self.same_life().await?;
                let items = newest.into_iter().map(Live::Event).collect();
                return Ok(self.history(items, self.standing.head, false));
            }
            window = window.saturating_mul(16);
        }
    }

    /// The newest of each channel, where this node remembers as many as are asked for.
    fn last_kept(&self, each: NonZeroUsize) -> Option<History> {
        let channels: Option<Vec<Channel>> = self
            .query
            .channels
            .iter()
            .map(Pattern::as_channel)
            .collect();
        let query = HistoryQuery {
            since: Since::Last(each),
            ..self.query.clone()
        };
        let page = self.log.kept(|store, _| {
            (store.head().epoch == self.standing.epoch).then(|| store.history(&query))
        })?;
        let of = |channel: &Channel| {
            let events = page.items.iter();
            let is = |item: &&Live| matches!(item, Live::Event(event) if event.channel == *channel);
            events.filter(is).count()
        };
        let enough = channels?.iter().all(|channel| of(channel) >= each.get());
        enough.then_some(page)
    }

    /// The newest of each channel from a sequence on, and of these the newest that fit.
    async fn newest(
        &self,
        info: &Info,
        from: u64,
        each: usize,
    ) -> Result<Vec<Arc<Event>>, Trouble> {
        let Ok(filter) = self.log.stream.filter(info, &self.query.channels) else {
            return Ok(Vec::new());
        };
        let mut newest: BTreeMap<u64, Arc<Event>> = BTreeMap::new();
        let mut channels: HashMap<Channel, VecDeque<u64>> = HashMap::new();
        let (mut bytes, limit) = (0, self.query.limit.get());
        let mut reading = self.log.stream.read(from, filter.as_deref()).await?;
        'read: loop {
            let entries = reading
                .next(BATCH, self.query.max_bytes.max(LEAST_BYTES))
                .await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let seq = entry.place.seq;
                if seq > self.standing.head.seq {
                    break 'read;
                }
                let Some(Live::Event(event)) = self.asked(entry) else {
                    continue;
                };
                let of = channels.entry(event.channel.clone()).or_default();
                if of.len() == each
                    && let Some(gone) = of.pop_front()
                    && let Some(gone) = newest.remove(&gone)
                {
                    bytes -= gone.data.len();
                }
                of.push_back(seq);
                bytes += event.data.len();
                newest.insert(seq, event);
                while newest.len() > 1 && (newest.len() > limit || bytes > self.query.max_bytes) {
                    let Some((_, gone)) = newest.pop_first() else {
                        break;
                    };
                    bytes -= gone.data.len();
                    if let Some(of) = channels.get_mut(&gone.channel) {
                        of.pop_front();
                    }
                }
            }
        }
        reading.end().await;
        Ok(newest.into_values().collect())
    }

    /// Reads the stream behind a sequence, and where it stands afterwards.
    async fn read(&self, after: u64) -> Result<(Cut, Arc<Info>), Trouble> {
        let _read = self.reads.acquire().await.map_err(|_| Trouble::Closed)?;
        let info = self.whole().await?;
        let cut = match self.log.stream.filter(&info, &self.query.channels) {
            Ok(filter) => self.cut(after, filter.as_deref()).await?,
            Err(()) => Cut {
                items: Vec::new(),
                upto: self.standing.head,
                more: false,
            },
        };
        // Now: what was taken away before it could be read is seen.
        Ok((cut, self.same_life().await?))
    }

    /// Where the stream stands, if whoever leads it has all that this node has seen of it.
    async fn whole(&self) -> Result<Arc<Info>, Trouble> {
        let info = self.log.stream.attend().await?;
        let whole = info.state.last_seq >= self.standing.head.seq;
        whole.then_some(info).ok_or(Trouble::Behind)
    }

    /// Where the stream stands, if it is still the one that was asked for.
    async fn same_life(&self) -> Result<Arc<Info>, Trouble> {
        let info = self.log.stream.attend().await?;
        let now = self.log.standing();
        if now.epoch != self.standing.epoch || now.born != Some(born(&info.created)) {
            let why = "the stream began again while it was read";
            return Err(Trouble::Odd(why.into()));
        }
        Ok(info)
    }

    async fn cut(&self, after: u64, filter: Option<&str>) -> Result<Cut, Trouble> {
        let head = self.standing.head;
        let mut cut = Cut {
            items: Vec::new(),
            upto: head,
            more: false,
        };
        if after >= head.seq {
            return Ok(cut);
        }
        let (mut events, mut bytes, mut scanned) = (0, 0_usize, 0);
        let (limit, max_bytes) = (self.query.limit.get(), self.query.max_bytes);
        let mut here = head;
        let batch = limit.saturating_add(1).min(BATCH);
        let mut reading = self.log.stream.read(after + 1, filter).await?;
        'read: loop {
            let entries = reading.next(batch, max_bytes.max(LEAST_BYTES)).await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let place = entry.place;
                if place.seq > head.seq {
                    break 'read;
                }
                scanned += 1;
                let item = self.asked(entry);
                if let Some(Live::Event(event)) = &item {
                    bytes = bytes.saturating_add(event.data.len());
                    if events > 0 && (events == limit || bytes > max_bytes) {
                        (cut.upto, cut.more) = (here, true);
                        break 'read;
                    }
                    events += 1;
                }
                here = place;
                cut.items.extend(item);
                if scanned == SCANNED && here.seq < head.seq {
                    (cut.upto, cut.more) = (here, true);
                    break 'read;
                }
            }
        }
        reading.end().await;
        Ok(cut)
    }

    /// What a message is to who asks.
    fn asked(&self, entry: Entry) -> Option<Live> {
        let Content::Of(channel) = &entry.content else {
            return None;
        };
        let channel = channel.clone();
        if !self.query.channels.iter().any(|p| p.matches(&channel)) {
            return None;
        }
        let position = self.at(entry.place);
        let (subjects, most) = (&self.log.stream.subjects, self.log.max_data_bytes);
        let before = position.at(position.offset.before());
        Some(
            match entry.event(channel.clone(), position.clone(), subjects, most) {
                Ok(event) => Live::Event(Arc::new(event)),
                Err(_) => Live::Gap(Gap {
                    scope: (&channel).into(),
                    cause: GapCause::Undeliverable,
                    after: Some(before),
                    next: position,
                }),
            },
        )
    }
}

/// The place just before the first event that a pattern selects.
fn before_first(items: &[Live], scope: &Pattern) -> Option<Offset> {
    items.iter().find_map(|item| match item {
        Live::Event(event) if scope.matches(&event.channel) => Some(event.position.offset.before()),
        _ => None,
    })
}
