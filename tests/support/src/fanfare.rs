//! The real binary.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    http, port,
    process::Process,
    service::{Plan, READY_WITHIN, Service, service_methods},
};

/// Names the binary, in the place of the newest one that cargo built.
const BINARY_VARIABLE: &str = "FANFARE_BIN";
/// Every variable of this prefix is a setting; a test's own environment must not become one.
const SETTINGS_PREFIX: &str = "FANFARE_";
/// `body` sends every stream of every server under test through a response body: the suite at the
/// other door.
const DOOR_VARIABLE: &str = "FANFARE_TEST_DOOR";
/// How long a command that should end by itself may run.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// The real binary, as `fanfare serve` with a config of its own. Ended when dropped.
#[derive(Debug)]
pub struct Fanfare {
    service: Service,
    server: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
}

/// How a [`Fanfare`] is started.
#[derive(Debug, Clone)]
pub struct FanfareBuilder {
    binary: Option<PathBuf>,
    config: String,
    variables: Vec<(String, String)>,
    probe: &'static str,
    ready_within: Duration,
}

/// How a command ended, and what it wrote.
#[derive(Debug, Clone)]
pub struct Exited {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output and standard error.
    pub output: String,
}

/// Where the binary is: `FANFARE_BIN`, else the newest of cargo's release and debug builds.
///
/// # Panics
/// If there is none.
pub fn fanfare_binary() -> PathBuf {
    if let Some(binary) = env::var_os(BINARY_VARIABLE) {
        return binary.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let built = |profile: &str| {
        let file = target.join(profile).join("fanfare");
        let time = file.metadata().and_then(|meta| meta.modified()).ok()?;
        Some((time, file))
    };
    match ["release", "debug"].into_iter().filter_map(built).max() {
        Some((_, file)) => file,
        None => panic!(
            "no fanfare in {}: cargo build --bin fanfare, or set {BINARY_VARIABLE}",
            target.display()
        ),
    }
}

impl Fanfare {
    /// Starts `fanfare serve` with a config (TOML) and returns once it is ready.
    ///
    /// # Panics
    /// If it does not become ready, with what it wrote.
    pub async fn start(config: &str) -> Self {
        Self::builder(config).start().await
    }

    /// More ways to start it.
    pub fn builder(config: &str) -> FanfareBuilder {
        FanfareBuilder {
            binary: None,
            config: config.into(),
            variables: Vec::new(),
            probe: "/readyz",
            ready_within: READY_WITHIN,
        }
    }

    /// The public listener's address.
    pub fn address(&self) -> SocketAddr {
        self.server
    }

    /// The admin listener's address.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// `http://127.0.0.1:PORT` of the public listener.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.server)
    }

    /// `http://127.0.0.1:PORT` of the admin listener.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// The config file, with the listeners filled in.
    pub fn config_file(&self) -> PathBuf {
        config_file(&self.directory)
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// If it has not ended after `within`.
    pub async fn term(&mut self, within: Duration) -> ExitStatus {
        self.service.signal("TERM");
        match self.wait(within).await {
            Some(status) => status,
            None => panic!("fanfare has not ended {within:?} after SIGTERM"),
        }
    }

    /// Sends a signal by its name without SIG: `HUP`.
    pub fn signal(&mut self, name: &str) {
        self.service.signal(name);
    }

    /// Waits for its end; `None` if it still runs after `within`.
    pub async fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        self.service.wait(within).await
    }

    /// What `/metrics` of the admin listener says.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn metrics(&self) -> String {
        let reply = http::get(&format!("{}/metrics", self.admin_url())).await;
        reply.expect("the admin listener answers").text()
    }

    /// The value of one line of `/metrics`, named with its labels as it stands there:
    /// `fanfare_delivery_gaps_total{cause="trimmed"}`.
    ///
    /// # Panics
    /// If the admin listener does not answer.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.metrics().await;
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        metrics.lines().find_map(value)
    }
}

service_methods!(Fanfare);

impl FanfareBuilder {
    /// Runs another binary than [`fanfare_binary`].
    #[must_use]
    pub fn binary(mut self, file: impl Into<PathBuf>) -> Self {
        self.binary = Some(file.into());
        self
    }

    /// Sets a variable of its environment: `FANFARE_SECTION__KEY`.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Waits only until it lives (`/healthz`), not until it is ready: for a broker that is away.
    #[must_use]
    pub fn until_alive(mut self) -> Self {
        self.probe = "/healthz";
        self
    }

    /// How long it may take; 20 s unless set.
    #[must_use]
    pub fn ready_within(mut self, within: Duration) -> Self {
        self.ready_within = within;
        self
    }

