//! What Redis knows of a recorded log: who may write, and what is written.

use std::{collections::HashMap, fmt, sync::Arc};

use fanfare_core::{Channel, Epoch};
use redis::{Script, ScriptInvocation};

use super::{
    listener::{FREE, HELLO, mark_text},
    message::Message,
    pen::{Place, Write},
    tape::Spot,
};
use crate::{
    command::Commands,
    config::RedisConfig,
    durable::{
        Log,
        names::Names,
        store::{CHANNEL, Seen, millis, script},
    },
    error::Failure,
    reader::Server,
};

/// The only partition of a recorded log.
const PARTITION: usize = 0;

/// A recorded log, for those who record it.
pub(super) struct Ledger {
    log: Log,
    names: Arc<Names>,
    config: RedisConfig,
    /// A link of its own: a batch must not delay publications, nor they it.
    commands: Commands,
    scripts: Scripts,
}

#[derive(Debug)]
struct Scripts {
    attend: Script,
    take: Script,
    record: Script,
    leave: Script,
}

/// What a node learns that wants to be the standby.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attended {
    /// It is the standby.
    pub(super) is_standby: bool,
    /// There is a recorder, dead or alive: its lease has not run out.
    pub(super) has_recorder: bool,
    /// The recorder let go. Otherwise one whose lease has run out may only be slow.
    pub(super) is_free: bool,
    /// Recording has begun, whoever does it now.
    pub(super) has_begun: bool,
}

/// What a recorder begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Taken {
    /// Who writes hands it in; only the newest may write.
    pub(super) token: Arc<str>,
    /// Up to where everything is recorded.
    pub(super) place: Option<Place>,
}

/// How a write went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recorded {
    /// It is in the log, now or since an attempt before.
    Done,
    /// Somebody else records.
    Fenced,
    /// The log knows another place than the write comes after.
    Moved,
}

impl Ledger {
    /// Reaches a log.
    pub(super) fn new(log: Log, commands: Commands, config: RedisConfig) -> Self {
        let scripts = Scripts {
            attend: Script::new(include_str!("../script/attend.lua")),
            take: script(&[include_str!("../script/take.lua")]),
            record: script(&[CHANNEL, include_str!("../script/record.lua")]),
            leave: Script::new(include_str!("../script/leave.lua")),
        };
        Self {
            names: log.store.names.clone(),
            log,
            config,
            commands,
            scripts,
        }
    }

    /// The pub/sub name of marks.
    pub(super) fn marks(names: &Names) -> String {
        names.key(PARTITION, "marks")
    }

    fn leases(&self) -> [String; 2] {
        ["recorder", "standby"].map(|lease| self.names.key(PARTITION, lease))
    }

    /// How long a lease lasts that nobody renews, in milliseconds.
    fn lease(&self) -> u64 {
        millis(self.config.recorder_lease)
    }

    /// Becomes the standby, or stays so, unless another one is.
    pub(super) async fn attend(&self, me: &str) -> Result<Attended, Failure> {
        let mut call = self.scripts.attend.prepare_invoke();
        for lease in self.leases() {
            call.key(lease);
        }
        call.key(self.names.meta(PARTITION))
            .arg(me)
            .arg(self.lease());
        let run = |mut link, _| async move { call.invoke_async(&mut link).await };
        let (is_standby, held, has_begun): (bool, u8, bool) = self.commands.run(run).await?;
        Ok(Attended {
            is_standby,
            has_recorder: held == 1,
            is_free: held == 2 || !has_begun,
            has_begun,
        })
    }

    /// Becomes the recorder; `None` where there is one.
    pub(super) async fn take(&self, me: &str) -> Result<Option<Taken>, Failure> {
        let seen = &self.log.intake.seen();
        let ask = |mut link, server: Server| async move {
            let mut call = self
                .log
                .store
                .stand_on(&self.scripts.take, seen, &server.run);
            for lease in self.leases() {
                call.key(lease);
            }
            call.arg(me).arg(self.lease());
            let answer: (String, String, u64, u64) = call.invoke_async(&mut link).await?;
            Ok((answer, server.run))
        };
        let ((token, place, epoch, offset), run) = self.commands.run(ask).await?;
        if token.is_empty() {
            return Ok(None);
        }
        self.saw(seen, epoch, offset, run);
        Ok(Some(Taken {
            token: token.into(),
            place: Place::parse(&place),
        }))
    }

