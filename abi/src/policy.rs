//! Rule sets: the compiled policies of one pod in one direction (`docs/adr/0003-shared-rule-sets.md`).

use crate::Identity;

/// Direction of traffic in the pod's view, as in NetworkPolicy.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// To the pod.
    Ingress = 0,
    /// From the pod.
    Egress = 1,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The direction a byte in a map stands for.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Ingress),
            1 => Some(Self::Egress),
            _ => None,
        }
    }

    /// `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Number of a rule set; never reused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleSetId(pub u32);
pod!(RuleSetId, 4);

impl RuleSetId {
    /// No rule set: "not judged here" in conntrack, "no shadow" in an endpoint.
    pub const NONE: Self = Self(0);
    /// The first number given out.
    pub const FIRST: u32 = 1;
}

/// Number of a rule of a policy, the answer to "which rule decided"; never reused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleId(pub u32);
pod!(RuleId, 4);

impl RuleId {
    /// No rule matched.
    pub const NONE: Self = Self(0);
    /// No policy selects the pod in this direction: everything is allowed.
    pub const NOT_ISOLATED: Self = Self(1);
    /// Traffic between a pod and its own node.
    pub const OWN_NODE: Self = Self(2);
    /// The first number given to a rule of a policy.
    pub const FIRST: u32 = 16;
}

/// Number of a policy object; never reused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PolicyId(pub u32);
pod!(PolicyId, 4);

impl PolicyId {
    /// The first number given out.
    pub const FIRST: u32 = 1;
}

/// Key of the `RULES` trie: one peer, protocol and port in one rule set.
///
/// Field order is match order. A trie can leave open only the *end* of a key; rules leave open the port (or its
/// low bits: a range), then the protocol, never the peer. "Any peer" is therefore a value, [`Identity::ANY`],
/// which the kernel looks up second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleKey {
    /// Which rule set; a set is for one direction only.
    pub rule_set: RuleSetId,
    /// Which peers.
    pub identity: Identity,
    /// IANA protocol number. A byte: shared memory may hold values no Rust enum allows.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// Destination port in network order, so that its leading bits are a prefix.
    pub port: [u8; 2],
}
pod!(RuleKey, 12);

impl RuleKey {
    /// Bits of a key that names a port.
    pub const BITS: u32 = 96;
    /// Bits of a key that leaves the port open.
    pub const BITS_ANY_PORT: u32 = 80;
    /// Bits of a key that leaves protocol and port open.
    pub const BITS_ANY_PROTOCOL: u32 = 64;
}

/// What a rule says.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RuleVerdict {
    /// Drop.
    Deny = 0,
    /// Let pass.
    Allow = 1,
}

/// Value of the `RULES` trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Rule {
    /// Which rule of which policy.
    pub id: RuleId,
    /// A [`RuleVerdict`]; anything but [`RuleVerdict::Allow`] denies.
    pub verdict: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
pod!(Rule, 8);

impl Rule {
    /// A rule with its verdict.
    pub const fn new(id: RuleId, verdict: RuleVerdict) -> Self {
        Self { id, verdict: verdict as u8, reserved: [0; 3] }
    }

    /// Whether the rule lets pass.
    #[inline(always)]
    pub const fn allows(&self) -> bool {
        self.verdict == RuleVerdict::Allow as u8
    }
}
