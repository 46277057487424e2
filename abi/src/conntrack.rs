//! Connection tracking: five-tuples and what is known of them (`docs/adr/0004-conntrack.md`).

use crate::{Addr, BackendId, RuleId, RuleSetId};

/// A packet's five-tuple, in the packet's direction.
///
/// ICMP echo has its identifier as both ports; what has no ports has zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, network order.
    pub src_port: [u8; 2],
    /// Destination port, network order.
    pub dst_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// 1 in what stands beside another flow: what an opener sends straight to where that flow's translation leads, and
    /// so has the tuple that is that one's. 0 in every packet's.
    pub beside: u8,
    /// Zero.
    pub reserved: [u8; 2],
}
pod!(Tuple, 40);

impl Tuple {
    /// The same flow seen from the other side, as a packet has it.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
            beside: 0,
            reserved: [0; 2],
        }
    }
}

/// Key of the conntrack maps: a five-tuple in its normal order, so that one lookup serves both directions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey(pub Tuple);
pod!(FlowKey, 40);

impl FlowKey {
    /// The key of a packet's flow, and whether the packet's source is the key's source.
    ///
    /// The order is by address words and then ports, as they lie in memory: any total order serves.
    #[inline(always)]
    pub fn of(tuple: &Tuple) -> (Self, bool) {
        let normal = Self::is_normal(tuple);
        let key = if normal { *tuple } else { Tuple { beside: tuple.beside, ..tuple.reversed() } };
        (Self(key), normal)
    }

    /// Whether a packet's source is the source of its flow's key.
    #[inline(always)]
    pub fn is_normal(tuple: &Tuple) -> bool {
        let (src, dst) = (tuple.src.words(), tuple.dst.words());
        if src.1 != dst.1 {
            src.1 < dst.1
        } else if src.0 != dst.0 {
            src.0 < dst.0
        } else {
            u16::from_ne_bytes(tuple.src_port) <= u16::from_ne_bytes(tuple.dst_port)
        }
    }
}

/// How far a flow has come.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CtState {
    /// The opener has sent.
    New = 0,
    /// The other side has answered (TCP: SYN-ACK).
    Replied = 1,
    /// The opener has sent again after the answer: the flow is real.
    Established = 2,
    /// TCP: one side has sent FIN.
    Closing = 3,
    /// TCP: both sides have sent FIN, or one sent RST.
    Closed = 4,
}

impl CtState {
    /// The state a byte in a map stands for; unknown bytes are [`CtState::New`], the shortest-lived.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Replied,
            2 => Self::Established,
            3 => Self::Closing,
            4 => Self::Closed,
            _ => Self::New,
        }
    }

    /// Seconds without a packet after which a flow in this state is forgotten.
    ///
    /// TCP: 2 h 4 min established, 4 min transitory (RFC 5382, REQ-5). UDP: 5 min (RFC 4787, REQ-5), 30 s before the
    /// first answer. ICMP: 60 s (RFC 5508, REQ-1). SCTP as TCP (RFC 6083 leaves it open).
    #[inline(always)]
    pub const fn timeout_s(self, protocol: u8) -> u64 {
        match (protocol, self) {
            (crate::protocol::TCP | crate::protocol::SCTP, Self::Established) => 7440,
            (crate::protocol::TCP | crate::protocol::SCTP, Self::New | Self::Replied | Self::Closing) => 240,
            (crate::protocol::UDP, Self::Replied | Self::Established) => 300,
            (crate::protocol::UDP, Self::New) => 30,
            (_, Self::Closed) => 10,
            (_, _) => 60,
        }
    }

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Replied => "replied",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// Bits of [`CtEntry::flags`].
pub mod flow_flags {
    /// The opener is the source of the key (else its destination).
    pub const OPENER_IS_KEY_SRC: u8 = 1;
    /// The entry is an alias: [`super::CtEntry::other`] is the direct tuple, in the opener's direction.
    pub const ALIAS: u8 = 2;
    /// The entry has an alias: [`super::CtEntry::other`] is the foreign tuple as the opener sends it.
    pub const TRANSLATED: u8 = 4;
    /// First seen coming through the host stack from another device: stays there in both directions.
    pub const STACK: u8 = 8;
    /// TCP: the opener has sent FIN.
    pub const FIN_OPENER: u8 = 16;
    /// TCP: the other side has sent FIN.
    pub const FIN_RESPONDER: u8 = 32;
    /// The entry stands in `CT_CONFIRMED`.
    pub const CONFIRMED: u8 = 64;
    /// The opener's source was translated: to the node's address and a port of its range, or, where the tuple was
    /// another flow's, to such a port alone.
    pub const SNAT: u8 = 128;
}

/// Under which rules a flow was let pass in one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Judgement {
    /// [`RuleSetId::NONE`] when it was not judged here.
    pub rule_set: RuleSetId,
    /// The `EPOCH` that was read before judging.
    pub epoch: u32,
    /// The rule that let it pass.
    pub rule: RuleId,
}
pod!(Judgement, 12);

/// Value of the conntrack maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct CtEntry {
    /// Time of the last packet: `CLOCK_MONOTONIC`, nanoseconds.
    pub last_seen_ns: u64,
    /// Time of the first packet: `CLOCK_MONOTONIC`, nanoseconds.
    pub created_ns: u64,
    /// Indexed by [`crate::Direction`]: ingress of the responder, egress of the opener.
    pub judged: [Judgement; 2],
    /// The foreign tuple of a translated flow, the direct one of an alias, the flow's own otherwise; always in the
    /// opener's direction.
    pub other: Tuple,
    /// Which backend a Service chose; [`BackendId::NONE`] without Service.
    pub backend: BackendId,
    /// A [`CtState`]; always [`CtState::New`] in an alias.
    pub state: u8,
    /// See [`flow_flags`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
}
pod!(CtEntry, 88);

/// Key of `FRAGMENTS`: the datagram a fragment belongs to (RFC 791, RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification, as on the wire; IPv4 has two bytes, then zeros.
    pub id: [u8; 4],
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
pod!(FragmentKey, 40);

/// Value of `FRAGMENTS`: the ports that only the first fragment carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct FragmentPorts {
    /// Source port, network order.
    pub src_port: [u8; 2],
    /// Destination port, network order.
    pub dst_port: [u8; 2],
}
pod!(FragmentPorts, 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_have_one_key() {
        let addrs = [Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 1, 0]), Addr([0xfd; 16]), Addr::HAIRPIN_V6];
        for src in addrs {
            for dst in addrs {
                for (src_port, dst_port) in [([0, 80], [1, 0]), ([1, 0], [0, 80]), ([5, 5], [5, 5])] {
                    let tuple = Tuple { src, dst, src_port, dst_port, protocol: 6, ..Tuple::default() };
                    let (key, forward) = FlowKey::of(&tuple);
                    let (reverse_key, reverse_forward) = FlowKey::of(&tuple.reversed());
                    assert_eq!(key, reverse_key);
                    let symmetric = tuple == tuple.reversed();
                    assert_eq!(forward != reverse_forward, !symmetric, "{tuple:?}");
                }
            }
        }
    }
}
