//! The proxy that misbehaves, in front of a server that echoes lines.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io, net::SocketAddr, time::Duration};

use fanfare_testkit::TcpProxy;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const SOON: Duration = Duration::from_secs(10);
/// Long enough for what would come to have come.
const A_WHILE: Duration = Duration::from_millis(200);

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(proxy: &TcpProxy) -> Self {
        let mut client = Self(BufReader::new(
            TcpStream::connect(proxy.address()).await.unwrap(),
        ));
        assert_eq!(client.ask("hello").await.unwrap(), "hello\n");
        client
    }

    async fn ask(&mut self, word: &str) -> io::Result<String> {
        self.0.write_all(format!("{word}\n").as_bytes()).await?;
        self.answer().await
    }

    /// What comes until the end of a line, or of the connection.
    async fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        timeout(SOON, self.0.read_line(&mut line)).await.unwrap()?;
        Ok(line)
    }

    async fn is_silent(&mut self) -> bool {
        let mut line = String::new();
        timeout(A_WHILE, self.0.read_line(&mut line)).await.is_err()
    }
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_takes_what_is_new() {
    let proxy = TcpProxy::start(echo().await).await;
    let mut client = Client::connect(&proxy).await;
    proxy.cut();
    assert!(client.answer().await.is_err());
    Client::connect(&proxy).await;
}

#[tokio::test]
async fn a_tear_leaves_half_a_message() {
    let proxy = TcpProxy::start(echo().await).await;
    let mut client = Client::connect(&proxy).await;
    proxy.tear();
    let mut came = Vec::new();
    client.0.write_all(b"0123456789").await.unwrap();
    let end = timeout(
        SOON,
        tokio::io::AsyncReadExt::read_to_end(&mut client.0, &mut came),
    )
    .await;
    assert!(end.unwrap().is_err());
    // A reset may overtake what was passed on; more than a half never comes.
    assert!(came.is_empty() || came == b"01234", "{came:?}");
    Client::connect(&proxy).await;
}

#[tokio::test]
async fn an_orphan_stays_open_and_is_never_answered() {
    let proxy = TcpProxy::start(echo().await).await;
    let mut client = Client::connect(&proxy).await;
    proxy.orphan();
    Client::connect(&proxy).await;
    client.0.write_all(b"anybody?\n").await.unwrap();
    assert!(client.is_silent().await);
    proxy.cut();
    assert!(client.answer().await.is_err());
}

#[tokio::test]
async fn what_is_blocked_comes_later_and_whole() {
    let proxy = TcpProxy::start(echo().await).await;
    let mut client = Client::connect(&proxy).await;
    proxy.block();
    client.0.write_all(b"one\n").await.unwrap();
    assert!(client.is_silent().await);
    proxy.unblock();
    assert_eq!(client.answer().await.unwrap(), "one\n");
    proxy.delay(A_WHILE);
    client.0.write_all(b"two\n").await.unwrap();
    let began = std::time::Instant::now();
    assert_eq!(client.answer().await.unwrap(), "two\n");
    assert!(began.elapsed() >= A_WHILE * 2, "there and back");
}
