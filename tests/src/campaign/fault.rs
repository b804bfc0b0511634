//! What is done to a rig while events flow.

use std::{fmt, time::Duration};

/// A fault, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `CLIENT KILL TYPE pubsub`.
    KillPubsub,
    /// `CLIENT KILL TYPE normal`: the links that publish and read, and those of other publishers.
    KillNormal,
    /// A subscriber's output buffer is over its limit, so that Redis closes it.
    OutputBuffer,
    /// All links of one node to the bus are reset; those of whichever clients, where the bus is
    /// several servers.
    CutLinks,
    /// They are reset in the middle of a message.
    TearLinks,
    /// The bus' side of them vanishes without a word.
    OrphanLinks,
    /// The next announcements to a node are lost, so many on each link, and nothing else shows.
    LoseMessages(u64),
    /// Packets are dropped for so long.
    Blackhole(Duration),
    /// Each chunk takes this much longer, for a second.
    Delay(Duration),
    /// The bus is killed (SIGKILL) and started again, with its data.
    RestartBus,
    /// The bus stands still (SIGSTOP) for so long.
    PauseBus(Duration),
    /// The bus loses its data.
    FlushBus,
    /// `DEL` of one of the streams that publishers write to, once a node has seen it.
    DropStream,
    /// A node is killed (SIGKILL) and started again.
    KillNode,
    /// A node stands still (SIGSTOP) for so long.
    PauseNode(Duration),
    /// The node that records what others publish is killed, while another stands by.
    KillRecorder,
    /// The node that stands by is killed.
    KillStandby,
    /// Both are.
    KillBoth,
    /// The links of the node that records are reset, while another stands by.
    CutRecorder,
    /// Its packets are dropped for so long.
    BlackholeRecorder(Duration),
    /// It stands still for so long, and wakes up as if nothing had been.
    PauseRecorder(Duration),
    /// Another server takes over, while the old one lives.
    Failover,
    /// The server that leads is killed and comes back after another took over.
    KillPrimary,
    /// The server that leads dies, and what comes back lacks the newest of what it acknowledged.
    LoseTail,
    /// The part of the bus that holds some channels moves to another server.
    MigrateSlot,
    /// A server says that it goes, goes, and comes back.
    LameDuck,
    /// The load balancer takes its configuration anew and cuts what it carries a little later.
    ReloadBalancer,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::KillPubsub => "kill-pubsub",
            Self::KillNormal => "kill-normal",
            Self::OutputBuffer => "output-buffer",
            Self::CutLinks => "cut",
            Self::TearLinks => "tear",
            Self::OrphanLinks => "orphan",
            Self::LoseMessages(count) => return write!(f, "lose-{count}-messages"),
            Self::Blackhole(time) => return write!(f, "blackhole-{}s", time.as_secs_f32()),
            Self::Delay(time) => return write!(f, "delay-{}ms", time.as_millis()),
            Self::RestartBus => "restart-bus",
            Self::PauseBus(time) => return write!(f, "pause-bus-{}s", time.as_secs()),
            Self::FlushBus => "flush-bus",
            Self::DropStream => "drop-stream",
            Self::KillNode => "kill-node",
            Self::PauseNode(time) => return write!(f, "pause-node-{}s", time.as_secs()),
            Self::KillRecorder => "kill-recorder",
            Self::KillStandby => "kill-standby",
            Self::KillBoth => "kill-both",
            Self::CutRecorder => "cut-recorder",
            Self::BlackholeRecorder(time) => {
                return write!(f, "blackhole-recorder-{}s", time.as_secs());
            }
            Self::PauseRecorder(time) => return write!(f, "pause-recorder-{}s", time.as_secs()),
            Self::Failover => "failover",
            Self::KillPrimary => "kill-primary",
            Self::LoseTail => "lose-tail",
            Self::MigrateSlot => "migrate-slot",
            Self::LameDuck => "lame-duck",
            Self::ReloadBalancer => "reload-balancer",
        };
        f.write_str(name)
    }
}
