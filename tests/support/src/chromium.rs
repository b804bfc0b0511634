//! A real browser, driven through the DevTools protocol.

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout},
    sync::mpsc,
    task::JoinHandle,
};

use crate::{process::Process, tool};

const PACKAGE: &str = "chromium";
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Requests and errors that are remembered.
const REMEMBERED: usize = 1_000;
/// Answers nobody took yet. One command is under way at a time, so there are never many.
const ANSWERS: usize = 64;

/// How often the profile is removed until it stays away.
const REMOVALS: usize = 100;

/// How long a page may take to become as a test waits for, and how often it is looked at.
const FITS_WITHIN: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

const FLAGS: [&str; 12] = [
    "--headless",
    // Tests often run as root, for whom the sandbox does not start.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-pipe",
    "about:blank",
];

/// With `--remote-debugging-pipe` the browser reads commands from descriptor 3 and writes answers
/// to 4: no port, no WebSocket. The shell puts our two pipes there.
const PIPES_TO_3_AND_4: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>&2";

/// A real Chromium without a screen, with one page and a profile of its own. Ended when dropped.
#[derive(Debug)]
pub struct Chromium {
    input: ChildStdin,
    answers: mpsc::Receiver<Value>,
    seen: Arc<Mutex<Seen>>,
    reader: JoinHandle<()>,
    commands: u64,
    session: Option<String>,
    /// The loader of the page that was loaded last.
    loaded: Value,
    process: Process,
    profile: TempDir,
}

#[derive(Debug, Default)]
struct Seen {
    requests: VecDeque<String>,
    errors: VecDeque<String>,
}

impl Chromium {
    /// Starts it; `None`, and a visible line, where it is not installed.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn start() -> Option<Self> {
        let program = tool::require("chromium", PACKAGE)?;
        let profile = TempDir::new().expect("a temporary directory");
        let mut command = Command::new("sh");
        command
            .args(["-c", PIPES_TO_3_AND_4])
            .arg(program)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(FLAGS)
            .env("HOME", profile.path());
        let (process, input, output) =
            Process::spawn_piped("chromium", &mut command).expect("a shell starts");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (sender, answers) = mpsc::channel(ANSWERS);
        let output = ChildStdout::from_std(output).expect("a pipe to read");
        let mut browser = Self {
            input: ChildStdin::from_std(input).expect("a pipe to write"),
            answers,
            reader: tokio::spawn(read(BufReader::new(output), sender, seen.clone())),
            seen,
            commands: 0,
            session: None,
            loaded: Value::Null,
            process,
            profile,
        };
        let page = browser
            .command("Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.command("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser
                .command(&format!("{domain}.enable"), json!({}))
                .await;
        }
        browser
            .command("Page.setLifecycleEventsEnabled", json!({"enabled": true}))
            .await;
        Some(browser)
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Panics
    /// If it cannot be reached, or is not loaded after a minute.
    pub async fn open(&mut self, url: &str) {
        let navigated = self.command("Page.navigate", json!({"url": url})).await;
        let error = navigated.get("errorText");
        assert!(error.is_none(), "{url}: {navigated}");
        while self.loaded != navigated["loaderId"] {
            self.message().await;
        }
    }

    /// Evaluates JavaScript in the page, waits if it is a promise, and answers its value as JSON.
    ///
    /// # Panics
    /// If it throws, with what it threw.
    pub async fn eval(&mut self, javascript: &str) -> Value {
        let evaluate = json!({
            "expression": javascript, "returnByValue": true, "awaitPromise": true,
        });
        let mut answer = self.command("Runtime.evaluate", evaluate).await;
        if let Some(thrown) = answer.get("exceptionDetails") {
            panic!("{javascript}: {thrown}");
        }
        answer["result"]["value"].take()
    }

