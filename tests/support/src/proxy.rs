//! A TCP proxy that misbehaves on demand: what networks do to a link.

use std::{borrow::Cow, io, net::SocketAddr, time::Duration};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use crate::{port, resp_frames::Frames};

const CHUNK: usize = 16 << 10;

/// A proxy on a free loopback port in front of one server. It passes everything on until told
/// otherwise. Ended, with all its connections, when dropped.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    task: AbortHandle,
}

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Passage {
    #[default]
    Free,
    /// Each chunk waits so long.
    Delayed(Duration),
    /// Nothing moves; nothing is lost.
    Blocked,
}

/// What the proxy was told so far. Numbers count orders: a connection obeys those that came after
/// it was made.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    passage: Passage,
    cuts: u64,
    tears: u64,
    orphans: u64,
    losses: u64,
}

/// How a connection is to end.
enum End {
    Reset,
    Closed,
    Orphaned,
}

impl TcpProxy {
    /// Starts one in front of a server, which need not be there yet.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start(server: SocketAddr) -> Self {
        Self::launch(server, false).await
    }

    /// Starts one in front of a Redis, which can [`lose`](Self::lose) messages.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start_redis(server: SocketAddr) -> Self {
        Self::launch(server, true).await
    }

    async fn launch(server: SocketAddr, is_redis: bool) -> Self {
        let listener = loop {
            // Another process can take the port first.
            if let Ok(listener) = TcpListener::bind(port::loopback(port::free())).await {
                break listener;
            }
        };
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let (orders, hears) = watch::channel(Orders::default());
        let task = tokio::spawn(accept(listener, server, is_redis, hears)).abort_handle();
        Self {
            address,
            orders,
            task,
        }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection, at both ends. New ones are taken.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Passes one half of the next chunk that each connection gets from the server, then resets it:
    /// a cut in the middle of a message.
    pub fn tear(&self) {
        self.orders.send_modify(|orders| orders.tears += 1);
    }

    /// Loses the server's side of every connection without a word: the client's side stays open,
    /// takes everything, and never answers. New connections are taken.
    pub fn orphan(&self) {
        self.orders.send_modify(|orders| orders.orphans += 1);
    }

    /// Loses the next messages that subscriptions bring, so many on each connection; nothing else
    /// shows. No network does that; a server that forgets to announce would. Only of
    /// [`start_redis`](Self::start_redis).
    pub fn lose(&self, messages: u64) {
        self.orders.send_modify(|orders| orders.losses += messages);
    }

    /// Lets nothing through, in neither direction, on old and new connections: a network that
    /// drops packets. What was sent meanwhile arrives after [`unblock`](Self::unblock).
    pub fn block(&self) {
        self.pass(Passage::Blocked);
    }

    /// Holds each chunk back for so long.
    pub fn delay(&self, by: Duration) {
        self.pass(Passage::Delayed(by));
    }

    /// Ends [`block`](Self::block) and [`delay`](Self::delay).
    pub fn unblock(&self) {
        self.pass(Passage::Free);
    }

    fn pass(&self, passage: Passage) {
        self.orders.send_modify(|orders| orders.passage = passage);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    is_redis: bool,
    hears: watch::Receiver<Orders>,
) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(carry(client, server, is_redis, hears.clone()));
                }
                // Out of descriptors, for one: the next one may go through.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    is_redis: bool,
    hears: watch::Receiver<Orders>,
) {
    let born = *hears.borrow();
    let Ok(mut server) = TcpStream::connect(server).await else {
        reset(&client);
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let answers = Answers {
        tears: born.tears,
        losses: born.losses,
        frames: is_redis.then(Frames::default),
    };
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            end = pump(from_client, to_server, hears.clone(), None) => end,
            end = pump(from_server, to_client, hears.clone(), Some(answers)) => end,
            end = obey(hears.clone(), born) => end,
        }
    };
    match end {
        End::Reset => {
            reset(&client);
            reset(&server);
        }
        End::Closed => {}
        End::Orphaned => {
            drop(server);
            tokio::select! {
                _ = swallow(&mut client) => {}
                _ = obey(hears, born_again(born)) => reset(&client),
            }
        }
    }
}

/// As far as an orphan is concerned: only cuts that come later.
fn born_again(born: Orders) -> Orders {
    Orders {
        orphans: u64::MAX,
        ..born
    }
}

/// Waits for an order that ends the connection.
async fn obey(mut hears: watch::Receiver<Orders>, born: Orders) -> End {
    loop {
        let orders = *hears.borrow_and_update();
        if orders.cuts > born.cuts {
            return End::Reset;
        }
        if orders.orphans > born.orphans {
            return End::Orphaned;
        }
        if hears.changed().await.is_err() {
            return End::Closed;
        }
    }
}

/// What happens to what the server sends, beside its passage.
struct Answers {
    /// How many orders there were when the connection was made, or were obeyed since.
    tears: u64,
    losses: u64,
    frames: Option<Frames>,
}

impl Answers {
    /// What of a chunk goes on, and whether it is torn there.
    fn pass<'a>(&mut self, chunk: &'a [u8], orders: &Orders) -> (Cow<'a, [u8]>, bool) {
        let mut passed = Cow::Borrowed(chunk);
        if let Some(frames) = &mut self.frames {
            let (whole, lost) = frames.take(chunk, orders.losses - self.losses);
            self.losses += lost;
            passed = Cow::Owned(whole);
        }
        let is_torn = orders.tears > self.tears;
        if is_torn {
            let half = passed.len() / 2;
            passed = Cow::Owned(passed[..half].to_vec());
        }
        (passed, is_torn)
    }
}

/// Moves bytes one way until an end comes.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut hears: watch::Receiver<Orders>,
    mut answers: Option<Answers>,
) -> End {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await;
        let bytes = match read {
            Ok(0) => return End::Closed,
            Ok(bytes) => bytes,
            Err(_) => return End::Reset,
        };
        let blocked = |orders: &Orders| orders.passage == Passage::Blocked;
        if hears.wait_for(|orders| !blocked(orders)).await.is_err() {
            return End::Closed;
        }
        let orders = *hears.borrow();
        if let Passage::Delayed(by) = orders.passage {
            tokio::time::sleep(by).await;
        }
        let (passed, is_torn) = match &mut answers {
            Some(answers) => answers.pass(&chunk[..bytes], &orders),
            None => (Cow::Borrowed(&chunk[..bytes]), false),
        };
        if to.write_all(&passed).await.is_err() || is_torn {
            return End::Reset;
        }
    }
}

async fn swallow(client: &mut TcpStream) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while client.read(&mut chunk).await? > 0 {}
    Ok(())
}

/// The drop that follows sends RST in the place of FIN.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
