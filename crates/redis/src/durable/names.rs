//! The keys and pub/sub names of durable and of recorded channels.
//!
//! All names of a partition share one hash tag, so that one script may touch them all.

use fanfare_core::{Channel, InvalidChannel, Pattern, Source};

/// What an announcement's name has before the channel.
const LIVE: &str = "live:";

/// The names of a family of logs.
#[derive(Debug)]
pub(crate) struct Names {
    /// `{prefix:p`, to which a partition's number and `}` are added.
    root: String,
    partitions: usize,
    /// What the names of the logs begin with.
    log: char,
    /// What a hole in a log is announced on, of each partition that can have one.
    holes: Vec<String>,
    /// What an announcement's name has before the channel.
    live: String,
    is_sharded: bool,
}

/// What a name means that an announcement came on.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// A channel.
    Channel(Result<Channel, InvalidChannel>),
    /// Every channel of the partition; the announcement names which.
    All,
}

impl Names {
    /// Of the channels that Fanfare's own publications make.
    pub(crate) fn new(prefix: &str, partitions: usize) -> Self {
        Self {
            root: format!("{{{prefix}:p"),
            partitions,
            log: 'r',
            holes: Vec::new(),
            live: LIVE.into(),
            is_sharded: false,
        }
    }

    /// Of the channels that are recorded from raw pub/sub. One partition: all that is heard has one
    /// order, and what is recorded of it is written in one step.
    pub(crate) fn recorded(prefix: &str) -> Self {
        let root = format!("{{{prefix}:h");
        Self {
            holes: vec![format!("{root}0}}:hole")],
            root,
            partitions: 1,
            log: 'h',
            live: LIVE.into(),
            is_sharded: false,
        }
    }

    /// The name of a partition's log.
    pub(crate) fn log(&self, partition: usize) -> String {
        format!("{}{partition}", self.log)
    }

    /// The names of a database. Keys live in one; pub/sub knows none, so that its names must differ.
    pub(crate) fn on(self, database: i64) -> Self {
        let live = match database {
            0 => LIVE.into(),
            _ => format!("live/{database}:"),
        };
        Self { live, ..self }
    }

    /// The names of sharded pub/sub, which has no globs: who follows a pattern with wildcards hears
    /// all that its partitions announce, on one name each.
    pub(crate) fn sharded(self) -> Self {
        Self {
            is_sharded: true,
            ..self
        }
    }

    /// The hash tag of a partition.
    pub(crate) fn tag(&self, partition: usize) -> String {
        format!("{}{partition}}}", self.root)
    }

    /// How many partitions there are.
    pub(crate) fn partitions(&self) -> usize {
        self.partitions
    }

    /// The partition of a channel: the same in every release, on every node.
    pub(crate) fn partition(&self, channel: &str) -> usize {
        let hash = fnv1a(channel.as_bytes());
        (hash % self.partitions as u64) as usize
    }

    /// The partitions that channels of a pattern can live in.
    pub(crate) fn partitions_of(&self, pattern: &Pattern) -> std::ops::Range<usize> {
        if pattern.is_wild() {
            return 0..self.partitions;
        }
        let partition = self.partition(pattern.as_str());
        partition..partition + 1
    }

    /// A name of the partition.
    pub(crate) fn key(&self, partition: usize, rest: &str) -> String {
        format!("{}{partition}}}:{rest}", self.root)
    }

    /// The hash of where the log stands.
    pub(crate) fn meta(&self, partition: usize) -> String {
        self.key(partition, "meta")
    }

    /// The list of channels with the last offset of each.
    pub(crate) fn channels(&self, partition: usize) -> String {
        self.key(partition, "channels")
    }

    /// The stream of a channel.
    pub(crate) fn stream(&self, partition: usize, channel: &Channel) -> String {
        self.key(partition, &format!("s:{channel}"))
    }

    /// What remembers an idempotency key of a channel. A channel has no space, so two channels
    /// never share one.
    pub(crate) fn idempotency(&self, partition: usize, channel: &Channel, key: &str) -> String {
        self.key(partition, &format!("k:{channel} {key}"))
    }

    /// What a channel is announced on.
    pub(crate) fn live(&self, partition: usize, channel: &str) -> String {
        self.key(partition, &format!("{}{channel}", self.live))
    }

    /// What a hole in a log is announced on, of each partition that can have one.
    pub(crate) fn holes(&self) -> &[String] {
        &self.holes
    }

