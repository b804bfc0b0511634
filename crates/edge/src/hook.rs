//! An embedder's own say: who may follow, what is published, who has left.

use std::{fmt, future::Future, net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use fanfare_core::{Channel, Pattern, Publication};
use futures_util::FutureExt;
use http::HeaderMap;
use tokio::{runtime, sync::Semaphore, time};

use crate::{auth::Identity, problem::Refusal};

/// The most `on_close` calls under way at once; further ones are left out and counted in the log.
const MAX_CLOSING: usize = 1024;

/// An embedder's own say. Every call has a timeout (`server.hook_timeout`); one that is over, or
/// a panic, refuses the request: a hook that does not answer has not said yes.
#[async_trait]
pub trait Hook: fmt::Debug + Send + Sync + 'static {
    /// Asked after the grant was checked and before the client is served.
    ///
    /// # Errors
    /// The answer that the client gets.
    async fn on_subscribe(&self, context: &SubscribeContext<'_>) -> Result<Admission, Refusal> {
        let _ = context;
        Ok(Admission::Allow)
    }

    /// Asked after the grant was checked and before the broker; may change the publication.
    ///
    /// # Errors
    /// The answer that the publisher gets.
    async fn on_publish(
        &self,
        context: &PublishContext<'_>,
        publication: &mut Publication,
    ) -> Result<(), Refusal> {
        let _ = (context, publication);
        Ok(())
    }

    /// Told after a stream or poll that was served has ended. It cannot be relied on: a process
    /// that dies tells nothing.
    async fn on_close(&self, context: &CloseContext) {
        let _ = context;
    }
}

/// A hook's yes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Admission {
    /// As it was asked.
    Allow,
    /// Only these, each covered by a channel or pattern that was asked for.
    Narrow(Vec<Pattern>),
}

/// Who wants to follow what.
#[derive(Debug)]
#[non_exhaustive]
pub struct SubscribeContext<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// From where, proxies seen through.
    pub address: IpAddr,
    /// What.
    pub channels: &'a [Pattern],
    /// The request's headers. They hold the token.
    pub headers: &'a HeaderMap,
}

/// Who wants to publish where.
#[derive(Debug)]
#[non_exhaustive]
pub struct PublishContext<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// From where, proxies seen through.
    pub address: IpAddr,
    /// On which channel.
    pub channel: &'a Channel,
    /// The request's headers. They hold the token.
    pub headers: &'a HeaderMap,
}

/// Who has left.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CloseContext {
    /// Who.
    pub identity: Identity,
    /// What was followed.
    pub channels: Arc<[Pattern]>,
    /// For how long.
    pub age: Duration,
}

/// The hooks of an edge, asked in the order they were given. A clone is the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Hooks {
    shared: Arc<Shared>,
    retry_after: Duration,
}

#[derive(Debug)]
struct Shared {
    hooks: Vec<Arc<dyn Hook>>,
    timeout: Duration,
    closing: Semaphore,
}

