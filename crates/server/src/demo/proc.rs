//! Figures of this machine, read from `/proc`: pure parsers (proc(5) describes the files).

mod cpu;
mod load;
mod memory;
mod network;

pub(crate) use cpu::CpuTicks;
pub(crate) use load::Load;
pub(crate) use memory::Memory;
pub(crate) use network::NetworkBytes;

/// Why a file of `/proc` cannot be read as expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {what}")]
pub(crate) struct Unreadable {
    file: &'static str,
    what: &'static str,
}

fn unreadable(file: &'static str, what: &'static str) -> Unreadable {
    Unreadable { file, what }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
