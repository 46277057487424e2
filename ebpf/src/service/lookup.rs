//! The maps of Services.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
};
use sluice_abi::{Addr, Backend, BackendId, BackendState, Frontend, FrontendKey, SourceRangeKey, maps};

use super::select;

#[map]
static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(maps::FRONTENDS.max_entries, maps::FRONTENDS.flags);

#[map]
static SLOTS: Array<u32> = Array::with_max_entries(maps::SLOTS.max_entries, maps::SLOTS.flags);

#[map]
static BACKENDS: HashMap<u32, Backend> =
    HashMap::with_max_entries(maps::BACKENDS.max_entries, maps::BACKENDS.flags);

#[map]
static SOURCE_RANGES: LpmTrie<SourceRangeKey, u32> =
    LpmTrie::with_max_entries(maps::SOURCE_RANGES.max_entries, maps::SOURCE_RANGES.flags);

/// The frontend with this key.
#[inline(always)]
pub(crate) fn find(key: &FrontendKey) -> Option<&'static Frontend> {
    // SAFETY: elements of a hash without preallocation are replaced whole.
    unsafe { FRONTENDS.get(key) }
}

/// Whether the client is in the source ranges of the frontend's Service.
#[inline(never)]
pub(crate) fn may_use(frontend: &Frontend, client: &Addr) -> bool {
    let key = SourceRangeKey { service: frontend.service, client: *client };
    SOURCE_RANGES.get(Key::new(8 * size_of::<SourceRangeKey>() as u32, key)).is_some()
}

/// The backend in a place of a frontend's slice.
#[inline(always)]
pub(crate) fn slot(index: u32) -> Option<BackendId> {
    SLOTS.get(index).map(|id| BackendId(*id))
}

/// Halvings that find a backend among as many as there are slots.
const HALVINGS: u32 = maps::SLOTS.max_entries.ilog2() + 1;

/// Whether the backend is one of the frontend's, and not only another Service's by now.
#[inline(never)]
pub(crate) fn is_member(frontend: &Frontend, id: BackendId) -> bool {
    let (first, count) = frontend.members();
    let mut range = (first, count);
    for _ in 0..HALVINGS {
        if range.1 == 0 {
            break;
        }
        let middle = range.0 + range.1 / 2;
        let Some(found) = slot(middle) else {
            break;
        };
        if found == id {
            return true;
        }
        range = select::half(range, id.0 > found.0);
    }
    false
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