    /// Starts it. Listeners that the config leaves out, or gives port 0, get free ports.
    ///
    /// # Panics
    /// If the config is no TOML, or it does not become ready, with what it wrote.
    pub async fn start(self) -> Fanfare {
        let (service, (directory, server, admin)) = Service::start(|| {
            let prepared = self.prepare();
            let (server, admin) = (reachable(prepared.server), reachable(prepared.admin));
            let url = format!("http://{admin}{}", self.probe);
            let probe = move || {
                let url = url.clone();
                async move { http::get(&url).await.is_ok_and(|reply| reply.status == 200) }
            };
            let (builder, file) = (self.clone(), config_file(&prepared.directory));
            let command = move || builder.command(&file);
            let mut plan = Plan::new("fanfare", command, probe);
            plan.ready_within = self.ready_within;
            (plan, (prepared.directory, server, admin))
        })
        .await;
        Fanfare {
            service,
            server,
            admin,
            directory,
        }
    }

    /// Runs it where it should refuse to start, and answers how it ended.
    ///
    /// # Panics
    /// If it still runs after 20 s.
    pub async fn refuses(self) -> Exited {
        let prepared = self.prepare();
        let mut command = self.command(&config_file(&prepared.directory));
        let mut process = Process::spawn("fanfare", &mut command).expect("fanfare starts");
        match process.wait(ENDS_WITHIN).await {
            Some(status) => Exited {
                status,
                output: process.output(),
            },
            None => panic!("fanfare runs, though it should have refused to start"),
        }
    }

    fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(self.binary.clone().unwrap_or_else(fanfare_binary));
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with(SETTINGS_PREFIX) {
                command.env_remove(name);
            }
        }
        if env::var_os(DOOR_VARIABLE).is_some_and(|door| door == "body") {
            command.env("FANFARE_DELIVERY__SOCKET", "false");
        }
        command.envs(self.variables.iter().cloned());
        command.args(["serve", "--config"]).arg(config);
        command
    }

    fn prepare(&self) -> Prepared {
        let mut config: toml::Table = match self.config.parse() {
            Ok(config) => config,
            Err(error) => panic!("the test's config is no TOML: {error}"),
        };
        let server = listen(&mut config, "server");
        let admin = listen(&mut config, "admin");
        let directory = TempDir::new().expect("a temporary directory");
        fs::write(config_file(&directory), config.to_string()).expect("a file to write");
        Prepared {
            directory,
            server,
            admin,
        }
    }
}

/// A config on disk, its listeners filled in.
struct Prepared {
    directory: TempDir,
    server: SocketAddr,
    admin: SocketAddr,
}

fn config_file(directory: &TempDir) -> PathBuf {
    directory.path().join("fanfare.toml")
}

/// The listener of a section, which is filled in where it is left out or its port is 0.
fn listen(config: &mut toml::Table, section: &str) -> SocketAddr {
    let table = config
        .entry(section)
        .or_insert_with(|| toml::Table::new().into())
        .as_table_mut()
        .unwrap_or_else(|| panic!("{section} is no section"));
    let given = table.get("listen").and_then(toml::Value::as_str);
    let mut address = match given.unwrap_or("127.0.0.1:0").parse::<SocketAddr>() {
        Ok(address) => address,
        Err(error) => panic!("{section}.listen: {error}"),
    };
    if address.port() == 0 {
        address.set_port(port::free());
    }
    table.insert("listen".into(), address.to_string().into());
    address
}

fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_filled_in_and_the_rest_is_kept() {
        let prepared = Fanfare::builder(
            "[server]\nnode = 'a'\n[admin]\nlisten = '0.0.0.0:0'\n[[slow]]\npolicy = 'gap'",
        )
        .prepare();
        let text = fs::read_to_string(config_file(&prepared.directory)).unwrap();
        let config: toml::Table = text.parse().unwrap();
        let listen = |section: &str| config[section]["listen"].as_str().unwrap().to_owned();
        assert_eq!(listen("server"), prepared.server.to_string());
        assert_eq!(listen("admin"), prepared.admin.to_string());
        assert_ne!(prepared.server.port(), prepared.admin.port());
        assert!(prepared.admin.ip().is_unspecified());
        assert_eq!(reachable(prepared.admin).ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(config["server"]["node"].as_str(), Some("a"));
        assert_eq!(config["slow"][0]["policy"].as_str(), Some("gap"));
    }

    #[test]
    fn a_given_listener_stays() {
        let prepared = Fanfare::builder("server = { listen = '127.0.0.1:4321' }").prepare();
        assert_eq!(prepared.server, port::loopback(4321));
    }
}
