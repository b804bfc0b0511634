//! `fanfare publish`: one event, or each line of standard input.

use std::{io::IsTerminal, process::ExitCode};

use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, BufReader};

use super::{
    ClientError, Server,
    backoff::Backoff,
    http::{Ask, escaped, printable},
    lines::{LONGEST_LINE, Line, Lines},
    output,
};
use crate::{
    cli::Publish,
    exit::{Code, Failure},
};

/// A publication, as `POST /publish` takes it.
#[derive(Debug, Serialize)]
pub(crate) struct Item<'a> {
    pub(crate) channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<&'a str>,
    pub(crate) data: &'a str,
}

/// What the server says about one publication of several.
#[derive(Debug, Deserialize)]
pub(crate) struct Outcome {
    id: Option<String>,
    status: Option<u16>,
    title: Option<String>,
    detail: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Where anything was not published.
pub(crate) async fn run(options: &Publish) -> Result<ExitCode, Failure> {
    let server = Server::new(&options.remote.url, options.remote.token.as_ref())?;
    match options.data.as_deref() {
        Some("-") if options.key.is_some() => Err(Failure::usage(
            "--key names one publication; with - each line is one of its own",
        )),
        Some("-") => lines(&server, options).await,
        Some(data) => one(&server, options, data.to_owned().into()).await,
        None => one(&server, options, whole_input().await?).await,
    }
}

async fn whole_input() -> Result<Bytes, Failure> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "what to publish? Give the data after the channel, or - for each line of standard input",
        ));
    }
    let mut data = Vec::new();
    let read = tokio::io::stdin()
        .take(LONGEST_LINE as u64 + 1)
        .read_to_end(&mut data)
        .await;
    read.map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
    if data.len() > LONGEST_LINE {
        return Err(Failure::failed("standard input is larger than 16 MiB"));
    }
    Ok(data.into())
}

async fn one(server: &Server, options: &Publish, data: Bytes) -> Result<ExitCode, Failure> {
    let mut path = format!("/publish/{}", escaped(options.channel.as_str()));
    if let Some(event) = &options.event {
        path.push_str(&format!("?event={}", escaped(event.as_str())));
    }
    let mut ask = Ask::post(path, data).header(header::CONTENT_TYPE, "application/octet-stream");
    if let Some(key) = &options.key {
        ask = ask.header(HeaderName::from_static("idempotency-key"), key.as_str());
    }
    let answer = server.ask_whole(ask).await?;
    // A raw bus places events on arrival: then there is no id to print.
    if let Ok(Outcome { id: Some(id), .. }) = serde_json::from_slice(&answer) {
        output::line(&id).map_err(Failure::failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Publishes each line as it comes. What is refused is said, with its line, and the next goes on.
async fn lines(server: &Server, options: &Publish) -> Result<ExitCode, Failure> {
    let mut input = Lines::of(BufReader::with_capacity(64 << 10, tokio::io::stdin()));
    let mut tally = Tally::default();
    loop {
        let batch = input.next().await;
        let batch = batch
            .map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
        if batch.is_empty() {
            return tally.end();
        }
        tally.send(server, options, batch).await?;
    }
}

/// How many lines were published, and what became of the others.
#[derive(Debug, Default)]
struct Tally {
    published: u64,
    refused: u64,
    lost: u64,
}

impl Tally {
    async fn send(
        &mut self,
        server: &Server,
        options: &Publish,
        batch: Vec<Line>,
    ) -> Result<(), Failure> {
        let mut body = Vec::new();
        let mut numbers = Vec::new();
        for Line { number, text } in &batch {
            let data = match text {
                Ok(data) => data,
                Err(why) => {
                    self.refused += 1;
                    eprintln!("fanfare: line {number} {why} and is not published");
                    continue;
                }
            };
            let item = Item {
                channel: options.channel.as_str(),
                event: options.event.as_ref().map(|event| event.as_str()),
                data,
            };
            serde_json::to_writer(&mut body, &item).map_err(Failure::failed)?;
            body.push(b'\n');
            numbers.push(*number);
        }
        if numbers.is_empty() {
            return Ok(());
        }
        let body = Bytes::from(body);
        let mut backoff = Backoff::default();
        loop {
            let ask = Ask::post("/publish", body.clone())
                .header(header::CONTENT_TYPE, "application/x-ndjson");
            match server.ask_whole(ask).await {
                Ok(answer) => {
                    self.outcomes(&numbers, &answer);
                    return Ok(());
                }
                // Nothing was sent or taken: the same lines go out again, in their order. At first,
                // a wrong address is more likely than a server on its way.
                Err(error @ ClientError::Unreachable { .. }) if self.published > 0 => {
                    wait(&error, backoff.next()).await;
                }
                Err(ClientError::Refused(refusal)) if refusal.is_temporary() => {
                    let least = refusal.retry_after.unwrap_or_default();
                    wait(&ClientError::Refused(refusal), backoff.next().max(least)).await;
                }
                // They may have been published: sending them again could publish them twice.
                Err(error @ ClientError::Broken { .. }) => {
                    self.lost += numbers.len() as u64;
                    eprintln!("fanfare: {error}; {} may not be published", span(&numbers));
                    return Ok(());
                }
                // What is wrong with a whole request is wrong with the next one too.
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn outcomes(&mut self, numbers: &[u64], answer: &[u8]) {
        let outcomes = answer
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty());
        let mut outcomes = outcomes.map(serde_json::from_slice::<Outcome>);
        for number in numbers {
            let Some(Ok(outcome)) = outcomes.next() else {
                self.lost += 1;
                eprintln!("fanfare: line {number}: the server did not say what became of it");
                continue;
            };
            let status = outcome
                .status
                .and_then(|status| StatusCode::from_u16(status).ok());
            let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
            if status.is_success() {
                self.published += 1;
                continue;
            }
            // With a server's error it may be published, and may not.
            *(if status.is_server_error() {
                &mut self.lost
            } else {
                &mut self.refused
            }) += 1;
            let why = outcome.detail.or(outcome.title).unwrap_or_default();
            eprintln!(
                "fanfare: line {number} was refused ({status}): {}",
                printable(&why)
            );
        }
    }

    fn end(&self) -> Result<ExitCode, Failure> {
        if self.refused + self.lost == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let code = if self.lost > 0 {
            Code::Failed
        } else {
            Code::Refused
        };
        let Self {
            published,
            refused,
            lost,
        } = self;
        Err(Failure::new(
            code,
            format!(
                "{published} lines published, {refused} refused, {lost} not known to be published"
            ),
        ))
    }
}

async fn wait(error: &ClientError, time: std::time::Duration) {
    eprintln!("fanfare: {error}; trying again in {time:.1?}");
    tokio::time::sleep(time).await;
}

fn span(numbers: &[u64]) -> String {
    match numbers {
        [] => String::new(),
        [one] => format!("line {one}"),
        [first, .., last] => format!("lines {first} to {last}"),
    }
}
