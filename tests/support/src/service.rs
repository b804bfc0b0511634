//! A server process: started, found ready, stopped, started again.

use std::{
    fmt,
    pin::Pin,
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use crate::{eventually::PAUSE, process::Process};

/// How long a server may take until it answers.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(20);
/// How often a server that ended at once is started anew, on other ports.
const ATTEMPTS: usize = 3;

type Probing = Pin<Box<dyn Future<Output = bool> + Send>>;

/// How a server is started, the same way each time.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) command: Box<dyn Fn() -> Command + Send + Sync>,
    pub(crate) probe: Box<dyn Fn() -> Probing + Send + Sync>,
    pub(crate) ready_within: Duration,
}

/// A server process and how to start it again.
#[derive(Debug)]
pub(crate) struct Service {
    plan: Plan,
    process: Process,
}

/// A server that did not become ready.
#[derive(Debug)]
pub(crate) struct NotReady {
    name: &'static str,
    pub(crate) status: Option<ExitStatus>,
    pub(crate) output: String,
}

impl Plan {
    pub(crate) fn new<P: Future<Output = bool> + Send + 'static>(
        name: &'static str,
        command: impl Fn() -> Command + Send + Sync + 'static,
        probe: impl Fn() -> P + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            command: Box::new(command),
            probe: Box::new(move || Box::pin(probe())),
            ready_within: READY_WITHIN,
        }
    }
}

impl Service {
    /// Starts by the plan; again by a new plan, hence on new ports, if the process ended at once.
    ///
    /// # Panics
    /// If it does not become ready.
    pub(crate) async fn start<T>(mut make: impl FnMut() -> (Plan, T)) -> (Self, T) {
        for attempt in 1.. {
            let (plan, rest) = make();
            match Self::launch(plan).await {
                Ok(service) => return (service, rest),
                Err(failed) if failed.status.is_some() && attempt < ATTEMPTS => {}
                Err(failed) => panic!("{failed}"),
            }
        }
        unreachable!("the last attempt panics")
    }

    pub(crate) async fn launch(plan: Plan) -> Result<Self, NotReady> {
        let process = run(&plan).await?;
        Ok(Self { plan, process })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    pub(crate) fn pause(&mut self) {
        self.process.pause();
    }

    pub(crate) fn signal(&mut self, signal: &str) {
        self.process.signal(signal);
    }

    pub(crate) fn output(&self) -> String {
        self.process.output()
    }

    pub(crate) async fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        self.process.wait(within).await
    }

    /// # Panics
    /// If it does not become ready again.
    pub(crate) async fn restart(&mut self) {
        self.process.kill();
        match run(&self.plan).await {
            Ok(process) => self.process = process,
            Err(failed) => panic!("{failed}"),
        }
    }
}

async fn run(plan: &Plan) -> Result<Process, NotReady> {
    let mut command = (plan.command)();
    let mut process = match Process::spawn(plan.name, &mut command) {
        Ok(process) => process,
        Err(error) => panic!("{} does not start: {error}", plan.name),
    };
    let start = Instant::now();
    let status = loop {
        let ready = (plan.probe)().await;
        // Answers count only while this process runs: they could come from another.
        match process.status() {
            Some(status) => break Some(status),
            None if ready => return Ok(process),
            None if start.elapsed() >= plan.ready_within => break None,
            None => tokio::time::sleep(PAUSE).await,
        }
    };
    process.kill();
    process.wait(Duration::ZERO).await;
    Err(NotReady {
        name: plan.name,
        status,
        output: process.output(),
    })
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{} ended with {status}", self.name)?,
            None => write!(f, "{} did not become ready", self.name)?,
        }
        write!(f, "; it wrote:\n{}", self.output)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plan({})", self.name)
    }
}

/// What every server here can be told to do.
macro_rules! service_methods {
    ($server:ident) => {
        impl $server {
            /// The id of the process.
            pub fn id(&self) -> u32 {
                self.service.id()
            }

            /// Kills it (SIGKILL) and waits for its end.
            pub fn kill(&mut self) {
                self.service.kill();
            }

            /// Starts it again as it was, on the same port and in the same directory; kills it
            /// first if it still runs. Returns once it is ready.
            ///
            /// # Panics
            /// If it does not become ready, with what it wrote.
            pub async fn restart(&mut self) {
                self.service.restart().await;
            }

            /// Stops it where it stands (SIGSTOP): connections stay open and nothing answers.
            pub fn pause(&mut self) {
                self.service.pause();
            }

            /// Lets it go on after [`pause`](Self::pause).
            pub fn resume(&mut self) {
                self.service.signal("CONT");
            }

            /// What it wrote to standard output and standard error, the newest 256 KiB.
            pub fn output(&self) -> String {
                self.service.output()
            }
        }
    };
}
pub(crate) use service_methods;
