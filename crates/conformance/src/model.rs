//! A sequential model of a broker, and random sequences of calls on which a backend must agree
//! with it.

use std::num::NonZeroUsize;

use fanfare_core::{Channel, IdempotencyKey, Live, LogId, Pattern, Position, Publication, Since};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};

use crate::{Done, Follower, Pages, Stand, Verdict, Violation, account, seam::broke};

/// How many sequences are tried; `FANFARE_CONFORMANCE_CASES` sets another number.
const CASES: u32 = 64;
const CHANNELS: usize = 3;

/// One call.
#[derive(Clone, Debug)]
enum Op {
    Publish {
        channel: usize,
        key: Option<u8>,
    },
    Follow(usize),
    LetGo(usize),
    Evict(usize),
    Read {
        asked: Vec<usize>,
        since: From,
        limit: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum From {
    Oldest,
    /// After some event that was published, or after the place before the first.
    After(prop::sample::Index),
    Last(usize),
    Now,
}

/// What a broker should hold: everything that was published, in order.
struct Model {
    channels: Vec<Channel>,
    /// The channels' names, then patterns over several of them.
    patterns: Vec<Pattern>,
    log: LogId,
    start: Position,
    sent: Vec<Sent>,
    keys: Vec<(usize, u8, usize)>,
    held: Vec<usize>,
    let_go: Vec<usize>,
    evicted: bool,
}

struct Sent {
    channel: Channel,
    data: String,
    at: Position,
    gone: bool,
    /// Whether the follower must get it, and whether it may.
    must: bool,
    may: bool,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let patterns = 0..CHANNELS + 2;
    let from = prop_oneof![
        1 => Just(From::Oldest),
        5 => any::<prop::sample::Index>().prop_map(From::After),
        2 => (1..4usize).prop_map(From::Last),
        1 => Just(From::Now),
    ];
    let asked = proptest::collection::vec(patterns.clone(), 1..4);
    let key = prop_oneof![3 => Just(None), 1 => (0..3u8).prop_map(Some)];
    let op = prop_oneof![
        8 => (0..CHANNELS, key).prop_map(|(channel, key)| Op::Publish { channel, key }),
        1 => patterns.clone().prop_map(Op::Follow),
        1 => patterns.clone().prop_map(Op::LetGo),
        1 => patterns.prop_map(Op::Evict),
        4 => (asked, from, 1..6usize).prop_map(|(asked, since, limit)| Op::Read { asked, since, limit }),
    ];
    proptest::collection::vec(op, 1..50)
}

/// On random sequences of calls, the broker does what the model does.
pub async fn the_broker_agrees_with_the_model(stand: Stand) -> Verdict {
    let cases = std::env::var("FANFARE_CONFORMANCE_CASES");
    let cases = cases
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(CASES);
    let runtime = tokio::runtime::Handle::current();
    let trying = tokio::task::spawn_blocking(move || {
        let mut runner = TestRunner::new(Config {
            cases,
            failure_persistence: None,
            max_shrink_iters: 200,
            ..Config::default()
        });
        runner.run(&ops(), |ops| {
            let run = run(stand.aside(), ops);
            runtime
                .block_on(run)
                .map_err(|how| TestCaseError::fail(how.to_string()))
        })
    });
    match trying.await.map_err(broke)? {
        Ok(()) => Ok(Done::Kept),
        Err(TestError::Fail(how, ops)) => violated!("{how}, after {ops:?}"),
        Err(TestError::Abort(why)) => violated!("no sequence could be tried: {why}"),
    }
}

async fn run(stand: Stand, ops: Vec<Op>) -> Result<(), Violation> {
    let channels = stand.channels(CHANNELS)?;
    let log = stand.log_of(&channels[0])?;
    let mut witness = stand.witness().await?;
    let mut follower = stand.idle_follower(Default::default());
    let mut patterns: Vec<Pattern> = channels.iter().map(Pattern::from).collect();
    patterns.extend([stand.pattern("*")?, stand.pattern(">")?]);
    let start = stand.page(&log, &patterns, Since::Now, 1, 1).await?.upto;
    let mut model = Model {
        channels,
        patterns,
        log,
        start,
        sent: Vec::new(),
        keys: Vec::new(),
        held: Vec::new(),
        let_go: Vec::new(),
        evicted: false,
    };
    for op in ops {
        match op {
            Op::Publish { channel, key } => {
                let key = key.filter(|_| stand.capabilities.idempotency);
                let channel = channel % model.channels.len();
                model.publish(&stand, channel, key, &mut witness).await?;
            }
            Op::Follow(pattern) => {
                let pattern = pattern % model.patterns.len();
                follower
                    .follow(&*stand.broker, &model.patterns[pattern])
                    .await?;
                model.held.push(pattern);
            }
            Op::LetGo(pattern) => {
                let pattern = pattern % model.patterns.len();
                follower.let_go(&model.patterns[pattern]);
                if let Some(index) = model.held.iter().position(|held| *held == pattern) {
                    model.let_go.push(model.held.remove(index));
                }
            }
            Op::Evict(pattern) => {
                let pattern = pattern % model.patterns.len();
                if stand.fixture.evict(&model.patterns[pattern]).await {
                    model.evict(pattern);
                }
            }
            Op::Read {
                asked,
                since,
                limit,
            } => {
                if stand.capabilities.history {
                    model.read(&stand, &asked, since, limit).await?;
                }
            }
        }
    }
    model.check_follower(&stand, &mut follower).await
}

impl Model {
    async fn publish(
        &mut self,
        stand: &Stand,
        channel: usize,
        key: Option<u8>,
        witness: &mut Follower,
    ) -> Result<(), Violation> {
        let name = self.channels[channel].clone();
        let known = |k: &&(usize, u8, usize)| (k.0, Some(k.1)) == (channel, key);
        let first = self.keys.iter().find(known).map(|k| k.2);
        let data = format!("{}", self.sent.len());
        let parsed = key.map(|key| IdempotencyKey::parse(&format!("key{key}")));
        let publication = Publication {
            key: parsed
                .transpose()
                .map_err(|why| Violation(why.to_string()))?,
            ..Publication::new(data.as_str())
        };
        let published = stand.broker.publish(&name, publication).await?;
        ensure!(
            published.duplicate == first.is_some(),
            "a publication on {name} with key {key:?}: duplicate = {}",
            published.duplicate
        );
        if let Some(first) = first {
            let first = &self.sent[first].at;
            // A bus that places events on arrival has no position to answer.
            let placed = stand.broker.capabilities().positions;
            ensure!(
                published.position.as_ref() == placed.then_some(first),
                "the duplicate has {:?}, the first {first:?}",
                published.position
            );
            return Ok(());
        }
        if let Some(key) = key {
            self.keys.push((channel, key, self.sent.len()));
        }
        witness.until_events(self.sent.len() + 1).await?;
        let Some(Live::Event(event)) = witness.items.last() else {
            violated!("a gap out of nowhere: {:?}", witness.items.last());
        };
        ensure!(
            event.data.as_str() == data && event.channel == name,
            "published {data} on {name}, got {event:?}"
        );
        let selects =
            |patterns: &[usize]| patterns.iter().any(|p| self.patterns[*p].matches(&name));
        let must = selects(&self.held);
        self.sent.push(Sent {
            must,
            // Letting go reaches the bus some time later.
            may: must || selects(&self.let_go),
            channel: name,
            data,
            at: event.position.clone(),
            gone: false,
        });
        Ok(())
    }

    fn evict(&mut self, pattern: usize) {
        let pattern = &self.patterns[pattern];
        for sent in &mut self.sent {
            sent.gone |= pattern.matches(&sent.channel);
        }
        self.evicted = true;
    }

    async fn read(
        &self,
        stand: &Stand,
        asked: &[usize],
        from: From,
        limit: usize,
    ) -> Result<(), Violation> {
        let asked: Vec<_> = asked
            .iter()
            .map(|index| self.patterns[index % self.patterns.len()].clone())
            .collect();
        let selected = |sent: &&Sent| asked.iter().any(|p| p.matches(&sent.channel));
        let kept = |sent: &&Sent| !sent.gone;
        let (since, expected): (_, Vec<&Sent>) = match from {
            From::Now => (Since::Now, Vec::new()),
            From::Oldest => (
                Since::Oldest,
                self.sent.iter().filter(selected).filter(kept).collect(),
            ),
            From::Last(each) => {
                let held: Vec<_> = self.sent.iter().filter(selected).filter(kept).collect();
                let newer = |place: usize| {
                    let channel = &held[place].channel;
                    held[place + 1..]
                        .iter()
                        .filter(|s| s.channel == *channel)
                        .count()
                };
                let places = (0..held.len()).filter(|place| newer(*place) < each);
                let mut newest: Vec<_> = places.map(|place| held[place]).collect();
                newest.drain(..newest.len().saturating_sub(limit));
                (
                    Since::Last(NonZeroUsize::new(each).unwrap_or(NonZeroUsize::MIN)),
                    newest,
                )
            }
            From::After(index) => {
                let place = index.index(self.sent.len() + 1);
                let cursor = match place {
                    0 => self.start.clone(),
                    _ => self.sent[place - 1].at.clone(),
                };
                let after = &self.sent[place..];
                (
                    Since::After(cursor),
                    after.iter().filter(selected).filter(kept).collect(),
                )
            }
        };
        let pages = stand.pages(&self.log, &asked, since.clone(), limit).await?;
        let expected: Vec<_> = expected.iter().map(|sent| sent.data.as_str()).collect();
        ensure!(
            pages.data() == expected,
            "{since:?} of {asked:?}, by {limit}: {:?}, not {expected:?}",
            pages.data()
        );
        if !self.evicted {
            let gap = pages.items.iter().find(|item| matches!(item, Live::Gap(_)));
            ensure!(gap.is_none(), "nothing is lost, and yet there is {gap:?}");
        }
        if let Since::After(cursor) = &since {
            self.check_told(&asked, cursor, &pages)?;
        }
        Ok(())
    }

    fn check_told(
        &self,
        asked: &[Pattern],
        cursor: &Position,
        pages: &Pages,
    ) -> Result<(), Violation> {
        for sent in self.sent.iter().filter(|sent| sent.gone) {
            let wanted = asked.iter().any(|pattern| pattern.matches(&sent.channel))
                && sent.at.is_after(cursor) == Some(true);
            ensure!(
                !wanted || pages.tells(&sent.channel, &sent.at),
                "{} at {:?} was evicted and is not told after {cursor:?}: {:?}",
                sent.channel,
                sent.at,
                pages.items
            );
        }
        Ok(())
    }

    async fn check_follower(
        &self,
        stand: &Stand,
        follower: &mut Follower,
    ) -> Result<(), Violation> {
        // An event of the same log that comes last, so that all before it has come.
        let last = &self.channels[0];
        follower.follow(&*stand.broker, &last.into()).await?;
        stand.publish(last, "end").await?;
        follower.until_data("end").await?;
        for channel in &self.channels {
            let on_it = self.sent.iter().filter(|sent| sent.channel == *channel);
            let came: Vec<_> = follower
                .events()
                .filter(|event| event.channel == *channel && event.data.as_str() != "end")
                .map(|event| event.data.as_str().to_owned())
                .collect();
            let expected: Vec<_> = on_it
                .filter(|sent| sent.must || sent.may && came.contains(&sent.data))
                .map(|sent| sent.data.clone())
                .collect();
            ensure!(
                came == expected,
                "{channel}: {came:?} came, not {expected:?}"
            );
            let end = (channel == last).then(|| "end".to_owned());
            let all: Vec<_> = expected.into_iter().chain(end).collect();
            if !all.is_empty() {
                account(channel, &all, &follower.items)?;
            }
        }
        Ok(())
    }
}
