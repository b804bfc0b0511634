//! A client that breaks off at random and comes back at whichever node.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_testkit::{SseClient, SseRequest};
use tokio::sync::watch;

use super::{
    payload,
    transcript::{GapSeen, Seen, Transcript},
    truth::Truth,
};

/// Between two attempts to come back.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a stream may be silent before its client looks up, whether all is over.
const LOOK_UP: Duration = Duration::from_millis(500);
/// How long clients may take for what is left when all faults are over.
pub(super) const ENDS_WITHIN: Duration = Duration::from_secs(150);
/// When the last of those join that are late.
const LATEST: Duration = Duration::from_secs(5);
/// Of some clients, so that their kernels cut streams in the midst of events.
const SMALL_BUFFER: u32 = 4 << 10;
const MOST_CHANNELS: usize = 6;

/// What clients are told while a campaign runs.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) truth: Truth,
    /// Of each channel, a number that ends it: who has it, or a later one, is done.
    pub(super) last_words: watch::Sender<Option<Vec<usize>>>,
    pub(super) joined: AtomicUsize,
    pub(super) done: AtomicUsize,
}

/// One client.
pub(super) struct Roamer {
    stage: Arc<Stage>,
    rng: fastrand::Rng,
    client: Option<SseClient>,
    request: SseRequest,
    /// The newest number of each channel that it follows.
    newest: Vec<Option<usize>>,
    transcript: Transcript,
    has_joined: bool,
}

impl Roamer {
    /// A client whose channels and habits come from the seed.
    pub(super) fn new(stage: Arc<Stage>, address: SocketAddr, client: usize, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let names = stage.truth.channels();
        let mut channels: Vec<usize> = (0..names.len()).collect();
        rng.shuffle(&mut channels);
        let mut selectors: Vec<String> = Vec::new();
        match rng.u32(0..20) {
            // Everything, by a pattern; and once with a name that the pattern selects too.
            kind @ 0..2 => {
                let any = names[0].rsplit_once('.').map_or("", |(prefix, _)| prefix);
                selectors.push(format!("{any}.*"));
                if kind == 0 {
                    selectors.push(names[channels[0]].clone());
                }
                channels.sort_unstable();
            }
            _ => {
                channels.truncate(rng.usize(1..=MOST_CHANNELS));
                selectors.extend(channels.iter().map(|index| names[*index].clone()));
            }
        }
        let query: Vec<String> = selectors.iter().map(|s| format!("channel={s}")).collect();
        let path = format!("/events?envelope=1&{}", query.join("&"));
        let mut request = SseRequest::get(address, path);
        if rng.u32(0..3) == 0 {
            request = request.receive_buffer(SMALL_BUFFER);
        }
        let newest = vec![None; channels.len()];
        let transcript = Transcript {
            client,
            selectors,
            channels,
            ..Transcript::default()
        };
        Self {
            stage,
            rng,
            client: None,
            request,
            newest,
            transcript,
            has_joined: false,
        }
    }

    /// One in four joins while events flow already.
    pub(super) fn is_late(client: usize) -> bool {
        client % 4 == 3
    }

    /// Follows until it has the last words of all its channels, or the time for that is over.
    pub(super) async fn run(mut self) -> Transcript {
        if Self::is_late(self.transcript.client) {
            let after = self.rng.u64(0..LATEST.as_millis() as u64);
            tokio::time::sleep(Duration::from_millis(after)).await;
        }
        let mut over: Option<Instant> = None;
        loop {
            let connected = self.connect().await;
            let ended = match connected {
                Ok(()) => self.read().await,
                Err(why) => {
                    let refused = Seen::Refused(why.to_string().into());
                    if self.transcript.seen.last() != Some(&refused) {
                        self.transcript.seen.push(refused);
                    }
                    tokio::time::sleep(PAUSE).await;
                    None
                }
            };
            if let Some(how) = ended {
                self.transcript.seen.push(Seen::Broke(how));
            }
            if self.stage.last_words.borrow().is_some() {
                let since = *over.get_or_insert_with(Instant::now);
                if self.is_done() || since.elapsed() > ENDS_WITHIN {
                    break;
                }
            }
        }
        self.stage.done.fetch_add(1, Ordering::Relaxed);
        self.transcript.is_unfinished = !self.is_done();
        self.transcript
    }

