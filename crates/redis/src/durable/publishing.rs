//! Publishing into one partition: publications in one step, each with its place.

use std::time::SystemTime;

use fanfare_core::{BrokerError, Channel, Epoch, ErrorKind, Publication, RetentionRule};

use super::store::{Seen, Store, millis};
use crate::{
    command::Commands,
    envelope,
    error::{Failure, error},
    reader::Server,
};

/// A publication's place.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) duplicate: bool,
    pub(crate) at: Seen,
}

/// What one publication is to the script.
struct Item<'p> {
    channel: &'p Channel,
    publication: &'p Publication,
    envelope: Vec<u8>,
    rule: &'p RetentionRule,
}

/// The script's word on one: what became of it, and the place, or why there is none.
type Word = (u8, String, String);

const DUPLICATE: u8 = 1;
const REFUSED: u8 = 2;

impl Store {
    /// Stores and announces publications in their order, each for itself.
    pub(crate) async fn publish(
        &self,
        commands: &Commands,
        batch: &[(&Channel, &Publication)],
        seen: &Seen,
    ) -> Vec<Result<Placed, BrokerError>> {
        let items = batch
            .iter()
            .map(|(channel, publication)| self.item(channel, publication));
        let mut items: Vec<Result<Item<'_>, BrokerError>> = items.collect();
        let good: Vec<&Item<'_>> = items.iter().flatten().collect();
        let answer = match good.is_empty() {
            true => Ok((Vec::new(), "".into())),
            false => self.put(commands, &good, seen).await,
        };
        let mut words = match answer {
            Ok((words, run)) => words.into_iter().map(|word| placed(word, &run)).collect(),
            Err(failure) => {
                let failed = || Err(failure.clone().into_error("publishing"));
                std::iter::repeat_with(failed)
                    .take(good.len())
                    .collect::<Vec<_>>()
            }
        }
        .into_iter();
        let silent = || Failure::late().into_error("publishing");
        items
            .drain(..)
            .map(|item| match item {
                Ok(_) => words.next().unwrap_or_else(|| Err(silent())),
                Err(refused) => Err(refused),
            })
            .collect()
    }

    fn item<'p>(
        &'p self,
        channel: &'p Channel,
        publication: &'p Publication,
    ) -> Result<Item<'p>, BrokerError> {
        let (length, most) = (publication.data.len(), self.max_data_bytes);
        if length > most {
            let message = format!("the data has {length} bytes; at most {most} are allowed");
            return Err(error(ErrorKind::TooLarge, message));
        }
        let envelope = envelope::encode(publication, SystemTime::now()).ok_or_else(|| {
            let most = envelope::MAX_HEAD_BYTES;
            let message = format!("the tags have more than {most} bytes");
            error(ErrorKind::TooLarge, message)
        })?;
        Ok(Item {
            channel,
            publication,
            envelope,
            rule: self.retention.rule_of(channel),
        })
    }

    async fn put(
        &self,
        commands: &Commands,
        items: &[&Item<'_>],
        seen: &Seen,
    ) -> Result<(Vec<Word>, std::sync::Arc<str>), Failure> {
        let names = &self.names;
        let announce = |mut link, server: Server| async move {
            let mut call = self.stand_on(&self.scripts.publish, seen, &server.run);
            call.arg(self.max_channels)
                .arg(millis(self.key_window).max(1))
                .arg(names.all(self.partition).unwrap_or_default());
            for item in items {
                let (channel, key) = (item.channel, item.publication.key.as_ref());
                call.key(names.stream(self.partition, channel));
                if let Some(key) = key {
                    call.key(names.idempotency(self.partition, channel, key.as_str()));
                }
                call.arg(channel.as_str())
                    .arg(names.live(self.partition, channel.as_str()))
                    .arg(&item.envelope)
                    .arg(item.publication.weight(channel))
                    .arg(item.rule.max_count)
                    .arg(item.rule.max_bytes)
                    .arg(millis(item.rule.max_age))
                    .arg(u8::from(key.is_some()));
            }
            let words: Vec<Word> = call.invoke_async(&mut link).await?;
            Ok((words, server.run))
        };
        commands.insist(announce).await
    }
}

fn placed((what, epoch, place): Word, run: &std::sync::Arc<str>) -> Result<Placed, BrokerError> {
    if what == REFUSED {
        let why = epoch.strip_prefix("ERR ").unwrap_or(&epoch);
        return Err(Failure::Refused(why.into()).into_error("publishing"));
    }
    let number = |text: &str| {
        let odd = |_| Failure::Unknown("the server's answer is none of ours".into());
        text.parse::<u64>()
            .map_err(|why| odd(why).into_error("publishing"))
    };
    Ok(Placed {
        duplicate: what == DUPLICATE,
        at: Seen {
            epoch: Epoch(number(&epoch)?),
            offset: number(&place)?,
            run: run.clone(),
        },
    })
}
