//! Holds what a client saw against what was published.
//!
//! Of every publication that was acknowledged and that the client was owed, it must have seen the
//! event, once, in the order of its channel and of its log; or, between the event before and the
//! one after, a gap that names the channel and whose bounds leave room for it.

mod lives;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use self::lives::{Ends, Lives};
use super::{
    transcript::{GapSeen, Place, Seen, Transcript},
    truth::{Outcome, Publication, Truth},
};

/// How many findings are kept with their words.
const MOST_FINDINGS: usize = 20;
/// How much of a transcript stands around a finding, on either side.
const AROUND: usize = 4;

/// What the bus and mode of a campaign promise.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// An event has the same id at every node.
    pub ids_are_shared: bool,
    /// The bus may lose its newest events and begin another epoch: an event that is published again
    /// has another id there, and so has what nodes call differently that did not see the loss.
    pub may_begin_anew: bool,
    /// The log of a channel: events of one log come in its order over all channels.
    pub log_of: fn(usize) -> usize,
}

/// The truth, once all is over.
#[derive(Debug)]
pub struct Record {
    channels: Vec<String>,
    lines: Vec<Vec<Publication>>,
    /// Of each channel, the number before which clients do not leave.
    owed: Vec<usize>,
    lives: Lives,
    rules: Rules,
}

/// What was found, added up.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Events that came, each counted once.
    pub delivered: usize,
    /// Gap events that came.
    pub gaps: usize,
    /// Of these, those that covered nothing that is missing.
    pub idle_gaps: usize,
    /// The gaps by cause.
    pub causes: BTreeMap<String, usize>,
    /// Events that did not come, and that a gap covers.
    pub covered: usize,
    /// Events that came again though nothing allowed it.
    pub duplicates: usize,
    /// Events that came again after a gap that said that the log began anew.
    pub repeated: usize,
    /// Events that came after one that they precede.
    pub reordered: usize,
    /// Events that did not come, and that no gap covers: the silent losses.
    pub missing: usize,
    /// Events that were refused or that nobody published.
    pub phantoms: usize,
    /// Events whose data or id is not theirs.
    pub garbled: usize,
    /// Clients that did not get to the end in time: too slow, or kept out.
    pub unfinished: usize,
    /// How often a client broke off or was cut off.
    pub breaks: usize,
    /// The first findings in words: client, channel, number, and what stood around.
    pub findings: Vec<String>,
}

/// What is known of one channel while reading a transcript.
#[derive(Default)]
struct Channel {
    /// The lowest number that is not accounted for.
    next: usize,
    /// The newest number since the log began anew.
    newest: Option<usize>,
    /// Where in the transcript it last did.
    anew_at: usize,
    ever: BTreeSet<usize>,
    since_anew: BTreeSet<usize>,
    /// Gaps since the last event, by their place in the transcript.
    gaps: Vec<usize>,
    /// Gaps after which the log began anew, all of them, and what came right before: then what is
    /// there comes again, and what was lost is missing in the midst of it.
    anew: Vec<usize>,
    /// Numbers that were passed over without a gap, and where.
    skipped: BTreeMap<usize, usize>,
    covered: BTreeSet<usize>,
}

struct Reading<'a> {
    record: &'a Record,
    transcript: &'a Transcript,
    channels: HashMap<usize, Channel>,
    /// The latest beginning of what came so far, of each log, with its channel and number.
    begun: HashMap<usize, (u64, usize, usize)>,
    /// The newest offset of each life of a log.
    places: HashMap<(&'a str, &'a str), u128>,
    ends: Ends,
    /// The same when each gap came that began a life, by its place in the transcript.
    ends_at: HashMap<usize, Ends>,
    used: BTreeSet<usize>,
    verdict: Verdict,
}

impl Record {
    /// Closes the books. Clients leave once they have the last words of all their channels: what
    /// was published later they are not owed.
    pub fn new(truth: &Truth, last_words: &[usize], rules: Rules) -> Self {
        let channels = truth.channels().to_vec();
        let lines: Vec<_> = (0..channels.len()).map(|index| truth.of(index)).collect();
        let mut lives = Lives::default();
        for (channel, line) in lines.iter().enumerate() {
            for (number, publication) in line.iter().enumerate() {
                if let Some(id) = &publication.id {
                    lives.learn((channel, number), id);
                }
            }
        }
        Self {
            channels,
            lines,
            owed: last_words.iter().map(|last| last + 1).collect(),
            lives,
            rules,
        }
    }

    /// Judges all clients together.
    pub fn judge_all(&mut self, transcripts: &[Transcript]) -> Verdict {
        let mut verdict = self.learn_ids(transcripts);
        for transcript in transcripts {
            verdict.add(self.judge(transcript));
        }
        verdict
    }

