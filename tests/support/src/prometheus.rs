//! A real Prometheus.

use std::{fs, net::SocketAddr, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http, port,
    service::{Plan, Service, service_methods},
    tool,
};

const PACKAGE: &str = "prometheus";
/// The job of every target, as the label `job`.
const JOB: &str = "fanfare";

/// A real Prometheus on a free loopback port that scrapes its targets every half second. Ended
/// when dropped.
#[derive(Debug)]
pub struct Prometheus {
    service: Service,
    port: u16,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts it; `None`, and a visible line, where it is not installed. The targets' job is
    /// `fanfare`.
    pub async fn start(targets: &[SocketAddr]) -> Option<Self> {
        Self::start_with_rules(targets, &[]).await
    }

    /// Starts it with rule files, each the text of one.
    ///
    /// # Panics
    /// If it does not become ready, with what it wrote.
    pub async fn start_with_rules(targets: &[SocketAddr], rules: &[&str]) -> Option<Self> {
        let program = tool::require("prometheus", PACKAGE)?;
        let (service, (port, directory)) = Service::start(|| {
            let port = port::free();
            let directory = TempDir::new().expect("a temporary directory");
            let path = directory.path().to_owned();
            for (number, rule) in rules.iter().enumerate() {
                let file = path.join(format!("rules-{number}.yml"));
                fs::write(file, rule).expect("a file to write");
            }
            let targets: Vec<_> = targets.iter().map(SocketAddr::to_string).collect();
            // JSON is YAML.
            let config = json!({
                "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
                "rule_files": ["rules-*.yml"],
                "scrape_configs": [
                    {"job_name": JOB, "static_configs": [{"targets": targets}]},
                ],
            });
            let file = path.join("prometheus.yml");
            fs::write(&file, config.to_string()).expect("a file to write");
            let program = program.clone();
            let command = move || {
                let mut command = Command::new(&program);
                command
                    .arg(format!("--config.file={}", file.display()))
                    .arg(format!(
                        "--storage.tsdb.path={}",
                        path.join("data").display()
                    ))
                    .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                    .current_dir(&path);
                command
            };
            let probe = move || async move {
                let reply = http::get(&format!("http://127.0.0.1:{port}/-/ready")).await;
                reply.is_ok_and(|reply| reply.status == 200)
            };
            (Plan::new("prometheus", command, probe), (port, directory))
        })
        .await;
        Some(Self {
            service,
            port,
            _directory: directory,
        })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Evaluates an expression now and answers `data.result`: an empty array where there is no
    /// data.
    ///
    /// # Panics
    /// If Prometheus refuses the expression, with its reason.
    pub async fn query(&self, expression: &str) -> Value {
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", expression)
            .finish();
        let mut answer = self.api(&format!("query?{query}")).await;
        answer["result"].take()
    }

    /// Asks its HTTP API (`targets`, `rules`, `alerts`, …) and answers `data`.
    ///
    /// # Panics
    /// If Prometheus refuses, with its reason.
    pub async fn api(&self, call: &str) -> Value {
        let reply = http::get(&format!("{}/api/v1/{call}", self.url())).await;
        let mut answer = reply.expect("prometheus answers").json();
        assert_eq!(answer["status"], "success", "{call}: {answer}");
        answer["data"].take()
    }
}

service_methods!(Prometheus);
