//! Which class of filter a subscriber is in.
//!
//! Delivery asks a filter once for each event and `Arc`. So subscribers that may see the same
//! hold the same `Arc`: a factory names the class, and this table keeps one `Arc` a name.

use std::{
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    time::Duration,
};

use fanfare_core::{Event, Pattern};
use fanfare_delivery::{Filter, View};
use parking_lot::Mutex;

use crate::{auth::Identity, problem::Refusal};

/// Puts subscribers into classes.
pub trait FilterFactory: fmt::Debug + Send + Sync + 'static {
    /// The class of a subscriber; `None` sees everything. Called once for each stream, poll and
    /// history call, so it answers quickly, without waiting. One that panics refuses the client.
    fn filter(&self, identity: &Identity, channels: &[Pattern]) -> Option<FilterClass>;
}

/// A class of subscribers that see the same of every event.
pub struct FilterClass {
    /// Its name: subscribers with the same key share one filter and its answers. It says all
    /// that the filter depends on, and of few values: not a user's name, but what they may see.
    pub key: String,
    /// Makes the filter; called where no subscriber of the class is here yet.
    pub make: Box<dyn FnOnce() -> Arc<dyn Filter> + Send>,
}

impl FilterClass {
    /// A class.
    pub fn new(
        key: impl Into<String>,
        make: impl FnOnce() -> Arc<dyn Filter> + Send + 'static,
    ) -> Self {
        Self {
            key: key.into(),
            make: Box::new(make),
        }
    }
}

impl fmt::Debug for FilterClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterClass")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// The factories of an edge and the classes that live. A clone is of the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Filters {
    factories: Arc<[Arc<dyn FilterFactory>]>,
    classes: Arc<Mutex<HashMap<String, Weak<dyn Filter>>>>,
    most: usize,
    retry_after: Duration,
}

impl Filters {
    pub(crate) fn new(
        factories: Vec<Arc<dyn FilterFactory>>,
        most: usize,
        retry_after: Duration,
    ) -> Self {
        Self {
            factories: factories.into(),
            classes: Arc::default(),
            most,
            retry_after,
        }
    }

    /// The same factories and classes within other bounds.
    pub(crate) fn within(&self, most: usize, retry_after: Duration) -> Self {
        Self {
            most,
            retry_after,
            ..self.clone()
        }
    }

    /// The filter of a subscriber: all factories' filters in their order, as one.
    pub(crate) fn of(
        &self,
        identity: &Identity,
        channels: &[Pattern],
    ) -> Result<Option<Arc<dyn Filter>>, Refusal> {
        if self.factories.is_empty() {
            return Ok(None);
        }
        let ask = || -> Vec<_> {
            let ask = |factory: &Arc<dyn FilterFactory>| factory.filter(identity, channels);
            let numbered = self.factories.iter().map(ask).enumerate();
            numbered
                .filter_map(|(index, class)| Some((index, class?)))
                .collect()
        };
        let classes = catch_unwind(AssertUnwindSafe(ask)).map_err(|_| self.failed())?;
        if classes.is_empty() {
            return Ok(None);
        }
        // Lengths keep keys apart whatever they hold.
        let name = |(index, class): &(usize, FilterClass)| {
            format!("{index}:{}:{};", class.key.len(), class.key)
        };
        let key: String = classes.iter().map(name).collect();
        self.intern(
            key,
            classes.into_iter().map(|(_, class)| class.make).collect(),
        )
        .map(Some)
    }

    fn intern(&self, key: String, makes: Vec<Make>) -> Result<Arc<dyn Filter>, Refusal> {
        let mut table = self.classes.lock();
        if let Some(filter) = table.get(&key).and_then(Weak::upgrade) {
            return Ok(filter);
        }
        if table.len() >= self.most {
            table.retain(|_, filter| filter.strong_count() > 0);
        }
        if table.len() >= self.most {
            return Err(Refusal::Busy {
                what: "filter classes",
                retry_after: self.retry_after,
            });
        }
        // Under the lock: two subscribers that come at once are in one class.
        let made = catch_unwind(AssertUnwindSafe(|| chain(makes))).map_err(|_| self.failed())?;
        table.insert(key, Arc::downgrade(&made));
        Ok(made)
    }

    fn failed(&self) -> Refusal {
        tracing::error!("a filter factory panicked");
        let detail = "a filter of this server failed";
        Refusal::HookFailed {
            detail,
            retry_after: self.retry_after,
        }
    }
}

