//! Several brokers as one: each channel belongs to one of them.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};

use crate::{
    Broker, BrokerError, Capabilities, Channel, ErrorKind, History, HistoryQuery, Inlet, LogId,
    LogMap, Pattern, Publication, Published, Subscription, batch::Parts,
};

/// Which channels are a broker's: whether some channel of a pattern can be; for a channel name,
/// whether that one is. Its answers never change.
pub type Claim = Arc<dyn Fn(&Pattern) -> bool + Send + Sync>;

/// Several brokers as one broker.
///
/// A channel belongs to the first broker that claims it, or else to the last one, which claims
/// nothing. Publications go to that one; subscriptions go to every broker that the pattern's
/// channels can belong to; pages of history come from the broker that the log is of.
///
/// The brokers have logs of different names, and each keeps the laws; so do they together. There is
/// no order between logs.
pub struct Routed {
    claimed: Arc<[(Claim, Arc<dyn Broker>)]>,
    rest: Arc<dyn Broker>,
    capabilities: Capabilities,
}

impl Routed {
    /// Brokers with what each claims, the first one first, and the broker of all other channels.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] where two of them have a log of the same name.
    pub fn new(
        claimed: impl IntoIterator<Item = (Claim, Arc<dyn Broker>)>,
        rest: Arc<dyn Broker>,
    ) -> Result<Self, BrokerError> {
        let claimed: Arc<[_]> = claimed.into_iter().collect();
        let capabilities = united(&claimed, &rest);
        let mut names = capabilities.logs.all().to_vec();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("two brokers have a log {}", twice[0]);
            return Err(BrokerError::new(
                ErrorKind::Rejected,
                capabilities.backend,
                message,
            ));
        }
        Ok(Self {
            claimed,
            rest,
            capabilities,
        })
    }

    /// Whose a channel is: its place in `claimed`, or behind them.
    fn place_of(&self, channel: &Channel) -> usize {
        let pattern = Pattern::from(channel);
        let claims = self.claimed.iter().position(|(claim, _)| claim(&pattern));
        claims.unwrap_or(self.claimed.len())
    }

    fn broker_at(&self, place: usize) -> &Arc<dyn Broker> {
        let claimed = self.claimed.get(place);
        claimed.map_or(&self.rest, |(_, broker)| broker)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<dyn Broker>> {
        let claimed = self.claimed.iter().map(|(_, broker)| broker);
        claimed.chain([&self.rest])
    }
}

/// The places, in `claimed` and then `rest`, of the brokers that channels of a pattern belong to.
fn places(claimed: &[(Claim, Arc<dyn Broker>)], pattern: &Pattern) -> Vec<usize> {
    let claims = (0..claimed.len()).filter(|place| claimed[*place].0(pattern));
    if pattern.is_wild() {
        return claims.chain([claimed.len()]).collect();
    }
    vec![claims.take(1).next().unwrap_or(claimed.len())]
}

/// The backend's name and the bound on data are the narrowest that hold for every channel: what
/// only some brokers can do is not promised. `history` holds if all of them keep events, `shared`
/// if all their places mean the same on every node; `positions` and `idempotency` likewise.
fn united(claimed: &[(Claim, Arc<dyn Broker>)], rest: &Arc<dyn Broker>) -> Capabilities {
    let mut united = rest.capabilities();
    let mut maps = Vec::new();
    for (_, broker) in claimed {
        let of = broker.capabilities();
        united.history &= of.history;
        united.shared &= of.shared;
        united.positions &= of.positions;
        united.idempotency &= of.idempotency;
        let bounds = united.max_data_bytes.into_iter().chain(of.max_data_bytes);
        united.max_data_bytes = bounds.min();
        maps.push(of.logs);
    }
    maps.push(united.logs);
    let all: Vec<LogId> = maps.iter().flat_map(|map| map.all()).cloned().collect();
    let claims: Vec<_> = claimed.iter().cloned().collect();
    let growing = maps.clone();
    let of = move |pattern: &Pattern| {
        let places = places(&claims, pattern).into_iter();
        places.flat_map(|place| maps[place].of(pattern)).collect()
    };
    let late = move |log: &LogId| growing.iter().find_map(|map| map.late(log));
    united.logs = LogMap::growing(all, of, late);
    united
}

#[async_trait]
impl Broker for Routed {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        self.broker_at(self.place_of(channel))
            .publish(channel, publication)
            .await
    }

    async fn publish_all(
        &self,
        batch: &[(Channel, Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        let parts = Parts::of(batch, |(channel, _)| self.place_of(channel));
        let published = parts.iter().map(|(place, numbers)| async move {
            let broker = self.broker_at(place);
            if numbers.len() == batch.len() {
                return (place, broker.publish_all(batch).await);
            }
            let part: Vec<_> = numbers
                .iter()
                .map(|number| batch[*number].clone())
                .collect();
            (place, broker.publish_all(&part).await)
        });
        let backend = self.capabilities.backend;
        let silent = || BrokerError::new(ErrorKind::Timeout, backend, "there is no answer");
        parts.join(join_all(published).await, silent)
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        let places = places(&self.claimed, pattern);
        let brokers = self.all().enumerate();
        let chosen = brokers.filter(|(place, _)| places.contains(place));
        // Where one fails, the others are dropped with it.
        let parts = try_join_all(chosen.map(|(_, broker)| broker.subscribe(pattern, inlet)));
        Ok(Subscription::new(parts.await?))
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        let holds = |broker: &&Arc<dyn Broker>| broker.capabilities().logs.has(&query.log);
        match self.all().find(holds) {
            Some(broker) => broker.history(query).await,
            None => {
                let message = format!("has no log {}", query.log);
                let backend = self.capabilities.backend;
                Err(BrokerError::new(ErrorKind::Unsupported, backend, message))
            }
        }
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        try_join_all(self.all().map(|broker| broker.probe())).await?;
        Ok(())
    }

    async fn close(&self) {
        join_all(self.all().map(|broker| broker.close())).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }
}

impl fmt::Debug for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}