    /// Evaluates in the page, again and again, until the value fits, and answers it.
    ///
    /// # Panics
    /// If it does not fit after a minute.
    pub async fn until(&mut self, javascript: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + FITS_WITHIN;
        loop {
            let value = self.eval(javascript).await;
            if fits(&value) {
                return value;
            }
            assert!(Instant::now() < until, "{javascript} stays {value}");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Opens pages whose certificate no authority vouches for.
    pub async fn ignore_certificates(&mut self) {
        self.command(
            "Security.setIgnoreCertificateErrors",
            json!({"ignore": true}),
        )
        .await;
    }

    /// Sets the size of the page, in CSS pixels: a phone is 390 × 844 and `mobile`.
    pub async fn resize(&mut self, width: u32, height: u32, mobile: bool) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile,
        });
        self.command("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// Writes what the page shows as a PNG file, and answers its bytes.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub async fn screenshot(&mut self, file: &Path) -> Vec<u8> {
        let shot = self
            .command("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        let image = shot["data"].as_str().unwrap_or_default();
        let image = BASE64_STANDARD.decode(image).expect("base64 of an image");
        fs::write(file, &image).expect("a file to write");
        image
    }

    /// Every URL that was asked for, the newest 1,000.
    pub fn requests(&self) -> Vec<String> {
        self.seen.lock().requests.iter().cloned().collect()
    }

    /// Exceptions nobody caught, and errors of the console, the newest 1,000.
    pub fn errors(&self) -> Vec<String> {
        self.seen.lock().errors.iter().cloned().collect()
    }

    /// Any command of the protocol, to the page: `Network.emulateNetworkConditions`, for one.
    ///
    /// Source: <https://chromedevtools.github.io/devtools-protocol/>.
    ///
    /// # Panics
    /// If the browser refuses it, or does not answer within a minute.
    pub async fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.commands += 1;
        let id = self.commands;
        let mut command = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        let mut command = command.to_string().into_bytes();
        command.push(0);
        self.input
            .write_all(&command)
            .await
            .expect("chromium reads commands");
        let mut answer = loop {
            let message = self.message().await;
            if message["id"] == id {
                break message;
            }
        };
        if let Some(error) = answer.get("error") {
            panic!("{method}: {error}");
        }
        answer["result"].take()
    }

    async fn message(&mut self) -> Value {
        let Ok(message) = tokio::time::timeout(ANSWER_WITHIN, self.answers.recv()).await else {
            panic!("chromium does not answer within {ANSWER_WITHIN:?}");
        };
        let message = message.expect("chromium runs");
        if is_load(&message) {
            self.loaded = message["params"]["loaderId"].clone();
        }
        message
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.reader.abort();
        self.process.kill();
        // Its helpers notice its end a little later, and write to the profile until then.
        for _ in 0..REMOVALS {
            if fs::remove_dir_all(self.profile.path()).is_ok() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// Reads all the time, so that the browser never waits for us: answers and page loads are passed
/// on, the rest is noted or dropped.
async fn read(
    mut output: BufReader<ChildStdout>,
    answers: mpsc::Sender<Value>,
    seen: Arc<Mutex<Seen>>,
) {
    let mut message = Vec::new();
    while let Ok(1..) = output.read_until(0, &mut message).await {
        message.pop();
        let parsed = serde_json::from_slice(&message).unwrap_or(Value::Null);
        message.clear();
        seen.lock().note(&parsed);
        let passed_on = parsed.get("id").is_some() || is_load(&parsed);
        if passed_on && answers.send(parsed).await.is_err() {
            return;
        }
    }
}

fn is_load(message: &Value) -> bool {
    message["method"] == "Page.lifecycleEvent" && message["params"]["name"] == "load"
}

impl Seen {
    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                let url = parameters["request"]["url"].as_str().unwrap_or_default();
                remember(&mut self.requests, url.to_owned());
            }
            Some("Runtime.exceptionThrown") => {
                remember(&mut self.errors, parameters["exceptionDetails"].to_string());
            }
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => {
                remember(&mut self.errors, parameters["args"].to_string());
            }
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                remember(&mut self.errors, parameters["entry"].to_string());
            }
            _ => {}
        }
    }
}

fn remember(list: &mut VecDeque<String>, text: String) {
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(text);
}