    /// Ids that publishers were not told, clients were; each event may have one alone.
    fn learn_ids(&mut self, transcripts: &[Transcript]) -> Verdict {
        let mut verdict = Verdict::default();
        if !self.rules.ids_are_shared {
            return verdict;
        }
        for transcript in transcripts {
            for (at, seen) in transcript.seen.iter().enumerate() {
                let Seen::Event {
                    channel,
                    number,
                    id,
                    ..
                } = seen
                else {
                    continue;
                };
                let Some(publication) = self.lines[*channel].get_mut(*number) else {
                    continue;
                };
                self.lives.learn((*channel, *number), id);
                match &publication.id {
                    // An id of several logs differs by where its client stands in the others.
                    _ if Place::only(id).is_none() => {}
                    None => publication.id = Some(id.to_string()),
                    Some(known) if Place::only(known).is_none() || **known == **id => {}
                    Some(known) if self.rules.may_begin_anew && !is_same_life(known, id) => {}
                    // Published again under its key, on a server that lacked it.
                    Some(known)
                        if self.rules.may_begin_anew
                            && is_told_lost(transcripts, [known.as_str(), &**id]) => {}
                    Some(known) => {
                        let what = format!("has the id {id}, and {known} elsewhere");
                        verdict.garbled += 1;
                        let finding = self.finding(transcript, at, *channel, *number, &what);
                        verdict.findings.push(finding);
                    }
                }
            }
        }
        verdict
    }

    /// Judges one client.
    pub fn judge(&self, transcript: &Transcript) -> Verdict {
        let mut reading = Reading {
            record: self,
            transcript,
            channels: HashMap::new(),
            begun: HashMap::new(),
            places: HashMap::new(),
            ends: Ends::default(),
            ends_at: HashMap::new(),
            used: BTreeSet::new(),
            verdict: Verdict::default(),
        };
        for (at, seen) in transcript.seen.iter().enumerate() {
            reading.read(at, seen);
        }
        reading.finish()
    }

    fn finding(
        &self,
        transcript: &Transcript,
        at: usize,
        channel: usize,
        number: usize,
        what: &str,
    ) -> String {
        let publication = self.lines[channel].get(number);
        let from = at.saturating_sub(AROUND);
        let until = (at + AROUND + 1).min(transcript.seen.len());
        let around: Vec<String> = (from..until)
            .map(|index| {
                let mark = if index == at { ">" } else { " " };
                format!("  {mark} {index}: {:?}", transcript.seen[index])
            })
            .collect();
        format!(
            "client {} ({}), {} number {number} {what}\n    published: {publication:?}\n{}",
            transcript.client,
            transcript.selectors.join(" "),
            self.channels[channel],
            around.join("\n"),
        )
    }
}

/// Whether a gap says that the lower of two places of a life may be lost.
fn is_told_lost(transcripts: &[Transcript], ids: [&str; 2]) -> bool {
    let lower = ids.iter().filter_map(|id| Place::only(id));
    let Some(lower) = lower.min_by_key(|place| place.offset) else {
        return false;
    };
    let tells = |seen: &Seen| match seen {
        Seen::Gap(gap) if gap.begins_anew() => {
            let after = gap.after.as_deref().and_then(Place::only);
            after.is_some_and(|after| {
                (after.log, after.epoch) == (lower.log, lower.epoch) && after.offset < lower.offset
            })
        }
        _ => false,
    };
    let mut all = transcripts.iter().flat_map(|transcript| &transcript.seen);
    all.any(tells)
}

fn is_same_life(one: &str, other: &str) -> bool {
    let life = |id| Place::only(id).map(|place| (place.log, place.epoch));
    life(one) == life(other)
}

impl<'a> Reading<'a> {
    fn read(&mut self, at: usize, seen: &'a Seen) {
        match seen {
            Seen::Joined(floors) => {
                for (channel, floor) in self.transcript.channels.iter().zip(floors) {
                    let owed = Channel {
                        next: *floor,
                        ..Channel::default()
                    };
                    self.channels.insert(*channel, owed);
                }
            }
            Seen::Event {
                channel,
                number,
                bytes,
                id,
            } => self.event(at, *channel, *number, *bytes, id),
            Seen::Gap(gap) => self.gap(at, gap),
            Seen::Broke(_) => self.verdict.breaks += 1,
            Seen::Back(_) | Seen::Refused(_) => {}
            Seen::Stranger(what) => {
                self.verdict.phantoms += 1;
                let client = self.transcript.client;
                self.say(format!("client {client} got what nobody sent: {what}"));
            }
        }
    }

