//! A field redacted for those without a claim.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use fanfare_core::{Data, Event, Pattern};
use fanfare_edge::{Filter, FilterClass, FilterFactory, Identity, View};
use serde_json::Value;

/// Hides one field of JSON from those whose token does not say `"sees": ["<field>"]`.
#[derive(Clone, Debug)]
pub(crate) struct Redact {
    field: &'static str,
    looks: Arc<AtomicU64>,
}

impl Redact {
    pub(crate) fn new(field: &'static str) -> Self {
        Self {
            field,
            looks: Arc::default(),
        }
    }

    /// How often an event was looked at.
    #[cfg(test)]
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }
}

impl FilterFactory for Redact {
    fn filter(&self, identity: &Identity, _: &[Pattern]) -> Option<FilterClass> {
        let sees = identity.claim("sees").and_then(Value::as_array);
        if sees.is_some_and(|sees| sees.iter().any(|field| field == self.field)) {
            return None;
        }
        // One class for all of them: the key says what is hidden, not from whom.
        let filter = self.clone();
        Some(FilterClass::new(
            format!("without {}", self.field),
            move || Arc::new(filter),
        ))
    }
}

impl Filter for Redact {
    fn view(&self, event: &Event) -> View {
        self.looks.fetch_add(1, Ordering::Relaxed);
        // What cannot be read is not shown: the field may stand in it all the same.
        let Ok(mut value) = serde_json::from_str::<Value>(event.data.as_str()) else {
            return View::Nothing;
        };
        match value.get_mut(self.field) {
            None => View::Whole,
            Some(field) => {
                *field = Value::from("…");
                View::Redacted(Data::from(value.to_string()))
            }
        }
    }
}
