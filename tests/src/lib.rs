//! What several system tests share: a crowd of clients that is held against what was published.
//!
//! Publishers number their events from 0, per channel; the data is `<number>` or `<number> <rest>`.
//! A [`Follower`] reads one stream and holds every event against the next number of its channel.
//! Each test ends with a [`Report`] line: published, delivered, gaps, duplicates, reordered.

pub mod campaign;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use fanfare_testkit::{SseClient, SseRequest};

/// How long a client waits for the next event before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A client that follows numbered channels over one connection at a time.
#[derive(Debug)]
pub struct Follower {
    client: SseClient,
    /// The next number of each channel.
    expected: BTreeMap<String, u64>,
    report: Report,
}

/// What clients saw, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Events that came.
    pub delivered: u64,
    /// Gap events that came.
    pub gaps: u64,
    /// Events that had come before.
    pub duplicates: u64,
    /// Events that came before one they follow, or whose predecessor never came.
    pub missing: u64,
    /// Times that a client broke off or was sent away, and came back.
    pub breaks: u64,
    /// The longest `id:` that came, in bytes.
    pub longest_id: usize,
}

impl Report {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.gaps += other.gaps;
        self.duplicates += other.duplicates;
        self.missing += other.missing;
        self.breaks += other.breaks;
        self.longest_id = self.longest_id.max(other.longest_id);
    }

    /// Prints the line that a reader looks for.
    pub fn print(&self, name: &str, published: u64) {
        eprintln!(
            "REPORT {name}: published {published} delivered {} gaps {} duplicates {} missing {} \
             breaks {} longest id {}",
            self.delivered, self.gaps, self.duplicates, self.missing, self.breaks, self.longest_id
        );
    }

    /// Whether nothing was lost, told lost, doubled or out of order.
    pub fn is_clean(&self) -> bool {
        self.gaps == 0 && self.duplicates == 0 && self.missing == 0
    }
}

impl Follower {
    /// Connects and waits for `fanfare.hello`: from here on nothing may be missing. `selectors`
    /// are channels or patterns.
    ///
    /// # Errors
    /// Those of the connection, and a status that is not 200.
    pub async fn join(address: SocketAddr, selectors: &[&str]) -> io::Result<Self> {
        let query: Vec<String> = selectors
            .iter()
            .map(|selector| format!("channel={selector}"))
            .collect();
        // The envelope names the channel, whatever was asked for.
        let path = format!("/events?envelope=1&{}", query.join("&"));
        let client = SseRequest::get(address, path).connect().await?;
        let mut follower = Self {
            client,
            expected: BTreeMap::new(),
            report: Report::default(),
        };
        follower.is_welcome()?;
        follower.hello().await?;
        Ok(follower)
    }

    fn is_welcome(&self) -> io::Result<()> {
        match self.client.status() {
            200 => Ok(()),
            status => Err(io::Error::other(format!("status {status}"))),
        }
    }

    async fn hello(&mut self) -> io::Result<()> {
        let hello = self.client.next_event(PATIENCE).await?;
        let hello = hello.ok_or(io::ErrorKind::UnexpectedEof)?;
        if &*hello.event_type != "fanfare.hello" {
            return Err(io::Error::other(format!("{} came first", hello.event_type)));
        }
        Ok(())
    }

    /// Reads `events` events, gaps included. Answers early, without an error, where the server
    /// ended the stream.
    ///
    /// # Errors
    /// Those of the connection; an event type that nobody published.
    pub async fn read(&mut self, events: u64) -> io::Result<()> {
        let mut left = events;
        while left > 0 {
            let event = self.client.next_event(PATIENCE).await;
            let event = event.map_err(|why| {
                let (report, expected) = (&self.report, &self.expected);
                io::Error::new(why.kind(), format!("{why}; {report:?}, next {expected:?}"))
            })?;
            let Some(event) = event else {
                self.client.close();
                return Ok(());
            };
            match &*event.event_type {
                "message" => {
                    left -= 1;
                    self.take(&event.id, &event.data)?;
                }
                "fanfare.gap" => {
                    left -= 1;
                    self.report.gaps += 1;
                    // Shown where the test fails, or asks for it.
                    eprintln!("gap {}: {}", event.id, event.data);
                }
                "fanfare.close" | "fanfare.hello" => {}
                other => return Err(io::Error::other(format!("event type {other}"))),
            }
        }
        Ok(())
    }

    fn take(&mut self, id: &str, data: &str) -> io::Result<()> {
        let event: serde_json::Value = serde_json::from_str(data).map_err(io::Error::other)?;
        let text = |key: &str| event[key].as_str().ok_or(io::ErrorKind::InvalidData);
        let (channel, data) = (text("channel")?, text("data")?);
        let number = data
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        let number: u64 = number.ok_or(io::ErrorKind::InvalidData)?;
        let next = match self.expected.get_mut(channel) {
            Some(next) => next,
            None => self.expected.entry(channel.to_owned()).or_default(),
        };
        self.report.longest_id = self.report.longest_id.max(id.len());
        if number < *next {
            self.report.duplicates += 1;
            return Ok(());
        }
        self.report.missing += number - *next;
        self.report.delivered += 1;
        *next = number + 1;
        Ok(())
    }

    /// Breaks off, in one of the ways that connections end.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn break_off(&mut self, with_reset: bool) -> io::Result<()> {
        self.report.breaks += 1;
        if with_reset {
            self.client.reset()
        } else {
            self.client.close();
            Ok(())
        }
    }

    /// Comes back with the last id, to the same address.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub async fn come_back(&mut self) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.resume().await {
                Ok(()) => break,
                // The server may be on its way up again.
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        self.is_welcome()?;
        self.hello().await
    }

    /// Whether the connection is open.
    pub fn is_open(&self) -> bool {
        self.client.is_open()
    }

    /// How many events of all channels came.
    pub fn delivered(&self) -> u64 {
        self.report.delivered
    }

    /// What it saw.
    pub fn report(&self) -> Report {
        self.report
    }
}
