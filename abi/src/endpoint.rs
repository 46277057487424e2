//! Endpoints: what lives on this node.

use crate::RuleSetId;

/// Number of a pod's attachment on this node; never reused. 0 is the node itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EndpointId(pub u32);
pod!(EndpointId, 4);

impl EndpointId {
    /// The node's own stack.
    pub const HOST: Self = Self(0);
    /// The first number given out.
    pub const FIRST: u32 = 1;
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flags {
    /// The address is the node's own: packets for it go to the host stack and no policy applies.
    pub const HOST: u16 = 1;
    /// An address of the node that takes NodePorts.
    pub const NODE_PORT: u16 = 2;
    /// The pod has a shadow rule set, at least of one direction.
    pub const AUDIT: u16 = 4;
}

/// Value of `ENDPOINTS`: an address that lives on this node. A pod with two addresses has two equal entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Endpoint {
    /// Whose address it is.
    pub id: EndpointId,
    /// Interface index of the pod's host-side veth in the node's namespace; 0 for the node.
    pub ifindex: u32,
    /// Rules for packets to the pod.
    pub ingress: RuleSetId,
    /// Rules for packets from the pod.
    pub egress: RuleSetId,
    /// Judged too but never enforced (audit); [`RuleSetId::NONE`] when there is none.
    pub shadow_ingress: RuleSetId,
    /// The same for packets from the pod.
    pub shadow_egress: RuleSetId,
    /// MAC address of the pod's own interface.
    pub mac: [u8; 6],
    /// See [`endpoint_flags`].
    pub flags: u16,
}
pod!(Endpoint, 32);
