//! Every law that a [`Broker`](fanfare_core::Broker) keeps, as named tests.
//!
//! A backend runs all of them with one line, over a [`Fixture`] of its own:
//!
//! ```ignore
//! fanfare_conformance::conformance!(make_fixture);
//! ```
//!
//! where `make_fixture` is an `async fn() -> Option<impl Fixture>`; `None`, where the server that
//! it needs is absent, skips visibly. The line becomes one `#[tokio::test]` for each law, in a
//! module for each file of this crate, so that a broken law has a name.
//!
//! Laws choose themselves by the backend's capabilities and by what its fixture can do: a bus that
//! keeps nothing has no history to check, but order, patterns and gaps all the same.
//! A law is a function that answers a [`Verdict`], so that the suite itself can be tested against
//! brokers that are broken on purpose.

#[macro_use]
mod verdict;

mod account;
pub mod close;
pub mod concurrency;
pub mod fault;
mod fixture;
mod follower;
pub mod gap;
pub mod history;
mod laws;
pub mod model;
pub mod order;
pub mod pattern;
pub mod seam;
mod stand;

pub use account::{account, in_order};
pub use fixture::Fixture;
pub use follower::Follower;
pub use laws::{Law, all_laws, hold};
pub use stand::{Pages, Stand};
pub use verdict::{Done, Verdict, Violation};
