//! Campaigns: clients that roam, publishers that publish, faults that fall on everything between
//! them, and a judge who knows the whole truth.
//!
//! A [`Campaign`] is repeated by its seed: who follows what, who breaks off when, what is published
//! where, and the order of the faults come from it; the moments at which threads and processes
//! meet do not. A [`Rig`] is what it happens to. Its end is a [`Verdict`] and a line, `REPORT …`.

mod bus;
mod fault;
mod judge;
mod payload;
mod publisher;
mod rig;
mod roamer;
mod transcript;
mod truth;

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_testkit::eventually;
use tokio::{sync::watch, task::JoinSet};

pub use bus::Bus;
pub use fault::Fault;
pub use judge::{Record, Rules, Verdict};
pub use publisher::Way;
pub use rig::{Plan, Rig};
pub use transcript::{GapSeen, Place, Seen, Transcript};
pub use truth::{Outcome, Publication, Truth};

use publisher::Publisher;
use roamer::{ENDS_WITHIN, Roamer, Stage};

/// Names a seed in the place of the one that a test has.
const SEED_VARIABLE: &str = "CAMPAIGN_SEED";
/// Names a directory: where anything was found, every client's transcript is written there.
const TRANSCRIPTS_VARIABLE: &str = "CAMPAIGN_TRANSCRIPTS";
const PUBLISHERS: usize = 5;
const JOINED_WITHIN: Duration = Duration::from_secs(90);
/// Between two rounds of last words, where what is not stored can be missed.
const LAST_WORDS_EVERY: Duration = Duration::from_secs(5);
/// How often publishers that are ahead of the faults publish.
const TRICKLE: Duration = Duration::from_millis(500);
/// The longest rest of a publisher between two rounds over its channels. Some bus takes more than
/// clients that roam can follow on a busy machine, and then nothing would be live.
const PAUSE_MS: u64 = 80;
const LARGE: usize = 200 << 10;

/// What happens, and to how many.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// Its name, in the report.
    pub name: &'static str,
    /// Where everything that is random comes from.
    pub seed: u64,
    /// How many clients.
    pub clients: usize,
    /// How many channels.
    pub channels: usize,
    /// What they are called: `<prefix>.<number>`.
    pub prefix: &'static str,
    /// How many events are published, at least.
    pub events: usize,
    /// The ways in; publishers take them in turn.
    pub ways: Vec<Way>,
    /// How often each fault falls, in a random order.
    pub faults: Vec<(Fault, usize)>,
    /// What the bus promises.
    pub rules: Rules,
}

/// How far it is.
#[derive(Debug, Default)]
struct Progress {
    published: AtomicUsize,
    injections: AtomicUsize,
    large: AtomicBool,
}

impl Campaign {
    /// The seed that the environment asks for, or the one given.
    pub fn seed(or: u64) -> u64 {
        let asked = std::env::var(SEED_VARIABLE).ok();
        asked.and_then(|seed| seed.parse().ok()).unwrap_or(or)
    }

    fn injections(&self) -> usize {
        self.faults.iter().map(|(_, times)| times).sum()
    }

    /// Runs it, and prints the line that says how it went.
    ///
    /// # Panics
    /// Where clients do not get in, or the bus does not come back.
    pub async fn run(self, rig: &mut Rig) -> Verdict {
        let began = Instant::now();
        let names = (0..self.channels).map(|index| format!("{}.{index}", self.prefix));
        let stage = Arc::new(Stage {
            truth: Truth::new(names.collect()),
            last_words: watch::Sender::new(None),
            joined: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
        });
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let crowd = self.crowd(&stage, rig, &mut rng).await;
        let progress = Arc::new(Progress::default());
        let mut publishers = JoinSet::new();
        for number in 0..PUBLISHERS {
            let publishing = self.publish(number, &stage, &progress, rng.fork());
            publishers.spawn(publishing);
        }
        let injected = self.inject(rig, &progress, &mut rng).await;
        while let Some(ended) = publishers.join_next().await {
            ended.expect("a publisher does not panic");
        }
        rig.ready().await;
        self.last_words(&stage).await;
        let transcripts = crowd.join_all().await;
        let last_words = stage.last_words.borrow().clone().unwrap_or_default();
        let mut record = Record::new(&stage.truth, &last_words, self.rules);
        let verdict = record.judge_all(&transcripts);
        self.report(&stage.truth, &verdict, &injected, began);
        if !verdict.is_true() {
            keep(&transcripts);
        }
        verdict
    }

    async fn crowd(
        &self,
        stage: &Arc<Stage>,
        rig: &Rig,
        rng: &mut fastrand::Rng,
    ) -> JoinSet<Transcript> {
        let mut crowd = JoinSet::new();
        for client in 0..self.clients {
            let roamer = Roamer::new(stage.clone(), rig.address(), client, rng.u64(..));
            crowd.spawn(roamer.run());
        }
        let early = (0..self.clients).filter(|client| !Roamer::is_late(*client));
        let early = early.count();
        eventually("the clients joined", JOINED_WITHIN, || async {
            (stage.joined.load(Ordering::Relaxed) >= early).then_some(())
        })
        .await;
        crowd
    }

