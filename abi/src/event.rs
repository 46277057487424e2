//! What the datapath reports: counters, drop records, events.

use crate::{Addr, EndpointId, Identity, RuleId, RuleSetId, Tuple};

/// Value of `COUNTERS`, per CPU, indexed by [`crate::DropReason`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Counter {
    /// Packets (a GSO packet counts once).
    pub packets: u64,
    /// Bytes from the MAC header on.
    pub bytes: u64,
}
pod!(Counter, 16);

/// Where a packet was seen.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Hook {
    /// From a pod.
    FromPod = 0,
    /// To a pod, through the host stack.
    ToPod = 1,
    /// From the network.
    FromNetdev = 2,
    /// To the network, from the node's own stack.
    ToNetdev = 3,
}

impl Hook {
    /// The program's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromNetdev => "from_netdev",
            Self::ToNetdev => "to_netdev",
        }
    }

    /// The hook a byte in an event stands for.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::FromPod),
            1 => Some(Self::ToPod),
            2 => Some(Self::FromNetdev),
            3 => Some(Self::ToNetdev),
            _ => None,
        }
    }
}

/// What an [`Event`] reports.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EventKind {
    /// A packet was dropped.
    Drop = 0,
    /// The shadow rule set would have dropped it.
    WouldDrop = 1,
    /// A new flow was let pass: one event for each side whose rules were asked, or one for its opener. Only while somebody
    /// wants it (`FLOW_EVENTS`).
    Allowed = 2,
}

impl EventKind {
    /// The kind a byte in an event stands for.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Drop),
            1 => Some(Self::WouldDrop),
            2 => Some(Self::Allowed),
            _ => None,
        }
    }
}

/// A record of the `EVENTS` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// The packet's five-tuple, after translation as far as it got; of a flow, with its opener's own source.
    pub tuple: Tuple,
    /// Whose policy or interface; [`EndpointId::HOST`] when none is known.
    pub endpoint: EndpointId,
    /// The peer's identity, when policy dropped.
    pub identity: Identity,
    /// The rule set, when policy decided.
    pub rule_set: RuleSetId,
    /// The deciding rule; [`RuleId::NONE`] when none matched, or policy did not decide.
    pub rule: RuleId,
    /// Interface index of the hook's device; 0 with [`EventKind::WouldDrop`], which is about a flow.
    pub ifindex: u32,
    /// Packet length in bytes from the MAC header on; 0 with [`EventKind::WouldDrop`].
    pub len_bytes: u32,
    /// A [`crate::DropReason`]; 0 for what was let pass.
    pub reason: u8,
    /// A [`crate::Direction`].
    pub direction: u8,
    /// A [`Hook`].
    pub hook: u8,
    /// An [`EventKind`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 4],
}
pod!(Event, 80);

/// Key of `DROP_RECORDS`: drops that look alike.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DropKey {
    /// The other side's address.
    pub peer: Addr,
    /// Whose policy or interface; [`EndpointId::HOST`] when none is known.
    pub endpoint: EndpointId,
    /// Destination port, network order.
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// A [`crate::Direction`].
    pub direction: u8,
    /// A [`crate::DropReason`].
    pub reason: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
pod!(DropKey, 28);

/// Value of `DROP_RECORDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct DropRecord {
    /// Packets dropped.
    pub count: u64,
    /// Time of the last: `CLOCK_MONOTONIC`, nanoseconds.
    pub last_seen_ns: u64,
    /// The rule set that was asked; [`RuleSetId::NONE`] when policy did not decide.
    pub rule_set: RuleSetId,
    /// The deciding rule; [`RuleId::NONE`] when none matched.
    pub rule: RuleId,
}
pod!(DropRecord, 24);
