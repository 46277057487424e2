//! Why a packet was dropped.

macro_rules! drop_reasons {
    ($($(#[doc = $help:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet was dropped. Numbers are never reused.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum DropReason {
            $($(#[doc = $help])+ $variant = $number,)+
        }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason a byte in a map stands for.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name that dumps and metrics use.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// One sentence for a person.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($help),+).trim_ascii(),)+
                }
            }
        }
    };
}

drop_reasons! {
    /// The headers end early or contradict each other.
    Malformed = 1, "malformed";
    /// The interface belongs to no endpoint whose rules are in force yet.
    NotReady = 2, "not_ready";
    /// The source address is not one that may come from there.
    SpoofedSource = 3, "spoofed_source";
    /// A pod sent something that is neither IP nor address resolution for its gateway.
    NotIp = 4, "not_ip";
    /// A pod sent a frame with a VLAN tag.
    VlanTagged = 5, "vlan_tagged";
    /// An IPv4-mapped IPv6 address was on the wire (RFC 4291, section 2.5.5.2 gives it no meaning there).
    MappedAddress = 6, "mapped_address";
    /// A later fragment came before, or without, its first.
    FragmentWithoutFirst = 7, "fragment_without_first";
    /// An IPv6 extension header that is unknown, or more of them than are parsed.
    ExtensionHeader = 8, "extension_header";
    /// No rule of the policies that isolate the pod allows it.
    PolicyDenied = 9, "policy_denied";
    /// A rule of a policy denies it.
    PolicyRuleDenied = 10, "policy_rule_denied";
    /// The table of confirmed flows is full.
    ConntrackFull = 11, "conntrack_full";
    /// The tuple after translation belongs to another flow already, and no other source port is free or possible (SCTP).
    TupleCollision = 12, "tuple_collision";
    /// The Service has no usable backend.
    NoBackend = 13, "no_backend";
    /// A pod sent to a multicast or broadcast address, which are not forwarded.
    Multicast = 14, "multicast";
    /// Neighbour discovery, router solicitation or another link-local message that is not forwarded.
    LinkLocal = 15, "link_local";
    /// The packet could not be rewritten for forwarding.
    Rewrite = 16, "rewrite";
    /// A conntrack entry could not be made.
    ConntrackInsert = 17, "conntrack_insert";
    /// A source-routed packet (RFC 7126, section 4.3; RFC 5095).
    SourceRoute = 18, "source_route";
    /// The Service's traffic policy is `Local` and this node has no usable backend.
    NoLocalBackend = 19, "no_local_backend";
    /// The client, outside, pod or node, is not in the Service's `loadBalancerSourceRanges`.
    SourceRange = 20, "source_range";
    /// No port of the node's range was free for the flow's translated source.
    SnatExhausted = 21, "snat_exhausted";
}

impl DropReason {
    /// Places in `COUNTERS`: one more than the highest number, rounded up for reasons to come.
    pub const PLACES: u32 = 64;

    /// The place in `COUNTERS` of flows that a shadow rule set would have dropped; no reason ever has this number.
    pub const WOULD_DROP: u32 = Self::PLACES - 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_fit() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(DropReason::from_number(*reason as u8), Some(*reason));
            assert!((*reason as u32) < DropReason::WOULD_DROP);
            assert!(!reason.help().is_empty());
            for other in &DropReason::ALL[index + 1..] {
                assert_ne!(reason.name(), other.name());
            }
        }
    }
}
