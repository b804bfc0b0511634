//! Publications checked and stamped on their way in.

use std::time::SystemTime;

use async_trait::async_trait;
use fanfare_core::{Data, Publication};
use fanfare_edge::{Hook, PublishContext, Refusal};
use serde_json::Value;

/// Refuses orders without a number, and writes into the others when they came in.
#[derive(Debug)]
pub(crate) struct Stamp;

#[async_trait]
impl Hook for Stamp {
    async fn on_publish(
        &self,
        context: &PublishContext<'_>,
        publication: &mut Publication,
    ) -> Result<(), Refusal> {
        if !context.channel.as_str().starts_with("orders.") {
            return Ok(());
        }
        let bad = |detail: &str| Refusal::invalid("data", detail);
        let mut order: Value = serde_json::from_str(publication.data.as_str())
            .map_err(|_| bad("is no JSON; an order is an object"))?;
        let fields = order
            .as_object_mut()
            .ok_or_else(|| bad("is no object; an order is one"))?;
        if !fields.get("number").is_some_and(Value::is_number) {
            return Err(bad("has no `number`, which every order has"));
        }
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        fields.insert("received".into(), Value::from(since.as_secs()));
        publication.data = Data::from(order.to_string());
        Ok(())
    }
}
