//! Whether a leader's word about a stream's end can be believed.
//!
//! A server that has just been elected may answer before it has applied what the one before it
//! stored, and one that was cut off may not know yet that it leads nobody. Both say that a stream
//! ends earlier than it does, which looks as if its tail were lost. So what is *less* than what is
//! known counts only from a leader that leads for a while, by all looks, and is followed.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// For how long a leader must have been seen to lead before it is believed that a stream ends
/// before what is known of it. Those elected have applied what was stored long before.
pub(super) const TENURE: Duration = Duration::from_secs(5);
/// The longest time between two looks for which a leader counts as the same: shorter than the
/// servers' shortest election, so that a leader that died meanwhile does not.
const LOOKS_APART: Duration = Duration::from_secs(3);
/// After how long without a word a replica does not count as following. Leaders and replicas
/// exchange one each second.
const QUIET: Duration = Duration::from_millis(2500);

/// The servers that keep a stream, as its leader says.
#[derive(Deserialize, Debug)]
pub(super) struct Cluster {
    #[serde(default)]
    leader: Option<String>,
    /// Those other than the leader.
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Deserialize, Debug)]
struct Replica {
    name: String,
    /// Whether it has stored all that the leader knows to be stored.
    #[serde(default)]
    current: bool,
    #[serde(default)]
    offline: bool,
    /// For how long it has said nothing, in nanoseconds.
    #[serde(default)]
    active: u64,
}

impl Replica {
    fn follows(&self) -> bool {
        self.current && !self.offline && Duration::from_nanos(self.active) < QUIET
    }
}

impl Cluster {
    /// Its name; none while there is an election.
    pub(super) fn leader(&self) -> Option<&str> {
        self.leader.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether a server has all that the leader has.
    pub(super) fn is_current(&self, server: &str) -> bool {
        let follows = |replica: &Replica| replica.name == server && replica.follows();
        self.leader() == Some(server) || self.replicas.iter().any(follows)
    }

    /// Whether more than half of the servers have what the leader has.
    fn has_majority(&self) -> bool {
        let following = self.replicas.iter().filter(|r| r.follows()).count();
        2 * (following + 1) > self.replicas.len() + 1
    }
}

/// Since when a stream's leader leads, as far as looks tell.
#[derive(Debug, Default)]
pub(super) struct Tenure(Option<Seen>);

#[derive(Debug)]
struct Seen {
    leader: String,
    since: Instant,
    newest: Instant,
}

impl Tenure {
    /// A look at the stream at `now`; none where nobody answered it.
    pub(super) fn look(&mut self, cluster: Option<&Cluster>, now: Instant) {
        let led = cluster.filter(|cluster| cluster.has_majority());
        let Some(leader) = led.and_then(Cluster::leader) else {
            self.0 = None;
            return;
        };
        match &mut self.0 {
            Some(seen)
                if seen.leader == leader
                    && now.saturating_duration_since(seen.newest) <= LOOKS_APART =>
            {
                seen.newest = seen.newest.max(now);
            }
            seen => {
                *seen = Some(Seen {
                    leader: leader.into(),
                    since: now,
                    newest: now,
                });
            }
        }
    }

    /// Whether the newest look was at a leader that has led for long enough.
    pub(super) fn is_long(&self) -> bool {
        let led = |seen: &Seen| seen.newest.saturating_duration_since(seen.since) >= TENURE;
        self.0.as_ref().is_some_and(led)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(leader: &str, replicas: &[(&str, bool, u64)]) -> Cluster {
        let replicas: Vec<_> = replicas
            .iter()
            .map(|(name, current, quiet)| {
                json!({"name": name, "current": current, "active": quiet * 1_000_000})
            })
            .collect();
        let cluster = json!({"name": "C", "leader": leader, "replicas": replicas});
        serde_json::from_value(cluster).unwrap()
    }

    fn led_by(leader: &str) -> Cluster {
        cluster(leader, &[("x", true, 100), ("y", false, 90_000)])
    }

    /// Looks, each with the seconds since the one before.
    fn after(looks: &[(f64, Option<&Cluster>)]) -> bool {
        let (mut tenure, mut now) = (Tenure::default(), Instant::now());
        for (wait, cluster) in looks {
            now += Duration::from_secs_f64(*wait);
            tenure.look(*cluster, now);
        }
        tenure.is_long()
    }

    #[test]
    fn a_leader_is_believed_that_leads_for_long() {
        let (a, b) = (led_by("a"), led_by("b"));
        let (a, b) = (Some(&a), Some(&b));
        assert!(!after(&[]));
        assert!(!after(&[(0.0, a)]));
        assert!(!after(&[(0.0, a), (2.4, a), (2.4, a)]));
        assert!(after(&[(0.0, a), (2.5, a), (2.5, a)]));
        assert!(after(&[(0.0, b), (1.0, a), (2.5, a), (2.5, a)]));
        // Another leader, no answer, or too long without a look: it counts anew.
        assert!(!after(&[(0.0, a), (2.5, a), (2.5, b)]));
        assert!(!after(&[(0.0, a), (2.5, b), (2.5, a)]));
        assert!(!after(&[(0.0, a), (2.5, None), (2.5, a)]));
        assert!(!after(&[(0.0, a), (2.5, a), (3.1, a)]));
        assert!(!after(&[(0.0, a), (2.5, a), (2.5, None)]));
    }

    #[test]
    fn a_leader_that_nobody_follows_is_not_believed() {
        let long = |cluster: &Cluster| {
            after(&[
                (0.0, Some(cluster)),
                (3.0, Some(cluster)),
                (3.0, Some(cluster)),
            ])
        };
        assert!(long(&cluster("a", &[("b", true, 0), ("c", false, 0)])));
        assert!(!long(&cluster("a", &[("b", false, 0), ("c", false, 0)])));
        assert!(!long(&cluster(
            "a",
            &[("b", true, 9_000), ("c", true, 2_500)]
        )));
        assert!(!long(&cluster("", &[("b", true, 0), ("c", true, 0)])));
    }

    #[test]
    fn who_is_current_has_what_the_leader_has() {
        let three = cluster("a", &[("b", true, 100), ("c", false, 100)]);
        let current = ["a", "b", "c", "d"].map(|server| three.is_current(server));
        assert_eq!(current, [true, true, false, false]);
        assert!(!cluster("a", &[("b", true, 9_000)]).is_current("b"));
    }
}
