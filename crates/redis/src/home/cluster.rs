//! Who serves which slots of a Redis Cluster.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{RedisError, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::login::{Address, Login};
use crate::{command, error::Failure};

/// How long an answer counts: all links of a node ask at about the same time.
const FRESH: Duration = Duration::from_millis(250);
/// How long a redirection counts for more than what nodes answer that may not know of it yet.
const REDIRECTED: Duration = Duration::from_secs(2);
/// How many nodes are asked at once. The newest answer counts.
const AT_ONCE: usize = 3;

/// The nodes of a cluster, and which slots they serve.
pub(crate) struct Cluster {
    seeds: Vec<Address>,
    pub(super) login: Login,
    patience: Duration,
    map: Mutex<Map>,
    // Held over asking, which `patience` bounds, so that one asks for all.
    asked: tokio::sync::Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    at: Option<Instant>,
    links: HashMap<Address, MultiplexedConnection>,
}

#[derive(Default)]
struct Map {
    /// First and last slot, and the primary.
    ranges: Vec<(u16, u16, Address)>,
    redirected: HashMap<u16, (Address, Instant)>,
}

/// A node's word.
struct Word {
    /// It rises with each failover.
    epoch: u64,
    ranges: Vec<(u16, u16, Address)>,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Address>, login: Login, patience: Duration) -> Self {
        Self {
            seeds,
            login,
            patience,
            map: Mutex::default(),
            asked: tokio::sync::Mutex::default(),
        }
    }

    /// Whether a node is a primary that serves a slot, or any slot, as far as is known.
    pub(super) fn serves(&self, at: &Address, slot: Option<u16>) -> bool {
        let map = self.map.lock();
        match slot {
            _ if map.ranges.is_empty() => true,
            Some(slot) => map.owner(slot) == Some(at),
            None => map.ranges.iter().any(|(_, _, primary)| primary == at),
        }
    }

    /// A primary that serves a slot, or any slot.
    pub(super) async fn find(&self, slot: Option<u16>) -> Result<Address, Failure> {
        self.refresh().await?;
        let map = self.map.lock();
        let found = match slot {
            Some(slot) => map.owner(slot),
            None => fastrand::choice(&map.ranges).map(|(_, _, primary)| primary),
        };
        let none = || Failure::Moving("no node of the cluster serves the slot".into());
        found.cloned().ok_or_else(none)
    }

    /// Learns where a node sends us.
    pub(super) fn redirect(&self, error: &RedisError) {
        let Some((to, slot)) = error.redirect_node() else {
            return;
        };
        let to = to.rsplit_once(':');
        let address = to.and_then(|(host, port)| Some(Address::new(host, port.parse().ok()?)));
        // Without a host it means its own, which the map will tell.
        if let Some(address) = address.filter(|address| !address.host.is_empty()) {
            let mut map = self.map.lock();
            map.redirected.insert(slot, (address, Instant::now()));
        }
    }

    /// Asks who serves what.
    pub(super) async fn refresh(&self) -> Result<(), Failure> {
        let mut asked = self.asked.lock().await;
        if asked.at.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let known: BTreeSet<_> = {
            let map = self.map.lock();
            let primaries = map.ranges.iter().map(|(_, _, primary)| primary.clone());
            primaries.chain(self.seeds.iter().cloned()).collect()
        };
        let mut links = std::mem::take(&mut asked.links);
        let mut nodes: Vec<_> = known.into_iter().collect();
        fastrand::shuffle(&mut nodes);
        let mut why = Failure::Down("no node of the cluster answers".into());
        for some in nodes.chunks(AT_ONCE) {
            let asks = some.iter().map(|node| {
                let link = links.remove(node);
                async move {
                    let answer = timeout(self.patience, self.ask(node, link)).await;
                    (node, answer.unwrap_or_else(|_| Err(Failure::late())))
                }
            });
            let mut newest: Option<Word> = None;
            for (node, answer) in join_all(asks).await {
                match answer {
                    Ok((word, link)) => {
                        asked.links.insert(node.clone(), link);
                        if newest
                            .as_ref()
                            .is_none_or(|newest| word.epoch > newest.epoch)
                        {
                            newest = Some(word);
                        }
                    }
                    Err(failure) => why = failure,
                }
            }
            if let Some(Word { ranges, .. }) = newest {
                asked.at = Some(Instant::now());
                let mut map = self.map.lock();
                map.ranges = ranges;
                map.redirected
                    .retain(|_, (_, at)| at.elapsed() < REDIRECTED);
                return Ok(());
            }
        }
        Err(why)
    }

    async fn ask(
        &self,
        node: &Address,
        link: Option<MultiplexedConnection>,
    ) -> Result<(Word, MultiplexedConnection), Failure> {
        let mut link = match link {
            Some(link) => link,
            None => {
                let client = self.login.client(node);
                let client = client.map_err(|error| Failure::of_connecting(&error))?;
                command::connect(&client, |_| Ok(()), self.patience).await?
            }
        };
        let epoch = is_whole(&mut link).await?;
        let mut ask = redis::cmd("CLUSTER");
        let slots: Vec<Vec<Value>> = ask
            .arg("SLOTS")
            .query_async(&mut link)
            .await
            .map_err(|error| Failure::of_answer(&error))?;
        let ranges = slots.iter().filter_map(|slots| range(slots, node));
        let word = Word {
            epoch,
            ranges: ranges.collect(),
        };
        Ok((word, link))
    }
}

/// Whether a node finds the cluster whole, and itself in touch with most of it. Answers the epoch.
pub(super) async fn is_whole(link: &mut MultiplexedConnection) -> Result<u64, Failure> {
    let mut ask = redis::cmd("CLUSTER");
    let info: Result<String, _> = ask.arg("INFO").query_async(link).await;
    let info = info.map_err(|error| {
        if error.to_string().contains("cluster support disabled") {
            let why = "the server is no node of a cluster; give it as broker.redis.url";
            return Failure::Refused(why.into());
        }
        Failure::of_answer(&error)
    })?;
    let field = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    if field("cluster_state").map(str::trim) != Some("ok") {
        let why = "the cluster is down, or its node is cut off from it (cluster_state)";
        return Err(Failure::Moving(why.into()));
    }
    let epoch = field("cluster_current_epoch");
    Ok(epoch
        .and_then(|epoch| epoch.trim().parse().ok())
        .unwrap_or_default())
}

/// A range of slots, as `CLUSTER SLOTS` answers it: first, last, primary, replicas.
fn range(slots: &[Value], asked: &Address) -> Option<(u16, u16, Address)> {
    let (first, last) = (number(slots.first()?)?, number(slots.get(1)?)?);
    let Value::Array(primary) = slots.get(2)? else {
        return None;
    };
    let host = match primary.first()? {
        Value::BulkString(host) if !host.is_empty() => std::str::from_utf8(host).ok()?,
        // It does not know its own: the one that it was asked at.
        _ => &asked.host,
    };
    let port = number(primary.get(1)?)?;
    Some((first, last, Address::new(host, port)))
}

fn number(value: &Value) -> Option<u16> {
    match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}

impl Map {
    fn owner(&self, slot: u16) -> Option<&Address> {
        if let Some((address, at)) = self.redirected.get(&slot)
            && at.elapsed() < REDIRECTED
        {
            return Some(address);
        }
        let range = |(first, last, _): &&(u16, u16, Address)| (*first..=*last).contains(&slot);
        self.ranges.iter().find(range).map(|(_, _, at)| at)
    }
}
