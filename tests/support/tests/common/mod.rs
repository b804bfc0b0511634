//! A small HTTP server whose answers a test writes byte by byte.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(
    clippy::unwrap_used,
    reason = "a part of tests, outside of their functions"
)]

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Answers every connection with the next answer of its list; the last one again and again.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    /// The requests so far, heads and bodies.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

/// What a connection gets: bytes to write, after which it is closed or left open.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) then_close: bool,
}

pub(crate) fn answer(text: impl Into<Vec<u8>>) -> Answer {
    Answer {
        bytes: text.into(),
        then_close: true,
    }
}

impl Answer {
    pub(crate) fn stays_open(mut self) -> Self {
        self.then_close = false;
        self
    }
}

impl Scripted {
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        let log = requests.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Each on its own: browsers open connections that they do not use yet.
                tokio::spawn(serve(stream, answers.clone(), log.clone()));
            }
        });
        Self { address, requests }
    }
}

async fn serve(
    mut stream: TcpStream,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    log: Arc<Mutex<Vec<String>>>,
) {
    // A probe of a load balancer sends nothing, and gets no answer of the list.
    let Some(request) = read_request(&mut stream).await else {
        return;
    };
    let next = {
        let mut answers = answers.lock();
        let next = answers.pop_front().unwrap();
        if answers.is_empty() {
            answers.push_back(next.clone());
        }
        next
    };
    log.lock().push(request);
    stream.write_all(&next.bytes).await.unwrap();
    if !next.then_close {
        std::future::pending::<()>().await;
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .split("Content-Length: ")
                .nth(1)
                .map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
            if body.len() >= length {
                return Some(text.into_owned());
            }
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return None;
        }
    }
}
