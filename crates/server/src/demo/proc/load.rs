//! `/proc/loadavg`.

use serde::Serialize;

use super::{Unreadable, unreadable};

/// `/proc/loadavg`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Load {
    pub(crate) at: u64,
    pub(crate) one: f64,
    pub(crate) five: f64,
    pub(crate) fifteen: f64,
    pub(crate) tasks_running: u64,
    pub(crate) tasks: u64,
}

impl Load {
    pub(crate) fn parse(loadavg: &str, at: u64) -> Result<Self, Unreadable> {
        let read = || {
            let mut fields = loadavg.split_ascii_whitespace();
            let mut average = || fields.next()?.parse::<f64>().ok();
            let (one, five, fifteen) = (average()?, average()?, average()?);
            let (running, tasks) = fields.next()?.split_once('/')?;
            Some(Self {
                at,
                one,
                five,
                fifteen,
                tasks_running: running.parse().ok()?,
                tasks: tasks.parse().ok()?,
            })
        };
        read().ok_or(unreadable("/proc/loadavg", "not five fields"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_tasks() {
        let load = Load::parse("0.50 0.41 0.30 2/210 12345\n", 3).unwrap();
        assert_eq!((load.one, load.five, load.fifteen), (0.5, 0.41, 0.3));
        assert_eq!((load.tasks_running, load.tasks, load.at), (2, 210, 3));
        assert!(Load::parse("0.50 0.41", 3).is_err());
    }
}
