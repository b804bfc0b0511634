//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use fanfare_core::{Channel, EventType, IdempotencyKey, Pattern};

use crate::config::values::Span;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed (a server or bus that cannot be reached, a \
    port that is taken); 2 wrong use or configuration; 3 refused by the server; 4 --timeout was \
    over before --count events came.";

/// Fanfare: an SSE edge over a pluggable pub/sub broker.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ConfigFile,
}

/// What to do; without a command, `serve`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve: the default.
    Serve(ConfigFile),
    /// Check the configuration and say what is wrong with it.
    CheckConfig {
        #[command(flatten)]
        file: ConfigFile,
        /// Print the configuration that is in effect, as TOML, without secrets.
        #[arg(long)]
        print: bool,
    },
    /// Publish an event, or each line of standard input.
    Publish(Publish),
    /// Print events as they come, and go on after a break.
    Subscribe(Subscribe),
    /// Make a token (HS256) for `auth.jwt.secret`.
    Token(Token),
    /// Serve this machine's own figures on a page, with nothing to install or configure.
    Demo {
        /// The public address. Default: the first free port of 127.0.0.1 from 8080 on.
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
    },
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// A TOML file. Variables FANFARE_SECTION__KEY win over it.
    #[arg(long, value_name = "FILE", env = "FANFARE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// Which server to talk to.
#[derive(Debug, Args)]
pub(crate) struct Remote {
    /// The server's address.
    #[arg(long, env = "FANFARE_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// A token; better given as the variable, which other users of the machine do not see.
    #[arg(long, env = "FANFARE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<crate::config::secret::Secret>,
}

/// `fanfare publish`.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// The channel.
    pub(crate) channel: Channel,
    /// The data. `-`: each line of standard input is an event. Left out: all of standard input is
    /// one event.
    #[arg(allow_negative_numbers = true)]
    pub(crate) data: Option<String>,
    /// The type of the event.
    #[arg(long, value_name = "TYPE", value_parser = EventType::parse)]
    pub(crate) event: Option<EventType>,
    /// An idempotency key: publishing again with the same one does nothing.
    #[arg(long, value_parser = IdempotencyKey::parse)]
    pub(crate) key: Option<IdempotencyKey>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

/// `fanfare subscribe`.
#[derive(Debug, Args)]
pub(crate) struct Subscribe {
    /// Channels, or patterns: `orders.*` (one segment), `orders.>` (the rest).
    #[arg(required = true, value_name = "CHANNEL")]
    pub(crate) channels: Vec<Pattern>,
    /// Print one JSON object a line: {"channel","event","id","data"}, and {"gap":{…}}.
    #[arg(long)]
    pub(crate) json: bool,
    /// Begin with the newest N retained events of each channel.
    #[arg(long, value_name = "N", conflicts_with = "since")]
    pub(crate) last: Option<std::num::NonZeroUsize>,
    /// Begin with everything that is retained.
    #[arg(long, value_enum)]
    pub(crate) since: Option<Since>,
    /// Go on after this id: that of an event that was received before.
    #[arg(long, value_name = "ID", conflicts_with_all = ["since", "last"])]
    pub(crate) last_event_id: Option<String>,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<std::num::NonZeroU64>,
    /// End after this time, for example 30s.
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<Span>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

/// From where on.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Since {
    /// From the oldest retained event on.
    Oldest,
}

/// `fanfare token`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("key").required(true)))]
pub(crate) struct Token {
    /// A file with the secret; white space at its end does not count.
    #[arg(long, value_name = "FILE", group = "key")]
    pub(crate) secret_file: Option<PathBuf>,
    /// The name of an environment variable with the secret.
    #[arg(long, value_name = "VARIABLE", group = "key")]
    pub(crate) secret_env: Option<String>,
    /// A channel or pattern that the token may subscribe to; repeatable.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) subscribe: Vec<Pattern>,
    /// A channel or pattern that the token may publish to; repeatable.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) publish: Vec<Pattern>,
    /// Whom the token is for.
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) sub: Option<String>,
    /// For how long it is good.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) ttl: Span,
    /// The issuer, where `auth.jwt.issuer` asks for one.
    #[arg(long)]
    pub(crate) issuer: Option<String>,
    /// The audience, where `auth.jwt.audience` asks for one.
    #[arg(long)]
    pub(crate) audience: Option<String>,
}
