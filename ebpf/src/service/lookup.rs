//! The maps of Services.

use aya_ebpf::{
    helpers::generated::bpf_get_prandom_u32,
    macros::map,
    maps::{Array, HashMap},
};
use sluice_abi::{
    Addr, Backend, BackendId, BackendState, DropReason, Frontend, FrontendKey, FrontendScope, Tuple, maps,
};

use super::select;
use crate::{
    conntrack,
    scratch::{Handle, Scratch},
};

#[map]
static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(maps::FRONTENDS.max_entries, maps::FRONTENDS.flags);

#[map]
static SLOTS: Array<u32> = Array::with_max_entries(maps::SLOTS.max_entries, maps::SLOTS.flags);

#[map]
static BACKENDS: HashMap<u32, Backend> =
    HashMap::with_max_entries(maps::BACKENDS.max_entries, maps::BACKENDS.flags);

/// Backends that are tried when the first choice would meet another flow's tuple.
const TRIES: u32 = 4;

/// The frontend a packet is for.
#[inline(never)]
pub(crate) fn frontend(tuple: &Tuple) -> Option<&'static Frontend> {
    let key = FrontendKey {
        addr: tuple.dst,
        port: tuple.dst_port,
        protocol: tuple.protocol,
        scope: FrontendScope::Internal as u8,
    };
    // SAFETY: elements of a hash without preallocation are replaced whole.
    unsafe { FRONTENDS.get(key) }
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

#[inline(always)]
fn backend(id: BackendId) -> Option<&'static Backend> {
    // SAFETY: elements of a hash without preallocation are replaced whole.
    unsafe { BACKENDS.get(id.0) }
}

/// Chooses a backend at random for the new flow `scratch.sent`, into `scratch.backend` and `scratch.opened`.
///
/// # Errors
/// [`DropReason::NoBackend`] when the slice is empty; [`DropReason::TupleCollision`] when each backend that was tried
/// has a flow with the tuple already.
#[inline(never)]
pub(crate) fn choose(frontend: &Frontend, mut scratch: Handle, now_ns: u64) -> Result<(), DropReason> {
    let scratch: &mut Scratch = &mut scratch;
    let (first_slot, count) = (frontend.first_slot, frontend.count);
    if count == 0 {
        return Err(DropReason::NoBackend);
    }
    // SAFETY: no arguments.
    let mut index = select::first(unsafe { bpf_get_prandom_u32() }, count);
    let mut reason = DropReason::NoBackend;
    for _ in 0..TRIES {
        if let Some(id) = SLOTS.get(first_slot + index)
            && let Some(backend) = backend(BackendId(*id))
        {
            reason = DropReason::TupleCollision;
            scratch.backend = BackendId(*id);
            translate(&scratch.sent, backend, &mut scratch.opened);
            if conntrack::is_free(&scratch.opened, now_ns) {
                return Ok(());
            }
        }
        index = select::next(index, count);
    }
    Err(reason)
}

/// The tuple behind the translation. A pod that reaches itself must see another source, or it would answer to itself
/// past the datapath.
#[inline(always)]
fn translate(sent: &Tuple, backend: &Backend, opened: &mut Tuple) {
    *opened = *sent;
    opened.dst = backend.addr;
    opened.dst_port = backend.port;
    if backend.addr == sent.src {
        opened.src = if sent.src.is_v4() { Addr::HAIRPIN_V4 } else { Addr::HAIRPIN_V6 };
    }
}