    fn event(&mut self, at: usize, channel: usize, number: usize, bytes: usize, id: &'a str) {
        let record = self.record;
        let Some(publication) = record.lines[channel].get(number) else {
            self.verdict.phantoms += 1;
            return self.found(at, channel, number, "was never published");
        };
        let Some(state) = self.channels.get_mut(&channel) else {
            self.verdict.phantoms += 1;
            return self.found(
                at,
                channel,
                number,
                "is of a channel that it did not ask for",
            );
        };
        if publication.outcome == Outcome::Refused {
            self.verdict.phantoms += 1;
            return self.found(at, channel, number, "came, though it was refused");
        }
        if publication.bytes != bytes {
            self.verdict.garbled += 1;
            return self.found(at, channel, number, "has other data");
        }
        let ever = !state.ever.insert(number);
        if !state.since_anew.insert(number) {
            self.verdict.duplicates += 1;
            return self.found(at, channel, number, "came again");
        }
        // What was sent and not acknowledged may be stored at any later time.
        let is_settled = publication.outcome == Outcome::Stored;
        let gaps = match is_settled {
            true => std::mem::take(&mut state.gaps),
            false => Vec::new(),
        };
        let is_late = is_settled && state.newest.is_some_and(|newest| newest > number);
        if is_settled {
            state.newest = state.newest.max(Some(number));
        }
        let (from, anew_at) = (state.next, state.anew_at);
        let since_anew = state.since_anew.range(..number).next_back();
        let again = since_anew.map_or(number, |last| last + 1)..number.min(from);
        let skipped_at = state.skipped.remove(&number);
        if is_settled && number >= state.next {
            state.next = number + 1;
        }
        if ever {
            self.verdict.repeated += 1;
        } else {
            self.verdict.delivered += 1;
        }
        if let Some(skipped_at) = skipped_at
            && skipped_at > anew_at
        {
            self.verdict.reordered += 1;
            let what = format!("came at {at}, and was passed over without a gap before");
            return self.found(skipped_at, channel, number, &what);
        }
        if is_late {
            self.verdict.reordered += 1;
            return self.found(at, channel, number, "came after a later one of its channel");
        }
        if is_settled && from < number {
            self.pass_over(channel, from..number, at, &gaps);
        }
        if is_settled && !gaps.is_empty() {
            self.pass_over(channel, again, at, &gaps);
        }
        self.in_log_order(at, channel, number, publication, id);
    }

    /// Numbers that did not come before a later one did, or before the end.
    fn pass_over(
        &mut self,
        channel: usize,
        numbers: std::ops::Range<usize>,
        at: usize,
        gaps: &[usize],
    ) {
        let line = &self.record.lines[channel];
        let Some(state) = self.channels.get_mut(&channel) else {
            return;
        };
        for number in numbers {
            let publication = &line[number];
            if publication.outcome != Outcome::Stored || state.ever.contains(&number) {
                continue;
            }
            let covers = |index: &&usize| match &self.transcript.seen[**index] {
                Seen::Gap(gap) => {
                    let id = publication.id.as_deref();
                    !self.record.rules.ids_are_shared || id.is_none_or(|id| gap.has_room_for(id))
                }
                _ => false,
            };
            // One that came before the event was begun tells nothing of it.
            let tells_end = |index: &&usize| match &self.transcript.seen[**index] {
                Seen::Gap(gap) => {
                    let lives = &self.record.lives;
                    let id = publication.id.as_deref();
                    let lost = |ends| lives.is_lost_by(gap, (channel, number), ends);
                    publication.begun < gap.at
                        && (self.ends_at.get(*index).is_some_and(lost)
                            || id.is_some_and(|id| gap.encloses(id)))
                }
                _ => false,
            };
            let mut covering: Vec<usize> = gaps.iter().filter(covers).copied().collect();
            covering.extend(state.anew.iter().filter(tells_end));
            if covering.is_empty() {
                state.skipped.entry(number).or_insert(at);
            } else {
                state.skipped.remove(&number);
                self.verdict.covered += usize::from(state.covered.insert(number));
                self.used.extend(covering);
            }
        }
    }

    fn in_log_order(
        &mut self,
        at: usize,
        channel: usize,
        number: usize,
        publication: &Publication,
        id: &'a str,
    ) {
        self.ends.note(id);
        let log = (self.record.rules.log_of)(channel);
        let latest = self.begun.entry(log).or_insert((0, channel, number));
        if publication.outcome == Outcome::Stored && publication.ended < latest.0 {
            let what = format!(
                "was acknowledged before number {} of {} was begun, and came after it",
                latest.2, self.record.channels[latest.1]
            );
            self.verdict.reordered += 1;
            return self.found(at, channel, number, &what);
        }
        if publication.begun > latest.0 {
            *latest = (publication.begun, channel, number);
        }
        let mut has_moved = false;
        for place in Place::all(id) {
            let newest = self.places.entry((place.log, place.epoch)).or_insert(0);
            if place.offset < *newest {
                self.verdict.reordered += 1;
                return self.found(at, channel, number, "has an id before one that came");
            }
            has_moved |= place.offset > *newest;
            *newest = place.offset;
        }
        if !has_moved {
            self.verdict.garbled += 1;
            self.found(at, channel, number, "has an id that does not move on");
        }
    }

