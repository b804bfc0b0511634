//! `/proc/net/dev`.

use std::time::Duration;

use serde::Serialize;

use super::{Unreadable, round, unreadable};

/// `/proc/net/dev`: bytes since boot of each interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkBytes(Vec<(String, u64, u64)>);

/// Bytes a second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Network {
    pub(crate) at: u64,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) rx_bytes_per_second: f64,
    pub(crate) tx_bytes_per_second: f64,
}

/// Bytes a second of one interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) rx_bytes_per_second: f64,
    pub(crate) tx_bytes_per_second: f64,
}

impl NetworkBytes {
    /// The loopback interface is left out where there is another: what a machine says to itself
    /// is not traffic.
    pub(crate) fn parse(dev: &str) -> Result<Self, Unreadable> {
        let mut interfaces = Vec::new();
        for line in dev.lines().skip(2) {
            // Old kernels put no space after the colon.
            let read = || {
                let (name, numbers) = line.split_once(':')?;
                let mut numbers = numbers.split_ascii_whitespace();
                let rx = numbers.next()?.parse().ok()?;
                let tx = numbers.nth(7)?.parse().ok()?;
                Some((name.trim().to_owned(), rx, tx))
            };
            interfaces.push(read().ok_or(unreadable("/proc/net/dev", "a line is too short"))?);
        }
        if interfaces.iter().any(|(name, ..)| name != "lo") {
            interfaces.retain(|(name, ..)| name != "lo");
        }
        Ok(Self(interfaces))
    }

    /// The rates of the time between `before` and now.
    pub(crate) fn since(&self, before: &Self, elapsed: Duration, at: u64) -> Network {
        let rate = |now: u64, then: u64| {
            round(
                now.saturating_sub(then) as f64 / elapsed.as_secs_f64().max(0.001),
                1,
            )
        };
        let interfaces: Vec<Interface> = self
            .0
            .iter()
            .filter_map(|(name, rx, tx)| {
                let (_, rx_then, tx_then) = before.0.iter().find(|(other, ..)| other == name)?;
                Some(Interface {
                    name: name.clone(),
                    rx_bytes_per_second: rate(*rx, *rx_then),
                    tx_bytes_per_second: rate(*tx, *tx_then),
                })
            })
            .collect();
        let sum = |of: fn(&Interface) -> f64| round(interfaces.iter().map(of).sum(), 1);
        Network {
            at,
            rx_bytes_per_second: sum(|interface| interface.rx_bytes_per_second),
            tx_bytes_per_second: sum(|interface| interface.tx_bytes_per_second),
            interfaces,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "Inter-|   Receive                                                |  Transmit\n\
        \u{20}face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
        \u{20}   lo: 9000 10 0 0 0 0 0 0 9000 10 0 0 0 0 0 0\n\
        \u{20} eth0:1000 10 0 0 0 0 0 0 500 10 0 0 0 0 0 0\n\
        \u{20} eth1: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n";

    #[test]
    fn network_rates_leave_loopback_out() {
        let before = NetworkBytes::parse(DEV).unwrap();
        let after = DEV
            .replace("eth0:1000", "eth0: 3468")
            .replace("0 500 ", "0 698 ");
        let after = NetworkBytes::parse(&after).unwrap();
        let network = after.since(&before, Duration::from_secs(2), 5);
        let names: Vec<_> = network.interfaces.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        assert_eq!(network.interfaces[0].rx_bytes_per_second, 1234.0);
        assert_eq!(
            (network.rx_bytes_per_second, network.tx_bytes_per_second),
            (1234.0, 99.0)
        );
        // Counters that began again are not a flood.
        assert_eq!(
            before
                .since(&after, Duration::from_secs(1), 5)
                .rx_bytes_per_second,
            0.0
        );
    }

    #[test]
    fn a_machine_with_loopback_only_shows_it() {
        let lo: String = DEV
            .lines()
            .take(3)
            .map(|line| format!("{line}\n"))
            .collect();
        let bytes = NetworkBytes::parse(&lo).unwrap();
        assert_eq!(bytes.0, [("lo".to_owned(), 9000, 9000)]);
        assert!(NetworkBytes::parse("a\nb\nc: 1 2").is_err());
    }

    #[test]
    fn the_shape_is_that_of_the_page() {
        let bytes = NetworkBytes::parse(DEV).unwrap();
        let network = bytes.since(&bytes, Duration::from_secs(1), 1);
        let network = serde_json::to_value(network).unwrap();
        assert_eq!(network["interfaces"][0]["name"], "eth0");
        assert_eq!(network["interfaces"][0]["rx_bytes_per_second"], 0.0);
    }
}
