//! Rewriting addresses and ports, with their checksums.
//!
//! Transport checksums go through the kernel's helpers, which know whether the device or the receiver computes them
//! (`CHECKSUM_PARTIAL`, `CHECKSUM_COMPLETE`). What they subtract from a complete sum for a pseudo header is right for
//! IPv4, whose own header checksum changes too: that one, and the addresses, are written directly. IPv6 has none, so there
//! the stored addresses are added again.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::TcContext,
};
use sluice_abi::{Addr, DropReason, Tuple, protocol};

use crate::{
    outcome,
    packet::{ETH_LEN, Packet, Part, Quoted},
    scratch,
};

pub(crate) mod plain;

/// Offsets from the start of an IPv4 header (RFC 791) and an IPv6 header (RFC 8200).
const IPV4_CHECKSUM: u32 = 10;
const IPV4_SRC: u32 = 12;
const IPV6_SRC: u32 = 8;
/// Where the transport header is behind an IPv4 header without options.
const V4_PLAIN: u32 = ETH_LEN as u32 + 20;

/// From the checksum to the destination of an IPv4 header, with the alignment that lets it be written in few stores (see
/// `packet::Header`).
#[repr(C, align(2))]
struct V4Ends {
    checksum: [u8; 2],
    src: [u8; 4],
    dst: [u8; 4],
}
/// The ports at the start of a transport header.
#[repr(C, align(2))]
struct Ports([u8; 4]);

/// Offset of the checksum in an ICMP header (RFC 792, RFC 4443).
const ICMP_CHECKSUM: u32 = 2;
/// Offset of the identifier in an echo message.
const ICMP_IDENTIFIER: u32 = 4;

/// Gives the packet the tuple in `scratch.target`.
///
/// # Errors
/// The number of [`DropReason::Rewrite`].
#[inline(always)]
pub(crate) fn rewrite(ctx: &TcContext) -> Result<(), u8> {
    outcome::decode(rewrite_headers(ctx.skb.skb)).map(|_| ())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rewrite_headers(skb: *mut __sk_buff) -> u32 {
    let Some(mut scratch) = scratch::get() else {
        return DropReason::Rewrite as u32;
    };
    let result = try_rewrite(&TcContext::new(skb), &scratch.packet, &scratch.target);
    scratch.packet.tuple = scratch.target;
    outcome::encode(result.map(|()| 0))
}

#[inline(always)]
fn try_rewrite(ctx: &TcContext, packet: &Packet, new: &Tuple) -> Result<(), DropReason> {
    let (old, l4_offset, is_v4) = (&packet.tuple, packet.l4_offset, packet.is_v4);
    let has_l4 = packet.part != Part::LaterFragment;
    let addresses = if is_v4 { v4_difference(old, new) } else { difference(old, new) };
    if has_l4 && let Some(checksum) = checksum_offset(old.protocol) {
        let offset = l4_offset + checksum;
        let udp = if old.protocol == protocol::UDP { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        // ICMP over IPv4 has no pseudo header.
        if old.protocol != protocol::ICMP {
            l4_difference(ctx, offset, addresses, u64::from(BPF_F_PSEUDO_HDR) | udp)?;
        }
        if has_ports(old.protocol) && ports(old) != ports(new) {
            l4_word(ctx, offset, ports(old), ports(new), udp)?;
            if is_v4 && l4_offset == V4_PLAIN {
                update(ctx, V4_PLAIN as usize, |bytes| *bytes = Ports(ports(new).to_ne_bytes()))?;
            } else {
                store(ctx, l4_offset, &ports(new).to_ne_bytes(), 0)?;
            }
        } else if is_icmp(old.protocol) && old.src_port != new.src_port {
            echo_identifier(ctx, l4_offset, offset, old, new)?;
        }
    }
    if is_v4 {
        update(ctx, ETH_LEN + IPV4_CHECKSUM as usize, |V4Ends { checksum, src, dst }| {
            *checksum = (!fold(u64::from(!u16::from_ne_bytes(*checksum)) + addresses)).to_ne_bytes();
            (*src, *dst) = (new.src.v4_octets(), new.dst.v4_octets());
        })
    } else {
        store_addresses(ctx, ETH_LEN as u32, new, is_v4, u64::from(BPF_F_RECOMPUTE_CSUM))
    }
}

/// Changes the field at a constant offset, by direct access: for what no checksum of the device covers, or what leaves
/// it as it is.
///
/// # Errors
/// [`DropReason::Rewrite`] when the packet ends before.
#[inline(always)]
pub(crate) fn update<T>(
    ctx: &TcContext,
    offset: usize,
    change: impl FnOnce(&mut T),
) -> Result<(), DropReason> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return Err(DropReason::Rewrite);
    }
    // SAFETY: the bounds were checked, the types used are bytes, and the program is the packet's only user.
    change(unsafe { &mut *(start as *mut T) });
    Ok(())
}