type Make = Box<dyn FnOnce() -> Arc<dyn Filter> + Send>;

fn chain(makes: Vec<Make>) -> Arc<dyn Filter> {
    let mut filters: Vec<_> = makes.into_iter().map(|make| make()).collect();
    if filters.len() == 1 {
        return filters.remove(0);
    }
    Arc::new(Chain(filters))
}

/// Several filters as one: each sees what the one before it left.
#[derive(Debug)]
struct Chain(Vec<Arc<dyn Filter>>);

impl Filter for Chain {
    fn view(&self, event: &Event) -> View {
        let mut redacted: Option<Event> = None;
        for filter in &self.0 {
            match filter.view(redacted.as_ref().unwrap_or(event)) {
                View::Whole => {}
                View::Redacted(data) => {
                    redacted = Some(Event {
                        data,
                        ..event.clone()
                    })
                }
                View::Nothing => return View::Nothing,
            }
        }
        redacted.map_or(View::Whole, |event| View::Redacted(event.data))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use fanfare_core::{Channel, Data, Epoch, LogId, Offset, Position, Tags};

    use super::*;

    #[derive(Debug)]
    struct Says(View);
    impl Filter for Says {
        fn view(&self, _: &Event) -> View {
            self.0.clone()
        }
    }

    #[derive(Debug)]
    struct Append(&'static str);
    impl Filter for Append {
        fn view(&self, event: &Event) -> View {
            View::Redacted(format!("{}{}", event.data.as_str(), self.0).into())
        }
    }

    /// The class is the first channel's name.
    #[derive(Debug)]
    struct ByChannel;
    impl FilterFactory for ByChannel {
        fn filter(&self, _: &Identity, channels: &[Pattern]) -> Option<FilterClass> {
            match channels[0].as_str() {
                "open" => None,
                "panic" => panic!("as the test asks"),
                "make" => Some(FilterClass::new("make", || panic!("as the test asks"))),
                name => Some(FilterClass::new(name, || Arc::new(Append("!")))),
            }
        }
    }

    fn of(filters: &Filters, channel: &str) -> Result<Option<Arc<dyn Filter>>, Refusal> {
        filters.of(&Identity::nobody(), &[Pattern::parse(channel).unwrap()])
    }

    #[test]
    fn one_arc_a_class_and_no_more_classes_than_allowed() {
        let filters = Filters::new(vec![Arc::new(ByChannel)], 2, Duration::ZERO);
        let a = of(&filters, "a").unwrap().unwrap();
        assert!(Arc::ptr_eq(&a, &of(&filters, "a").unwrap().unwrap()));
        let b = of(&filters, "b").unwrap().unwrap();
        assert!(!Arc::ptr_eq(&a, &b));
        assert!(of(&filters, "open").unwrap().is_none());
        assert!(matches!(of(&filters, "c"), Err(Refusal::Busy { .. })));
        drop(b);
        assert!(
            of(&filters, "c").is_ok(),
            "a class nobody is in gives its place up"
        );
        for broken in ["panic", "make"] {
            assert!(
                matches!(of(&filters, broken), Err(Refusal::HookFailed { .. })),
                "{broken}"
            );
        }
        assert!(of(&filters, "a").is_ok());
    }

    #[test]
    fn filters_in_a_chain_see_what_is_left() {
        let event = Event {
            channel: Channel::parse("a").unwrap(),
            position: Position {
                log: LogId::parse("m").unwrap(),
                epoch: Epoch(1),
                offset: Offset(1),
            },
            previous: None,
            event_type: None,
            data: Data::from("x"),
            tags: Tags::default(),
            published_at: SystemTime::UNIX_EPOCH,
        };
        let says = |view| Arc::new(Says(view)) as Arc<dyn Filter>;
        let (a, b) = (Arc::new(Append("1")) as _, Arc::new(Append("2")) as _);
        let both = Chain(vec![a, says(View::Whole), b]);
        assert_eq!(both.view(&event), View::Redacted("x12".into()));
        assert_eq!(Chain(vec![says(View::Whole)]).view(&event), View::Whole);
        let nothing = Chain(vec![Arc::new(Append("1")), says(View::Nothing)]);
        assert_eq!(nothing.view(&event), View::Nothing);
    }
}
