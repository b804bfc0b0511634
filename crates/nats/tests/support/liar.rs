//! A wire to a server that makes it look like one of three whose leader is behind.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::until;

/// A wire to a server that makes it look like one of three.
pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    lie: Arc<watch::Sender<Lie>>,
    task: JoinHandle<()>,
}

/// What is said.
#[derive(Clone)]
struct Lie {
    leader: &'static str,
    /// The last sequence that there seems to be.
    last: u64,
    /// How many there are behind it.
    hidden: u64,
    /// How often that was told.
    told: usize,
    /// How many connections were cut.
    cut: usize,
}

impl Liar {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lie = Arc::new(watch::Sender::new(Lie {
            leader: "first",
            last: u64::MAX,
            hidden: 0,
            told: 0,
            cut: 0,
        }));
        let said = lie.clone();
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(pass(near, far, said.clone()));
            }
        });
        Self { address, lie, task }
    }

    /// Another leads now, and has nothing after this sequence. Links are cut.
    pub(crate) fn falls_behind(&self, leader: &'static str, last: u64) {
        self.lie.send_modify(|lie| {
            (lie.leader, lie.last) = (leader, last);
            lie.cut += 1;
        });
    }

    /// It has everything again.
    pub(crate) fn catches_up(&self) {
        self.lie
            .send_modify(|lie| (lie.last, lie.hidden) = (u64::MAX, 0));
    }

    /// Waits until it has said several times more where the stream ends, over a while.
    pub(crate) async fn is_asked(&self) {
        let (start, before) = (Instant::now(), self.lie.borrow().told);
        until("it is asked", async || {
            self.lie.borrow().told >= before + 3 && start.elapsed() > Duration::from_secs(1)
        })
        .await;
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(near: TcpStream, far: TcpStream, lie: Arc<watch::Sender<Lie>>) {
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let mut changes = lie.subscribe();
    let cut = changes.borrow_and_update().cut;
    let (mut from_client, to_client) = near.into_split();
    let (from_server, mut to_server) = far.into_split();
    let (frames, arrivals) = mpsc::channel(64);
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = split(from_server, frames) => {}
        () = alter(arrivals, to_client, &lie) => {}
        _ = changes.wait_for(|lie| lie.cut != cut) => {}
    }
}

/// What the server sends: a line, and the message behind it.
type Frame = (String, Vec<u8>);

async fn split(server: OwnedReadHalf, frames: mpsc::Sender<Frame>) {
    let mut server = BufReader::new(server);
    loop {
        let mut line = String::new();
        if server.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let mut payload = Vec::new();
        if line.starts_with("MSG ") || line.starts_with("HMSG ") {
            let length: usize = line.split_whitespace().last().unwrap().parse().unwrap();
            payload.resize(length + 2, 0);
            if server.read_exact(&mut payload).await.is_err() {
                return;
            }
        }
        if frames.send((line, payload)).await.is_err() {
            return;
        }
    }
}

async fn alter(
    mut arrivals: mpsc::Receiver<Frame>,
    mut client: OwnedWriteHalf,
    lie: &watch::Sender<Lie>,
) {
    let mut changes = lie.subscribe();
    let (mut kept, mut silent): (Vec<Frame>, HashSet<String>) = Default::default();
    loop {
        let mut outgoing = Vec::new();
        tokio::select! {
            frame = arrivals.recv() => {
                let Some(frame) = frame else { return };
                let words: Vec<_> = frame.0.split_whitespace().map(str::to_owned).collect();
                let last = lie.borrow().last;
                // A consumer at who is behind says nothing of what comes later.
                let seq = words.get(3).and_then(|reply| {
                    reply.strip_prefix("$JS.ACK.")?.split('.').nth(3)?.parse::<u64>().ok()
                });
                // It took a mark itself.
                let is_mark = words.get(1).is_some_and(|subject| subject.ends_with(".?mark"));
                if seq.is_some_and(|seq| seq > last) && !is_mark {
                    silent.insert(words[2].clone());
                }
                if words.len() > 2 && silent.contains(&words[2]) {
                    kept.push(frame);
                } else {
                    outgoing.push(altered(frame, lie));
                }
            }
            _ = changes.changed() => {
                if changes.borrow_and_update().last == u64::MAX {
                    silent.clear();
                    outgoing.append(&mut kept);
                }
            }
        }
        for (line, payload) in outgoing {
            let bytes = [line.as_bytes(), &payload].concat();
            if client.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

/// The frame, as one of three servers would send it.
fn altered((line, payload): Frame, lie: &watch::Sender<Lie>) -> Frame {
    let Ok(mut answer) = serde_json::from_slice::<Value>(&payload) else {
        return (fewer(line, lie.borrow().hidden), payload);
    };
    if let Some(known) = answer["state"]["last_seq"].as_u64() {
        let Lie { leader, last, .. } = *lie.borrow();
        answer["config"]["num_replicas"] = json!(3);
        answer["state"]["last_seq"] = json!(known.min(last));
        let follows = |name| json!({"name": name, "current": true, "active": 1_000_000});
        answer["cluster"] = json!({"leader": leader, "replicas": [follows("x"), follows("y")]});
        lie.send_if_modified(|lie| {
            lie.told += 1;
            lie.hidden = known.saturating_sub(last);
            false
        });
    } else if let Some(pending) = answer["num_pending"].as_u64() {
        let filter = answer["config"]["filter_subject"].as_str();
        if !filter.is_some_and(|filter| filter.ends_with(".?mark")) {
            answer["num_pending"] = json!(pending.saturating_sub(lie.borrow().hidden));
        }
    } else {
        return (fewer(line, lie.borrow().hidden), payload);
    }
    let payload = format!("{answer}\r\n").into_bytes();
    let head = line.trim_end().rsplit_once(' ').unwrap().0;
    (format!("{head} {}\r\n", payload.len() - 2), payload)
}

/// A delivered message's line says how many more there are.
fn fewer(line: String, hidden: u64) -> String {
    let reply = line.split(' ').nth(3).filter(|r| r.starts_with("$JS.ACK."));
    let Some((reply, (head, pending))) = reply.and_then(|r| Some((r, r.rsplit_once('.')?))) else {
        return line;
    };
    let pending: u64 = pending.parse().unwrap();
    let less = format!("{head}.{}", pending.saturating_sub(hidden));
    line.replacen(reply, &less, 1)
}
