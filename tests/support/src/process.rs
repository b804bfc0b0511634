//! A child process: its output kept, ended with its handle.

use std::{
    collections::VecDeque,
    io::{self, Read},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::eventually::PAUSE;

/// The newest bytes of output that are kept.
const OUTPUT_BYTES: usize = 256 << 10;
/// How long a dead process's last words may take; a grandchild can hold the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a process that was told to stop may go on.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// A child process. Dropping it kills it and waits for its end, so that its files are at rest
/// and its port is free; if the test is panicking, its output is printed.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    output: Arc<Mutex<VecDeque<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it with no input and all output kept.
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> io::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self::keep(name, child))
    }

    /// Starts it with input and standard output in the caller's hands.
    pub(crate) fn spawn_piped(
        name: &'static str,
        command: &mut Command,
    ) -> io::Result<(Self, ChildStdin, ChildStdout)> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let ends = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = ends.ok_or_else(|| io::Error::other("no pipes"))?;
        Ok((Self::keep(name, child), stdin, stdout))
    }

    fn keep(name: &'static str, mut child: Child) -> Self {
        let output = Arc::new(Mutex::new(VecDeque::new()));
        let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as _);
        let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as _);
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [stdout, stderr];
        let readers = pipes
            .into_iter()
            .flatten()
            .map(|pipe| {
                let output = output.clone();
                thread::spawn(move || copy(pipe, &output))
            })
            .collect();
        Self {
            name,
            child,
            output,
            readers,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Stops it where it stands, and waits until it does: the signal goes to one of its threads,
    /// and until that one runs, the others go on.
    ///
    /// # Panics
    /// If it does not stop.
    #[expect(
        clippy::disallowed_methods,
        reason = "it polls for a fact; tests call it where they cannot wait"
    )]
    pub(crate) fn pause(&mut self) {
        self.signal("STOP");
        let start = Instant::now();
        while !self.stands_still() && self.status().is_none() {
            assert!(
                start.elapsed() < STOPS_WITHIN,
                "{} does not stop",
                self.name
            );
            thread::sleep(PAUSE);
        }
    }

    /// Whether all of its threads are stopped; yes where the system does not tell.
    fn stands_still(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id())) else {
            return true;
        };
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // After the name, which is in parentheses.
            let state = stat.rsplit(") ").next().unwrap_or_default();
            // Gone meanwhile, or stopped, by a signal or a debugger, or dead.
            state.is_empty() || state.starts_with(['T', 't', 'Z', 'X'])
        })
    }

    /// Sends a signal by its name without SIG. Nothing if the process has ended.
    pub(crate) fn signal(&mut self, signal: &str) {
        if self.status().is_some() {
            return;
        }
        // The shell's own `kill`: the safe way to a signal, and everywhere at hand.
        let sent = Command::new("sh")
            .args(["-c", "kill -\"$0\" \"$1\"", signal, &self.id().to_string()])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "SIG{signal} did not reach {}",
            self.name
        );
    }

    /// Waits for its end and its last words; `None` if it still runs after `within`.
    pub(crate) async fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let status = until(within, || self.status()).await;
        if status.is_some() {
            let done = || {
                self.readers
                    .iter()
                    .all(JoinHandle::is_finished)
                    .then_some(())
            };
            until(LAST_WORDS, done).await;
        }
        status
    }

    /// Kills it and waits for its end. Nothing if it has ended.
    pub(crate) fn kill(&mut self) {
        // Neither fails but for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it wrote to standard output and standard error, the newest 256 KiB.
    pub(crate) fn output(&self) -> String {
        let mut output = self.output.lock();
        String::from_utf8_lossy(output.make_contiguous()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let output = self.output();
            eprintln!("--- {} ({}) wrote:\n{output}---", self.name, self.id());
        }
    }
}

/// `try_eventually` for what needs no waiting to look at. Its future can be sent to another thread,
/// which those of async closures cannot always.
async fn until<T>(within: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let found = poll();
        if found.is_some() || start.elapsed() >= within {
            return found;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn copy(mut pipe: impl Read, output: &Mutex<VecDeque<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut buffer) {
        let mut output = output.lock();
        output.extend(&buffer[..length]);
        let surplus = output.len().saturating_sub(OUTPUT_BYTES);
        output.drain(..surplus);
    }
}
