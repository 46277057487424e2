//! Names behind the numbers, pinned so that dumps need only the kernel.

use crate::{Addr, PolicyId, Text};

/// What kind of object a policy is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy = 0,
    /// `policy.networking.k8s.io` ClusterNetworkPolicy.
    ClusterNetworkPolicy = 1,
}

/// Whether a policy counts.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PolicyMode {
    /// It is enforced.
    Enforce = 0,
    /// It is judged in shadow rule sets only (`sluice.dev/mode: audit`).
    Audit = 1,
}

/// Value of `POLICY_META`, by [`PolicyId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PolicyMeta {
    /// Empty for cluster-scoped policies.
    pub namespace: Text<64>,
    /// The object's name.
    pub name: Text<256>,
    /// A [`PolicyKind`].
    pub kind: u8,
    /// A [`PolicyMode`].
    pub mode: u8,
    /// Zero.
    pub reserved: [u8; 6],
}
pod!(PolicyMeta, 328);

/// Value of `RULE_META`, by [`crate::RuleId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RuleMeta {
    /// Whose rule it is.
    pub policy: PolicyId,
    /// Its index in the policy's `ingress` or `egress` list, from 0.
    pub index: u16,
    /// A [`crate::Direction`].
    pub direction: u8,
    /// Zero.
    pub reserved: u8,
}
pod!(RuleMeta, 8);

/// Value of `RULE_SET_META`, by [`crate::RuleSetId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RuleSetMeta {
    /// Digest of the symbolic rules: what the set *means*, whatever the numbers.
    pub digest: [u8; 16],
    /// A [`crate::Direction`].
    pub direction: u8,
    /// 1 where rules deny some peers by what they are: one without an identity may then be taken for one that is let pass.
    pub denies: u8,
    /// Policies that isolate the set's pods; may exceed what `policies` holds.
    pub policy_count: u16,
    /// The first of them; unused places are zero.
    pub policies: [PolicyId; RuleSetMeta::POLICIES],
}
pod!(RuleSetMeta, 148);

impl RuleSetMeta {
    /// Places for isolating policies.
    pub const POLICIES: usize = 32;
}

/// Value of `IDENTITY_META`, by [`crate::Identity`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct IdentityMeta {
    /// Digest of the satisfied selectors: what the identity *means*.
    pub digest: [u8; 16],
    /// The selectors in words, cut where they do not fit.
    pub selectors: Text<240>,
}
pod!(IdentityMeta, 256);

/// Value of `ENDPOINT_META`, by [`crate::EndpointId`]: everything the agent must know again after a restart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EndpointMeta {
    /// The pod's namespace.
    pub namespace: Text<64>,
    /// The pod's name.
    pub pod: Text<256>,
    /// The pod's uid.
    pub uid: Text<40>,
    /// The container id of the CNI call.
    pub container: Text<128>,
    /// The interface's name in the pod.
    pub ifname: Text<16>,
    /// The name of the host-side veth.
    pub host_ifname: Text<16>,
    /// The pod's addresses; [`Addr::UNSPECIFIED`] where it has none.
    pub addrs: [Addr; 2],
    /// Interface index of the host-side veth.
    pub ifindex: u32,
    /// MAC address of the pod's own interface.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 6],
}
pod!(EndpointMeta, 568);

/// Value of `SERVICE_META`, by [`crate::ServiceId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ServiceMeta {
    /// The Service's namespace.
    pub namespace: Text<64>,
    /// The Service's name.
    pub name: Text<256>,
}
pod!(ServiceMeta, 320);
