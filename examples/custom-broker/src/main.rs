//! An edge in front of a broker of one's own. See the README.

mod file_broker;

use std::{error::Error, sync::Arc};

use fanfare_edge::{Edge, EdgeConfig};
use file_broker::FileBroker;
use prometheus::Registry;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: custom-broker FILE")?;
    let broker = Arc::new(FileBroker::open(path.as_ref())?);
    let edge = Edge::build(EdgeConfig::default(), broker, &Registry::new())?;
    #[expect(clippy::print_stdout, reason = "this is what it has to say")]
    {
        println!("http://{}", edge.public_addr());
    }
    edge.run(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use async_trait::async_trait;
    use fanfare_conformance::{Fixture, conformance};
    use fanfare_core::{Broker, Channel, Publication};

    use super::file_broker::FileBroker;

    struct Files {
        broker: Arc<FileBroker>,
        _directory: tempfile::TempDir,
    }

    #[async_trait]
    impl Fixture for Files {
        async fn broker(&self) -> Arc<dyn Broker> {
            self.broker.clone()
        }
    }

    async fn a_file() -> Option<Files> {
        let directory = tempfile::tempdir().unwrap();
        let broker = FileBroker::open(&directory.path().join("log")).unwrap();
        Some(Files {
            broker: Arc::new(broker),
            _directory: directory,
        })
    }

    conformance!(a_file);

    #[tokio::test]
    async fn places_outlive_the_process_and_half_a_line_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let channel = Channel::parse("a").unwrap();
        let publish = async || {
            let broker = FileBroker::open(&path).unwrap();
            let published = broker
                .publish(&channel, Publication::new("x"))
                .await
                .unwrap();
            published.position.unwrap()
        };
        let first = publish().await;
        // The process died while it wrote.
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(b"{\"offset\":2,\"chan").unwrap();
        let second = publish().await;
        assert_eq!((second.epoch, second.offset.0), (first.epoch, 2));
    }
}
