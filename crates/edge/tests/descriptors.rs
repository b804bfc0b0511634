//! A process that runs out of file descriptors: operators still get their answers.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helpers")]

mod common;

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Command, Stdio},
};

use common::{head, request, serve};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, time};

const SERVER: &str = "FANFARE_TEST_SERVER";
const LIMIT: u64 = 120;
/// A quarter of them is kept back.
const ROOM: usize = 90;

/// The server's process, started by the test below: the limit is the process's.
#[tokio::test]
async fn server_process() {
    if std::env::var_os(SERVER).is_none() {
        return;
    }
    rlimit::setrlimit(rlimit::Resource::NOFILE, LIMIT, LIMIT).unwrap();
    let mut config = common::config();
    config.limits.connections_per_client = 1000;
    let server = serve(config, common::memory(), |edge| edge);
    println!("\nserving {} {}", server.public, server.admin);
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    end.await.unwrap().unwrap();
}

#[tokio::test]
async fn clients_never_take_the_last_descriptors() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server_process", "--nocapture"])
        .env(SERVER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let served = lines.find_map(|line| Some(line.unwrap().strip_prefix("serving ")?.to_owned()));
    let served = served.unwrap();
    let addresses: Vec<SocketAddr> = served.split(' ').map(|one| one.parse().unwrap()).collect();
    let [public, admin] = addresses[..] else {
        panic!("{served}")
    };

    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..ROOM + 60 {
        let mut socket = TcpStream::connect(public).await.unwrap();
        let _ = socket
            .write_all(head("GET", "/events?channel=a", &[], None).as_bytes())
            .await;
        let mut begin = [0; 12];
        match socket.read_exact(&mut begin).await {
            Ok(_) if begin == *b"HTTP/1.1 200" => held.push(socket),
            Ok(_) => {
                assert_eq!(begin, *b"HTTP/1.1 503");
                refused += 1;
            }
            // The answer may be overtaken by the close.
            Err(_) => refused += 1,
        }
    }
    assert_eq!((held.len(), refused), (ROOM, 60));
    let metrics = request(admin, "GET", "/metrics", &[], b"").await;
    assert!(
        metrics
            .text()
            .contains("fanfare_edge_sockets_refused_total 60")
    );
    assert!(
        metrics
            .text()
            .contains("fanfare_edge_accept_errors_total{reason=\"fd_limit\"} 0")
    );
    drop(held);
    let again = async { while request_or_none(public).await.is_none() {} };
    time::timeout(common::PATIENCE, again)
        .await
        .expect("there is room again");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// The status of a small request, once there is room again.
async fn request_or_none(to: SocketAddr) -> Option<u16> {
    let mut socket = TcpStream::connect(to).await.unwrap();
    let request = head("GET", "/page.json", &[("Connection", "close")], None);
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut heard = Vec::new();
    socket.read_to_end(&mut heard).await.ok()?;
    heard.starts_with(b"HTTP/1.1 200").then_some(200)
}
