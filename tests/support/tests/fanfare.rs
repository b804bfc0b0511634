//! The handle of the binary, against a stand-in of it: this file, started again as `serve`.

#![allow(
    clippy::unwrap_used,
    reason = "a test, with a main function of its own"
)]

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    time::{Duration, Instant},
};

use fanfare_testkit::{Fanfare, FanfareBuilder, http};

const SOON: Duration = Duration::from_secs(10);
/// From the start of the stand-in until it is ready.
const WARM_UP: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [serve, flag, config] = &arguments[..]
        && (&**serve, &**flag) == ("serve", "--config")
    {
        return stand_in(&fs::read_to_string(config).unwrap());
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        it_is_ready_dies_and_comes_back().await;
        it_refuses_to_start().await;
        it_is_alive_before_it_is_ready().await;
        it_runs_on_after_sigterm_and_that_is_a_failure().await;
    });
    ExitCode::SUCCESS
}

/// Serves the two probes and one metric on the admin listener.
fn stand_in(config: &str) -> ExitCode {
    let config: toml::Table = config.parse().unwrap();
    let address = |section: &str| -> SocketAddr {
        config[section]["listen"].as_str().unwrap().parse().unwrap()
    };
    eprintln!(
        "node {}",
        env::var("FANFARE_SERVER__NODE").unwrap_or_default()
    );
    if address("server").ip().is_unspecified() {
        let _ = writeln!(io::stdout(), "refused");
        return ExitCode::from(3);
    }
    let start = Instant::now();
    let admin = TcpListener::bind(address("admin")).unwrap();
    for stream in admin.incoming() {
        let mut stream = stream.unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        let request = String::from_utf8_lossy(&request[..length]);
        let (status, body) = match request.split(' ').nth(1) {
            Some("/readyz") if start.elapsed() < WARM_UP => (503, ""),
            Some("/readyz" | "/healthz") => (200, "ok"),
            Some("/metrics") => (200, "# HELP x\nx_total{a=\"b\"} 7\nx_total_more 8\n"),
            _ => (404, ""),
        };
        let _ = write!(stream, "HTTP/1.1 {status} X\r\n\r\n{body}");
    }
    ExitCode::SUCCESS
}

fn stand_in_builder(config: &str) -> FanfareBuilder {
    Fanfare::builder(config).binary(env::current_exe().unwrap())
}

async fn readiness(node: &Fanfare) -> u16 {
    let reply = http::get(&format!("{}/readyz", node.admin_url())).await;
    reply.map_or(0, |reply| reply.status)
}

async fn it_is_ready_dies_and_comes_back() {
    let mut node = stand_in_builder("")
        .env("FANFARE_SERVER__NODE", "a")
        .start()
        .await;
    assert_eq!(readiness(&node).await, 200);
    assert!(node.output().contains("node a"), "{}", node.output());
    assert_eq!(node.metric("x_total{a=\"b\"}").await, Some(7.0));
    assert_eq!(node.metric("x_total").await, None);

    let (admin, id) = (node.admin_url(), node.id());
    node.kill();
    assert_eq!(readiness(&node).await, 0);
    node.restart().await;
    assert_eq!((readiness(&node).await, node.admin_url()), (200, admin));
    assert_ne!(node.id(), id);

    let status = node.term(SOON).await;
    assert!(!status.success());
    assert_eq!(readiness(&node).await, 0);
}

async fn it_refuses_to_start() {
    let exited = stand_in_builder("server.listen = '0.0.0.0:0'")
        .refuses()
        .await;
    assert_eq!(exited.status.code(), Some(3));
    assert!(exited.output.contains("refused"), "{}", exited.output);
}

async fn it_is_alive_before_it_is_ready() {
    let node = stand_in_builder("").until_alive().start().await;
    assert_eq!(readiness(&node).await, 503);
}

async fn it_runs_on_after_sigterm_and_that_is_a_failure() {
    let mut node = stand_in_builder("").start().await;
    // A stopped process does not act on SIGTERM.
    node.pause();
    let term = tokio::spawn(async move { node.term(Duration::from_millis(100)).await });
    assert!(term.await.is_err());
}
