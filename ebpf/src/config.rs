//! What the programs are told: read-only globals set before load, and the epoch, which changes at run time.

use aya_ebpf::{Global, helpers, macros::map, maps::Array};
use sluice_abi::maps;

/// Whether `bpf_ktime_get_coarse_ns` exists (Linux 5.11); the loader probes.
#[unsafe(no_mangle)]
static HAS_COARSE_TIME: Global<u8> = Global::new(0);

/// Whether `bpf_check_mtu` exists (Linux 5.12); the loader probes.
#[unsafe(no_mangle)]
static HAS_CHECK_MTU: Global<u8> = Global::new(0);

/// Whether ICMP errors related to known flows pass policy. Off only to show what breaks without.
#[unsafe(no_mangle)]
static RELATED_ICMP: Global<u8> = Global::new(1);

/// The ports that translated sources get, both ends included.
#[unsafe(no_mangle)]
static SNAT_FIRST_PORT: Global<u16> = Global::new(61_000);
#[unsafe(no_mangle)]
static SNAT_LAST_PORT: Global<u16> = Global::new(65_535);

#[map]
static EPOCH: Array<u32> = Array::with_max_entries(maps::EPOCH.max_entries, maps::EPOCH.flags);

/// The epoch of the rules. Read it before any lookup: what a plan in progress changes is then judged again.
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    // SAFETY: a map value that lives as long as the program; volatile, since user space writes it.
    EPOCH.get_ptr(0).map_or(0, |epoch| unsafe { epoch.read_volatile() })
}

/// `CLOCK_MONOTONIC` in nanoseconds, at the tick's resolution where the kernel offers it: a fifth of the price.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    if HAS_COARSE_TIME.load() != 0 {
        // SAFETY: no arguments; the verifier removes this branch where the helper does not exist.
        unsafe { helpers::generated::bpf_ktime_get_coarse_ns() }
    } else {
        // SAFETY: no arguments.
        unsafe { helpers::generated::bpf_ktime_get_ns() }
    }
}

#[inline(always)]
pub(crate) fn has_check_mtu() -> bool {
    HAS_CHECK_MTU.load() != 0
}

/// The first of the ports that translated sources get, and their number.
#[inline(always)]
pub(crate) fn snat_ports() -> (u32, u32) {
    let (first, last) = (u32::from(SNAT_FIRST_PORT.load()), u32::from(SNAT_LAST_PORT.load()));
    (first, last - first + 1)
}

#[inline(always)]
pub(crate) fn related_icmp() -> bool {
    RELATED_ICMP.load() != 0
}
