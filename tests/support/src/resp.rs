//! A Redis client of a few lines: the wire protocol itself, binary-safe and pipelined.

use std::io;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream, ToSocketAddrs,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The largest reply that is read: Redis's own bound of a string, 512 MiB.
const MAX_BULK_BYTES: usize = 512 << 20;

/// A connection to Redis that speaks the wire protocol (RESP2) itself.
#[derive(Debug)]
pub struct Resp {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status, such as `OK`.
    Status(String),
    /// An error, beginning with its kind.
    Error(String),
    /// A number.
    Integer(i64),
    /// A string.
    Bulk(Vec<u8>),
    /// No value.
    Nil,
    /// Several replies.
    Array(Vec<Reply>),
}

impl Resp {
    /// Connects.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn connect(address: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self {
            reader: BufReader::new(reader),
            writer,
        })
    }

    /// Sends one command and reads its reply.
    ///
    /// # Errors
    /// Those of the socket, and `InvalidData` where the reply is not RESP2. An error that Redis
    /// answers is a [`Reply`].
    pub async fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Reply> {
        let mut command = Vec::new();
        encode(&mut command, arguments);
        self.writer.write_all(&command).await?;
        read_reply(&mut self.reader).await
    }

    /// Publishes each payload on its channel, all in one pipeline. Answers to how many
    /// subscribers each one went.
    ///
    /// # Errors
    /// Those of the socket, and any answer that is no number.
    pub async fn publish_all<C: AsRef<[u8]>, P: AsRef<[u8]>>(
        &mut self,
        publications: impl IntoIterator<Item = (C, P)>,
    ) -> io::Result<Vec<i64>> {
        let mut commands = Vec::new();
        let mut count = 0;
        for (channel, payload) in publications {
            encode(
                &mut commands,
                &[b"PUBLISH", channel.as_ref(), payload.as_ref()],
            );
            count += 1;
        }
        // Both at once: replies nobody reads would in the end keep Redis from reading.
        let read = async {
            let mut receivers = Vec::with_capacity(count);
            for _ in 0..count {
                match read_reply(&mut self.reader).await? {
                    Reply::Integer(number) => receivers.push(number),
                    other => return Err(io::Error::other(format!("PUBLISH answers {other:?}"))),
                }
            }
            Ok(receivers)
        };
        let (_, receivers) = tokio::try_join!(self.writer.write_all(&commands), read)?;
        Ok(receivers)
    }

    /// Reads what Redis sends by itself: messages after a `SUBSCRIBE`.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub async fn next(&mut self) -> io::Result<Reply> {
        read_reply(&mut self.reader).await
    }
}

fn encode<A: AsRef<[u8]>>(out: &mut Vec<u8>, arguments: &[A]) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

async fn read_reply(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Reply> {
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let line = line
        .strip_suffix("\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("no RESP2: {line:?}"));
    let (kind, rest) = line.split_at_checked(1).ok_or_else(invalid)?;
    let number = || rest.parse::<i64>().map_err(|_| invalid());
    match kind {
        "+" => Ok(Reply::Status(rest.into())),
        "-" => Ok(Reply::Error(rest.into())),
        ":" => Ok(Reply::Integer(number()?)),
        "$" | "*" if number()? < 0 => Ok(Reply::Nil),
        "$" => {
            let length = usize::try_from(number()?).map_err(|_| invalid())?;
            if length > MAX_BULK_BYTES {
                return Err(invalid());
            }
            let mut bytes = vec![0; length + "\r\n".len()];
            reader.read_exact(&mut bytes).await?;
            bytes.truncate(length);
            Ok(Reply::Bulk(bytes))
        }
        "*" => {
            let mut replies = Vec::new();
            for _ in 0..number()? {
                replies.push(Box::pin(read_reply(reader)).await?);
            }
            Ok(Reply::Array(replies))
        }
        _ => Err(invalid()),
    }
}