    /// Publishes at a brisk pace, but not ahead of the faults: each finds events under way.
    fn publish(
        &self,
        number: usize,
        stage: &Arc<Stage>,
        progress: &Arc<Progress>,
        mut rng: fastrand::Rng,
    ) -> impl Future<Output = ()> + use<> {
        let way = self.ways[number % self.ways.len()].clone();
        let mut publisher = Publisher::new(stage.clone(), way);
        let mut own: Vec<usize> = (number..self.channels).step_by(PUBLISHERS).collect();
        let (progress, events, injections) = (progress.clone(), self.events, self.injections());
        async move {
            loop {
                let done = progress.injections.load(Ordering::Relaxed);
                let published = progress.published.load(Ordering::Relaxed);
                if published >= events && done > injections {
                    return;
                }
                let allowed = events * (done + 1) / (injections + 1);
                if published >= allowed {
                    tokio::time::sleep(TRICKLE).await;
                }
                rng.shuffle(&mut own);
                let batch: Vec<(usize, usize)> = own
                    .iter()
                    .enumerate()
                    .map(|(index, channel)| {
                        let is_large = index == 0 && progress.large.load(Ordering::Relaxed);
                        let bytes = match rng.u32(0..10) {
                            _ if is_large => LARGE,
                            0 => rng.usize(0..4_000),
                            _ => rng.usize(0..200),
                        };
                        (*channel, bytes)
                    })
                    .collect();
                progress.published.fetch_add(batch.len(), Ordering::Relaxed);
                publisher.publish(batch).await;
                tokio::time::sleep(Duration::from_millis(rng.u64(0..PAUSE_MS))).await;
            }
        }
    }

    async fn inject(
        &self,
        rig: &mut Rig,
        progress: &Progress,
        rng: &mut fastrand::Rng,
    ) -> BTreeMap<Fault, usize> {
        let mut order: Vec<Fault> = Vec::new();
        for (fault, times) in &self.faults {
            order.extend(std::iter::repeat_n(*fault, *times));
        }
        rng.shuffle(&mut order);
        let mut injected = BTreeMap::new();
        for fault in order {
            tokio::time::sleep(Duration::from_millis(rng.u64(50..400))).await;
            progress.injections.fetch_add(1, Ordering::Relaxed);
            rig.inject(fault, rng, &progress.large).await;
            *injected.entry(fault).or_default() += 1;
        }
        progress.injections.fetch_add(1, Ordering::Relaxed);
        injected
    }

    /// All faults are over: an event on each channel, after which its clients are done; and again,
    /// for those who were not there to get it.
    async fn last_words(&self, stage: &Arc<Stage>) {
        let way = self.ways[0].clone();
        let mut publisher = Publisher::new(stage.clone(), way);
        let until = Instant::now() + ENDS_WITHIN;
        while stage.done.load(Ordering::Relaxed) < self.clients && Instant::now() < until {
            publisher
                .publish((0..self.channels).map(|channel| (channel, 0)))
                .await;
            let newest: Vec<usize> = (0..self.channels)
                .map(|c| stage.truth.next(c) - 1)
                .collect();
            stage.last_words.send_if_modified(|last_words| {
                let is_first = last_words.is_none();
                last_words.get_or_insert(newest);
                is_first
            });
            let again = Instant::now() + LAST_WORDS_EVERY;
            while stage.done.load(Ordering::Relaxed) < self.clients && Instant::now() < again {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Not `eprintln!`: the test harness would keep it to itself where the test passes.
    fn report(
        &self,
        truth: &Truth,
        verdict: &Verdict,
        injected: &BTreeMap<Fault, usize>,
        began: Instant,
    ) {
        let count = |outcome| truth.count(outcome);
        let kinds: Vec<String> = injected
            .iter()
            .map(|(fault, times)| format!("{fault} {times}"))
            .collect();
        let causes: Vec<String> = verdict
            .causes
            .iter()
            .map(|(cause, times)| format!("{cause} {times}"))
            .collect();
        let (name, seed, clients) = (self.name, self.seed, self.clients);
        let (stored, unknown, refused) = (
            count(Outcome::Stored),
            count(Outcome::Unknown),
            count(Outcome::Refused),
        );
        let _ = writeln!(
            std::io::stderr(),
            "REPORT {name}: seed {seed} clients {clients} published {stored} unknown {unknown} refused \
             {refused} {verdict} causes [{}] injections {} [{}] seconds {}",
            causes.join(", "),
            self.injections(),
            kinds.join(", "),
            began.elapsed().as_secs(),
        );
    }
}

fn keep(transcripts: &[Transcript]) {
    let Some(directory) = std::env::var_os(TRANSCRIPTS_VARIABLE) else {
        return;
    };
    for transcript in transcripts {
        let file = Path::new(&directory).join(format!("client-{}", transcript.client));
        let lines: Vec<String> = transcript
            .seen
            .iter()
            .map(|seen| format!("{seen:?}\n"))
            .collect();
        let text = format!("{:?}\n{}", transcript.selectors, lines.concat());
        if let Err(error) = std::fs::write(&file, text) {
            eprintln!("{}: {error}", file.display());
        }
    }
}