    fn is_done(&self) -> bool {
        let last_words = self.stage.last_words.borrow();
        last_words.as_ref().is_some_and(|last_words| {
            let channels = self.transcript.channels.iter().zip(&self.newest);
            channels.into_iter().all(|(channel, newest)| {
                newest.is_some_and(|newest| newest >= last_words[*channel])
            })
        })
    }

    async fn connect(&mut self) -> io::Result<()> {
        let is_first = self.client.as_ref().is_none_or(|c| c.last_id().is_empty());
        match &mut self.client {
            Some(client) if !is_first => client.resume().await?,
            client => *client = Some(self.request.clone().connect().await?),
        }
        let Some(client) = &mut self.client else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if client.status() != 200 {
            let status = client.status();
            let body = client.body(LOOK_UP).await.unwrap_or_default();
            let body = String::from_utf8_lossy(&body).into_owned();
            client.close();
            return Err(io::Error::other(format!("{status} {body}")));
        }
        let hello = client.next_event(Duration::from_secs(30)).await;
        let hello = hello?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if &*hello.event_type != "fanfare.hello" {
            // Refused for now, in the words of a stream.
            client.close();
            return Err(io::Error::other(hello.event_type));
        }
        if is_first {
            let truth = &self.stage.truth;
            let owed = self.transcript.channels.iter().map(|c| truth.next(*c));
            self.transcript.seen.push(Seen::Joined(owed.collect()));
            if !std::mem::replace(&mut self.has_joined, true) {
                self.stage.joined.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            let data: serde_json::Value = serde_json::from_str(&hello.data)?;
            let node = data["node"].as_str().unwrap_or_default();
            self.transcript.seen.push(Seen::Back(node.into()));
        }
        Ok(())
    }

    /// Reads for a while and breaks off; answers how the connection ended.
    async fn read(&mut self) -> Option<&'static str> {
        let mut left = self.rng.usize(1..400);
        let until = Instant::now() + Duration::from_millis(self.rng.u64(50..6_000));
        loop {
            let is_over = self.stage.last_words.borrow().is_some();
            if is_over && self.is_done() {
                return None;
            }
            if !is_over && (left == 0 || Instant::now() > until) {
                return Some(self.break_off());
            }
            let within = if is_over {
                LOOK_UP
            } else {
                LOOK_UP.min(until.saturating_duration_since(Instant::now()))
            };
            let Some(client) = &mut self.client else {
                return None;
            };
            match client.next_event(within).await {
                Ok(Some(event)) => {
                    left = left.saturating_sub(1);
                    self.note(&event);
                }
                Ok(None) => return Some("ended"),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(_) => return Some("cut"),
            }
        }
    }

    fn break_off(&mut self) -> &'static str {
        let with_reset = self.rng.bool();
        if let Some(client) = &mut self.client {
            if with_reset {
                // A socket that is gone already needs no reset.
                let _ = client.reset();
            }
            client.close();
        }
        if with_reset { "reset" } else { "closed" }
    }

    fn note(&mut self, event: &fanfare_sse::Event) {
        let stranger = || Seen::Stranger(format!("{event:?}").into());
        let seen = match &*event.event_type {
            "message" => self.event(&event.data),
            "fanfare.gap" => gap(&event.data, self.stage.truth.now()),
            "fanfare.close" => return,
            _ => None,
        };
        self.transcript.seen.push(seen.unwrap_or_else(stranger));
    }

    fn event(&mut self, envelope: &str) -> Option<Seen> {
        let envelope: serde_json::Value = serde_json::from_str(envelope).ok()?;
        let text = |key: &str| envelope[key].as_str();
        let (channel, data, id) = (text("channel")?, text("data")?, text("id")?);
        let channel = self.stage.truth.index(channel)?;
        let number = payload::number_of(channel, data)?;
        if let Some(slot) = self.transcript.channels.iter().position(|c| *c == channel) {
            self.newest[slot] = self.newest[slot].max(Some(number));
        }
        Some(Seen::Event {
            channel,
            number,
            bytes: data.len(),
            id: id.into(),
        })
    }
}

fn gap(data: &str, at: u64) -> Option<Seen> {
    let gap: serde_json::Value = serde_json::from_str(data).ok()?;
    Some(Seen::Gap(GapSeen {
        scope: gap["channel"].as_str()?.into(),
        cause: gap["cause"].as_str()?.into(),
        after: gap["after"].as_str().map(str::to_owned),
        next: gap["next"].as_str()?.into(),
        at,
    }))
}
