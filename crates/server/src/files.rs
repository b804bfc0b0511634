//! The bound on open files: each connection takes one.

use fanfare_edge::config::LimitsConfig;
use rlimit::Resource;

/// Files that are open beside connections: listeners, the bus, logs, with room to spare.
const RESERVE: u64 = 256;

/// Makes room for so many connections as far as the machine goes, and says where it does not.
pub(crate) fn make_room(connections: usize) {
    let Some(shortage) = raise().and_then(|files| shortage(files, connections)) else {
        return;
    };
    // Nobody asked for the default: what the machine allows is then the limit.
    if connections == LimitsConfig::default().connections {
        tracing::info!("{shortage}");
    } else {
        tracing::warn!("{shortage}");
    }
}

/// Raises the bound on open files as far as it goes, and answers it. `None`: not known here.
fn raise() -> Option<u64> {
    let (soft, hard) = Resource::NOFILE.get().ok()?;
    if soft >= hard {
        return Some(soft);
    }
    match rlimit::increase_nofile_limit(hard) {
        Ok(files) => Some(files),
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the bound on open files cannot be raised");
            Some(soft)
        }
    }
}

/// What to say where so many connections do not fit into so many files.
fn shortage(files: u64, connections: usize) -> Option<String> {
    let room = files.saturating_sub(RESERVE);
    (connections as u64 > room).then(|| {
        format!(
            "limits.connections is {connections}, but this process may open {files} files, which is \
             room for about {room} connections: raise the hard limit (`ulimit -n`, LimitNOFILE= of \
             systemd) or lower limits.connections"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_names_both_figures() {
        assert_eq!(shortage(1_000_000, 200_000), None);
        let said = shortage(1024, 200_000).unwrap();
        assert!(
            said.contains("200000") && said.contains("1024") && said.contains("768"),
            "{said}"
        );
    }

    #[test]
    fn the_limit_goes_up_to_the_hard_one() {
        let (_, hard) = Resource::NOFILE.get().unwrap();
        assert_eq!(raise(), Some(hard));
    }
}
