//! The list of all laws, and how one is run.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::{Done, Fixture, Stand, Verdict, Violation};

/// No law takes longer, whatever its backend does.
const BOUND: Duration = Duration::from_secs(180);

/// A law with its name.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// The module that it stands in, and its name there.
    pub name: &'static str,
    check: fn(Stand) -> Checking,
}

type Checking = Pin<Box<dyn Future<Output = Verdict> + Send>>;

impl Law {
    /// Checks it on a fixture.
    ///
    /// # Errors
    /// How it is broken.
    pub async fn check(&self, fixture: Arc<dyn Fixture>) -> Verdict {
        let checking = (self.check)(Stand::new(fixture).await);
        match tokio::time::timeout(BOUND, checking).await {
            Ok(verdict) => verdict,
            Err(_) => Err(Violation(format!("the law took longer than {BOUND:?}"))),
        }
    }
}

/// The body of a generated test.
///
/// # Panics
/// Where the law is broken.
#[expect(
    clippy::panic,
    clippy::print_stderr,
    reason = "it is the body of a test"
)]
pub async fn hold<F: Fixture>(fixture: Option<F>, name: &str) {
    let Some(law) = all_laws().into_iter().find(|law| law.name == name) else {
        panic!("{name} is no law");
    };
    let Some(fixture) = fixture else {
        eprintln!("SKIPPED {name}: the backend's server is absent");
        return;
    };
    match law.check(Arc::new(fixture)).await {
        Ok(Done::Kept) => {}
        Ok(Done::NotApplicable(why)) => eprintln!("not applicable, {name}: {why}"),
        Err(how) => panic!("{name} is broken: {how}"),
    }
}

/// Calls a macro with the list of all laws.
#[doc(hidden)]
#[macro_export]
macro_rules! __with_laws {
    ($then:path $(, $more:tt)*) => {
        $then! {
            [$($more)*]
            order {
                offsets_rise_in_order_of_announcement
                a_batch_is_stored_in_its_order
                what_is_published_arrives_unchanged
                an_event_names_its_predecessor
                a_known_key_stores_nothing_again
                racing_publications_of_a_key_are_stored_once
                a_key_belongs_to_its_channel
                what_is_refused_is_neither_stored_nor_announced
            }
            history {
                everything_after_a_place_is_answered
                pages_join_without_a_seam
                a_page_is_bounded_in_bytes_but_holds_one_event
                last_answers_the_newest_of_each_channel
                oldest_answers_all_and_now_only_the_place
                an_event_is_answered_once_whatever_selects_it
                many_channels_resume_by_one_pattern
                without_history_an_older_place_is_a_gap
            }
            seam {
                joining_under_load_misses_nothing
                the_place_that_publish_answers_is_a_cursor
                what_follows_the_answer_comes_live
            }
            gap {
                another_epoch_is_a_gap
                a_place_beyond_the_head_is_a_gap
                deleted_history_is_a_gap
                a_log_that_began_again_is_a_gap
                a_slow_reader_is_told_what_it_missed
                what_passed_unfollowed_is_answered_or_a_gap
                a_place_of_another_node_means_the_same_or_a_gap
            }
            pattern {
                wildcards_select_by_segment
                an_inlet_gets_an_event_once_whatever_selects_it
                letting_go_ends_the_flow
                following_again_works
            }
            concurrency {
                many_publishers_make_one_order
                two_inlets_see_one_order
                nodes_share_channels
                coming_and_going_disturbs_nobody
                dropped_calls_leave_the_broker_usable
            }
            fault {
                a_probe_goes_through
                a_probe_tells_a_cut
                a_cut_is_healed_or_told
                calls_end_while_cut_off
            }
            close {
                closing_ends_feeds_and_refuses_calls
                closing_under_load_ends
            }
            model {
                the_broker_agrees_with_the_model
            }
        }
    };
}

macro_rules! list_laws {
    ([] $($file:ident { $($law:ident)+ })+) => {
        /// Every law.
        pub fn all_laws() -> Vec<Law> {
            vec![$($(Law {
                name: concat!(stringify!($file), "::", stringify!($law)),
                check: |stand| Box::pin(crate::$file::$law(stand)),
            }),+),+]
        }
    };
}

__with_laws!(list_laws);

/// Turns every law into a test of one backend: see the [crate's page](crate).
#[macro_export]
macro_rules! conformance {
    ($make:path) => {
        $crate::__with_laws!($crate::__law_tests, $make);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __law_tests {
    ([$make:tt] $($file:ident { $($law:ident)+ })+) => {
        $(mod $file {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $law() {
                    let name = concat!(stringify!($file), "::", stringify!($law));
                    $crate::hold($make().await, name).await;
                }
            )+
        })+
    };
}
