//! Drives a shard: inbox, bell, pages and time, each a turn of its own.

use std::{sync::Arc, time::Duration};

use fanfare_core::{Broker, BrokerError, ErrorKind, History, LogId};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::mpsc, time};

use super::{Fetch, Message, Millis, Shard};
use crate::outbox::{Doorbell, Key};

/// How often a shard looks at the time.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// The most messages that are taken in one turn.
const MESSAGES: usize = 64;
/// How long a page of history may take. The broker's own bound is shorter; this one keeps a
/// broker that breaks its word from holding a subscriber for ever.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until the hub is gone.
pub(crate) async fn run(
    mut shard: Shard,
    mut inbox: mpsc::Receiver<Message>,
    doorbell: Arc<Doorbell>,
    broker: Arc<dyn Broker>,
) {
    let began = time::Instant::now();
    let most_calls = shard.config.history_calls.max(1);
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut calls = FuturesUnordered::new();
    let mut messages = Vec::with_capacity(MESSAGES);
    loop {
        tokio::select! {
            count = inbox.recv_many(&mut messages, MESSAGES) => {
                if count == 0 {
                    return;
                }
                shard.set_now(since(began));
                messages.drain(..).for_each(|message| shard.on_message(message));
            }
            Some((key, log, page)) = calls.next(), if !calls.is_empty() => {
                let (key, log, page): (Key, LogId, _) = (key, log, page);
                shard.set_now(since(began));
                shard.on_page(key, &log, page);
            }
            () = doorbell.rung() => {
                shard.set_now(since(began));
                doorbell.take().into_iter().for_each(|key| shard.on_bell(key));
            }
            _ = ticks.tick() => {
                shard.set_now(since(began));
                shard.on_tick();
            }
        }
        shard.flush();
        while calls.len() < most_calls {
            let Some(fetch) = shard.next_fetch() else {
                break;
            };
            calls.push(call(broker.clone(), fetch));
        }
    }
}

async fn call(broker: Arc<dyn Broker>, fetch: Fetch) -> (Key, LogId, Result<History, BrokerError>) {
    let Fetch { key, query } = fetch;
    let log = query.log.clone();
    let page = match time::timeout(PAGE_TIMEOUT, broker.history(query)).await {
        Ok(page) => page,
        Err(_) => Err(BrokerError::new(
            ErrorKind::Timeout,
            "delivery",
            "history did not answer",
        )),
    };
    (key, log, page)
}

fn since(began: time::Instant) -> Millis {
    super::member::millis(began.elapsed())
}
