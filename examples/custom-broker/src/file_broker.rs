//! A broker whose log is a file: one line of JSON for each event.

use std::{
    collections::{HashMap, VecDeque},
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, Capabilities, Channel, Data, Epoch, ErrorKind, Event, EventType, Gap,
    GapCause, History, HistoryQuery, Inlet, Interest, Live, LogId, LogMap, Offset, Pattern,
    Position, Publication, Published, Since, Subscription,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const BACKEND: &str = "file";

/// A broker whose log is a file.
#[derive(Debug)]
pub(crate) struct FileBroker {
    path: PathBuf,
    /// The place of the log before its first event: its name and epoch.
    start: Position,
    state: Mutex<State>,
    interest: Interest,
}

#[derive(Debug)]
struct State {
    file: File,
    head: Offset,
    closed: bool,
}

/// The first line of the file. Another file is another epoch.
#[derive(Serialize, Deserialize)]
struct Title {
    epoch: u64,
}

/// Every other line.
#[derive(Serialize, Deserialize)]
struct Record {
    offset: u64,
    channel: String,
    event: Option<String>,
    data: String,
    tags: Vec<(String, String)>,
    at_ns: u64,
}

impl FileBroker {
    /// Opens a log, or begins one.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        let (mut lines, mut whole, mut first) = (0_u128, 0, None);
        let mut reader = BufReader::new(&mut file);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            whole += line.len() as u64;
            first.get_or_insert(line.clone());
            lines += 1;
            line.clear();
        }
        // Half a line is what a process left that died while it wrote; nobody was told of it.
        file.set_len(whole)?;
        let title = match first {
            Some(line) => serde_json::from_str(&line)?,
            None => {
                let title = Title {
                    epoch: fastrand::u64(..),
                };
                writeln!(file, "{}", serde_json::to_string(&title)?)?;
                lines = 1;
                title
            }
        };
        file.seek(io::SeekFrom::End(0))?;
        let log = LogId::parse(BACKEND).map_err(io::Error::other)?;
        let start = Position {
            log,
            epoch: Epoch(title.epoch),
            offset: Offset::ZERO,
        };
        let state = State {
            file,
            head: Offset(lines - 1),
            closed: false,
        };
        Ok(Self {
            path: path.to_owned(),
            start,
            state: Mutex::new(state),
            interest: Interest::new(|_| {}),
        })
    }

    fn failed(what: &str, error: io::Error) -> BrokerError {
        BrokerError::new(ErrorKind::Unavailable, BACKEND, what).with_source(error)
    }

    fn check_open(state: &State) -> Result<(), BrokerError> {
        let closed = || BrokerError::new(ErrorKind::Closed, BACKEND, "the broker is closed");
        if state.closed { Err(closed()) } else { Ok(()) }
    }
}

#[async_trait]
impl Broker for FileBroker {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        if publication.key.is_some() {
            let told = "this log keeps no idempotency keys";
            return Err(BrokerError::new(ErrorKind::Unsupported, BACKEND, told));
        }
        let mut state = self.state.lock();
        Self::check_open(&state)?;
        let offset = Offset(state.head.0 + 1);
        let event = Event {
            channel: channel.clone(),
            position: self.start.at(offset),
            previous: None,
            event_type: publication.event_type,
            data: publication.data,
            tags: publication.tags,
            published_at: SystemTime::now(),
        };
        let line = serde_json::to_string(&Record::from(&event)).map_err(io::Error::from);
        let written = line.and_then(|line| state.file.write_all((line + "\n").as_bytes()));
        written.map_err(|error| Self::failed("the event cannot be written", error))?;
        state.head = offset;
        // Law 1: announced under the lock that gave the place.
        self.interest.offer(&Arc::new(event));
        Ok(Published {
            position: Some(self.start.at(offset)),
            duplicate: false,
        })
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        Self::check_open(&self.state.lock())?;
        Ok(Subscription::new(self.interest.add(pattern, inlet)))
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        let (head, path, start) = {
            let state = self.state.lock();
            Self::check_open(&state)?;
            (state.head, self.path.clone(), self.start.clone())
        };
        // Reading a file blocks.
        let read = tokio::task::spawn_blocking(move || read(&path, &start, head, &query)).await;
        let read = read.map_err(io::Error::other).and_then(|read| read);
        read.map_err(|error| Self::failed("the log cannot be read", error))
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        let state = self.state.lock();
        Self::check_open(&state)?;
        state
            .file
            .metadata()
            .map(drop)
            .map_err(|error| Self::failed("the log is gone", error))
    }

    async fn close(&self) {
        self.state.lock().closed = true;
        self.interest.close();
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: BACKEND,
            logs: LogMap::single(self.start.log.clone()),
            history: true,
            shared: true,
            positions: true,
            idempotency: false,
            max_data_bytes: None,
        }
    }
}

