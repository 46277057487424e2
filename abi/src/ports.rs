//! Ports of this node that packets of flows may be for.

use crate::protocol;

/// Value of `PORTS`: a byte for each of 64 ports that follow each other, not zero for those in use.
///
/// A byte and not a bit, so that programs on several CPUs may write neighbours at once.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports(pub [u8; 64]);
pod!(Ports, 64);

/// Who says that a port is in use.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PortUse {
    /// The agent: clients outside find a Service under it, at some address.
    Frontend = 0,
    /// The programs: a flow was led to it, or got it as its source.
    Flow = 1,
}

impl Ports {
    /// Values in the map: two uses, four kinds of protocol (one of them unused), 65 536 ports.
    pub const PLACES: u32 = 2 << 12;

    /// Where a port (network order; of an ICMP echo its identifier) stands: the value's index and the byte in it; `None` for
    /// protocols of which every packet is looked up, and for ICMP that is no echo.
    #[inline(always)]
    pub const fn place(usage: PortUse, protocol: u8, port: [u8; 2]) -> Option<(u32, usize)> {
        let number = u16::from_be_bytes(port) as u32;
        let kind = match protocol {
            protocol::TCP => 0,
            protocol::UDP => 1,
            protocol::ICMP | protocol::ICMPV6 if number != 0 => 2,
            _ => return None,
        };
        Some(((usage as u32) << 12 | kind << 10 | number >> 6, (number & 63) as usize))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_port_has_a_place_of_its_own() {
        let mut places = BTreeSet::new();
        for usage in [PortUse::Frontend, PortUse::Flow] {
            for protocol in [protocol::TCP, protocol::UDP, protocol::ICMP] {
                for port in 1..=u16::MAX {
                    let place = Ports::place(usage, protocol, port.to_be_bytes()).expect("a place");
                    assert!(place.0 < Ports::PLACES && place.1 < 64);
                    assert!(places.insert(place), "{usage:?} {protocol} {port}");
                }
            }
        }
        assert_eq!(Ports::place(PortUse::Flow, protocol::ICMPV6, [0; 2]), None);
        assert_eq!(Ports::place(PortUse::Flow, protocol::SCTP, [0, 80]), None);
        assert!(Ports::place(PortUse::Flow, protocol::TCP, [0; 2]).is_some(), "where the kernel refuses");
    }
}
