use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

async fn say(to: SocketAddr, request: String) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(to).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    BufReader::new(socket)
}

async fn publish(to: SocketAddr, data: &str) -> String {
    let request = format!(
        "POST /publish/orders.eu HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{data}",
        token(false).unwrap(),
        data.len()
    );
    let mut answer = String::new();
    say(to, request)
        .await
        .read_to_string(&mut answer)
        .await
        .unwrap();
    answer
}

/// A client that has got its hello.
async fn follow(to: SocketAddr, sees_customers: bool) -> BufReader<TcpStream> {
    let request = format!(
        "GET /events?channel=orders.* HTTP/1.0\r\nAuthorization: Bearer {}\r\n\r\n",
        token(sees_customers).unwrap()
    );
    let mut client = say(to, request).await;
    assert!(next(&mut client).await.get("node").is_some(), "the hello");
    client
}

async fn next(client: &mut BufReader<TcpStream>) -> Value {
    loop {
        let mut line = String::new();
        let read = time::timeout(PATIENCE, client.read_line(&mut line)).await;
        assert!(read.expect("nothing came").unwrap() > 0, "the stream ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[tokio::test]
async fn an_event_is_looked_at_once_for_each_class_and_shard_whatever_the_clients() {
    const SHARDS: usize = 2;
    const EVENTS: usize = 100;
    let mut config = EdgeConfig::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.admin.listen = ([127, 0, 0, 1], 0).into();
    config.delivery.shards = SHARDS;
    config.limits.connections_per_client = 100;
    let redact = Redact::new("customer");
    let edge = edge(config, redact.clone()).unwrap();
    let to = edge.public_addr();
    let run = tokio::spawn(async move { edge.run(std::future::pending()).await.unwrap() });

    let mut clients = Vec::new();
    // In pairs, so that either shard has both kinds.
    for index in 0..60 {
        let sees = index % 4 < 2;
        clients.push((sees, follow(to, sees).await));
    }
    for number in 0..EVENTS {
        let order = format!("{{\"number\":{number},\"customer\":\"Ada\"}}");
        assert!(publish(to, &order).await.starts_with("HTTP/1.1 201"));
    }
    for (sees, client) in &mut clients {
        for number in 0..EVENTS {
            let order = next(client).await;
            assert_eq!(order["number"], number);
            assert_eq!(order["customer"], if *sees { "Ada" } else { "…" });
            assert!(order["received"].is_number(), "the hook's stamp");
        }
    }
    assert_eq!(redact.looks(), (SHARDS * EVENTS) as u64);
    let refused = publish(to, "{}").await;
    assert!(
        refused.starts_with("HTTP/1.1 400") && refused.contains("number"),
        "{refused}"
    );
    run.abort();
}