/// Laws 3 and 4: everything after the place, in order, or a gap.
fn read(path: &Path, start: &Position, head: Offset, query: &HistoryQuery) -> io::Result<History> {
    let upto = start.at(head);
    let mut history = History {
        items: Vec::new(),
        upto: upto.clone(),
        more: false,
    };
    let limit = query.limit.get();
    let (after, last) = match &query.since {
        Since::Now => return Ok(history),
        Since::Oldest => (Offset::ZERO, None),
        Since::Last(count) => (Offset::ZERO, Some(count.get())),
        Since::After(place) if place.is_after(&upto) == Some(false) => (place.offset, None),
        Since::After(foreign) => {
            // Of another file, or beyond this one's end: what was lost nobody knows.
            let lost = |scope: &Pattern| Gap {
                scope: scope.clone(),
                cause: GapCause::NewEpoch,
                after: Some(foreign.clone()),
                next: start.clone(),
            };
            history.items = query
                .channels
                .iter()
                .map(|scope| Live::Gap(lost(scope)))
                .collect();
            (Offset::ZERO, None)
        }
    };
    let (mut newest, mut events, mut bytes) = (HashMap::new(), Vec::new(), 0);
    for line in BufReader::new(File::open(path)?).lines().skip(1) {
        let event = serde_json::from_str::<Record>(&line?)?.into_event(start)?;
        if event.position.offset > head {
            break;
        }
        let wanted = query
            .channels
            .iter()
            .any(|pattern| pattern.matches(&event.channel));
        if event.position.offset <= after || !wanted {
            continue;
        }
        if let Some(count) = last {
            let kept: &mut VecDeque<Event> = newest.entry(event.channel.clone()).or_default();
            kept.push_back(event);
            kept.drain(..kept.len().saturating_sub(count));
            continue;
        }
        bytes += event.data.len();
        if events.len() == limit || (bytes > query.max_bytes && !events.is_empty()) {
            history.more = true;
            break;
        }
        events.push(event);
    }
    events.extend(newest.into_values().flatten());
    events.sort_by_key(|event| event.position.offset);
    events.drain(..events.len().saturating_sub(limit));
    if history.more
        && let Some(last) = events.last()
    {
        history.upto = last.position.clone();
    }
    history
        .items
        .extend(events.into_iter().map(|event| Live::Event(Arc::new(event))));
    Ok(history)
}

impl From<&Event> for Record {
    fn from(event: &Event) -> Self {
        let at = event
            .published_at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            offset: event.position.offset.0 as u64,
            channel: event.channel.to_string(),
            event: event
                .event_type
                .as_ref()
                .map(|kind| kind.as_str().to_owned()),
            data: event.data.as_str().to_owned(),
            tags: event
                .tags
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            at_ns: at.as_nanos() as u64,
        }
    }
}

impl Record {
    fn into_event(self, start: &Position) -> io::Result<Event> {
        let kind = self.event.as_deref().map(EventType::parse).transpose();
        Ok(Event {
            channel: Channel::parse(&self.channel).map_err(io::Error::other)?,
            position: start.at(Offset(self.offset.into())),
            previous: None,
            event_type: kind.map_err(io::Error::other)?,
            data: Data::from(self.data),
            tags: self.tags.into_iter().collect(),
            published_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.at_ns),
        })
    }
}
