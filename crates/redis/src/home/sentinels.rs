//! A primary that sentinels name.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use redis::{Client, Pipeline, RedisResult, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::login::{Address, Login};
use crate::{command, error::Failure};

/// How long an answer counts: all links of a node ask at about the same time.
const FRESH: Duration = Duration::from_millis(250);
/// How long the rest is waited for once more than half of them have answered.
const REST: Duration = Duration::from_millis(100);

/// Sentinels, and the primary that they name.
pub(crate) struct Sentinels {
    /// What they call the primary.
    master: String,
    sentinels: Vec<Client>,
    pub(super) login: Login,
    patience: Duration,
    named: Mutex<Option<Address>>,
    // Held over asking, which `patience` bounds, so that one asks for all.
    asked: tokio::sync::Mutex<Asked>,
}

struct Asked {
    at: Option<Instant>,
    /// Of the word that counts.
    epoch: u64,
    links: Vec<Option<MultiplexedConnection>>,
}

/// A sentinel's word.
struct Word {
    /// It rises with each failover.
    epoch: u64,
    primary: Address,
}

impl Sentinels {
    pub(super) fn new(
        master: String,
        sentinels: Vec<Client>,
        login: Login,
        patience: Duration,
    ) -> Self {
        let links = sentinels.iter().map(|_| None).collect();
        Self {
            master,
            sentinels,
            login,
            patience,
            named: Mutex::new(None),
            asked: tokio::sync::Mutex::new(Asked {
                at: None,
                epoch: 0,
                links,
            }),
        }
    }

    /// The primary as it was last named.
    pub(super) fn named(&self) -> Option<Address> {
        self.named.lock().clone()
    }

    /// Asks all of them. Who has seen the newest failover is right: one that is cut off from the
    /// others goes on naming the old primary. Unless all of them say so, there is no way back to
    /// before a failover that was heard of.
    pub(super) async fn ask(&self) -> Result<Address, Failure> {
        let mut asked = self.asked.lock().await;
        if asked.at.is_some_and(|at| at.elapsed() < FRESH)
            && let Some(named) = self.named()
        {
            return Ok(named);
        }
        let links = std::mem::take(&mut asked.links);
        let mut answers: FuturesUnordered<_> = self
            .sentinels
            .iter()
            .zip(links)
            .enumerate()
            .map(|(index, (client, link))| async move {
                let answer = timeout(self.patience, self.ask_one(client, link)).await;
                (index, answer.unwrap_or_else(|_| Err(Failure::late())))
            })
            .collect();
        let all = self.sentinels.len();
        asked.links = vec![None; all];
        let (mut newest, mut heard): (Option<Word>, usize) = (None, 0);
        let mut why = Failure::Down("no sentinel answers".into());
        loop {
            let patience = if heard * 2 > all { REST } else { self.patience };
            let Ok(Some((index, answer))) = timeout(patience, answers.next()).await else {
                break;
            };
            match answer {
                Ok((word, link)) => {
                    heard += 1;
                    asked.links[index] = Some(link);
                    if newest
                        .as_ref()
                        .is_none_or(|newest| word.epoch > newest.epoch)
                    {
                        newest = Some(word);
                    }
                }
                Err(failure) => why = failure,
            }
        }
        let word = newest.ok_or(why)?;
        if word.epoch < asked.epoch
            && heard < all
            && let Some(named) = self.named()
        {
            asked.at = Some(Instant::now());
            return Ok(named);
        }
        asked.epoch = word.epoch;
        *self.named.lock() = Some(word.primary.clone());
        asked.at = Some(Instant::now());
        Ok(word.primary)
    }

    async fn ask_one(
        &self,
        client: &Client,
        link: Option<MultiplexedConnection>,
    ) -> Result<(Word, MultiplexedConnection), Failure> {
        let mut link = match link {
            Some(link) => link,
            None => command::connect(client, |_| Ok(()), self.patience).await?,
        };
        // While replicas still turn to the new primary, the epoch is the new one and the fields name
        // the old primary: the address is asked for by itself, and after the epoch.
        let mut ask = Pipeline::new();
        for word in ["MASTER", "GET-MASTER-ADDR-BY-NAME"] {
            ask.cmd("SENTINEL").arg(word).arg(&self.master);
        }
        type Answer = (HashMap<String, String>, Option<(String, u16)>);
        let answer: RedisResult<Answer> = ask.query_async(&mut link).await;
        let (fields, primary) = match answer {
            Ok(answer) => answer,
            Err(error) if error.to_string().contains("No such master") => {
                let why =
                    "the sentinels know no primary of the name in broker.redis.sentinel.master";
                return Err(Failure::Refused(why.into()));
            }
            Err(error) => return Err(Failure::of_answer(&error)),
        };
        let none = || Failure::Down("a sentinel names no primary".into());
        let (host, port) = primary.ok_or_else(none)?;
        let epoch = fields.get("config-epoch");
        let word = Word {
            epoch: epoch
                .and_then(|epoch| epoch.parse().ok())
                .unwrap_or_default(),
            primary: Address::new(&host, port),
        };
        Ok((word, link))
    }
}
