//! The ways in: who publishes, and what an acknowledgement is there.

use std::{fmt::Write as _, io, net::SocketAddr, sync::Arc, time::Duration};

use fanfare_testkit::{NatsClient, Reply, Resp, http};
use tokio::time::timeout;

use super::{payload, roamer::Stage, truth::Outcome};

/// After so long without an answer a publisher gives up, and does not know.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long a keyed publication is repeated.
const REPEATS_WITHIN: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// A way in.
#[derive(Debug, Clone)]
pub enum Way {
    /// Fanfare's HTTP, through the load balancer, under idempotency keys: repeated until stored.
    Keyed(SocketAddr),
    /// The same without keys, and without a second attempt.
    Http(SocketAddr),
    /// Another service's `PUBLISH`, on `raw:<rest of the channel>`.
    Publish(SocketAddr),
    /// Another service's `XADD`, to `log:<rest of the channel>`.
    Xadd(SocketAddr),
    /// Another service's publications to core NATS, which a stream captures; taken once the server
    /// has answered a ping. On the channel's name.
    CoreNats(SocketAddr),
    /// Another service's publications to JetStream, under message ids: repeated, at the next
    /// server, until the stream acknowledges.
    JetStream(Vec<SocketAddr>),
}

/// What the keys of other services' streams begin with.
pub(super) const STREAMS: &str = "log:";

/// One publication on its way.
pub(super) struct Outgoing {
    pub(super) channel: usize,
    pub(super) number: usize,
    data: String,
    /// An earlier attempt may have been stored.
    may_be_stored: bool,
}

type Answer = (Outcome, Option<String>);

/// One publisher; several channels are its own, and it publishes to each in order.
pub(super) struct Publisher {
    stage: Arc<Stage>,
    way: Way,
    redis: Option<Resp>,
    nats: Option<NatsClient>,
    /// How often it went to another server.
    moves: usize,
}

impl Publisher {
    pub(super) fn new(stage: Arc<Stage>, way: Way) -> Self {
        Self {
            stage,
            way,
            redis: None,
            nats: None,
            moves: 0,
        }
    }

    /// Publishes the next event of each channel, and enters how it went.
    pub(super) async fn publish(&mut self, batch: impl IntoIterator<Item = (usize, usize)>) {
        let truth = &self.stage.truth;
        let begin = |(channel, bytes)| {
            let number = truth.begin(channel, payload::length(bytes));
            let data = payload::make(channel, number, bytes);
            Outgoing {
                channel,
                number,
                data,
                may_be_stored: false,
            }
        };
        let mut batch: Vec<Outgoing> = batch.into_iter().map(begin).collect();
        let until = tokio::time::Instant::now() + REPEATS_WITHIN;
        while !batch.is_empty() {
            let answers = self.send(&batch).await;
            if answers
                .iter()
                .any(|(outcome, _)| *outcome != Outcome::Stored)
            {
                tokio::time::sleep(PAUSE).await;
            }
            let may_repeat = matches!(self.way, Way::Keyed(_) | Way::JetStream(_))
                && tokio::time::Instant::now() < until;
            let mut again = Vec::new();
            for (mut outgoing, (mut outcome, id)) in batch.into_iter().zip(answers) {
                outgoing.may_be_stored |= outcome == Outcome::Unknown;
                if may_repeat && outcome != Outcome::Stored {
                    again.push(outgoing);
                } else {
                    if outcome == Outcome::Refused && outgoing.may_be_stored {
                        outcome = Outcome::Unknown;
                    }
                    let truth = &self.stage.truth;
                    truth.end(outgoing.channel, outgoing.number, outcome, id);
                }
            }
            batch = again;
        }
    }

    async fn send(&mut self, batch: &[Outgoing]) -> Vec<Answer> {
        let names = self.stage.truth.channels();
        let mut answers = match &self.way.clone() {
            Way::Keyed(address) => post(*address, names, batch, true).await,
            Way::Http(address) => post(*address, names, batch, false).await,
            Way::Publish(address) | Way::Xadd(address) => {
                let commands = batch
                    .iter()
                    .map(|outgoing| self.command(&names[outgoing.channel], outgoing));
                let commands: Vec<Vec<String>> = commands.collect();
                let mut answers = Vec::new();
                let address = *address;
                let sent = timeout(
                    ANSWER_WITHIN,
                    run(&mut self.redis, address, &commands, &mut answers),
                )
                .await;
                if !matches!(sent, Ok(Ok(()))) {
                    self.redis = None;
                }
                answers
            }
            Way::CoreNats(address) => self.over_nats(*address, batch).await,
            Way::JetStream(addresses) => {
                let address = addresses[self.moves % addresses.len()];
                self.over_nats(address, batch).await
            }
        };
        answers.resize(batch.len(), (Outcome::Unknown, None));
        answers
    }

