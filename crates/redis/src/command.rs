//! The link for commands: publishing and canaries. It is made when it is needed.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisResult, aio::MultiplexedConnection,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{config::RedisConfig, connection::Backoff, error::Failure, reader::Server};

/// The link for commands.
pub(crate) struct Commands {
    client: Client,
    connect_timeout: Duration,
    command_timeout: Duration,
    // Held over making a link, so that one is made at a time; the wait is bounded by
    // `connect_timeout`.
    slot: Mutex<Slot>,
}

struct Slot {
    link: Option<Link>,
    backoff: Backoff,
    /// After a failure: when the next attempt may be, and what callers are told until then.
    failed: Option<(Instant, Failure)>,
}

#[derive(Clone)]
struct Link {
    connection: MultiplexedConnection,
    server: Server,
    alive: Arc<AtomicBool>,
}

impl Commands {
    pub(crate) fn new(client: Client, config: &RedisConfig) -> Self {
        Self {
            client,
            connect_timeout: config.connect_timeout,
            command_timeout: config.command_timeout,
            slot: Mutex::new(Slot {
                link: None,
                backoff: Backoff::new(config.reconnect_delay),
                failed: None,
            }),
        }
    }

    /// Makes the link, if there is none.
    pub(crate) async fn ready(&self) -> Result<(), Failure> {
        self.link().await.map(|_| ())
    }

    /// Runs a command, which learns which server it runs on. Dropping the call's future leaves it
    /// unknown whether it was run.
    pub(crate) async fn run<T, F>(
        &self,
        command: impl FnOnce(MultiplexedConnection, Server) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let link = self.link().await?;
        let running = command(link.connection, link.server);
        match timeout(self.command_timeout, running).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error.is_unrecoverable_error() {
                    link.alive.store(false, Ordering::Relaxed);
                }
                Err(Failure::of_answer(&error))
            }
            Err(_) => {
                // The server may stand still; the next command asks on a new link, whose log-in
                // must be answered.
                link.alive.store(false, Ordering::Relaxed);
                Err(Failure::late())
            }
        }
    }

    /// Lets go of the link.
    pub(crate) async fn close(&self) {
        self.slot.lock().await.link = None;
    }

    async fn link(&self) -> Result<Link, Failure> {
        let mut slot = self.slot.lock().await;
        if let Some(link) = &slot.link
            && link.alive.load(Ordering::Relaxed)
        {
            return Ok(link.clone());
        }
        slot.link = None;
        if let Some((until, failure)) = &slot.failed
            && Instant::now() < *until
        {
            return Err(failure.clone());
        }
        match self.connect().await {
            Ok(link) => {
                slot.link = Some(link.clone());
                slot.failed = None;
                slot.backoff.reset();
                Ok(link)
            }
            Err(failure) => {
                let until = Instant::now() + slot.backoff.next();
                slot.failed = Some((until, failure.clone()));
                Err(failure)
            }
        }
    }

    async fn connect(&self) -> Result<Link, Failure> {
        let alive = Arc::new(AtomicBool::new(true));
        let seen = alive.clone();
        // An EOF between two commands is seen at once, and the second finds a new link.
        let watch = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                seen.store(false, Ordering::Relaxed);
            }
            Ok::<_, std::convert::Infallible>(())
        };
        let mut connection = connect(&self.client, watch, self.connect_timeout).await?;
        let asked = timeout(self.command_timeout, identify(&mut connection)).await;
        let server = asked.unwrap_or_else(|_| Err(Failure::late()))?;
        Ok(Link {
            connection,
            server,
            alive,
        })
    }
}

/// Makes a link; the time covers the server's answer to the log-in.
pub(crate) async fn connect(
    client: &Client,
    on_push: impl Fn(PushInfo) -> Result<(), std::convert::Infallible> + Send + Sync + 'static,
    patience: Duration,
) -> Result<MultiplexedConnection, Failure> {
    // Answers are timed by the callers, who know better.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(on_push);
    match timeout(
        patience,
        client.get_multiplexed_async_connection_with_config(&config),
    )
    .await
    {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(Failure::of_connecting(&error)),
        Err(_) => Err(Failure::Down(
            "the server did not answer the log-in in time".into(),
        )),
    }
}

/// Asks who is at the other end.
pub(crate) async fn identify(link: &mut MultiplexedConnection) -> Result<Server, Failure> {
    let answer: RedisResult<String> = redis::cmd("INFO").arg("server").query_async(link).await;
    let text = match answer {
        Ok(text) => text,
        Err(error) if error.is_unrecoverable_error() => return Err(Failure::of_answer(&error)),
        // A user may be forbidden to ask. What depends on the answer does less then.
        Err(_) => String::new(),
    };
    let field = |name: &str| -> Arc<str> {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().into()
    };
    Ok(Server {
        run: field("run_id"),
        version: field("redis_version"),
    })
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Commands")
    }
}
