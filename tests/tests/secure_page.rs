//! HTTP/2 with TLS in a real browser: more streams than HTTP/1.1 lets a browser have.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use fanfare_testkit::{Chromium, Fanfare};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::Value;

/// A browser has at most 6 connections of HTTP/1.1 to a host, over all its tabs.
const STREAMS: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_holds_many_streams_on_one_connection() {
    let Some(mut browser) = Chromium::start().await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
    let (cert_file, key_file) = (directory.path().join("crt"), directory.path().join("key"));
    fs::write(&cert_file, cert.pem()).unwrap();
    fs::write(&key_file, signing_key.serialize_pem()).unwrap();
    let config = format!("[server.tls]\ncert_file = {cert_file:?}\nkey_file = {key_file:?}\n");
    let server = Fanfare::start(&config).await;

    browser.ignore_certificates().await;
    browser
        .open(&format!("https://{}/", server.address()))
        .await;
    let open = format!(
        "window.heard = 0; window.opened = 0; \
         for (let n = 0; n < {STREAMS}; n++) {{ \
             const stream = new EventSource('/events?channel=news'); \
             stream.onopen = () => window.opened++; \
             stream.onmessage = () => window.heard++; \
         }}; 0"
    );
    browser.eval(&open).await;
    let all = |count: &Value| count.as_u64() == Some(STREAMS as u64);
    browser.until("window.opened", all).await;
    let publish = "fetch('/publish/news', {method: 'POST', body: 'hi'}).then(r => r.status)";
    assert_eq!(browser.eval(publish).await, 201);
    browser.until("window.heard", all).await;
    let protocols = "[...new Set(performance.getEntriesByType('resource') \
        .map(entry => entry.nextHopProtocol))].join()";
    assert_eq!(browser.eval(protocols).await, "h2");
    // The page's own connection may have been opened beside another one that was not used.
    let sockets = server.metric("fanfare_edge_sockets").await;
    assert!(sockets < Some(6.0), "{sockets:?}");
}
