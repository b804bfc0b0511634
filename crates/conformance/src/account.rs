//! Whether what arrived is what was sent.

use std::collections::HashMap;

use fanfare_core::{Channel, Epoch, Live, LogId, Offset};

use crate::Violation;

/// What was sent on a channel by one publisher, in this order and with different data each time,
/// arrived once and in order; where something is missing, a gap stands in its place.
/// Answers how many are missing.
///
/// # Errors
/// What is missing in silence, doubled, out of order or was never sent.
pub fn account(channel: &Channel, sent: &[String], items: &[Live]) -> Result<usize, Violation> {
    let places: HashMap<_, _> = sent.iter().map(String::as_str).zip(0..).collect();
    let (mut next, mut missing, mut told) = (0, 0, false);
    for item in items {
        match item {
            Live::Gap(gap) => told |= gap.scope.matches(channel),
            Live::Event(event) if event.channel == *channel => {
                let data = event.data.as_str();
                let Some(&place) = places.get(data) else {
                    violated!("{channel}: {data:?} arrived, and was never sent");
                };
                ensure!(
                    place >= next,
                    "{channel}: {data:?} arrived again, or late: {:?} had arrived",
                    sent[next - 1]
                );
                ensure!(
                    place == next || told,
                    "{channel}: {:?} and {} more before {data:?} are lost in silence",
                    sent[next],
                    place - next - 1
                );
                missing += place - next;
                (next, told) = (place + 1, false);
            }
            Live::Event(_) => {}
        }
    }
    let rest = sent.len() - next;
    ensure!(
        rest == 0 || told,
        "{channel}: the last {rest} from {:?} on are lost in silence",
        sent[next.min(sent.len() - 1)]
    );
    Ok(missing + rest)
}

/// The items of each log rise; another epoch of a log begins with a gap.
///
/// # Errors
/// The two items that are out of order.
pub fn in_order<'a>(items: impl IntoIterator<Item = &'a Live>) -> Result<(), Violation> {
    let mut places: HashMap<LogId, (Epoch, Offset)> = HashMap::new();
    for item in items {
        let here = item.position();
        let now = (here.epoch, here.offset);
        let Some((epoch, offset)) = places.insert(here.log.clone(), now) else {
            continue;
        };
        if epoch == here.epoch {
            ensure!(
                here.offset > offset,
                "log {}: offset {} came after {}: {item:?}",
                here.log,
                here.offset.0,
                offset.0
            );
        } else {
            ensure!(
                matches!(item, Live::Gap(_)),
                "log {}: epoch {epoch:?} became {:?} without a gap",
                here.log,
                here.epoch
            );
        }
    }
    Ok(())
}