    /// What every channel is announced on besides, where pub/sub is sharded.
    pub(crate) fn all(&self, partition: usize) -> Option<String> {
        self.is_sharded.then(|| self.key(partition, "all"))
    }

    /// What to subscribe to in a partition for followers of a pattern.
    pub(crate) fn source(&self, partition: usize, pattern: &Pattern) -> Source {
        if !pattern.is_wild() {
            return Source::Name(self.live(partition, pattern.as_str()));
        }
        match self.all(partition) {
            Some(all) => Source::Name(all),
            // Names of channels have no character that a glob takes for its own. A `*` of a glob
            // runs over dots too: what arrives is checked again.
            None => Source::Wild(self.live(partition, &glob(pattern))),
        }
    }

    /// The partition that a message arrived of, and what its name means; `None` where the name is
    /// not ours.
    pub(crate) fn arrival(&self, name: &[u8]) -> Option<(usize, Heard)> {
        let name = String::from_utf8_lossy(name);
        let (partition, rest) = name.strip_prefix(&self.root)?.split_once("}:")?;
        let partition: usize = partition.parse().ok()?;
        if partition >= self.partitions {
            return None;
        }
        if self.is_sharded && rest == "all" {
            return Some((partition, Heard::All));
        }
        let channel = Channel::parse(rest.strip_prefix(&*self.live)?);
        Some((partition, Heard::Channel(channel)))
    }
}

/// A glob that selects every channel of a pattern, and may select more.
pub(crate) fn glob(pattern: &Pattern) -> String {
    pattern.as_str().replace('>', "*")
}

/// FNV-1a, 64 bits. Source: <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn channels_spread_over_partitions() {
        let names = Names::new("ff", 4);
        let mut counts = [0; 4];
        (0..4000).for_each(|n| counts[names.partition(&format!("room.{n}"))] += 1);
        assert!(counts.iter().all(|count| *count > 700), "{counts:?}");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let names = Names::new("ff", 2);
        let channel = Channel::parse("a:b.}:live:c").unwrap();
        assert_eq!(names.stream(1, &channel), "{ff:p1}:s:a:b.}:live:c");
        let live = names.live(1, channel.as_str());
        let heard = Some((1, Heard::Channel(Ok(channel))));
        assert_eq!(names.arrival(live.as_bytes()), heard);
        for other in [
            "{ff:p2}:live:a",
            "{ff:p0}:meta",
            "ff:live:a",
            "{ff:px}:live:a",
        ] {
            assert_eq!(names.arrival(other.as_bytes()), None, "{other}");
        }
        let bad = names.arrival(b"{ff:p0}:live:a b").unwrap().1;
        assert!(matches!(bad, Heard::Channel(Err(_))));
    }

    #[test]
    fn a_pattern_is_followed_in_every_partition() {
        let names = Names::new("ff", 2);
        let (wild, name) = ("a.*.>".parse().unwrap(), "a.b".parse().unwrap());
        assert_eq!(names.partitions_of(&wild), 0..2);
        assert_eq!(names.partitions_of(&name).len(), 1);
        let glob = Source::Wild("{ff:p1}:live:a.*.*".into());
        assert_eq!(names.source(1, &wild), glob);
        let one = Source::Name("{ff:p0}:live:a.b".into());
        assert_eq!(names.source(0, &name), one);
    }

    #[test]
    fn sharded_names_know_no_globs() {
        let names = Names::new("ff", 2).sharded();
        let all = Source::Name("{ff:p1}:all".into());
        assert_eq!(names.source(1, &"a.*.>".parse().unwrap()), all);
        assert_eq!(names.arrival(b"{ff:p1}:all"), Some((1, Heard::All)));
        assert_eq!(names.tag(1), "{ff:p1}");
    }

    #[test]
    fn a_database_hears_its_own() {
        let [zero, two] = [0, 2].map(|database| Names::new("ff", 1).on(database));
        let (of_zero, of_two) = (zero.live(0, "a"), two.live(0, "a"));
        assert_eq!(of_zero, "{ff:p0}:live:a");
        assert!(zero.arrival(of_two.as_bytes()).is_none());
        assert!(two.arrival(of_zero.as_bytes()).is_none());
        assert!(two.arrival(of_two.as_bytes()).is_some());
        assert_eq!(zero.meta(0), two.meta(0), "keys live in a database");
    }
}
