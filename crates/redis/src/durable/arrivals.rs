//! What comes over a link for subscriptions, handed to the partitions' intakes.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use fanfare_core::{BrokerMetrics, Undeliverable};

use super::{
    entry::Entry,
    intake::{Announced, Intake},
    names::{Heard, Names},
};
use crate::{
    complaint::Complaints,
    reader::{Arrivals, Server},
};

/// What comes over the link for subscriptions, for the partitions' intakes.
pub(super) struct DurableArrivals {
    pub(super) names: Arc<Names>,
    /// The partition of the first intake.
    pub(super) first: usize,
    pub(super) intakes: Vec<Arc<Intake>>,
    pub(super) metrics: BrokerMetrics,
    pub(super) max_data_bytes: usize,
    pub(super) complaints: Complaints,
}

impl DurableArrivals {
    fn intake(&self, partition: usize) -> Option<&Arc<Intake>> {
        self.intakes.get(partition.checked_sub(self.first)?)
    }
}

impl Arrivals for DurableArrivals {
    fn message(&self, name: &[u8], message: Bytes) {
        let mut holes = self.names.holes().iter();
        if let Some(partition) = holes.position(|hole| hole.as_bytes() == name) {
            if let Some(intake) = self.intake(partition) {
                intake.hole();
            }
            return;
        }
        let Some((partition, heard)) = self.names.arrival(name) else {
            return;
        };
        let Some(intake) = self.intake(partition) else {
            return;
        };
        let announced = Entry::announced(&message, self.max_data_bytes);
        let (reason, why) = match (heard, announced) {
            (Heard::Channel(Ok(channel)), Some((epoch, entry, _)))
            | (Heard::All, Some((epoch, entry, Some(channel)))) => {
                return intake.take(Announced {
                    channel,
                    epoch,
                    entry,
                });
            }
            (Heard::Channel(Err(why)), _) => {
                (Undeliverable::BadChannel, format!("the channel name {why}"))
            }
            // What is no announcement has no place in the log: nothing of the log is lost.
            (Heard::Channel(Ok(_)) | Heard::All, _) => (
                Undeliverable::BadEnvelope,
                "it is no announcement".to_owned(),
            ),
        };
        self.metrics.undeliverable(reason);
        self.complaints.of(name, &why);
    }

    fn linked(&self, server: &Server) {
        self.intakes
            .iter()
            .for_each(|intake| intake.linked(&server.run));
    }

    fn cut(&self) {
        self.intakes.iter().for_each(|intake| intake.cut());
    }

    fn whole(&self) {
        self.intakes.iter().for_each(|intake| intake.whole());
    }

    fn rejoined(&self) {
        self.intakes.iter().for_each(|intake| intake.rejoined());
    }
}

impl fmt::Debug for DurableArrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.intakes).finish()
    }
}