    /// To NATS, one after the other. What is not answered is not known.
    async fn over_nats(&mut self, address: SocketAddr, batch: &[Outgoing]) -> Vec<Answer> {
        let names = self.stage.truth.channels();
        let with_acknowledgement = matches!(self.way, Way::JetStream(_));
        let nats = &mut self.nats;
        let mut answers = Vec::new();
        let sending = async {
            let nats = match nats {
                Some(nats) => nats,
                None => nats.insert(NatsClient::connect(address).await?),
            };
            for outgoing in batch {
                let subject = &names[outgoing.channel];
                if with_acknowledgement {
                    let key = format!("{}-{}", outgoing.channel, outgoing.number);
                    let headers = [("Nats-Msg-Id", &*key)];
                    let said = nats.request_with(subject, &outgoing.data, &headers).await?;
                    let said: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
                    let outcome = match said["seq"].is_u64() {
                        true => Outcome::Stored,
                        false => Outcome::Unknown,
                    };
                    answers.push((outcome, None));
                } else {
                    nats.publish(subject, &outgoing.data, &[]);
                }
            }
            if !with_acknowledgement {
                nats.flush().await?;
                answers.resize(batch.len(), (Outcome::Stored, None));
            }
            io::Result::Ok(())
        };
        let sent = timeout(ANSWER_WITHIN, sending).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.nats = None;
            self.moves += 1;
        }
        answers
    }

    fn command(&self, channel: &str, outgoing: &Outgoing) -> Vec<String> {
        let rest = channel.split_once('.').map_or(channel, |(_, rest)| rest);
        let data = outgoing.data.clone();
        match self.way {
            Way::Xadd(_) => [
                "XADD".into(),
                format!("{STREAMS}{rest}"),
                "*".into(),
                "payload".into(),
                data,
            ]
            .into(),
            _ => ["PUBLISH".into(), format!("raw:{rest}"), data].into(),
        }
    }
}

/// One command after the other: the bus takes them in this order.
async fn run(
    link: &mut Option<Resp>,
    address: SocketAddr,
    commands: &[Vec<String>],
    answers: &mut Vec<Answer>,
) -> io::Result<()> {
    let link = match link {
        Some(link) => link,
        None => {
            let made = Resp::connect(address).await;
            if made.is_err() {
                // Nothing was sent.
                answers.resize(commands.len(), (Outcome::Refused, None));
            }
            link.insert(made?)
        }
    };
    for command in commands {
        answers.push(match link.command(command).await? {
            Reply::Integer(_) => (Outcome::Stored, None),
            Reply::Bulk(_) => (Outcome::Stored, None),
            // A server that is loading its data, for one.
            _ => (Outcome::Refused, None),
        });
    }
    Ok(())
}

async fn post(
    address: SocketAddr,
    names: &[String],
    batch: &[Outgoing],
    with_keys: bool,
) -> Vec<Answer> {
    let mut lines = String::new();
    for outgoing in batch {
        let (channel, data) = (&names[outgoing.channel], &outgoing.data);
        let key = match with_keys {
            true => format!(r#","key":"{}-{}""#, outgoing.channel, outgoing.number),
            false => String::new(),
        };
        // Writing to a String does not fail.
        let _ = writeln!(lines, r#"{{"channel":"{channel}","data":"{data}"{key}}}"#);
    }
    let url = format!("http://{address}/publish");
    let headers = [("Content-Type", "application/x-ndjson")];
    let request = http::request("POST", &url, &headers, lines.as_bytes());
    let Ok(Ok(reply)) = timeout(ANSWER_WITHIN * 2, request).await else {
        return Vec::new();
    };
    let text = reply.text();
    if reply.status != 200 {
        // One answer for all; the load balancer's own says nothing.
        return vec![outcome(&text); batch.len()];
    }
    text.lines().map(outcome).collect()
}

/// What a result of Fanfare says.
fn outcome(line: &str) -> Answer {
    let result: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let kind = result["type"].as_str().unwrap_or_default();
    let detail = result["detail"].as_str().unwrap_or_default();
    if result["status"] == 201 || result["id"].is_string() {
        (Outcome::Stored, result["id"].as_str().map(str::to_owned))
    } else if kind.starts_with("urn:fanfare:problem:") && !detail.contains("may or may not") {
        (Outcome::Refused, None)
    } else {
        (Outcome::Unknown, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_no_is_a_no() {
        let stored = r#"{"channel":"a","id":"r0.1.5","status":201}"#;
        assert_eq!(outcome(stored), (Outcome::Stored, Some("r0.1.5".into())));
        let unavailable = r#"{"type":"urn:fanfare:problem:broker_unavailable","status":503,"detail":"the bus cannot be reached; nothing was stored"}"#;
        assert_eq!(outcome(unavailable).0, Outcome::Refused);
        let timeout = r#"{"type":"urn:fanfare:problem:broker_unavailable","status":503,"detail":"the bus did not answer in time; a publication may or may not have been stored"}"#;
        assert_eq!(outcome(timeout).0, Outcome::Unknown);
        assert_eq!(outcome("<html>502 Bad Gateway</html>").0, Outcome::Unknown);
        assert_eq!(outcome("").0, Outcome::Unknown);
    }
}
