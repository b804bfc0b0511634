//! A real redis-server.

use std::{net::SocketAddr, process::Command, time::Duration};

use tempfile::TempDir;

use crate::{
    port,
    resp::{Reply, Resp},
    service::{Plan, Service, service_methods},
    tool,
};

const PACKAGE: &str = "redis-server";
const CLI_WITHIN: Duration = Duration::from_secs(30);

/// A real redis-server on a free loopback port, in a directory of its own. Ended when dropped.
///
/// It keeps nothing over a [`restart`](Self::restart) unless told to: `--appendonly yes`,
/// `--appendfsync always`.
#[derive(Debug)]
pub struct RedisServer {
    service: Service,
    port: u16,
    // After the service: fields are dropped in this order, and the server writes there to its end.
    _directory: TempDir,
}

impl RedisServer {
    /// Starts one; `None`, and a visible line, where redis-server is not installed.
    pub async fn start() -> Option<Self> {
        Self::start_with::<&str>(&[]).await
    }

    /// Starts one with more options, as on its command line: `["--appendonly", "yes"]`.
    ///
    /// # Panics
    /// If it does not become ready, with what it wrote.
    pub async fn start_with<A: AsRef<str>>(options: &[A]) -> Option<Self> {
        let program = tool::require("redis-server", PACKAGE)?;
        let options: Vec<String> = options.iter().map(|o| o.as_ref().to_owned()).collect();
        let (service, (port, directory)) = Service::start(|| {
            let port = port::free();
            let directory = TempDir::new().expect("a temporary directory");
            let (program, options) = (program.clone(), options.clone());
            let path = directory.path().to_owned();
            let command = move || {
                let mut command = Command::new(&program);
                command
                    .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                    .args(["--save", "", "--daemonize", "no", "--dir"])
                    .arg(&path)
                    .args(&options)
                    .current_dir(&path);
                command
            };
            let plan = Plan::new("redis-server", command, move || answers(port));
            (plan, (port, directory))
        })
        .await;
        Some(Self {
            service,
            port,
            _directory: directory,
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

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs redis-cli and answers what it printed, without the last line end.
    ///
    /// # Panics
    /// If it fails, or Redis answers an error.
    pub async fn cli<A: AsRef<str>>(&self, arguments: &[A]) -> String {
        let mut command = tokio::process::Command::new("redis-cli");
        command
            // -e: an error that Redis answers is an exit status.
            .args(["-e", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(arguments.iter().map(AsRef::as_ref))
            .kill_on_drop(true);
        let output = tokio::time::timeout(CLI_WITHIN, command.output())
            .await
            .expect("redis-cli ends in time")
            .expect("redis-cli runs (Debian: redis-tools)");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "redis-cli: {text}{errors}");
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    /// A connection that speaks the wire protocol itself.
    ///
    /// # Panics
    /// If the server does not take it.
    pub async fn resp(&self) -> Resp {
        Resp::connect(self.address())
            .await
            .expect("redis takes a connection")
    }
}

service_methods!(RedisServer);

pub(crate) async fn answers(port: u16) -> bool {
    let ping = async {
        Resp::connect(port::loopback(port))
            .await?
            .command(&["PING"])
            .await
    };
    match tokio::time::timeout(Duration::from_secs(1), ping).await {
        Ok(Ok(Reply::Status(_))) => true,
        // A server that asks for a password is up.
        Ok(Ok(Reply::Error(error))) => error.starts_with("NOAUTH"),
        _ => false,
    }
}
