//! What was published: the full truth, that clients' transcripts are held against.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Every publication of a campaign, numbered per channel, in the order it was begun.
#[derive(Debug)]
pub struct Truth {
    channels: Vec<String>,
    lines: Vec<Mutex<Vec<Publication>>>,
    /// Orders what began and what ended, over all channels and publishers.
    clock: AtomicU64,
}

/// One publication, and what its publisher was told.
#[derive(Debug, Clone)]
pub struct Publication {
    /// When it was begun.
    pub begun: u64,
    /// When its publisher knew how it went; [`u64::MAX`] until then.
    pub ended: u64,
    /// How it went.
    pub outcome: Outcome,
    /// The id that the publisher was told.
    pub id: Option<String>,
    /// The length of its data, in bytes.
    pub bytes: usize,
}

/// What a publisher knows of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The bus acknowledged it: everybody gets it, or a gap that covers it.
    Stored,
    /// It was refused, and the refusal did not say that it may have been stored: nobody gets it.
    Refused,
    /// No answer, or one that says that it may have been stored: once at most.
    Unknown,
}

impl Truth {
    /// Channels by name; from here on they go by their index.
    pub fn new(channels: Vec<String>) -> Self {
        let lines = channels.iter().map(|_| Mutex::default()).collect();
        Self {
            channels,
            lines,
            clock: AtomicU64::new(1),
        }
    }

    /// The names of the channels.
    pub fn channels(&self) -> &[String] {
        &self.channels
    }

    /// The index of a channel.
    pub fn index(&self, channel: &str) -> Option<usize> {
        self.channels.iter().position(|name| name == channel)
    }

    /// A publication is about to be sent; answers its number.
    pub fn begin(&self, channel: usize, bytes: usize) -> usize {
        let begun = self.tick();
        let mut line = self.lines[channel].lock();
        line.push(Publication {
            begun,
            ended: u64::MAX,
            outcome: Outcome::Unknown,
            id: None,
            bytes,
        });
        line.len() - 1
    }

    /// Its publisher knows how it went.
    pub fn end(&self, channel: usize, number: usize, outcome: Outcome, id: Option<String>) {
        let ended = self.tick();
        let mut line = self.lines[channel].lock();
        let publication = &mut line[number];
        (publication.ended, publication.outcome, publication.id) = (ended, outcome, id);
    }

    /// The number that the channel's next publication will have.
    pub fn next(&self, channel: usize) -> usize {
        self.lines[channel].lock().len()
    }

    /// Now, as [`Publication::begun`] counts.
    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// Every publication of a channel.
    pub fn of(&self, channel: usize) -> Vec<Publication> {
        self.lines[channel].lock().clone()
    }

    /// How many publications have this outcome, over all channels.
    pub fn count(&self, outcome: Outcome) -> usize {
        let of_outcome = |line: &Mutex<Vec<Publication>>| {
            line.lock().iter().filter(|p| p.outcome == outcome).count()
        };
        self.lines.iter().map(of_outcome).sum()
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}
