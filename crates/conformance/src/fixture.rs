use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fanfare_core::{Broker, Pattern};

/// A backend under test, and what can be done to its bus.
///
/// One is made for each law. What a fixture cannot do it leaves at its default, and the laws that
/// need it do not apply.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// The first node. Always the same one.
    async fn broker(&self) -> Arc<dyn Broker>;

    /// Another node that shares the bus with the first.
    async fn second_node(&self) -> Option<Arc<dyn Broker>> {
        None
    }

    /// Cuts the first node off from the bus, for as long as until [`restore`](Self::restore); the
    /// second node keeps its link. Answers whether it did.
    async fn interrupt(&self) -> bool {
        false
    }

    /// Mends the link.
    async fn restore(&self) {}

    /// Takes the retained events of these channels away, as retention would. Answers whether it
    /// did.
    async fn evict(&self, _channels: &Pattern) -> bool {
        false
    }

    /// Makes the bus lose everything that it retains, and its count of offsets. Answers whether it
    /// did.
    async fn lose(&self) -> bool {
        false
    }

    /// The beginning of every channel name of one law: 1 to 3 segments. Different in each call,
    /// where laws share a bus.
    fn namespace(&self) -> String {
        format!("law{:08x}", fastrand::u32(..))
    }

    /// How long a law waits for what has to come.
    fn patience(&self) -> Duration {
        Duration::from_secs(15)
    }
}
