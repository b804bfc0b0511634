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
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError, RedisResult,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use crate::{
    config::RedisConfig,
    connection::Backoff,
    error::Failure,
    home::{Address, Home},
    reader::Server,
};

/// The longest wait between two attempts of a command whose server is changing.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// The link for commands.
pub(crate) struct Commands {
    home: Home,
    command_timeout: Duration,
    // Held over making a link, so that one is made at a time; the wait is bounded by the home's
    // timeouts.
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
    at: Address,
    alive: Arc<AtomicBool>,
}

impl Commands {
    pub(crate) fn new(home: Home, config: &RedisConfig) -> Self {
        Self {
            home,
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
                let error = first(error);
                let failure = Failure::of_answer(&error);
                let is_elsewhere = matches!(failure, Failure::Moving(_));
                if is_elsewhere {
                    self.home.redirect(&error);
                }
                // TRYAGAIN comes from the right server.
                let is_there = error.code() == Some("TRYAGAIN");
                if error.is_unrecoverable_error() || is_elsewhere && !is_there {
                    link.alive.store(false, Ordering::Relaxed);
                }
                Err(failure)
            }
            Err(_) => {
                // The server may stand still; the next command asks on a new link, whose log-in
                // must be answered.
                link.alive.store(false, Ordering::Relaxed);
                Err(Failure::late())
            }
        }
    }

    /// Runs a command; again, for as long as an answer may take, while its server is changing and
    /// nothing was done.
    pub(crate) async fn insist<T, F>(
        &self,
        command: impl Fn(MultiplexedConnection, Server) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let until = Instant::now() + self.command_timeout;
        let mut backoff = Backoff::new(LONGEST_WAIT);
        loop {
            let answer = self.run(&command).await;
            let wait = backoff.next();
            if !matches!(answer, Err(Failure::Moving(_))) || Instant::now() + wait >= until {
                return answer;
            }
            sleep(wait).await;
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
            && self.home.is_current(&link.at)
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
        let met = self.home.connect(watch).await?;
        Ok(Link {
            connection: met.connection,
            server: met.server,
            at: met.at,
            alive,
        })
    }
}

/// A pipeline's error is those of its commands: the first one.
pub(crate) fn first(error: RedisError) -> RedisError {
    let all = error.clone().into_server_errors();
    let first = all.and_then(|errors| Some(errors.first()?.1.clone().into()));
    first.unwrap_or(error)
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
        mode: field("redis_mode"),
    })
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Commands")
    }
}
