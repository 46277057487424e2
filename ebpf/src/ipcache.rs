//! Which peers an address belongs to.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LpmTrie, lpm_trie::Key},
};
use sluice_abi::{Addr, Identity, maps};

#[map]
static IPCACHE: HashMap<Addr, u32> =
    HashMap::with_max_entries(maps::IPCACHE.max_entries, maps::IPCACHE.flags);

#[map]
static IPCACHE_CIDRS: LpmTrie<Addr, u32> =
    LpmTrie::with_max_entries(maps::IPCACHE_CIDRS.max_entries, maps::IPCACHE_CIDRS.flags);

/// The identity of an address; [`Identity::ANY`] when no selector in use matches it.
#[inline(always)]
pub(crate) fn identity_of(addr: &Addr) -> Identity {
    // SAFETY: elements of a hash without preallocation are replaced whole.
    if let Some(identity) = unsafe { IPCACHE.get(addr) } {
        return Identity(*identity);
    }
    IPCACHE_CIDRS.get(Key::new(128, *addr)).map_or(Identity::ANY, |identity| Identity(*identity))
}
