//! Takes samples of this machine and turns two of them into figures.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::proc::{CpuTicks, Load, Memory, NetworkBytes, Unreadable};

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    /// A file of `/proc` is not there.
    #[error("cannot read {}: {source}; the demo shows figures of Linux's /proc", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of `/proc` is not as proc(5) says.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// Keeps the sample before, since CPU and network figures are differences.
#[derive(Debug)]
pub(crate) struct Sampler {
    root: PathBuf,
    cpu: CpuTicks,
    network: NetworkBytes,
    taken: Instant,
}

/// A channel and the JSON to publish on it.
pub(crate) type Figure = (&'static str, String);

impl Sampler {
    /// Takes the first sample.
    ///
    /// # Errors
    /// On a machine without `/proc`, in a sentence that says so.
    pub(crate) async fn new(root: impl Into<PathBuf>) -> Result<Self, SampleError> {
        let root = root.into();
        Ok(Self {
            cpu: CpuTicks::parse(&read(&root, "stat").await?)?,
            network: NetworkBytes::parse(&read(&root, "net/dev").await?)?,
            taken: Instant::now(),
            root,
        })
    }

    /// The figures of the time since the sample before.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub(crate) async fn figures(&mut self) -> Result<[Figure; 4], SampleError> {
        let cpu = CpuTicks::parse(&read(&self.root, "stat").await?)?;
        let network = NetworkBytes::parse(&read(&self.root, "net/dev").await?)?;
        let memory = read(&self.root, "meminfo").await?;
        let load = read(&self.root, "loadavg").await?;
        let (now, at) = (Instant::now(), unix_ms());
        let figures = [
            ("system.cpu", json(&cpu.since(&self.cpu, at))),
            ("system.memory", json(&Memory::parse(&memory, at)?)),
            ("system.load", json(&Load::parse(&load, at)?)),
            (
                "system.network",
                json(&network.since(&self.network, now - self.taken, at)),
            ),
        ];
        (self.cpu, self.network, self.taken) = (cpu, network, now);
        Ok(figures)
    }
}

async fn read(root: &Path, file: &str) -> Result<String, SampleError> {
    let path = root.join(file);
    let text = tokio::fs::read_to_string(&path).await;
    text.map_err(|source| SampleError::Missing { path, source })
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn json(figures: &impl Serialize) -> String {
    // Plain structs of numbers and strings always serialise.
    serde_json::to_string(figures).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn figures_come_from_the_files() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let error = Sampler::new(root.path()).await.unwrap_err().to_string();
        assert!(error.contains("stat") && error.contains("/proc"), "{error}");
        write("stat", "cpu 0 0 0 0\ncpu0 0 0 0 0\n");
        write("net/dev", "a\nb\neth0: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
        write("meminfo", "MemTotal: 4 kB\nMemAvailable: 1 kB\n");
        write("loadavg", "0.50 0.40 0.30 2/210 9\n");
        let mut sampler = Sampler::new(root.path()).await.unwrap();
        write("stat", "cpu 1 0 0 3\ncpu0 1 0 0 3\n");
        let figures = sampler.figures().await.unwrap();
        assert_eq!(
            figures.each_ref().map(|(channel, _)| *channel),
            [
                "system.cpu",
                "system.memory",
                "system.load",
                "system.network"
            ]
        );
        let cpu: serde_json::Value = serde_json::from_str(&figures[0].1).unwrap();
        assert_eq!(cpu["usage"], 0.25);
        let memory: serde_json::Value = serde_json::from_str(&figures[1].1).unwrap();
        assert_eq!(memory["used"], 3072);
    }
}
