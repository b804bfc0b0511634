//! Runs commands of the binary.

use std::{process::Stdio, time::Duration};

use fanfare_testkit::{Fanfare, FanfareBuilder};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";

/// `fanfare serve` with a config.
pub(crate) fn server(config: &str) -> FanfareBuilder {
    Fanfare::builder(config).binary(env!("CARGO_BIN_EXE_fanfare"))
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command to its end.
pub(crate) async fn run(arguments: &[&str], variables: &[(&str, &str)], input: &[u8]) -> Ended {
    let mut child = command(arguments, variables).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = async move {
        // A command that does not read its input closes it.
        let _ = stdin.write_all(input).await;
    };
    let (output, ()) = tokio::join!(timeout(SOON, child.wait_with_output()), feed);
    let output = output.expect("the command ends").unwrap();
    Ended {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A command that runs.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Starts a command.
pub(crate) fn start(arguments: &[&str]) -> Running {
    let mut child = command(arguments, &[])
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let stdin = child.stdin.take();
    Running {
        child,
        stdin,
        lines,
    }
}

impl Running {
    /// The next line of its output.
    pub(crate) async fn line(&mut self) -> String {
        let line = timeout(SOON, self.lines.next_line()).await;
        line.expect("a line comes in time")
            .unwrap()
            .expect("a line, not the end")
    }

    /// Its exit code.
    pub(crate) async fn code(&mut self) -> i32 {
        let status = timeout(SOON, self.child.wait()).await;
        status
            .expect("the command ends")
            .unwrap()
            .code()
            .expect("no signal")
    }
}

fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}
