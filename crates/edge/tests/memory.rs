//! What an idle client and a retained event cost in memory of this process, by the allocator's own
//! count: a number that no other load of the machine changes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helpers")]

mod common;

use std::{alloc::System, time::Duration};

use cap::Cap;
use common::{PATIENCE, Server, config, head, memory, serve};
use fanfare_edge::{auth::Secret, config::JwtConfig};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
    time,
};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// There is one allocator: one test counts at a time.
static COUNTING: Mutex<()> = Mutex::const_new(());

const SECRET: &str = "a secret of a test, of 32 bytes or more";
/// Tables that grow by doubling are full to nine tenths with these and those that are warm.
const CLIENTS: usize = 1800;
/// The most bytes of an idle client with a token whose socket belongs to a shard: 296 when this was written.
/// They are counted as asked for; what the allocator rounds up is beside.
const MOST: usize = 340;

/// A client whose stream has begun. It keeps nothing but its socket.
async fn follow(server: &Server, token: &str, number: usize) -> std::net::TcpStream {
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    let path = format!("/events?hello=0&channel=news&channel=sport.{}", number % 3);
    let bearer = format!("Bearer {token}");
    let request = head("GET", &path, &[("Authorization", &bearer)], None);
    socket.write_all(request.as_bytes()).await.unwrap();
    let (mut bytes, mut read) = ([0; 1024], 0);
    while !bytes[..read].windows(6).any(|part| part == b"retry:") {
        let count = socket.read(&mut bytes[read..]).await.unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&bytes[..read]));
        read += count;
    }
    socket.into_std().unwrap()
}

#[tokio::test]
async fn an_idle_client_is_a_few_hundred_bytes() {
    let _counting = COUNTING.lock().await;
    let files = 2 * (CLIENTS as u64 + 200) + 200;
    let allowed = rlimit::increase_nofile_limit(files).unwrap();
    assert!(allowed >= files, "{allowed} open files are too few");
    let mut config = config();
    // Whatever door the other tests take.
    config.delivery.socket = true;
    config.limits.connections_per_client = usize::MAX;
    config.delivery.shards = 1;
    config.auth.jwt = Some(JwtConfig {
        secret: Some(Secret::new(SECRET)),
        ..JwtConfig::default()
    });
    let claims = json!({ "exp": 4_102_444_800_u64, "sub": "anna", "subscribe": [">"] });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
    let mut server = serve(config, memory(), |edge| edge);
    let mut held = Vec::with_capacity(CLIENTS + 100);
    for number in 0..100 {
        held.push(follow(&server, &token, number).await);
    }
    let before = settled().await;
    for number in 0..CLIENTS {
        held.push(follow(&server, &token, number).await);
    }
    let most = before + MOST * CLIENTS;
    let reached = async {
        // Those who came last are still being handed over.
        while settled().await > most {}
    };
    let done = time::timeout(PATIENCE, reached).await;
    let each = ALLOCATOR.allocated().saturating_sub(before) / CLIENTS;
    println!("{each} bytes for each idle client");
    assert!(done.is_ok(), "{each} bytes for each; at most {MOST}");
    drop(held);
    // What is given back while the next one counts would count.
    server.drained().await;
}

/// Its data came in a buffer of the connection, which held the request's head and had room for more.
#[tokio::test]
async fn a_retained_event_takes_what_it_weighs() {
    const EVENTS: usize = 900;
    let _counting = COUNTING.lock().await;
    let broker = memory();
    let mut server = serve(config(), broker.clone(), |edge| edge);
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    let data = "x".repeat(100);
    let request = head("POST", "/publish/a", &[], Some(data.len())) + &data;
    let mut publish = async || {
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0);
        }
    };
    publish().await;
    let before = settled().await;
    let weighed = broker.holding().bytes;
    for _ in 0..EVENTS {
        publish().await;
    }
    let taken = settled().await - before;
    let weighed = broker.holding().bytes - weighed;
    assert!(weighed > EVENTS * data.len());
    println!(
        "{} bytes for each event, which weighs {}",
        taken / EVENTS,
        weighed / EVENTS
    );
    assert!(taken < 2 * weighed, "{taken} bytes for {weighed}");
    drop(socket);
    server.drained().await;
}

/// What is allocated once that has not changed for a while.
async fn settled() -> usize {
    loop {
        let now = ALLOCATOR.allocated();
        time::sleep(Duration::from_millis(150)).await;
        if ALLOCATOR.allocated().abs_diff(now) < 4096 {
            return ALLOCATOR.allocated();
        }
    }
}