/// Gives the packet that an ICMP error quotes the tuple `new`, so that the receiver finds its socket.
///
/// The quoted transport checksum stays as it was: it is seldom whole and nobody may rely on it (RFC 1812, section
/// 4.3.2.3, quotes as much as fits).
#[inline(never)]
pub(crate) fn rewrite_quoted(
    ctx: &TcContext,
    icmp_offset: u32,
    quoted: &Quoted,
    new: &Tuple,
) -> Result<(), DropReason> {
    let old = &quoted.tuple;
    let checksum = icmp_offset + ICMP_CHECKSUM;
    let is_v4 = old.src.is_v4();
    let addresses = difference(old, new);
    if is_v4 {
        // In the ICMP checksum the quoted header's own checksum cancels the change of the addresses.
        // SAFETY: the context of a running program.
        let result =
            unsafe { bpf_l3_csum_replace(ctx.skb.skb, quoted.l3_offset + IPV4_CHECKSUM, 0, addresses, 0) };
        check(result)?;
    } else {
        l4_difference(ctx, checksum, addresses, 0)?;
    }
    if has_ports(old.protocol) && ports(old) != ports(new) {
        l4_word(ctx, checksum, ports(old), ports(new), 0)?;
        store(ctx, quoted.l4_offset, &ports(new).to_ne_bytes(), 0)?;
    } else if is_icmp(old.protocol) && old.src_port != new.src_port {
        echo_identifier(ctx, quoted.l4_offset, checksum, old, new)?;
    }
    store_addresses(ctx, quoted.l3_offset, new, is_v4, 0)
}

/// Difference of the address pairs, for the checksum helpers (RFC 1624).
#[inline(always)]
fn difference(old: &Tuple, new: &Tuple) -> u64 {
    let pair = size_of::<[Addr; 2]>() as u32;
    // SAFETY: source and destination are the first 32 bytes of a tuple.
    let difference = unsafe {
        bpf_csum_diff(
            core::ptr::from_ref(old).cast_mut().cast(),
            pair,
            core::ptr::from_ref(new).cast_mut().cast(),
            pair,
            0,
        )
    };
    // The helper's result is a 32-bit sum in a signed word.
    difference as u64 & 0xffff_ffff
}

/// The same of IPv4 addresses, of which only the last word is on the wire.
#[inline(always)]
fn v4_difference(old: &Tuple, new: &Tuple) -> u64 {
    let word = |addr: &Addr| u64::from(u32::from_ne_bytes(addr.v4_octets()));
    let less = |addr: &Addr| u64::from(!u32::from_ne_bytes(addr.v4_octets()));
    let sum = word(&new.src) + word(&new.dst) + less(&old.src) + less(&old.dst);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// A sum of words brought to sixteen bits, carries around.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[inline(always)]
fn ports(tuple: &Tuple) -> u32 {
    let ([a, b], [c, d]) = (tuple.src_port, tuple.dst_port);
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

#[inline(always)]
fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, protocol::ICMP | protocol::ICMPV6)
}

/// Gives the echo message at `l4_offset` its identifier, under the checksum at `checksum`.
#[inline(always)]
fn echo_identifier(
    ctx: &TcContext,
    l4_offset: u32,
    checksum: u32,
    old: &Tuple,
    new: &Tuple,
) -> Result<(), DropReason> {
    let (from, to) = (u16::from_ne_bytes(old.src_port), u16::from_ne_bytes(new.src_port));
    // SAFETY: the context of a running program; the low bits of the flags are the field's size.
    check(unsafe { bpf_l4_csum_replace(ctx.skb.skb, checksum, u64::from(from), u64::from(to), 2) })?;
    store(ctx, l4_offset + ICMP_IDENTIFIER, &new.src_port, 0)
}

/// Offset of the checksum in a transport header (RFC 9293, RFC 768, RFC 792, RFC 4443). SCTP's CRC32c covers neither
/// addresses nor a pseudo header (RFC 9260, section 6.8).
#[inline(always)]
fn checksum_offset(protocol: u8) -> Option<u32> {
    match protocol {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        protocol::ICMP | protocol::ICMPV6 => Some(ICMP_CHECKSUM),
        _ => None,
    }
}

#[inline(always)]
fn l4_difference(ctx: &TcContext, offset: u32, difference: u64, flags: u64) -> Result<(), DropReason> {
    // SAFETY: the context of a running program.
    check(unsafe { bpf_l4_csum_replace(ctx.skb.skb, offset, 0, difference, flags) })
}

#[inline(always)]
fn l4_word(ctx: &TcContext, offset: u32, old: u32, new: u32, flags: u64) -> Result<(), DropReason> {
    // SAFETY: the context of a running program; the low bits of the flags are the field's size.
    check(unsafe { bpf_l4_csum_replace(ctx.skb.skb, offset, u64::from(old), u64::from(new), flags | 4) })
}

#[inline(always)]
fn store_addresses(
    ctx: &TcContext,
    l3_offset: u32,
    new: &Tuple,
    is_v4: bool,
    flags: u64,
) -> Result<(), DropReason> {
    if is_v4 {
        let ([a, b, c, d], [e, f, g, h]) = (new.src.v4_octets(), new.dst.v4_octets());
        store(ctx, l3_offset + IPV4_SRC, &[a, b, c, d, e, f, g, h], flags)
    } else {
        store(ctx, l3_offset + IPV6_SRC, &[new.src, new.dst], flags)
    }
}

#[inline(always)]
pub(crate) fn store<T>(ctx: &TcContext, offset: u32, bytes: &T, flags: u64) -> Result<(), DropReason> {
    // SAFETY: the helper reads `size_of::<T>()` bytes, all of them initialized.
    check(unsafe {
        bpf_skb_store_bytes(
            ctx.skb.skb,
            offset,
            core::ptr::from_ref(bytes).cast(),
            size_of::<T>() as u32,
            flags,
        )
    })
}

#[inline(always)]
fn check(result: i64) -> Result<(), DropReason> {
    if result == 0 { Ok(()) } else { Err(DropReason::Rewrite) }
}
