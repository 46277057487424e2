//! Which of the node's ports flows lead to, so that the node's own traffic is looked up nowhere else.
//!
//! **Invariant.** A port is noted before the first packet for it can come: by the agent before a frontend, here with the
//! flow. None is ever taken back: a flow may outlive its frontend, and what is noted for nothing costs two lookups.

use aya_ebpf::{macros::map, maps::Array};
use sluice_abi::{PortUse, Ports, Tuple, maps};

#[map]
static PORTS: Array<Ports> = Array::with_max_entries(maps::PORTS.max_entries, maps::PORTS.flags);

/// Whether a packet for the node may be of a flow, or of one to come.
#[inline(always)]
pub(crate) fn lead_in(packet: &Tuple) -> bool {
    let (protocol, port) = (packet.protocol, packet.dst_port);
    is_used(PortUse::Frontend, protocol, port) || is_used(PortUse::Flow, protocol, port)
}

/// Whether a packet of the node may be of a flow.
#[inline(always)]
pub(crate) fn lead_out(packet: &Tuple) -> bool {
    is_used(PortUse::Flow, packet.protocol, packet.src_port)
}

/// Notes a port that packets of a flow come to.
#[inline(always)]
pub(crate) fn note(protocol: u8, port: [u8; 2]) {
    let Some(used) = byte(PortUse::Flow, protocol, port) else { return };
    // SAFETY: a byte of a map value; whoever else writes it writes the same. Read first, to keep its cache line clean.
    unsafe {
        if used.read_volatile() == 0 {
            used.write_volatile(1);
        }
    }
}

#[inline(always)]
fn is_used(usage: PortUse, protocol: u8, port: [u8; 2]) -> bool {
    // SAFETY: as in `note`.
    byte(usage, protocol, port).is_none_or(|used| unsafe { used.read_volatile() } != 0)
}

#[inline(always)]
fn byte(usage: PortUse, protocol: u8, port: [u8; 2]) -> Option<*mut u8> {
    let (index, byte) = Ports::place(usage, protocol, port)?;
    let ports = PORTS.get_ptr_mut(index)?;
    // SAFETY: a byte of the map value.
    Some(unsafe { (&raw mut (*ports).0).cast::<u8>().add(byte & 63) })
}
