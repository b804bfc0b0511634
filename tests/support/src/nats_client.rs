//! A NATS client of a few lines: the text protocol itself.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream, ToSocketAddrs,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const HEADER_VERSION: &str = "NATS/1.0\r\n";

/// A connection to NATS that speaks the text protocol itself.
///
/// Source: <https://docs.nats.io/reference/reference-protocols/nats-protocol>.
#[derive(Debug)]
pub struct NatsClient {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// Publications not sent yet.
    outgoing: Vec<u8>,
    requests: u64,
}

/// Publishes one message on a connection of its own; returns once the server has taken it.
///
/// # Errors
/// As [`NatsClient`]'s.
pub async fn nats_pub(
    address: SocketAddr,
    subject: &str,
    payload: impl AsRef<[u8]>,
    headers: &[(&str, &str)],
) -> io::Result<()> {
    let mut client = NatsClient::connect(address).await?;
    client.publish(subject, payload, headers);
    client.flush().await
}

enum Received {
    Pong,
    Message(Vec<u8>),
}

impl NatsClient {
    /// Connects and waits for the server's first answer.
    ///
    /// # Errors
    /// Those of the socket, what the server refuses, and `TimedOut` after 10 s.
    pub async fn connect(address: impl ToSocketAddrs) -> io::Result<Self> {
        let connect = async {
            let mut client = Self::greeting(address).await?;
            client.push(
                "CONNECT {\"verbose\":false,\"pedantic\":true,\"headers\":true,\
                 \"no_responders\":true,\"lang\":\"test\",\"version\":\"0\"}\r\n",
            );
            client.ping().await?;
            Ok(client)
        };
        in_time(connect).await
    }

    /// Connects and waits for the server's first word; nobody has logged in yet.
    pub(crate) async fn greeting(address: impl ToSocketAddrs) -> io::Result<Self> {
        let greeting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            let mut client = Self {
                reader: BufReader::new(reader),
                writer,
                outgoing: Vec::new(),
                requests: 0,
            };
            let hello = client.line().await?;
            if !hello.starts_with("INFO ") {
                return Err(invalid(&hello));
            }
            Ok(client)
        };
        in_time(greeting).await
    }

    /// Adds a message to those that the next [`flush`](Self::flush) sends.
    pub fn publish(&mut self, subject: &str, payload: impl AsRef<[u8]>, headers: &[(&str, &str)]) {
        self.publish_with_reply(subject, "", payload.as_ref(), headers);
    }

    /// Sends what was published and waits until the server has taken it.
    ///
    /// # Errors
    /// Those of the socket, what the server refuses, and `TimedOut` after 10 s.
    pub async fn flush(&mut self) -> io::Result<()> {
        in_time(self.ping()).await
    }

    /// Publishes a request and answers the payload of its reply: JetStream's API, for one
    /// (`$JS.API.STREAM.CREATE.NAME`).
    ///
    /// # Errors
    /// As [`flush`](Self::flush); an empty payload where nobody answers.
    pub async fn request(
        &mut self,
        subject: &str,
        payload: impl AsRef<[u8]>,
    ) -> io::Result<Vec<u8>> {
        self.request_with(subject, payload, &[]).await
    }

    /// The same with headers: a publication that JetStream acknowledges, for one (`Nats-Msg-Id`).
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn request_with(
        &mut self,
        subject: &str,
        payload: impl AsRef<[u8]>,
        headers: &[(&str, &str)],
    ) -> io::Result<Vec<u8>> {
        self.requests += 1;
        let number = self.requests;
        let inbox = format!("_INBOX.{:016x}.{number}", fastrand::u64(..));
        self.push(&format!("SUB {inbox} {number}\r\nUNSUB {number} 1\r\n"));
        self.publish_with_reply(subject, &inbox, payload.as_ref(), headers);
        let answer = async {
            self.send().await?;
            loop {
                if let Received::Message(payload) = self.receive().await? {
                    return Ok(payload);
                }
            }
        };
        in_time(answer).await
    }

    fn publish_with_reply(
        &mut self,
        subject: &str,
        reply: &str,
        payload: &[u8],
        headers: &[(&str, &str)],
    ) {
        let mut head = String::new();
        if !headers.is_empty() {
            head.push_str(HEADER_VERSION);
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
        }
        let total = head.len() + payload.len();
        self.push(&if head.is_empty() {
            format!("PUB {subject} {reply} {total}\r\n")
        } else {
            format!("HPUB {subject} {reply} {} {total}\r\n", head.len())
        });
        self.push(&head);
        self.outgoing.extend_from_slice(payload);
        self.push("\r\n");
    }

    fn push(&mut self, text: &str) {
        self.outgoing.extend_from_slice(text.as_bytes());
    }

    async fn send(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        Ok(())
    }

    async fn ping(&mut self) -> io::Result<()> {
        self.push("PING\r\n");
        self.send().await?;
        while !matches!(self.receive().await?, Received::Pong) {}
        Ok(())
    }

    async fn receive(&mut self) -> io::Result<Received> {
        loop {
            let line = self.line().await?;
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match *words.first().unwrap_or(&"") {
                "PING" => self.writer.write_all(b"PONG\r\n").await?,
                "PONG" => return Ok(Received::Pong),
                "INFO" | "+OK" => {}
                "MSG" => return self.payload(&line, 0, words.last()).await,
                "HMSG" => {
                    let head = words.iter().rev().nth(1).and_then(|word| word.parse().ok());
                    let head = head.ok_or_else(|| invalid(&line))?;
                    return self.payload(&line, head, words.last()).await;
                }
                _ => return Err(invalid(&line)),
            }
        }
    }

    async fn payload(
        &mut self,
        line: &str,
        head: usize,
        total: Option<&&str>,
    ) -> io::Result<Received> {
        let total: usize = total
            .and_then(|word| word.parse().ok())
            .filter(|total| *total >= head)
            .ok_or_else(|| invalid(line))?;
        let mut bytes = vec![0; total + "\r\n".len()];
        self.reader.read_exact(&mut bytes).await?;
        Ok(Received::Message(bytes[head..total].to_vec()))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).await?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn invalid(line: &str) -> io::Error {
    io::Error::other(format!("NATS says {line:?}"))
}
