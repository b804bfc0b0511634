//! Starts the servers that are compared, each on its own cores, and ends them.

mod bus;
mod fanfare;
mod nchan;

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::load::plan::Dialect;

/// How long a server may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    /// One send for each delivery.
    Floor,
    /// One send for all that waits.
    FloorCoalesced,
    /// The real binary, as configured by these lines.
    Fanfare {
        name: &'static str,
        config: &'static str,
    },
    /// The same, with an HS256 token on every request.
    FanfareToken,
    /// Two nodes with a bus between them; published to the one, subscribed at the other.
    Fleet {
        name: &'static str,
        bus: Bus,
        config: &'static str,
    },
    /// An edge whose subscribers are in so many classes of filters; 0 is none.
    Filtered { name: &'static str, classes: usize },
    /// nginx with nchan, one worker.
    Nchan,
}

/// What is between two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bus {
    Redis,
    Nats,
}

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The real binary.
    pub(crate) fanfare: PathBuf,
    /// This binary.
    pub(crate) bench: PathBuf,
    /// Cores for servers, and the one for the generator, as `taskset` takes them.
    pub(crate) server_cores: String,
    pub(crate) generator_cores: String,
}

/// A server that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) subscribe_at: SocketAddr,
    pub(crate) publish_at: SocketAddr,
    pub(crate) dialect: Dialect,
    pub(crate) token: Option<String>,
    /// Whose CPU and memory is the server's.
    pub(crate) pids: Vec<u32>,
    /// Who runs beside it.
    pub(crate) beside: Vec<u32>,
    children: Vec<Ended>,
    directory: TempDir,
}

/// Why a server could not be started.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// Something that it needs is not on this machine, or not in this version.
    Missing(String),
    /// It should have started.
    Failed(String),
}

/// A child process that ends with its owner.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl From<io::Error> for NotStarted {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Server {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::FloorCoalesced => "floor-coalesced",
            Self::FanfareToken => "fanfare-hs256",
            Self::Fanfare { name, .. } | Self::Fleet { name, .. } | Self::Filtered { name, .. } => {
                name
            }
            Self::Nchan => "nchan",
        }
    }

    /// Whether it is Fanfare: what becomes worse is ours.
    pub(crate) fn is_ours(self) -> bool {
        !matches!(self, Self::Floor | Self::FloorCoalesced | Self::Nchan)
    }

    /// Starts it on free ports and waits until it answers.
    pub(crate) fn start(self, places: &Places) -> Result<Running, NotStarted> {
        match self {
            Self::Floor => start_floor(places, &[]),
            Self::FloorCoalesced => start_floor(places, &["--coalesce"]),
            Self::Fanfare { config, .. } => fanfare::start(places, config),
            Self::FanfareToken => fanfare::start_with_token(places),
            Self::Fleet { bus, config, .. } => bus::start(places, bus, config),
            Self::Filtered { classes, .. } => start_filtered(places, classes),
            Self::Nchan => nchan::start(places),
        }
    }
}

fn start_floor(places: &Places, options: &[&str]) -> Result<Running, NotStarted> {
    let mut running = Running::new()?;
    let listen = running.subscribe_at.to_string();
    let mut command = places.pinned(&places.bench);
    command.args(["floor", "--listen", &listen]).args(options);
    let pid = running.spawn(&mut command)?;
    running.pids.push(pid);
    running.wait_for(|server| TcpStream::connect(server.subscribe_at).is_ok())?;
    Ok(running)
}

/// A binary of its own, since filters are code.
fn start_filtered(places: &Places, classes: usize) -> Result<Running, NotStarted> {
    let program = places.bench.with_file_name("fanfare-bench-filtered");
    if !program.exists() {
        let why = "cargo build --release -p fanfare-bench-filtered";
        return Err(NotStarted::Missing(why.into()));
    }
    let mut running = Running::new()?;
    let (listen, admin) = (running.subscribe_at.to_string(), free_address()?);
    let mut command = places.pinned(program);
    command.args(["--listen", &listen, "--admin", &admin.to_string()]);
    command.args(["--classes", &classes.to_string()]);
    let pid = running.spawn(&mut command)?;
    running.pids.push(pid);
    running.wait_for(|_| answers(admin, "/readyz"))?;
    Ok(running)
}

impl Places {
    /// A command on the servers' cores; `taskset` becomes the program, so its id is the program's.
    fn pinned(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.server_cores]).arg(program);
        command
    }
}

impl Running {
    fn new() -> Result<Self, NotStarted> {
        let address = free_address()?;
        Ok(Self {
            subscribe_at: address,
            publish_at: address,
            dialect: Dialect::Fanfare,
            token: None,
            pids: Vec::new(),
            beside: Vec::new(),
            children: Vec::new(),
            directory: TempDir::new()?,
        })
    }

    /// Starts a process whose output goes to a file.
    fn spawn(&mut self, command: &mut Command) -> Result<u32, NotStarted> {
        let file = self
            .directory
            .path()
            .join(format!("{}.log", self.children.len()));
        let log = fs::File::create(file)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn()?;
        let pid = child.id();
        self.children.push(Ended(child));
        Ok(pid)
    }

    fn wait_for(&mut self, ready: impl Fn(&Self) -> bool) -> Result<(), NotStarted> {
        let start = Instant::now();
        while !ready(self) {
            for child in &mut self.children {
                if let Some(status) = child.0.try_wait()? {
                    return Err(NotStarted::Failed(format!(
                        "ended: {status}\n{}",
                        self.logs()
                    )));
                }
            }
            if start.elapsed() > READY_WITHIN {
                return Err(NotStarted::Failed(format!(
                    "does not answer\n{}",
                    self.logs()
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn logs(&self) -> String {
        let logs = (0..self.children.len()).filter_map(|index| {
            fs::read_to_string(self.directory.path().join(format!("{index}.log"))).ok()
        });
        logs.collect()
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Whether a path of an HTTP server answers 200.
fn answers(address: SocketAddr, path: &str) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
        )?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}

/// Whether a program is in the path.
pub(crate) fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).is_file())
}
