//! The commands that talk to a server: `publish` and `subscribe`.

mod backoff;
mod http;
mod lines;
mod output;
pub(crate) mod publish;
pub(crate) mod subscribe;

pub(crate) use http::{Ask, ClientError, Server};
pub(crate) use output::line as print;
