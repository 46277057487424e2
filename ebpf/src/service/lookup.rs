//! The maps of Services.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use sluice_abi::{Backend, BackendId, BackendState, Frontend, FrontendKey, maps};

#[map]
static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(maps::FRONTENDS.max_entries, maps::FRONTENDS.flags);

#[map]
static SLOTS: Array<u32> = Array::with_max_entries(maps::SLOTS.max_entries, maps::SLOTS.flags);

#[map]
static BACKENDS: HashMap<u32, Backend> =
    HashMap::with_max_entries(maps::BACKENDS.max_entries, maps::BACKENDS.flags);

/// The frontend with this key.
#[inline(always)]
pub(crate) fn find(key: &FrontendKey) -> Option<&'static Frontend> {
    // SAFETY: elements of a hash without preallocation are replaced whole.
    unsafe { FRONTENDS.get(key) }
}

/// The backend in a place of a frontend's slice.
#[inline(always)]
pub(crate) fn slot(index: u32) -> Option<BackendId> {
    SLOTS.get(index).map(|id| BackendId(*id))
}

/// Whether the backend still serves the flows it has.
#[inline(always)]
pub(crate) fn usable(id: BackendId) -> bool {
    backend(id).is_some()
}

/// Whether the backend takes new flows.
#[inline(always)]
pub(crate) fn takes_new(id: BackendId) -> bool {
    backend(id).is_some_and(|backend| backend.state == BackendState::Active as u8)
}

/// The backend, while it serves.
#[inline(always)]
pub(crate) fn backend(id: BackendId) -> Option<&'static Backend> {
    // SAFETY: elements of a hash without preallocation are replaced whole.
    unsafe { BACKENDS.get(id.0) }
}
