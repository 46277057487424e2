//! Sending a packet on.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_fib_lookup, bpf_redir_neigh},
    helpers::generated::{
        bpf_check_mtu, bpf_fib_lookup as fib_lookup, bpf_redirect_neigh, bpf_redirect_peer,
    },
    programs::TcContext,
};
use sluice_abi::{DropReason, Endpoint, Tuple};

use crate::{
    config,
    endpoint::{self, EndKind},
    nat,
    packet::{ETH_LEN, Packet},
    scratch::{Handle, Scratch},
};

/// Where a packet goes.
#[derive(Clone, Copy)]
pub(crate) enum Forward {
    /// On to the host stack (and to whatever else is attached behind us).
    Stack,
    /// Into a pod of this node.
    Pod(&'static Endpoint),
    /// To wherever the node's routes lead.
    Route,
}

impl Forward {
    /// Where a packet for this endpoint goes; for none of this node, where the routes lead.
    #[inline(always)]
    pub(crate) fn towards(destination: Option<&'static Endpoint>) -> Self {
        match destination {
            Some(endpoint) if endpoint::is_host(endpoint) => Self::Stack,
            Some(endpoint) => Self::Pod(endpoint),
            None => Self::Route,
        }
    }
}

/// The tc action for a dropped packet.
pub(crate) const DROP: i32 = TC_ACT_SHOT;
/// The tc action that leaves the packet to the host stack.
pub(crate) const STACK: i32 = TC_ACT_UNSPEC;

/// `AF_INET` and `AF_INET6` (`linux/socket.h`).
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The result of `bpf_fib_lookup` (`linux/bpf.h`) that names a next hop with a known neighbour.
const FIB_SUCCESS: i64 = 0;
/// The one that names a next hop whose neighbour is not resolved yet.
const FIB_NO_NEIGHBOR: i64 = 7;

/// Sends `scratch.packet` on and gives the tc action.
///
/// What the stack must answer for goes there as it came, `scratch.sent`, when its source was translated: the stack
/// takes no packet that has an address of its own for a source, and its answer is for who sent it.
///
/// # Errors
/// The number of [`DropReason::Rewrite`], when the packet could not be changed, or went to the node's own address and
/// cannot go on from there: the stack would answer for itself.
#[inline(always)]
pub(crate) fn run(forward: Forward, ctx: &TcContext, mut scratch: Handle) -> Result<i32, u8> {
    let action = try_run(forward, ctx, &scratch).map_err(|reason| reason as u8)?;
    if action != STACK || !is_masked(&scratch) {
        return Ok(action);
    }
    if scratch.dst.kind == EndKind::Host {
        return Err(DropReason::Rewrite as u8);
    }
    scratch.target = scratch.sent;
    nat::rewrite(ctx).map(|()| STACK)
}

/// Whether the packet has another source than it came with.
#[inline(always)]
fn is_masked(scratch: &Scratch) -> bool {
    scratch.packet.tuple.src != scratch.sent.src
}

#[inline(always)]
fn try_run(forward: Forward, ctx: &TcContext, scratch: &Scratch) -> Result<i32, DropReason> {
    let packet = &scratch.packet;
    // The host stack answers with ICMP what cannot be forwarded (RFC 1812, section 5.3.1).
    if packet.ttl <= 1 {
        return Ok(STACK);
    }
    match forward {
        Forward::Stack => Ok(STACK),
        Forward::Pod(endpoint) => {
            if is_too_big(ctx, endpoint.ifindex) {
                return Ok(STACK);
            }
            decrement_ttl(ctx, packet)?;
            set_destination(ctx, endpoint.mac)?;
            // SAFETY: no pointers.
            Ok(unsafe { bpf_redirect_peer(endpoint.ifindex, 0) } as i32)
        }
        Forward::Route => {
            // SAFETY: integers; zero is a value of each.
            let mut next_hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
            let ifindex = route(ctx, packet, is_masked(scratch), &mut next_hop);
            if ifindex == 0 {
                return Ok(STACK);
            }
            decrement_ttl(ctx, packet)?;
            let size = size_of::<bpf_redir_neigh>() as i32;
            // SAFETY: the helper reads `size` bytes of a live value.
            Ok(unsafe { bpf_redirect_neigh(ifindex, &raw mut next_hop, size, 0) } as i32)
        }
    }
}

/// The interface index of the device for the packet, and its next hop; 0 leaves it to the host stack: no route, too big, a
/// neighbour to resolve (or to answer for), or a device or route that asks for more than forwarding. What the stack
/// would not take, since it is `masked`, waits for its neighbour behind the redirect.
#[inline(never)]
fn route(ctx: &TcContext, packet: &Packet, masked: bool, next_hop: &mut bpf_redir_neigh) -> u32 {
    // SAFETY: the context of a running program.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let mut params = question(&packet.tuple, packet, ifindex, datagram_len(ctx, packet));
    let result = lookup(ctx.skb.skb.cast(), &mut params);
    if result != FIB_SUCCESS && !(masked && result == FIB_NO_NEIGHBOR) {
        return 0;
    }
    next_hop.nh_family = u32::from(params.family);
    // A route may lead an IPv4 packet to an IPv6 next hop, and the lookup says so in the family.
    if params.family == AF_INET {
        // SAFETY: the family names the field.
        next_hop.__bindgen_anon_1.ipv4_nh = unsafe { params.__bindgen_anon_4.ipv4_dst };
    } else {
        // SAFETY: the family names the field.
        next_hop.__bindgen_anon_1.ipv6_nh = unsafe { params.__bindgen_anon_4.ipv6_dst };
    }
    params.ifindex
}

/// Asks for the way of a packet that came by the interface and has this tuple by now; `length` is the datagram's, bytes.
#[inline(always)]
pub(crate) fn question(tuple: &Tuple, packet: &Packet, ifindex: u32, length: u16) -> bpf_fib_lookup {
    // SAFETY: integers and byte arrays; zero is a value of each.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    params.ifindex = ifindex;
    params.l4_protocol = tuple.protocol;
    params.__bindgen_anon_1.tot_len = length;
    let (src, dst) = (&tuple.src, &tuple.dst);
    if packet.is_v4 {
        params.family = AF_INET;
        params.__bindgen_anon_2.tos = packet.tos;
        params.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(src.v4_octets());
        params.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(dst.v4_octets());
    } else {
        params.family = AF_INET6;
        params.__bindgen_anon_2.flowinfo = (u32::from(packet.tos) << 20).to_be();
        params.__bindgen_anon_3.ipv6_src = words(src);
        params.__bindgen_anon_4.ipv6_dst = words(dst);
    }
    params
}

#[inline(always)]
fn lookup(ctx: *mut c_void, params: &mut bpf_fib_lookup) -> i64 {
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the helper reads and writes `size` bytes of a live value.
    unsafe { fib_lookup(ctx, params, size, 0) }
}

/// Whether the answer is a device and the addresses of a frame.
#[inline(always)]
pub(crate) fn has_next_hop(ctx: *mut c_void, params: &mut bpf_fib_lookup) -> bool {
    lookup(ctx, params) == FIB_SUCCESS
}

/// Bytes of the IP datagram that must fit the route: of one segment, when the device cuts it up.
#[inline(always)]
fn datagram_len(ctx: &TcContext, packet: &Packet) -> u16 {
    // SAFETY: the context of a running program.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    let len = if gso_size == 0 {
        ctx.len() - ETH_LEN as u32
    } else {
        packet.l4_offset - ETH_LEN as u32 + u32::from(packet.l4_len) + gso_size
    };
    len.min(u32::from(u16::MAX)) as u16
}

