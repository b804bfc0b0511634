//! The commands of the documentation, run against a real server, and the output that it shows.
//!
//! A `sh` block is run as it stands; a `text` block right after it is its output, in which `…`
//! stands for any text. The server's addresses are put in the place of the default ones.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{path::Path, process::Stdio, time::Duration};

use fanfare_testkit::Fanfare;
use tokio::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_fanfare");
const BLOCK_ENDS_WITHIN: Duration = Duration::from_secs(30);
/// curl, where `--max-time` was over: that is how a block with a stream ends.
const TIME_IS_OVER: i32 = 28;

#[derive(Debug)]
struct Block {
    line: usize,
    language: String,
    text: String,
    /// Whether nothing but blank lines stands between this block and the one before.
    follows: bool,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut open, mut follows) = (false, false);
    for (number, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => (open, follows) = (false, true),
            Some(language) => {
                let (language, text) = (language.to_owned(), String::new());
                blocks.push(Block {
                    line: number + 1,
                    language,
                    text,
                    follows,
                });
                open = true;
            }
            None if open => {
                let block = blocks.last_mut().unwrap();
                block.text += line;
                block.text.push('\n');
            }
            None => follows &= line.trim().is_empty(),
        }
    }
    assert!(!open, "a block without an end");
    blocks
}

/// Whether a text is as expected, where `…` stands for any text.
fn fits(expected: &str, text: &str) -> bool {
    let parts: Vec<&str> = expected.trim_end().split('…').collect();
    let text = text.trim_end();
    let [first, middle @ .., last] = &*parts else {
        return text == expected.trim_end();
    };
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

async fn run_page(path: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    let page = std::fs::read_to_string(&file).unwrap();
    let server = Fanfare::builder("").binary(BINARY).start().await;
    let folder = tempfile::tempdir().unwrap();
    let path_variable = format!(
        "{}:{}",
        Path::new(BINARY).parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let mut output = String::new();
    let mut ran = 0;
    for block in blocks(&page) {
        let place = format!("{path}:{}", block.line);
        match &*block.language {
            "sh" => {
                let script = block
                    .text
                    .replace("http://127.0.0.1:8080", &server.base_url())
                    .replace("http://127.0.0.1:8081", &server.admin_url());
                let mut command = Command::new("bash");
                command
                    .args(["-eu", "-o", "pipefail", "-c", &script])
                    .current_dir(folder.path())
                    .env("PATH", &path_variable)
                    .env("FANFARE_URL", server.base_url())
                    .stdin(Stdio::null())
                    .kill_on_drop(true);
                let done = tokio::time::timeout(BLOCK_ENDS_WITHIN, command.output()).await;
                let done = done
                    .unwrap_or_else(|_| panic!("{place} does not end"))
                    .unwrap();
                output = String::from_utf8(done.stdout)
                    .unwrap()
                    .replace("\r\n", "\n");
                let code = done.status.code().unwrap();
                let over = code == TIME_IS_OVER && script.contains("--max-time");
                assert!(
                    code == 0 || over,
                    "{place} ended with {code}: {output}{}",
                    String::from_utf8_lossy(&done.stderr)
                );
                ran += 1;
            }
            "text" if block.follows => {
                assert!(
                    fits(&block.text, &output),
                    "{place} shows\n{}but it is\n{output}",
                    block.text
                );
            }
            _ => {}
        }
    }
    assert!(ran > 0, "{path} has no command that is run");
}

#[tokio::test]
async fn getting_started() {
    run_page("docs/getting-started.md").await;
}

#[tokio::test]
async fn protocol() {
    run_page("docs/protocol.md").await;
}

#[tokio::test]
async fn quickstart() {
    run_page("examples/quickstart/README.md").await;
}

#[test]
fn expected_output_is_compared_whole() {
    assert!(fits("a…c\n", "abc\n") && fits("a…", "abc") && fits("…", "") && fits("a", "a\n"));
    assert!(fits("a…b…c", "a1b2bc"));
    for (expected, text) in [
        ("a", "ab"),
        ("a…c", "abd"),
        ("…a", "b"),
        ("a…b…c", "ac"),
        ("aa…a", "aa"),
    ] {
        assert!(!fits(expected, text), "{expected} {text}");
    }
}
