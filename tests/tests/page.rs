//! The demo page in a real browser: figures move, and after a restart it goes on by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fanfare_testkit::{Chromium, eventually, fanfare_binary, http, port};

const PATIENCE: Duration = Duration::from_secs(60);

/// `fanfare demo`, ended when dropped.
struct Demo(Child);

impl Demo {
    async fn start(address: SocketAddr) -> Self {
        let mut command = Command::new(fanfare_binary());
        command.arg("demo").arg("--listen").arg(address.to_string());
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let demo = Self(child);
        eventually("the demo answers", PATIENCE, || async {
            http::get(&format!("http://{address}/"))
                .await
                .ok()
                .filter(|page| page.status == 200)
        })
        .await;
        demo
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const STATE: &str = "document.querySelector('[data-testid=state]').textContent.trim()";
const EVENTS: &str =
    "Number(document.querySelector('[data-testid=events-total]').textContent.replace(/\\D/g, ''))";
const GAPS: &str =
    "Number(document.querySelector('[data-testid=gaps-total]').textContent.replace(/\\D/g, ''))";
const LAST_ID: &str = "document.querySelector('[data-testid=last-id]').textContent.trim()";
/// A sum over the pixels of the plot.
const PIXELS: &str = "(() => { const c = document.querySelector('canvas[data-plot=\"system.cpu\"]'); \
    if (!c || !c.width) return -1; const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; \
    let s = 0; for (let i = 0; i < d.length; i++) s = (s * 31 + d[i]) % 1000000007; return s; })()";

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_page_moves_and_goes_on_after_a_restart() {
    let Some(mut browser) = Chromium::start().await else {
        return;
    };
    let address = port::loopback(port::free());
    let demo = Demo::start(address).await;
    for (width, height, mobile) in [(1440, 900, false), (360, 800, true)] {
        browser.resize(width, height, mobile).await;
        browser.open(&format!("http://{address}/")).await;
        browser.until(STATE, |state| state == "live").await;
        let events = browser
            .until(EVENTS, |count| count.as_u64() > Some(4))
            .await;
        let pixels = browser.until(PIXELS, |sum| sum.as_i64() > Some(0)).await;
        browser
            .until(EVENTS, |count| count.as_u64() > events.as_u64())
            .await;
        browser.until(PIXELS, |sum| *sum != pixels).await;
        let wide = browser.eval("document.documentElement.scrollWidth").await;
        assert!(
            wide.as_u64() <= Some(u64::from(width)),
            "scrolls sideways: {wide}"
        );
    }
    let foreign: Vec<String> = browser
        .requests()
        .into_iter()
        .filter(|url| !url.starts_with(&format!("http://{address}/")) && !url.starts_with("data:"))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert_eq!(browser.errors(), Vec::<String>::new());

    let (id, gaps) = (browser.eval(LAST_ID).await, browser.eval(GAPS).await);
    drop(demo);
    browser.until(STATE, |state| state != "live").await;
    let _demo = Demo::start(address).await;
    browser.until(STATE, |state| state == "live").await;
    // It came back with its id: the node that began again tells it so, rather than nothing.
    browser
        .until(GAPS, |count| count.as_u64() > gaps.as_u64())
        .await;
    let events = browser.eval(EVENTS).await;
    browser
        .until(EVENTS, |count| count.as_u64() > events.as_u64())
        .await;
    assert_ne!(browser.eval(LAST_ID).await, id);
}
