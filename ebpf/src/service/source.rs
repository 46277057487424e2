//! Other sources for flows: the node's own address, for pods that speak to the world and for clients outside whose backend
//! is another node's; and another port, for a flow whose tuple is another's already.

use aya_ebpf::{
    helpers::generated::bpf_get_prandom_u32,
    macros::map,
    maps::{HashMap, LpmTrie, lpm_trie::Key},
};
use sluice_abi::{Addr, DropReason, NodeAddr, NodeFamily, maps, node_flags, protocol};

use super::select;
use crate::{
    config, conntrack, outcome, ports,
    scratch::{self, Handle, Scratch},
};

#[map]
static NODE: HashMap<u32, NodeAddr> = HashMap::with_max_entries(maps::NODE.max_entries, maps::NODE.flags);

#[map]
static NO_MASQUERADE: LpmTrie<Addr, u32> =
    LpmTrie::with_max_entries(maps::NO_MASQUERADE.max_entries, maps::NO_MASQUERADE.flags);

/// Ports that are tried. With half of the range in use towards one peer, a flow is refused once in 2²⁴ times.
const TRIES: u32 = 24;

/// The node's address in the family, if it has one.
#[inline(always)]
pub(crate) fn node(is_v4: bool) -> Option<&'static NodeAddr> {
    let family = if is_v4 { NodeFamily::V4 } else { NodeFamily::V6 };
    // SAFETY: elements of a hash without preallocation are replaced whole.
    unsafe { NODE.get(family as u32) }.filter(|node| node.addr != Addr::UNSPECIFIED)
}

/// Whether what a pod sends to an address that is not of this node takes the node's address.
#[inline(never)]
pub(crate) fn masquerades(dst: &Addr, is_v4: bool) -> bool {
    node(is_v4).is_some_and(|node| node.flags & node_flags::MASQUERADE != 0)
        && NO_MASQUERADE.get(Key::new(128, *dst)).is_none()
}

/// The source of a new flow.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Source {
    /// As it was sent.
    Kept = 0,
    /// The node's address and a port that is free.
    Node = 1,
    /// The sender's address, and another port that is free.
    OtherPort = 2,
}

/// Gives the new flow `scratch.opened` the source.
///
/// # Errors
/// The number of the drop reason: [`DropReason::SnatExhausted`], or [`DropReason::TupleCollision`] where only the port
/// may change.
#[inline(always)]
pub(crate) fn take_source(source: Source) -> Result<(), u8> {
    outcome::decode(choose_source(source as u32)).map(|_| ())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choose_source(source: u32) -> u32 {
    let Some(scratch) = scratch::get() else {
        return DropReason::Malformed as u32;
    };
    let chosen = if source == Source::Node as u32 {
        choose_node(scratch).ok_or(DropReason::SnatExhausted)
    } else {
        choose_free_port(scratch).ok_or(DropReason::TupleCollision)
    };
    outcome::encode(chosen.map(|()| 0))
}

#[inline(always)]
fn choose_node(mut scratch: Handle) -> Option<()> {
    scratch.opened.src = node(scratch.packet.is_v4)?.addr;
    choose_free_port(scratch)?;
    ports::note(scratch.opened.protocol, scratch.opened.src_port); // the answers come to it
    Some(())
}

#[inline(always)]
fn choose_free_port(mut scratch: Handle) -> Option<()> {
    for _ in 0..TRIES {
        let has_port = choose_port(&mut scratch);
        if conntrack::is_free() {
            return Some(());
        }
        if !has_port {
            break;
        }
    }
    None
}

/// Gives the flow a port at random, as far as its protocol has one that can be rewritten: an SCTP port is under a
/// checksum of the whole packet, and of ICMP only echoes have an identifier.
#[inline(always)]
fn choose_port(scratch: &mut Scratch) -> bool {
    let (first, count) = config::snat_ports();
    // SAFETY: no arguments.
    let port = first + select::first(unsafe { bpf_get_prandom_u32() }, count);
    let port = (port as u16).to_be_bytes();
    let is_echo = scratch.opened.src_port != [0; 2];
    match scratch.opened.protocol {
        protocol::TCP | protocol::UDP => scratch.opened.src_port = port,
        protocol::ICMP | protocol::ICMPV6 if is_echo => {
            scratch.opened.src_port = port;
            scratch.opened.dst_port = port;
        }
        _ => return false,
    }
    true
}
