//! `fanfare demo`: an edge on the in-memory broker that shows this machine's own figures,
//! published once a second by an ordinary `POST /publish`.

mod proc;
mod sampler;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use http::header;
use tokio::time::{MissedTickBehavior, interval};

use self::sampler::Sampler;
use crate::{
    client::{self, Ask, ClientError, Server, publish::Item},
    config::{
        Anonymous, Auth, Config, Jwt,
        secret::Secret,
        values::{Address, Selector},
    },
    exit::Failure,
    serve::{self, Running},
    token::{self, Claims},
};

/// What the page follows.
const CHANNELS: &str = "system.*";
/// The first port that is tried, and how many after it.
const PORTS: std::ops::Range<u16> = 8080..8180;
/// How often figures are published.
const EVERY: Duration = Duration::from_secs(1);

/// Runs the demo until a signal asks for the end.
///
/// # Errors
/// On a machine without `/proc`, or where the address is taken.
pub(crate) async fn run(listen: Option<SocketAddr>) -> Result<ExitCode, Failure> {
    let sampler = Sampler::new("/proc").await.map_err(Failure::failed)?;
    let secret = Secret::new(random_text()?);
    let config = config(listen, &secret)?;
    let token = match config.auth.jwt {
        Some(_) => Some(Secret::new(publisher_token(&secret)?)),
        None => None,
    };
    serve::run_demo(config, move |running| async move {
        announce(&running)?;
        let server = Server::new(
            &format!("http://{}", reachable(running.public)),
            token.as_ref(),
        )?;
        publish(&server, sampler).await
    })
    .await
}

fn config(listen: Option<SocketAddr>, secret: &Secret) -> Result<Config, Failure> {
    let mut config = Config::default();
    let public = match listen {
        Some(address) => address,
        None => free(PORTS.start).ok_or_else(|| {
            let last = PORTS.end - 1;
            Failure::failed(format!(
                "no port from {} to {last} is free; choose one: --listen 127.0.0.1:PORT",
                PORTS.start
            ))
        })?,
    };
    let beside = public.port().saturating_add(1).max(PORTS.start);
    config.server.listen = Address(public);
    config.server.node = "demo".into();
    config.server.drain_window = crate::config::values::Span::secs(1);
    config.admin.listen = Address(free(beside).unwrap_or(SocketAddr::new(LOOPBACK, 0)));
    config.page.title = "This machine".into();
    // A shell's bound on open files is often 1024.
    config.limits.connections = 512;
    config.page.demo = true;
    config.page.channels = vec![selector(CHANNELS)?];
    if !public.ip().to_canonical().is_loopback() {
        // Others may look on; only the demo itself publishes.
        config.auth = Auth {
            anonymous: Some(Anonymous {
                subscribe: vec![selector(CHANNELS)?],
                publish: Vec::new(),
            }),
            jwt: Some(Jwt {
                secret: Some(secret.clone()),
                ..Jwt::default()
            }),
        };
    }
    Ok(config)
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn selector(text: &str) -> Result<Selector, Failure> {
    text.parse().map_err(Failure::failed)
}

/// The first free port of loopback from `first` on.
fn free(first: u16) -> Option<SocketAddr> {
    (first..PORTS.end.max(first))
        .map(|port| SocketAddr::new(LOOPBACK, port))
        .find(|address| TcpListener::bind(address).is_ok())
}

/// Where a listener on all addresses is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(LOOPBACK, address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(ip_v6_loopback(), address.port()),
        _ => address,
    }
}

fn ip_v6_loopback() -> IpAddr {
    IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
}

fn random_text() -> Result<String, Failure> {
    use std::io::Read;
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::failed(format!("no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn publisher_token(secret: &Secret) -> Result<String, Failure> {
    let now = token::unix_seconds();
    token::sign(
        secret,
        &Claims {
            sub: Some("demo"),
            iss: None,
            aud: None,
            iat: now,
            exp: now.saturating_add(365 * 24 * 60 * 60),
            subscribe: Vec::new(),
            publish: vec![CHANNELS],
        },
    )
}

fn announce(running: &Running) -> Result<(), Failure> {
    let address = reachable(running.public);
    let try_it = if running.public.ip().to_canonical().is_loopback() {
        format!("\n  curl -d 'hello' http://{address}/publish/system.note")
    } else {
        String::new()
    };
    let text = format!(
        "Fanfare shows this machine live:\n\n  http://{address}/\n\n\
         Or in another terminal:\n\n  curl -N 'http://{address}/events?channel=system.load'{try_it}\n\n\
         Metrics: http://{}/metrics. Ctrl-C ends it.",
        reachable(running.admin)
    );
    client::print(&text).map_err(Failure::failed)?;
    Ok(())
}

/// Publishes the figures for ever. One second without an answer is no reason to end.
async fn publish(server: &Server, mut sampler: Sampler) -> Result<(), Failure> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first tick is now: the sample before was taken a moment ago.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let figures = sampler.figures().await.map_err(Failure::failed)?;
        let items = figures.each_ref().map(|(channel, data)| Item {
            channel,
            event: None,
            data,
        });
        let body = serde_json::to_vec(&items).map_err(Failure::failed)?;
        let ask = Ask::post("/publish", body).header(header::CONTENT_TYPE, "application/json");
        match server.ask_whole(ask).await {
            Ok(_) => {}
            Err(error @ ClientError::Use(_)) => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "the figures of this second are not published"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_may_look_on_but_not_publish() {
        let secret = Secret::new(random_text().unwrap());
        let open = config(Some("127.0.0.1:0".parse().unwrap()), &secret).unwrap();
        assert_eq!(open.auth, Auth::default());
        let shown = config(Some("0.0.0.0:0".parse().unwrap()), &secret).unwrap();
        let anonymous = shown.auth.anonymous.as_ref().unwrap();
        assert_eq!(anonymous.subscribe[0].to_string(), CHANNELS);
        assert!(anonymous.publish.is_empty());
        assert!(shown.edge().check().is_ok());
        assert!(publisher_token(&secret).is_ok());
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let first = free(PORTS.start).unwrap();
        let _taken = TcpListener::bind(first).unwrap();
        assert!(free(first.port()).unwrap().port() > first.port());
    }

    #[test]
    fn secrets_are_drawn_anew() {
        let draw = || random_text().unwrap();
        assert_ne!(draw(), draw());
        assert_eq!(draw().len(), 64);
    }
}