/// Whether the packet does not fit a pod's interface, for which the redirect would drop it without a word. The device
/// is asked only for what exceeds what every link carries (RFC 8200, section 5); segments fit by themselves.
#[inline(always)]
fn is_too_big(ctx: &TcContext, ifindex: u32) -> bool {
    // SAFETY: the context of a running program.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    if gso_size != 0 || ctx.len() <= ETH_LEN as u32 + 1280 || !config::has_check_mtu() {
        return false;
    }
    let mut mtu = 0;
    // SAFETY: the helper writes the MTU to a live value.
    unsafe { bpf_check_mtu(ctx.skb.skb.cast(), ifindex, &raw mut mtu, 0, 0) != 0 }
}

#[inline(always)]
fn words(addr: &sluice_abi::Addr) -> [u32; 4] {
    let ((a, b), half) = (addr.words(), |word: u64| [word as u32, (word >> 32) as u32]);
    let ([a0, a1], [b0, b1]) = (half(a), half(b));
    [a0, a1, b0, b1]
}

/// Offsets from the start of the frame.
const IPV4_TTL: usize = ETH_LEN + 8;
const IPV6_HOP_LIMIT: usize = ETH_LEN + 7;

/// Fields in the packet, with the alignment that lets them be written in one or few stores (see `packet::Header`).
#[repr(C, align(2))]
struct Mac([u8; 6]);
#[repr(C, align(2))]
struct TtlProtocolChecksum([u8; 4]);

#[inline(always)]
fn decrement_ttl(ctx: &TcContext, packet: &Packet) -> Result<(), DropReason> {
    let ttl = packet.ttl - 1;
    if !packet.is_v4 {
        // By the helper, since a complete checksum of the device covers the hop limit.
        return nat::store(ctx, IPV6_HOP_LIMIT as u32, &ttl, u64::from(BPF_F_RECOMPUTE_CSUM));
    }
    nat::update(ctx, IPV4_TTL, |TtlProtocolChecksum([old, _, c0, c1])| {
        *old = ttl;
        // RFC 1141: one less in the high byte of a word is 0x0100 more in the checksum, with the carry brought around.
        let sum = u32::from(u16::from_be_bytes([*c0, *c1])) + 0x0100;
        [*c0, *c1] = ((sum + (sum >> 16)) as u16).to_be_bytes();
    })
}

#[inline(always)]
fn set_destination(ctx: &TcContext, mac: [u8; 6]) -> Result<(), DropReason> {
    nat::update(ctx, 0, |destination| *destination = Mac(mac))
}
