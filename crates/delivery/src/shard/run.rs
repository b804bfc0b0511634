//! Drives a shard: inbox, bell, sockets, pages and time, each a turn of its own.

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use fanfare_core::{Broker, BrokerError, ErrorKind, History, LogId};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc::{self, error::TryRecvError},
    task::yield_now,
    time,
};

use super::{Fetch, Message, Millis, Poller, Shard, poller::Ready};
use crate::outbox::{Doorbell, Key};

/// How often a shard looks at the time.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// The most messages that are taken in one turn.
const MESSAGES: usize = 64;
/// After so many frames were handed to members no further message is taken in this turn: some
/// milliseconds. A message holds a feed's batch, which is bounded too.
const HANDED_OVER: u64 = 1 << 18;
/// The most pages of history that are taken in one turn, each by one subscriber.
const PAGES: usize = 4;
/// The most members that are written to before others have their turn: about a millisecond.
const SLICE: usize = 256;
/// How long a page of history may take. The broker's own bound is shorter; this one keeps a
/// broker that breaks its word from holding a subscriber for ever.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until the hub is gone. Without a poller it takes no sockets.
pub(crate) async fn run(
    mut shard: Shard,
    mut inbox: mpsc::Receiver<Message>,
    doorbell: Arc<Doorbell>,
    mut poller: Option<Poller>,
    broker: Arc<dyn Broker>,
) {
    let began = time::Instant::now();
    let most_calls = shard.config.history_calls.max(1);
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut calls = FuturesUnordered::new();
    let mut messages: VecDeque<Message> = VecDeque::with_capacity(MESSAGES);
    let mut sockets: Vec<Ready> = Vec::new();
    let mut pages: VecDeque<Page> = VecDeque::new();
    loop {
        let (mut ticked, mut polled, mut ended) = (false, Ok(()), false);
        if shard.is_settled() && pages.is_empty() && messages.is_empty() {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => messages.push_back(message),
                    None => ended = true,
                },
                Some(page) = calls.next(), if !calls.is_empty() => pages.push_back(page),
                () = doorbell.rung() => {}
                done = poll(&mut poller, &mut sockets) => polled = done,
                _ = ticks.tick() => ticked = true,
                () = until(began, shard.next_due()) => {}
            }
        } else {
            // Between two slices of a fan-out whatever else the runtime has gets its turn.
            yield_now().await;
        }
        // All of what is there goes into this turn: what goes to the same socket goes at once, and
        // a fan-out under way holds up nothing else.
        while messages.len() < MESSAGES && !shard.is_full() {
            match inbox.try_recv() {
                Ok(message) => messages.push_back(message),
                Err(error) => {
                    ended |= error == TryRecvError::Disconnected;
                    break;
                }
            }
        }
        while pages.len() < PAGES
            && let Some(Some(page)) = calls.next().now_or_never()
        {
            pages.push_back(page);
        }
        if sockets.is_empty()
            && let Some(done) = poll(&mut poller, &mut sockets).now_or_never()
        {
            polled = polled.and(done);
        }
        ticked |= ticks.tick().now_or_never().is_some();

        shard.set_now(since(began));
        // What was handed over is counted anew each turn.
        while !shard.is_full()
            && !shard.has_handed_over(HANDED_OVER)
            && let Some(message) = messages.pop_front()
        {
            shard.on_message(message);
        }
        if let Some(poller) = &poller {
            watch_arrivals(&mut shard, poller);
        }
        for _ in 0..PAGES {
            let Some((key, log, page)) = next_page(&mut pages) else {
                break;
            };
            shard.on_page(key, &log, page);
        }
        for key in doorbell.take() {
            shard.on_bell(key);
        }
        for Ready {
            slot,
            readable,
            writable,
        } in sockets.drain(..)
        {
            shard.on_socket(slot, readable, writable);
        }
        if let Err(error) = polled {
            tracing::error!(%error, "sockets cannot be watched any more");
            shard.on_message(Message::Cut);
            poller = None;
        }
        if ticked {
            shard.on_tick();
        }
        if ended && messages.is_empty() {
            // The last words, to whoever takes them at once.
            shard.release_all();
            while !shard.is_settled() {
                shard.flush(usize::MAX);
            }
            return;
        }
        shard.flush(SLICE);
        while calls.len() < most_calls {
            let Some(fetch) = shard.next_fetch() else {
                break;
            };
            calls.push(call(broker.clone(), fetch));
        }
    }
}

/// A page, and who waits for it.
struct Page {
    keys: std::vec::IntoIter<Key>,
    log: LogId,
    page: Result<History, BrokerError>,
}

/// A page for the next subscriber that waits for one.
fn next_page(pages: &mut VecDeque<Page>) -> Option<(Key, LogId, Result<History, BrokerError>)> {
    loop {
        let next = pages.front_mut()?;
        if let Some(key) = next.keys.next() {
            return Some((key, next.log.clone(), next.page.clone()));
        }
        pages.pop_front();
    }
}

/// Waits for sockets that are ready; without a poller for ever.
async fn poll(poller: &mut Option<Poller>, sockets: &mut Vec<Ready>) -> io::Result<()> {
    match poller {
        Some(poller) => poller.ready(sockets).await,
        None => std::future::pending().await,
    }
}

fn watch_arrivals(shard: &mut Shard, poller: &Poller) {
    let watch = |(slot, socket)| poller.watch(socket, slot).err().map(|error| (slot, error));
    let failed: Vec<_> = shard.arrivals().filter_map(watch).collect();
    for (slot, error) in failed {
        tracing::warn!(%error, "a socket cannot be watched");
        shard.on_unwatchable(slot);
    }
}

async fn call(broker: Arc<dyn Broker>, fetch: Fetch) -> Page {
    let Fetch { keys, query } = fetch;
    let log = query.log.clone();
    let page = match time::timeout(PAGE_TIMEOUT, broker.history(query)).await {
        Ok(page) => page,
        Err(_) => Err(BrokerError::new(
            ErrorKind::Timeout,
            "delivery",
            "history did not answer",
        )),
    };
    Page {
        keys: keys.into_iter(),
        log,
        page,
    }
}

/// Waits for a time of the shard's; without one for ever.
async fn until(began: time::Instant, due: Option<Millis>) {
    match due {
        Some(due) => time::sleep_until(began + Duration::from_millis(due)).await,
        None => std::future::pending().await,
    }
}

fn since(began: time::Instant) -> Millis {
    super::member::millis(began.elapsed())
}
