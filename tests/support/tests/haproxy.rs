//! HAProxy in front of two servers.

mod common;

use std::{collections::HashSet, time::Duration};

use common::{Scripted, answer};
use fanfare_testkit::{HaProxy, SseClient};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn streams_go_round_robin_and_arrive_before_they_end() {
    let stream = |data: &str| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
        answer(format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n9\r\ndata: {data}\n\n\r\n"
        ))
        .stays_open()
    };
    let (a, b) = (
        Scripted::start([stream("a")]).await,
        Scripted::start([stream("b")]).await,
    );
    let Some(proxy) = HaProxy::start(&[a.address, b.address]).await else {
        return;
    };
    let mut clients = Vec::new();
    let mut from = HashSet::new();
    for _ in 0..2 {
        let mut client = SseClient::connect(proxy.address(), "/events", &[])
            .await
            .unwrap();
        from.insert(client.next_event(SOON).await.unwrap().unwrap().data);
        assert!(client.is_open());
        clients.push(client);
    }
    assert_eq!(from, HashSet::from(["a".into(), "b".into()]));
}

#[tokio::test]
async fn a_reload_keeps_the_address_and_cuts_what_is_carried_a_little_later() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
    let stream = answer(format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n"
    ))
    .stays_open();
    let server = Scripted::start([stream]).await;
    let cut_after = Duration::from_millis(200);
    let Some(mut proxy) = HaProxy::start_reloadable(&[server.address], cut_after).await else {
        return;
    };
    let connect = || SseClient::connect(proxy.address(), "/events", &[]);
    let mut client = connect().await.unwrap();
    client.next_event(SOON).await.unwrap().unwrap();
    proxy.reload();
    let end = client.next_event(SOON).await;
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    let mut client = SseClient::connect(proxy.address(), "/events", &[])
        .await
        .unwrap();
    client.next_event(SOON).await.unwrap().unwrap();
}
