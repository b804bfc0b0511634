//! An edge on the memory broker that puts its subscribers into classes in turn. Every class sees
//! every event, so that what is compared is delivered as often; all but the first see other data.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use clap::Parser;
use fanfare_core::{BrokerMetrics, Data, Event, Pattern};
use fanfare_edge::{Edge, EdgeConfig, Filter, FilterClass, FilterFactory, Identity, View};
use fanfare_memory::{MemoryBroker, MemoryConfig};
use prometheus::Registry;

/// Bytes of an event's data that the generator reads: its number.
const NUMBER: usize = 10;

/// An edge with filters.
#[derive(Debug, Parser)]
struct Options {
    /// The public listener.
    #[arg(long)]
    listen: SocketAddr,
    /// The admin listener.
    #[arg(long)]
    admin: SocketAddr,
    /// How many classes; 0: no filter at all.
    #[arg(long)]
    classes: usize,
}

#[derive(Debug)]
struct Classes {
    count: usize,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Class(usize);

impl FilterFactory for Classes {
    fn filter(&self, _: &Identity, _: &[Pattern]) -> Option<FilterClass> {
        let class = self
            .turn
            .fetch_add(1, Ordering::Relaxed)
            .checked_rem(self.count)?;
        Some(FilterClass::new(class.to_string(), move || {
            Arc::new(Class(class))
        }))
    }
}

impl Filter for Class {
    fn view(&self, event: &Event) -> View {
        if self.0 == 0 {
            return View::Whole;
        }
        let data = event.data.as_str();
        let (number, rest) = data.split_at_checked(NUMBER).unwrap_or((data, ""));
        View::Redacted(Data::from(format!("{number}{}", "*".repeat(rest.len()))))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let mut config = EdgeConfig::default();
    config.server.listen = options.listen;
    config.admin.listen = options.admin;
    config.limits.connections_per_client = 1_000_000;
    let registry = Registry::new();
    let metrics = BrokerMetrics::register(&registry, "memory")?;
    let broker = Arc::new(MemoryBroker::new(MemoryConfig::default(), metrics));
    let classes = Classes {
        count: options.classes,
        turn: AtomicUsize::new(0),
    };
    let edge = Edge::build(config, broker, &registry)?.filter(Arc::new(classes));
    edge.run(std::future::pending()).await?;
    Ok(())
}
