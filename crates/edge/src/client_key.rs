//! Whose connections are counted together.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use http::HeaderMap;
use ipnet::IpNet;

use crate::auth::Identity;

/// Whose connections are counted together: a token's subject, else an address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ClientKey {
    /// A token's subject, wherever it connects from.
    Subject(Arc<str>),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: what one customer is given.
    V6(u64),
}

impl ClientKey {
    pub(crate) fn new(identity: &Identity, address: IpAddr) -> Self {
        match (identity.subject(), address.to_canonical()) {
            (Some(subject), _) => Self::Subject(subject.clone()),
            (None, IpAddr::V4(address)) => Self::V4(address),
            (None, IpAddr::V6(address)) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(subject) => write!(f, "sub:{subject}"),
            Self::V4(address) => write!(f, "ip:{address}"),
            Self::V6(prefix) => {
                let address = Ipv6Addr::from(u128::from(*prefix) << 64);
                write!(f, "ip:{address}/64")
            }
        }
    }
}

/// The client's address: the right-most hop of `X-Forwarded-For` that no trusted proxy has. What
/// stands left of it was sent by the client itself, who can write anything there.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let mut client = peer.to_canonical();
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let hops = lines
        .iter()
        .rev()
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops {
        if !is_trusted(&client) {
            break;
        }
        // A hop that is no address: the proxy that wrote it is the last one that is known.
        let Some(address) = parse_hop(hop) else { break };
        client = address;
    }
    client
}

/// An address, as proxies write it: bare, with a port, or in brackets.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let address = text
        .parse::<IpAddr>()
        .or_else(|_| {
            text.parse::<std::net::SocketAddr>()
                .map(|socket| socket.ip())
        })
        .or_else(|_| {
            text.trim_start_matches('[')
                .trim_end_matches(']')
                .parse::<IpAddr>()
        });
    Some(address.ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let lb = &["10.0.0.0/8"];
        assert_eq!(address("192.0.2.9", &["1.1.1.1"], lb), "192.0.2.9");
        assert_eq!(address("10.0.0.1", &["1.1.1.1"], &[]), "10.0.0.1");
        assert_eq!(address("10.0.0.1", &["1.1.1.1"], lb), "1.1.1.1");
        assert_eq!(
            address("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"], lb),
            "1.1.1.1"
        );
        assert_eq!(
            address("10.0.0.1", &["6.6.6.6", "1.1.1.1", "10.0.0.2"], lb),
            "1.1.1.1"
        );
        assert_eq!(address("10.0.0.1", &["10.0.0.3, 10.0.0.2"], lb), "10.0.0.3");
        assert_eq!(
            address("10.0.0.1", &["1.1.1.1, rubbish, 10.0.0.2"], lb),
            "10.0.0.2"
        );
        assert_eq!(address("10.0.0.1", &[], lb), "10.0.0.1");
        assert_eq!(
            address("::ffff:10.0.0.1", &["[2001:db8::1]:443"], lb),
            "2001:db8::1"
        );
        assert_eq!(address("10.0.0.1", &["1.1.1.1:55"], lb), "1.1.1.1");
    }

    #[test]
    fn an_ipv6_customer_is_one_client() {
        let identity = crate::auth::Identity::nobody();
        let key = |text: &str| ClientKey::new(&identity, text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2:aaaa::1"), key("2001:db8:1:2:bbbb::2"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(key("2001:db8:1:2::1").to_string(), "ip:2001:db8:1:2::/64");
    }
}
