//! A real nats-server.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    nats_client::NatsClient,
    port,
    service::{Plan, Service, service_methods},
    tool,
};

const PACKAGE: &str = "nats-server";
/// Where `scripts/nats-server-current` puts its own.
const CURRENT: &str = "../../target/tools/nats-server-current";

/// Which nats-server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NatsRelease {
    /// The one that is installed, on Debian 12 of 2022: 2.9.
    Installed,
    /// A current one, which `scripts/nats-server-current` fetches.
    Current,
}

impl NatsRelease {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Installed, Self::Current];

    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Installed => tool::require("nats-server", PACKAGE),
            Self::Current => {
                let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(CURRENT);
                tool::require_fetched(&file, "scripts/nats-server-current")
            }
        }
    }
}

/// A real nats-server on free loopback ports, in a directory of its own. Ended when dropped.
#[derive(Debug)]
pub struct NatsServer {
    service: Service,
    port: u16,
    monitor: u16,
    // After the service: fields are dropped in this order, and the server writes there to its end.
    directory: TempDir,
}

/// What a server had on disk at one moment.
#[derive(Debug)]
pub struct NatsStore(TempDir);

impl NatsServer {
    /// Starts core NATS; `None`, and a visible line, where nats-server is not installed.
    pub async fn start() -> Option<Self> {
        Self::start_with::<&str>(&[]).await
    }

    /// Starts it with JetStream, which keeps its streams over a [`restart`](Self::restart).
    pub async fn start_jetstream() -> Option<Self> {
        Self::start_with(&["-js"]).await
    }

    /// Starts it with more options, as on its command line. JetStream's directory is set.
    ///
    /// # Panics
    /// If it does not become ready, with what it wrote.
    pub async fn start_with<A: AsRef<str>>(options: &[A]) -> Option<Self> {
        Self::start_release(NatsRelease::Installed, options).await
    }

    /// The same, of a release; `None`, and a visible line, where it is not to be had.
    ///
    /// # Panics
    /// If it does not become ready, with what it wrote.
    pub async fn start_release<A: AsRef<str>>(release: NatsRelease, options: &[A]) -> Option<Self> {
        let program = release.program()?;
        let options: Vec<String> = options.iter().map(|o| o.as_ref().to_owned()).collect();
        let (service, (port, monitor, directory)) = Service::start(|| {
            let (port, monitor) = (port::free(), port::free());
            let directory = TempDir::new().expect("a temporary directory");
            let (program, options) = (program.clone(), options.clone());
            let path = directory.path().to_owned();
            let command = move || {
                let mut command = Command::new(&program);
                command
                    .args(["-a", "127.0.0.1", "-p", &port.to_string()])
                    .args(["-m", &monitor.to_string(), "-sd"])
                    .arg(&path)
                    .args(&options)
                    .current_dir(&path);
                command
            };
            // Its first word, not only an open port; what follows may need a log-in or TLS.
            let probe =
                move || async move { NatsClient::greeting(port::loopback(port)).await.is_ok() };
            (
                Plan::new("nats-server", command, probe),
                (port, monitor, directory),
            )
        })
        .await;
        Some(Self {
            service,
            port,
            monitor,
            directory,
        })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        port::loopback(self.port)
    }

    /// `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:PORT` of its monitoring (`/varz`, `/connz`, `/jsz`).
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor)
    }

    /// Lame-duck mode: it takes no new connections, tells its clients to go, closes those that stay
    /// one by one, and ends.
    pub fn lame_duck(&mut self) {
        self.service.signal("USR2");
    }

    /// Copies what it has on disk at this moment, standing still: what a machine may have that loses
    /// its power a little later.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn copy_store(&mut self) -> NatsStore {
        let store = TempDir::new().expect("a temporary directory");
        self.pause();
        copy(self.directory.path(), store.path());
        self.resume();
        NatsStore(store)
    }

    /// Puts a copy in the place of what a server that was [killed](Self::kill) has on disk.
    ///
    /// # Panics
    /// If it cannot be put there.
    pub fn put_store(&mut self, store: &NatsStore) {
        let path = self.directory.path();
        for entry in std::fs::read_dir(path).expect("a server's directory") {
            let entry = entry.expect("a server's directory").path();
            std::fs::remove_dir_all(entry).expect("a directory of a server that is dead");
        }
        copy(store.0.path(), path);
    }

    /// A connection that speaks the text protocol itself.
    ///
    /// # Panics
    /// If the server does not take it.
    pub async fn client(&self) -> NatsClient {
        NatsClient::connect(self.address())
            .await
            .expect("nats takes a connection")
    }
}

service_methods!(NatsServer);

/// Copies all that a directory holds.
fn copy(from: &Path, to: &Path) {
    let all = from.join(".");
    let copied = Command::new("cp").arg("-a").args([&all, to]).status();
    assert!(
        copied.expect("cp runs").success(),
        "{} is copied",
        from.display()
    );
}
