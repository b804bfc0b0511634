//! The bench: floor servers, a load generator, and runs that put them and the real binary side by
//! side. `bench/run` is the way in.

#![allow(clippy::print_stdout, reason = "figures are the product")]
#![allow(
    clippy::disallowed_methods,
    reason = "no async runtime whose threads could be blocked"
)]

mod floor;
mod histogram;
mod load;
mod process;
mod run;
mod sequence;
mod wire;

use std::{error::Error, net::SocketAddr};

use clap::{Parser, Subcommand};

/// Measures Fanfare beside the least that any server has to do.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves as a floor: SSE and publish requests as Fanfare takes them, and nothing else.
    Floor {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// One send for all that waits, rather than one for each event.
        #[arg(long)]
        coalesce: bool,
    },
    /// Measures servers side by side and keeps what was found in a folder. `bench/run` builds first.
    Run(run::Options),
    /// Measures one server by a plan (JSON, see `load/plan.rs`) and prints what it found as JSON.
    Load {
        /// The plan.
        plan: String,
    },
    /// Publishes as quickly as it goes, by a plan (JSON, see `load/ndjson.rs`).
    Ndjson {
        /// The plan.
        plan: String,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    match Options::parse().command {
        Command::Floor { listen, coalesce } => {
            let sending = if coalesce {
                floor::Sending::Coalesced
            } else {
                floor::Sending::Each
            };
            floor::serve(listen, sending)?;
        }
        Command::Run(options) => run::run(options)?,
        Command::Load { plan } => {
            let measured = load::run(serde_json::from_str(&plan)?)?;
            println!("{}", serde_json::to_string(&measured)?);
        }
        Command::Ndjson { plan } => {
            let measured = load::ndjson::run(&serde_json::from_str(&plan)?)?;
            println!("{}", serde_json::to_string(&measured)?);
        }
    }
    Ok(())
}
