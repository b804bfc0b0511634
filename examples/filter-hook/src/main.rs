//! An edge with a filter and a hook of one's own. See the README.

mod redact;
mod stamp;

use std::{
    error::Error,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use fanfare_core::BrokerMetrics;
use fanfare_edge::{Edge, EdgeConfig, auth::Secret, config::JwtConfig};
use fanfare_memory::{MemoryBroker, MemoryConfig};
use jsonwebtoken::{EncodingKey, Header};
use prometheus::Registry;
use redact::Redact;
use serde_json::json;
use stamp::Stamp;

/// Of an example. A real one is long, random, and nobody else's.
const SECRET: &str = "an example's secret, of 32 bytes or more";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let edge = edge(EdgeConfig::default(), Redact::new("customer"))?;
    #[expect(clippy::print_stdout, reason = "this is what it has to say")]
    {
        let url = format!("http://{}/events?channel=orders.*", edge.public_addr());
        println!(
            "sees names:\n  curl -N -H 'Authorization: Bearer {}' '{url}'",
            token(true)?
        );
        println!(
            "does not:\n  curl -N -H 'Authorization: Bearer {}' '{url}'",
            token(false)?
        );
        println!("either may publish, so:\n  PUBLISHER={}", token(false)?);
    }
    edge.run(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    Ok(())
}

fn edge(mut config: EdgeConfig, redact: Redact) -> Result<Edge, Box<dyn Error>> {
    let secret = Some(Secret::new(SECRET));
    config.auth.jwt = Some(JwtConfig {
        secret,
        ..JwtConfig::default()
    });
    let registry = Registry::new();
    let metrics = BrokerMetrics::register(&registry, "memory")?;
    let broker = Arc::new(MemoryBroker::new(MemoryConfig::default(), metrics));
    let edge = Edge::build(config, broker, &registry)?;
    Ok(edge.filter(Arc::new(redact)).hook(Arc::new(Stamp)))
}

/// An hour of everything on orders, with or without sight of customers.
fn token(sees_customers: bool) -> Result<String, Box<dyn Error>> {
    let claims = json!({
        "exp": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600,
        "subscribe": ["orders.>"],
        "publish": ["orders.>"],
        "sees": if sees_customers { vec!["customer"] } else { vec![] },
    });
    Ok(jsonwebtoken::encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )?)
}

#[cfg(test)]
mod tests;