    fn gap(&mut self, at: usize, gap: &'a GapSeen) {
        self.verdict.gaps += 1;
        *self.verdict.causes.entry(gap.cause.clone()).or_default() += 1;
        let begins_anew = gap.begins_anew();
        if let Some(after) = &gap.after {
            self.ends.note(after);
        }
        if begins_anew {
            self.ends_at.insert(at, self.ends.clone());
        }
        let record = self.record;
        for (channel, state) in &mut self.channels {
            if gap.names(&record.channels[*channel]) {
                state.gaps.push(at);
                let before = state.skipped.len();
                state.skipped.retain(|number, skipped_at| {
                    let beyond = &self.transcript.seen[*skipped_at];
                    let is_within = matches!(beyond, Seen::Event { id, .. } if gap.encloses(id));
                    let is_lost = record.lines[*channel][*number].begun < gap.at
                        && record
                            .lives
                            .is_lost_by(gap, (*channel, *number), &self.ends);
                    !is_within && !is_lost
                });
                let told = before - state.skipped.len();
                if told > 0 {
                    self.verdict.covered += told;
                    self.used.insert(at);
                }
                if begins_anew {
                    state.anew.extend(&state.gaps);
                    state.newest = None;
                    state.anew_at = at;
                    state.since_anew.clear();
                    self.begun.remove(&(record.rules.log_of)(*channel));
                }
            }
        }
        if begins_anew && let Some(next) = Place::only(&gap.next) {
            self.places.retain(|(log, _), _| *log != next.log);
        }
    }

    fn finish(mut self) -> Verdict {
        if self.channels.is_empty() {
            let client = self.transcript.client;
            self.verdict.missing += 1;
            self.say(format!("client {client} never got in"));
        }
        if self.transcript.is_unfinished {
            self.verdict.unfinished += 1;
            let client = self.transcript.client;
            let last = self.transcript.seen.last();
            self.say(format!(
                "client {client} did not get to the end in time; last {last:?}"
            ));
        }
        let end = self.transcript.seen.len().saturating_sub(1);
        for channel in self.transcript.channels.clone() {
            let Some(state) = self.channels.get_mut(&channel) else {
                continue;
            };
            let (from, gaps) = (state.next, std::mem::take(&mut state.gaps));
            if !self.transcript.is_unfinished {
                self.pass_over(channel, from..self.record.owed[channel], end, &gaps);
            }
            let skipped = self
                .channels
                .get(&channel)
                .map(|state| state.skipped.clone());
            for (number, at) in skipped.unwrap_or_default() {
                self.verdict.missing += 1;
                self.found(at, channel, number, "never came, and no gap covers it");
            }
        }
        self.verdict.idle_gaps = self.verdict.gaps - self.used.len();
        self.verdict
    }

    fn found(&mut self, at: usize, channel: usize, number: usize, what: &str) {
        if self.verdict.findings.len() < MOST_FINDINGS {
            let finding = self
                .record
                .finding(self.transcript, at, channel, number, what);
            self.verdict.findings.push(finding);
        }
    }

    fn say(&mut self, finding: String) {
        self.verdict.findings.push(finding);
    }
}

impl Verdict {
    fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.gaps += other.gaps;
        self.idle_gaps += other.idle_gaps;
        self.covered += other.covered;
        self.duplicates += other.duplicates;
        self.repeated += other.repeated;
        self.reordered += other.reordered;
        self.missing += other.missing;
        self.phantoms += other.phantoms;
        self.garbled += other.garbled;
        self.unfinished += other.unfinished;
        self.breaks += other.breaks;
        for (cause, count) in other.causes {
            *self.causes.entry(cause).or_default() += count;
        }
        self.findings.extend(other.findings);
        self.findings.truncate(MOST_FINDINGS);
    }

    /// Whether nothing was lost in silence, doubled, out of order, made up or garbled, and everybody
    /// got to the end.
    pub fn is_true(&self) -> bool {
        let wrong = self.duplicates + self.reordered + self.missing + self.phantoms + self.garbled;
        wrong + self.unfinished == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "delivered {} gaps {} (idle {}) covered {} duplicates {} reordered {} missing {} phantoms {} \
             garbled {} unfinished {} repeated {} breaks {}",
            self.delivered,
            self.gaps,
            self.idle_gaps,
            self.covered,
            self.duplicates,
            self.reordered,
            self.missing,
            self.phantoms,
            self.garbled,
            self.unfinished,
            self.repeated,
            self.breaks,
        )
    }
}

#[cfg(test)]
mod tests;
