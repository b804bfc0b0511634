//! The keys and pub/sub names of durable and of recorded channels.
//!
//! All names of a partition share one hash tag, so that one script may touch them all.

use fanfare_core::{Channel, InvalidChannel, Pattern, Source};

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
}

impl Names {
    /// Of the channels that Fanfare's own publications make.
    pub(crate) fn new(prefix: &str, partitions: usize) -> Self {
        Self {
            root: format!("{{{prefix}:p"),
            partitions,
            log: 'r',
            holes: Vec::new(),
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
        }
    }

    /// The name of a partition's log.
    pub(crate) fn log(&self, partition: usize) -> String {
        format!("{}{partition}", self.log)
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
        self.key(partition, &format!("live:{channel}"))
    }

    /// What a hole in a log is announced on, of each partition that can have one.
    pub(crate) fn holes(&self) -> &[String] {
        &self.holes
    }

    /// What to subscribe to for followers of a pattern.
    pub(crate) fn sources(&self, pattern: &Pattern) -> Vec<Source> {
        let text = pattern.as_str();
        let of = |partition| match pattern.is_wild() {
            false => Source::Name(self.live(partition, text)),
            // Names of channels have no character that a glob takes for its own. A `*` of a glob
            // runs over dots too: what arrives is checked again.
            true => Source::Wild(self.live(partition, &glob(pattern))),
        };
        self.partitions_of(pattern).map(of).collect()
    }

    /// The partition and the channel that a message arrived of; `None` where the name is not ours.
    pub(crate) fn arrival(&self, name: &[u8]) -> Option<(usize, Result<Channel, InvalidChannel>)> {
        let name = String::from_utf8_lossy(name);
        let (partition, rest) = name.strip_prefix(&self.root)?.split_once("}:live:")?;
        let partition: usize = partition.parse().ok()?;
        (partition < self.partitions).then(|| (partition, Channel::parse(rest)))
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
        assert_eq!(names.arrival(live.as_bytes()), Some((1, Ok(channel))));
        for other in [
            "{ff:p2}:live:a",
            "{ff:p0}:meta",
            "ff:live:a",
            "{ff:px}:live:a",
        ] {
            assert_eq!(names.arrival(other.as_bytes()), None, "{other}");
        }
        assert!(names.arrival(b"{ff:p0}:live:a b").unwrap().1.is_err());
    }

    #[test]
    fn a_pattern_is_followed_in_every_partition() {
        let names = Names::new("ff", 2);
        let sources = names.sources(&"a.*.>".parse().unwrap());
        let glob = |text: &str| Source::Wild(text.into());
        assert_eq!(
            sources,
            [glob("{ff:p0}:live:a.*.*"), glob("{ff:p1}:live:a.*.*")]
        );
        let one = names.sources(&"a.b".parse().unwrap());
        assert!(matches!(&one[..], [Source::Name(_)]), "{one:?}");
    }
}
