//! A real browser reads a stream.

mod common;

use std::time::Duration;

use common::{Scripted, answer};
use fanfare_testkit::{Chromium, eventually};

const PAGE: &str = "<!doctype html><title>t</title><p id=p>none</p><script>\
    const source = new EventSource('/events');\
    source.onmessage = e => p.textContent = e.lastEventId + ' ' + e.data;\
    source.addEventListener('bad', () => { throw new Error('on purpose') });\
    </script>";

#[tokio::test]
async fn a_page_is_opened_asked_resized_and_drawn() {
    let page = answer(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{PAGE}",
        PAGE.len()
    ));
    let stream = answer(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\
         id: 7\ndata: a\ndata: b\n\nevent: bad\ndata\n\n",
    )
    .stays_open();
    let server = Scripted::start([page, stream]).await;
    let Some(mut browser) = Chromium::start().await else {
        return;
    };
    browser.open(&format!("http://{}/", server.address)).await;
    assert_eq!(browser.eval("document.title").await, "t");

    let text = eventually(
        "the event on the page",
        Duration::from_secs(10),
        async || {
            let text = browser.eval("p.textContent").await;
            (text != "none").then_some(text)
        },
    );
    assert_eq!(text.await, "7 a\nb");

    browser.resize(390, 844, true).await;
    assert_eq!(browser.eval("[innerWidth > 0, screen.width]").await[1], 390);
    let file = tempfile::NamedTempFile::with_suffix(".png").unwrap();
    let image = browser.screenshot(file.path()).await;
    assert!(image.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert_eq!(std::fs::read(file.path()).unwrap(), image);

    let stream = format!("http://{}/events", server.address);
    assert!(
        browser.requests().contains(&stream),
        "{:?}",
        browser.requests()
    );
    assert!(
        browser
            .errors()
            .iter()
            .any(|error| error.contains("on purpose")),
        "{:?}",
        browser.errors()
    );
    assert_eq!(browser.eval("Promise.resolve({a: [1]})").await["a"][0], 1);
}
