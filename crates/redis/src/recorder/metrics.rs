//! What a node tells of its part in recording.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

use super::pen::Start;

/// What a node tells of its part in recording raw channels for all.
///
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct RecorderMetrics {
    /// Messages that this node recorded.
    pub events: IntCounter,
    /// Messages that this node heard and does not know to be recorded.
    pub buffer_events: IntGauge,
    /// About what they weigh, in bytes.
    pub buffer_bytes: IntGauge,
    roles: IntGaugeVec,
    takeovers: IntCounterVec,
}

/// A node's part in recording.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// No rule wants it.
    Off,
    /// Others do it, or it is on its way.
    Idle,
    /// It listens, and can go on where the recorder stops.
    Standby,
    /// It records.
    Recorder,
}

impl Role {
    const ALL: [Self; 4] = [Self::Off, Self::Idle, Self::Standby, Self::Recorder];

    fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Idle => "idle",
            Self::Standby => "standby",
            Self::Recorder => "recorder",
        }
    }
}

impl Start {
    const ALL: [Self; 3] = [Self::Aligned, Self::Hole, Self::New];

    fn as_str(self) -> &'static str {
        match self {
            Self::Aligned => "aligned",
            Self::Hole => "hole",
            Self::New => "new",
        }
    }
}

impl RecorderMetrics {
    /// Makes them and registers them.
    ///
    /// # Errors
    /// Where the registry holds other metrics of these names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let (metrics, collectors) = Self::make()?;
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Metrics that no registry shows.
    ///
    /// # Panics
    /// Never: the names are fixed and valid.
    pub fn unregistered() -> Self {
        #[expect(clippy::expect_used, reason = "the names are fixed; a test makes them")]
        Self::make().expect("fixed names").0
    }

    fn make() -> prometheus::Result<(Self, Vec<Box<dyn Collector>>)> {
        let events = IntCounter::new(
            "fanfare_recorder_events_total",
            "Messages of raw publishers that this node recorded.",
        )?;
        let buffer_events = IntGauge::new(
            "fanfare_recorder_buffer_events",
            "Messages that this node heard and does not know to be recorded.",
        )?;
        let buffer_bytes = IntGauge::new(
            "fanfare_recorder_buffer_bytes",
            "About what they weigh, in bytes.",
        )?;
        let roles = IntGaugeVec::new(
            Opts::new(
                "fanfare_recorder_role",
                "1 for the node's part in recording raw channels, 0 for the others.",
            ),
            &["role"],
        )?;
        let takeovers = IntCounterVec::new(
            Opts::new(
                "fanfare_recorder_takeovers_total",
                "Times that this node became the recorder, by how it went on.",
            ),
            &["outcome"],
        )?;
        for start in Start::ALL {
            takeovers.get_metric_with_label_values(&[start.as_str()])?;
        }
        for role in Role::ALL {
            let is_off = i64::from(role == Role::Off);
            roles
                .get_metric_with_label_values(&[role.as_str()])?
                .set(is_off);
        }
        let collectors: Vec<Box<dyn Collector>> = vec![
            Box::new(events.clone()),
            Box::new(buffer_events.clone()),
            Box::new(buffer_bytes.clone()),
            Box::new(roles.clone()),
            Box::new(takeovers.clone()),
        ];
        let metrics = Self {
            events,
            buffer_events,
            buffer_bytes,
            roles,
            takeovers,
        };
        Ok((metrics, collectors))
    }

    /// Whether this node is the recorder.
    pub fn is_recorder(&self) -> bool {
        self.is(Role::Recorder)
    }

    /// Whether this node is the standby, and can go on where the recorder stops.
    pub fn is_standby(&self) -> bool {
        self.is(Role::Standby)
    }

    /// How often this node took over with the log going on exactly.
    pub fn aligned(&self) -> u64 {
        self.took_over_by(Start::Aligned)
    }

    /// How often this node took over with a hole in the log.
    pub fn holes(&self) -> u64 {
        self.took_over_by(Start::Hole)
    }

    fn is(&self, role: Role) -> bool {
        self.roles.with_label_values(&[role.as_str()]).get() == 1
    }

    fn took_over_by(&self, start: Start) -> u64 {
        self.takeovers.with_label_values(&[start.as_str()]).get()
    }

    pub(crate) fn set_role(&self, now: Role) {
        for role in Role::ALL {
            let is_now = i64::from(role == now);
            self.roles.with_label_values(&[role.as_str()]).set(is_now);
        }
    }

    pub(crate) fn took_over(&self, start: Start) {
        self.takeovers.with_label_values(&[start.as_str()]).inc();
    }
}
