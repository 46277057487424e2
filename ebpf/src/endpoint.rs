//! What lives on this node.

use aya_ebpf::{macros::map, maps::HashMap};
use sluice_abi::{Addr, Endpoint, EndpointId, RuleSetId, endpoint_flags, maps};

#[map]
static ENDPOINTS: HashMap<Addr, Endpoint> =
    HashMap::with_max_entries(maps::ENDPOINTS.max_entries, maps::ENDPOINTS.flags);

#[map]
static INTERFACES: HashMap<u32, u32> =
    HashMap::with_max_entries(maps::INTERFACES.max_entries, maps::INTERFACES.flags);

/// The endpoint that has the address: a pod of this node, or the node itself.
#[inline(always)]
pub(crate) fn local(addr: &Addr) -> Option<&'static Endpoint> {
    // SAFETY: elements of a hash without preallocation are replaced whole and freed after a grace period, which a
    // running program delays.
    unsafe { ENDPOINTS.get(addr) }
}

/// The endpoint behind a pod's host-side veth.
#[inline(always)]
pub(crate) fn of_interface(ifindex: u32) -> Option<EndpointId> {
    // SAFETY: as in `local`.
    unsafe { INTERFACES.get(ifindex) }.map(|id| EndpointId(*id))
}

/// What of an endpoint a flow is judged by.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) kind: EndKind,
    pub(crate) id: EndpointId,
    pub(crate) ingress: RuleSetId,
    pub(crate) egress: RuleSetId,
    /// See [`endpoint_flags`].
    pub(crate) flags: u16,
}

/// Whose an address is.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum EndKind {
    /// Nobody's on this node.
    Elsewhere = 0,
    /// The node's own.
    Host = 1,
    /// A pod's of this node.
    Pod = 2,
}

impl End {
    /// What a flow needs of an endpoint.
    #[inline(always)]
    pub(crate) fn of(endpoint: Option<&Endpoint>) -> Self {
        match endpoint {
            None => Self {
                kind: EndKind::Elsewhere,
                id: EndpointId::HOST,
                ingress: RuleSetId::NONE,
                egress: RuleSetId::NONE,
                flags: 0,
            },
            Some(endpoint) => Self {
                kind: if is_host(endpoint) { EndKind::Host } else { EndKind::Pod },
                id: endpoint.id,
                ingress: endpoint.ingress,
                egress: endpoint.egress,
                flags: endpoint.flags,
            },
        }
    }

    /// The endpoint of an address.
    #[inline(always)]
    pub(crate) fn at(addr: &Addr) -> Self {
        Self::of(local(addr))
    }
}

/// Whether the endpoint is the node's own stack.
#[inline(always)]
pub(crate) fn is_host(endpoint: &Endpoint) -> bool {
    endpoint.flags & endpoint_flags::HOST != 0
}
