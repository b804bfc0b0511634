//! A real HAProxy.

use std::{fmt::Write as _, fs, net::SocketAddr, process::Command, time::Duration};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    port,
    service::{Plan, Service, service_methods},
    tool,
};

const PACKAGE: &str = "haproxy";

/// A real HAProxy on a free loopback port, round robin in HTTP mode. Ended when dropped.
#[derive(Debug)]
pub struct HaProxy {
    service: Service,
    port: u16,
    is_reloadable: bool,
    _directory: TempDir,
}

impl HaProxy {
    /// Starts it in front of the backends; `None`, and a visible line, where it is not installed.
    pub async fn start(backends: &[SocketAddr]) -> Option<Self> {
        Self::start_with(backends, "").await
    }

    /// Starts it with more lines for its `defaults` section, which win over those set here.
    ///
    /// # Panics
    /// If it does not become ready, with what it wrote.
    pub async fn start_with(backends: &[SocketAddr], defaults: &str) -> Option<Self> {
        Self::launch(backends, defaults, None).await
    }

    /// Starts it so that it can [`reload`](Self::reload); what it carries then is cut after so long.
    ///
    /// # Panics
    /// If it does not become ready, with what it wrote.
    pub async fn start_reloadable(backends: &[SocketAddr], cut_after: Duration) -> Option<Self> {
        Self::launch(backends, "", Some(cut_after)).await
    }

    /// Takes its configuration anew, as operators do: a new worker accepts, the old one ends what
    /// it carries.
    ///
    /// # Panics
    /// If it is not of [`start_reloadable`](Self::start_reloadable), which a signal would end.
    pub fn reload(&mut self) {
        assert!(
            self.is_reloadable,
            "start_reloadable makes one that reloads"
        );
        self.service.signal("USR2");
    }

    async fn launch(
        backends: &[SocketAddr],
        defaults: &str,
        cut_after: Option<Duration>,
    ) -> Option<Self> {
        let program = tool::require("haproxy", PACKAGE)?;
        let (service, (port, directory)) = Service::start(|| {
            let port = port::free();
            let directory = TempDir::new().expect("a temporary directory");
            let file = directory.path().join("haproxy.cfg");
            fs::write(&file, config(port, backends, defaults, cut_after)).expect("a file to write");
            let program = program.clone();
            let command = move || {
                let mut command = Command::new(&program);
                command.arg("-db").arg("-f").arg(&file);
                if cut_after.is_some() {
                    command.arg("-W");
                }
                command
            };
            let probe =
                move || async move { TcpStream::connect(port::loopback(port)).await.is_ok() };
            (Plan::new("haproxy", command, probe), (port, directory))
        })
        .await;
        Some(Self {
            service,
            port,
            is_reloadable: cut_after.is_some(),
            _directory: directory,
        })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        port::loopback(self.port)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

service_methods!(HaProxy);

/// `timeout tunnel` does not apply to SSE: the silence that `timeout server` allows must be longer
/// than a heartbeat. Without `http-no-delay` the head of a stream can wait for more bytes.
fn config(
    port: u16,
    backends: &[SocketAddr],
    defaults: &str,
    cut_after: Option<Duration>,
) -> String {
    let hard_stop = cut_after.map_or(String::new(), |after| {
        format!("  hard-stop-after {}ms\n", after.as_millis())
    });
    let mut config = format!(
        "global\n  maxconn 4000\n  no strict-limits\n{hard_stop}\
         defaults\n  mode http\n  option http-no-delay\n  option redispatch\n  retries 3\n  \
         timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  {defaults}\n\
         frontend public\n  bind 127.0.0.1:{port}\n  default_backend edges\n\
         backend edges\n  balance roundrobin\n"
    );
    for (number, backend) in backends.iter().enumerate() {
        // Writing to a String does not fail.
        let _ = writeln!(
            config,
            "  server edge{number} {backend} check inter 500ms fall 1 rise 1"
        );
    }
    config
}
