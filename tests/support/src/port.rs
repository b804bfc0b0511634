//! Free ports.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    sync::LazyLock,
};

use parking_lot::Mutex;

/// Below the ports that the kernel gives to outgoing connections (32768 and up on Linux): thousands
/// of test clients must not take the port of a server that is just being restarted.
const RANGE: Range<u16> = 10_000..32_000;
const ATTEMPTS: usize = 1_000;

/// The ports this process has handed out. None twice: a server that lost its port to another of
/// the same kind would find its readiness probe answered by that one.
static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that nothing listened on a moment ago. Another process can still take it first: start
/// again with another one then.
///
/// # Panics
/// If no free port is found.
pub fn free() -> u16 {
    let mut taken = TAKEN.lock();
    for _ in 0..ATTEMPTS {
        let port = fastrand::u16(RANGE);
        if !taken.contains(&port) && TcpListener::bind(loopback(port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
    panic!("no free port in {RANGE:?} after {ATTEMPTS} attempts");
}

/// A port of 127.0.0.1.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