    fn saw(&self, seen: &Seen, epoch: u64, offset: u64, run: Arc<str>) {
        let now = Seen {
            epoch: Epoch(epoch),
            offset,
            run,
        };
        self.log.intake.saw(seen, now);
    }

    /// Writes, for the holder of a token.
    pub(super) async fn record(
        &self,
        token: &str,
        me: &str,
        write: &Write<Message>,
    ) -> Result<Recorded, Failure> {
        let seen = &self.log.intake.seen();
        let ask = |mut link, server: Server| async move {
            let scripts = &self.scripts;
            let mut call = self.log.store.stand_on(&scripts.record, seen, &server.run);
            self.fill(&mut call, token, me, write);
            let answer: (u8, u64, u64) = call.invoke_async(&mut link).await?;
            Ok((answer, server.run))
        };
        let ((code, epoch, offset), run) = self.commands.run(ask).await?;
        Ok(match code {
            0 | 1 => {
                self.saw(seen, epoch, offset, run);
                Recorded::Done
            }
            2 => Recorded::Fenced,
            _ => Recorded::Moved,
        })
    }

    /// The keys and arguments of `record.lua`.
    fn fill(&self, call: &mut ScriptInvocation<'_>, token: &str, me: &str, write: &Write<Message>) {
        let (names, store) = (&self.names, &self.log.store);
        let mut numbers: HashMap<&Channel, usize> = HashMap::new();
        let mut channels: Vec<&Channel> = Vec::new();
        let numbered = write.messages.iter().map(|message| {
            let channel = &message.channel;
            let number = *numbers.entry(channel).or_insert_with(|| {
                channels.push(channel);
                channels.len()
            });
            (number, message)
        });
        let messages: Vec<_> = numbered.collect();
        let [recorder, _] = self.leases();
        let hole = names.holes().first().filter(|_| write.hole);
        call.key(recorder)
            .arg(token)
            .arg(write.from.as_ref().map_or_else(String::new, Place::to_text))
            .arg(write.to.to_text())
            .arg(me)
            .arg(self.lease())
            .arg(names.live(PARTITION, ""))
            .arg(hole.map_or("", |hole| hole))
            .arg(store.max_channels)
            .arg(names.key(PARTITION, "s:"))
            .arg(channels.len());
        for channel in channels {
            let rule = store.retention.rule_of(channel);
            call.key(names.stream(PARTITION, channel))
                .arg(channel.as_str())
                .arg(rule.max_count)
                .arg(rule.max_bytes)
                .arg(millis(rule.max_age));
        }
        for (number, message) in messages {
            let (envelope, weight) = message.sealed();
            call.arg(number).arg(weight).arg(envelope);
        }
    }

    /// What the holder of a token finds written; `None` where it holds it no more.
    pub(super) async fn place(&self, token: &str) -> Result<Option<Option<Place>>, Failure> {
        let mut ask = redis::cmd("HMGET");
        ask.arg(self.names.meta(PARTITION)).arg(("token", "bus"));
        let run = |mut link, _| async move { ask.query_async(&mut link).await };
        let (newest, place): (Option<String>, Option<String>) = self.commands.run(run).await?;
        let is_ours = newest.as_deref() == Some(token);
        Ok(is_ours.then(|| place.and_then(|place| Place::parse(&place))))
    }

    /// Publishes a mark, for all who listen.
    pub(super) async fn mark(&self, mark: &str, recorded: Option<&Spot>) -> Result<(), Failure> {
        self.tell(&mark_text(mark, recorded)).await
    }

    /// Asks the recorder for a mark.
    pub(super) async fn hello(&self) -> Result<(), Failure> {
        self.tell(HELLO).await
    }

    async fn tell(&self, text: &str) -> Result<(), Failure> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(Self::marks(&self.names)).arg(text);
        let run = |mut link, _| async move { publish.exec_async(&mut link).await };
        self.commands.run(run).await
    }

    /// Lets go of what is held.
    pub(super) async fn leave(&self, me: &str) -> Result<(), Failure> {
        let mut call = self.scripts.leave.prepare_invoke();
        for lease in self.leases() {
            call.key(lease);
        }
        call.arg(me)
            .arg(Self::marks(&self.names))
            .arg(FREE)
            .arg(self.lease() * 10);
        let run = |mut link, _| async move { call.invoke_async::<()>(&mut link).await };
        self.commands.run(run).await
    }

    /// Lets go of the link.
    pub(super) async fn close(&self) {
        self.commands.close().await;
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({})", self.log.store.log)
    }
}

#[cfg(test)]
mod tests;
