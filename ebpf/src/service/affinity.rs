//! Clients that keep their backend (`sessionAffinity: ClientIP`).

use aya_ebpf::{macros::map, maps::LruHashMap};
use sluice_abi::{Affinity, AffinityKey, BackendId, Frontend, maps};

use super::lookup;

#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> =
    LruHashMap::with_max_entries(maps::AFFINITY.max_entries, maps::AFFINITY.flags);

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// The backend the client had lately, if it still is one of the frontend's that take new flows.
#[inline(always)]
pub(crate) fn kept(client: &AffinityKey, frontend: &Frontend, now_ns: u64) -> Option<BackendId> {
    let affinity = AFFINITY.get_ptr(client)?;
    // SAFETY: a map value, two aligned words of it; programs that race wrote backends of the same Service.
    let (last_used_ns, backend) =
        unsafe { ((&raw const (*affinity).last_used_ns).read(), (&raw const (*affinity).backend).read()) };
    let is_young = now_ns.saturating_sub(last_used_ns) < u64::from(frontend.affinity_s) * SECOND_NS;
    (is_young && lookup::takes_new(backend) && lookup::is_member(frontend, backend)).then_some(backend)
}

/// Notes which backend the client's newest flow has.
#[inline(always)]
pub(crate) fn keep(client: &AffinityKey, backend: BackendId, now_ns: u64) {
    let affinity = Affinity { last_used_ns: now_ns, backend, reserved: 0 };
    // Without room the client has no affinity, and its flows go on.
    let _ = AFFINITY.insert(client, &affinity, 0);
}