impl Hooks {
    pub(crate) fn new(hooks: Vec<Arc<dyn Hook>>, timeout: Duration, retry_after: Duration) -> Self {
        let closing = Semaphore::new(MAX_CLOSING);
        Self {
            shared: Arc::new(Shared {
                hooks,
                timeout,
                closing,
            }),
            retry_after,
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.hooks.is_empty()
    }

    /// The same hooks, whose refusals name another time to come back.
    pub(crate) fn with_retry(&self, retry_after: Duration) -> Self {
        Self {
            retry_after,
            ..self.clone()
        }
    }

    /// Asks every hook; answers what may be followed.
    pub(crate) async fn subscribe(
        &self,
        identity: &Identity,
        address: IpAddr,
        headers: &HeaderMap,
        mut channels: Vec<Pattern>,
    ) -> Result<Vec<Pattern>, Refusal> {
        for hook in &self.shared.hooks {
            let context = SubscribeContext {
                identity,
                address,
                channels: &channels,
                headers,
            };
            let admission = self.asked(hook.on_subscribe(&context)).await??;
            if let Admission::Narrow(narrowed) = admission {
                channels = narrow(&channels, narrowed)?;
            }
        }
        Ok(channels)
    }

    /// Asks every hook about a publication.
    pub(crate) async fn publish(
        &self,
        context: PublishContext<'_>,
        publication: &mut Publication,
    ) -> Result<(), Refusal> {
        for hook in &self.shared.hooks {
            self.asked(hook.on_publish(&context, publication)).await??;
        }
        Ok(())
    }

    async fn asked<T>(&self, call: impl Future<Output = T>) -> Result<T, Refusal> {
        let answer = self.shared.guarded(call).await;
        answer.map_err(|detail| Refusal::HookFailed {
            detail,
            retry_after: self.retry_after,
        })
    }

    /// Tells every hook, in a task of its own.
    pub(crate) fn closed(&self, identity: Identity, channels: Arc<[Pattern]>, age: Duration) {
        // Streams are dropped inside the runtime; after it there is nobody left to tell.
        let Ok(runtime) = runtime::Handle::try_current() else {
            return;
        };
        let shared = self.shared.clone();
        runtime.spawn(async move {
            let Ok(_slot) = shared.closing.try_acquire() else {
                tracing::warn!("on_close was left out: {MAX_CLOSING} calls are under way");
                return;
            };
            let context = CloseContext {
                identity,
                channels,
                age,
            };
            for hook in &shared.hooks {
                let _ = shared.guarded(hook.on_close(&context)).await;
            }
        });
    }
}

impl Shared {
    /// A hook's answer, unless it takes too long or panics.
    async fn guarded<T>(&self, call: impl Future<Output = T>) -> Result<T, &'static str> {
        match time::timeout(self.timeout, AssertUnwindSafe(call).catch_unwind()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => {
                tracing::error!("a hook panicked");
                Err("a hook of this server failed")
            }
            Err(_) => {
                tracing::error!(timeout = ?self.timeout, "a hook did not answer in time");
                Err("a hook of this server did not answer in time")
            }
        }
    }
}

fn narrow(asked: &[Pattern], narrowed: Vec<Pattern>) -> Result<Vec<Pattern>, Refusal> {
    let within = |pattern: &Pattern| asked.iter().any(|wide| wide.covers(pattern));
    if !narrowed.iter().all(within) {
        return Err(Refusal::Internal {
            detail: "a hook widened what was asked for",
        });
    }
    if narrowed.is_empty() {
        return Err(Refusal::denied("nothing of what was asked for is allowed"));
    }
    Ok(narrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    enum Does {
        Narrow(&'static str),
        Panic,
        Hang,
    }

    #[async_trait]
    impl Hook for Does {
        async fn on_subscribe(&self, _: &SubscribeContext<'_>) -> Result<Admission, Refusal> {
            match self {
                Self::Narrow("") => Ok(Admission::Narrow(vec![])),
                Self::Narrow(to) => Ok(Admission::Narrow(vec![Pattern::parse(to).unwrap()])),
                Self::Panic => panic!("as the test asks"),
                Self::Hang => std::future::pending().await,
            }
        }
    }

    async fn asked(hooks: Vec<Does>) -> Result<Vec<Pattern>, Refusal> {
        let hooks = hooks.into_iter().map(|hook| Arc::new(hook) as _).collect();
        let hooks = Hooks::new(hooks, Duration::from_secs(2), Duration::from_secs(1));
        let channels = vec![Pattern::parse("a.*").unwrap(), Pattern::parse("b").unwrap()];
        let address = [127, 0, 0, 1].into();
        hooks
            .subscribe(&Identity::nobody(), address, &HeaderMap::new(), channels)
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_narrows_and_never_widens_hangs_or_breaks_the_edge() {
        assert_eq!(
            asked(vec![Does::Narrow("a.x")]).await.unwrap()[0].as_str(),
            "a.x"
        );
        assert_eq!(asked(vec![]).await.unwrap().len(), 2);
        let status = |refusal: Refusal| refusal.problem().status;
        let twice = vec![Does::Narrow("a.x"), Does::Narrow("b")];
        assert_eq!(status(asked(twice).await.unwrap_err()), 500);
        assert_eq!(
            status(asked(vec![Does::Narrow("a.>")]).await.unwrap_err()),
            500
        );
        assert_eq!(
            status(asked(vec![Does::Narrow("")]).await.unwrap_err()),
            403
        );
        assert_eq!(status(asked(vec![Does::Panic]).await.unwrap_err()), 503);
        let start = time::Instant::now();
        assert_eq!(status(asked(vec![Does::Hang]).await.unwrap_err()), 503);
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }
}
