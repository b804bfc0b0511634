//! `fanfare subscribe`: events as they come; after a break it goes on with the last id.

use std::{process::ExitCode, time::Duration};

use fanfare_sse::{Decoder, Event, Item};
use http::{HeaderName, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    ClientError, Server,
    backoff::Backoff,
    http::{Ask, escaped, printable},
    output,
};
use crate::{
    cli::{Since, Subscribe},
    exit::{Code, Failure},
};

/// A stream that is silent for so long is dead: servers send a heartbeat every 15 s by default.
const SILENCE: Duration = Duration::from_secs(90);
/// The largest event that is taken, in bytes.
const LARGEST_EVENT: usize = 64 << 20;

/// What ended a stream.
enum End {
    /// Everything asked for is done, or nobody reads our output any more.
    Done,
    /// The stream broke off, or the server ended it: there is more to come.
    Broke(String),
}

/// Follows channels until the count is reached, the time is over, or the output is closed.
#[derive(Debug)]
struct Follower<'a> {
    options: &'a Subscribe,
    server: Server,
    backoff: Backoff,
    /// The `Last-Event-ID` of the next request; empty: none yet.
    last_event_id: String,
    events: u64,
    /// Whether output names the channel: not where there is only one.
    named: bool,
}

/// Runs the command.
///
/// # Errors
/// Where the server cannot be reached at first, refuses for good, or standard output fails.
pub(crate) async fn run(options: &Subscribe) -> Result<ExitCode, Failure> {
    let server = Server::new(&options.remote.url, options.remote.token.as_ref())?;
    let mut follower = Follower {
        server,
        backoff: Backoff::default(),
        last_event_id: options.last_event_id.clone().unwrap_or_default(),
        events: 0,
        named: options.channels.len() > 1 || options.channels.iter().any(|one| one.is_wild()),
        options,
    };
    let limit = async {
        match options.timeout {
            Some(limit) => tokio::time::sleep(limit.0).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // What the server has sent already is printed first.
        biased;
        done = follower.follow() => done.map(|()| ExitCode::SUCCESS),
        () = output::closed() => Ok(ExitCode::SUCCESS),
        () = limit => match options.count {
            None => Ok(ExitCode::SUCCESS),
            Some(count) => Err(Failure::new(
                Code::TimedOut,
                format!("fewer than {count} events came in time"),
            )),
        },
    }
}

impl Follower<'_> {
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut reached = false;
        loop {
            let wait = match self.server.ask(self.request()).await {
                Ok(answer) => {
                    if reached {
                        tell("connected again");
                    }
                    reached = true;
                    match self.read(answer).await? {
                        End::Done => return Ok(()),
                        End::Broke(why) => {
                            let wait = self.backoff.next();
                            tell(&format!("{why}; going on in {wait:.1?}"));
                            wait
                        }
                    }
                }
                Err(ClientError::Refused(refusal)) if refusal.is_temporary() => {
                    let wait = self
                        .backoff
                        .next()
                        .max(refusal.retry_after.unwrap_or_default());
                    tell(&format!("{refusal}; trying again in {wait:.1?}"));
                    wait
                }
                // The first time, a wrong address is more likely than a server on its way.
                Err(error @ (ClientError::Unreachable { .. } | ClientError::Broken { .. }))
                    if reached =>
                {
                    let wait = self.backoff.next();
                    tell(&format!("{error}; trying again in {wait:.1?}"));
                    wait
                }
                Err(error) => return Err(error.into()),
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn request(&self) -> Ask {
        let mut path = String::from("/events?envelope=1");
        for channel in &self.options.channels {
            path.push_str("&channel=");
            path.push_str(&escaped(channel.as_str()));
        }
        if self.last_event_id.is_empty() {
            if let Some(last) = self.options.last {
                path.push_str(&format!("&last={last}"));
            }
            if let Some(Since::Oldest) = self.options.since {
                path.push_str("&since=oldest");
            }
        }
        let ask = Ask::get(path).header(header::ACCEPT, "text/event-stream");
        if self.last_event_id.is_empty() {
            return ask;
        }
        ask.header(
            HeaderName::from_static("last-event-id"),
            &*self.last_event_id,
        )
    }

    async fn read(&mut self, answer: Response<Incoming>) -> Result<End, Failure> {
        let kind = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .map(|kind| kind.as_bytes());
        if !kind.is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
            return Err(Failure::failed(
                "the answer is no event stream; is the address that of Fanfare?",
            ));
        }
        let mut body = answer.into_body();
        let mut decoder =
            Decoder::with_limit(LARGEST_EVENT).resuming(std::mem::take(&mut self.last_event_id));
        let end = self.read_stream(&mut body, &mut decoder).await;
        self.last_event_id = decoder.last_event_id().to_owned();
        end
    }

    async fn read_stream(
        &mut self,
        body: &mut Incoming,
        decoder: &mut Decoder,
    ) -> Result<End, Failure> {
        loop {
            let chunk = match tokio::time::timeout(SILENCE, body.frame()).await {
                Err(_) => return Ok(End::Broke(format!("nothing came for {SILENCE:?}"))),
                Ok(None) => return Ok(End::Broke("the stream ended".into())),
                Ok(Some(Err(error))) => {
                    return Ok(End::Broke(format!("the stream broke off ({error})")));
                }
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            decoder.push(&chunk);
            for item in &mut *decoder {
                match item.map_err(Failure::failed)? {
                    Item::Retry(wait) => self.backoff.base(wait),
                    Item::Comment(_) => {}
                    Item::Event(event) => {
                        if !self.take(&event)? {
                            return Ok(End::Done);
                        }
                    }
                }
            }
        }
    }

    /// `false`: done.
    fn take(&mut self, event: &Event) -> Result<bool, Failure> {
        let going = match &*event.event_type {
            "fanfare.hello" => {
                // The server lets us in: the next break starts from a short wait again.
                self.backoff.reset();
                true
            }
            "fanfare.gap" => self.gap(&event.data)?,
            "fanfare.close" => {
                tell(&format!(
                    "the server ends the stream: {}",
                    printable(&event.data)
                ));
                true
            }
            _ => {
                self.backoff.reset();
                self.events += 1;
                self.print(event)?
                    && self
                        .options
                        .count
                        .is_none_or(|count| self.events < count.get())
            }
        };
        Ok(going)
    }

    fn gap(&self, data: &str) -> Result<bool, Failure> {
        if self.options.json {
            return written(output::line(&format!("{{\"gap\":{}}}", one_line(data))));
        }
        tell(&format!("gap: events are missing: {}", printable(data)));
        Ok(true)
    }

    fn print(&self, event: &Event) -> Result<bool, Failure> {
        if self.options.json {
            return written(output::line(&one_line(&event.data)));
        }
        #[derive(Deserialize)]
        struct Envelope {
            channel: String,
            data: String,
        }
        let Envelope { channel, data } = serde_json::from_str(&event.data)
            .map_err(|_| Failure::failed("the server sent an event that is no envelope"))?;
        written(output::line(&if self.named {
            format!("{channel}\t{data}")
        } else {
            data
        }))
    }
}

/// JSON in one line, whatever the server sent: programs read lines.
fn one_line(json: &str) -> String {
    match serde_json::from_str::<&RawValue>(json) {
        Ok(_) if !json.contains(['\n', '\r']) => json.to_owned(),
        Ok(_) => serde_json::from_str::<serde_json::Value>(json)
            .unwrap_or_default()
            .to_string(),
        Err(_) => serde_json::Value::from(json).to_string(),
    }
}

fn written(outcome: std::io::Result<bool>) -> Result<bool, Failure> {
    outcome.map_err(|error| Failure::failed(format!("cannot write to standard output: {error}")))
}

/// Says something beside the events.
fn tell(text: &str) {
    eprintln!("fanfare: {text}");
}
