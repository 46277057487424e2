//! What lives on this node.

use aya_ebpf::{macros::map, maps::HashMap};
use sluice_abi::{Addr, Endpoint, EndpointId, endpoint_flags, maps};

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

/// Whether the endpoint is the node's own stack.
#[inline(always)]
pub(crate) fn is_host(endpoint: &Endpoint) -> bool {
    endpoint.flags & endpoint_flags::HOST != 0
}
