//! HTTP: decides who may read and write what, and hands over to delivery. It never encodes an
//! event.
//!
//! ```text
//! accept ─ listener: a bound on sockets, socket options ─► connection: deadlines, sees its end
//!   route ─ router ─► auth: token → Identity, Grant ─► limit: a Permit ─► hook ─► filter: a class
//!     ├─ /events, /poll ─ following: channels, cursor ─► Hub::join ─► the stream's body, or a page
//!     ├─ /publish ─► hook ─► Broker::publish ─► a receipt
//!     └─ /history ─► Broker::history ─► JSON
//! every no ─ problem: one enum, one match ─► problem+json (RFC 9457)
//! ```
//!
//! The public listener: `GET|HEAD|POST /events`, `POST /publish`, `POST /publish/{channel}`,
//! `GET /poll`, `GET /history/{channel}`, `GET /` and the page's assets, `GET /page.json`.
//! The operators' listener: `GET /metrics`, `/healthz`, `/readyz`, `/channels`, `/connections`,
//! `DELETE /connections/{id}`.
//!
//! Start reading at [`Edge::run`], then `router`, then `route/subscribe`.

pub mod auth;
pub mod config;
pub mod filter;
pub mod hook;
pub mod problem;

mod accept;
mod app;
mod body;
mod client_key;
mod connection;
mod drain;
mod edge;
mod following;
mod limit;
mod listener;
mod metrics;
mod origin;
mod query;
mod readiness;
mod registry;
mod reload;
mod route;
mod router;
mod tls;

pub use auth::{Grant, Identity};
pub use config::{ConfigError, EdgeConfig, RefusalMode};
pub use drain::Drained;
pub use edge::{BuildError, Edge};
pub use fanfare_delivery::{Filter, View};
pub use filter::{FilterClass, FilterFactory};
pub use hook::{Admission, CloseContext, Hook, PublishContext, SubscribeContext};
pub use problem::Refusal;
pub use reload::Reloader;
