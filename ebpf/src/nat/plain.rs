//! Rewriting plain packets in XDP, where no helper knows of checksums: they are whole there, and are brought up to date by
//! what changes (RFC 1624).

use aya_ebpf::programs::XdpContext;
use sluice_abi::{DropReason, Tuple, protocol};

use super::{Ports, V4Ends, difference, fold, ports, v4_difference};
use crate::packet::{ETH_LEN, Packet, plain::at};

/// Offsets from the start of the frame.
const V4_TTL: usize = ETH_LEN + 8;
const V4_ENDS: usize = ETH_LEN + 10;
const V4_L4: usize = ETH_LEN + 20;
const V6_HOP_LIMIT: usize = ETH_LEN + 7;
const V6_ENDS: usize = ETH_LEN + 8;
const V6_L4: usize = ETH_LEN + 40;
/// Offsets of the checksum from the start of the transport header (RFC 9293, RFC 768).
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// The addresses of a frame.
#[repr(C, align(2))]
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) to: [u8; 6],
    pub(crate) from: [u8; 6],
}

/// Gives the plain packet the tuple `new`, one hop less, and the addresses of the next link.
///
/// # Errors
/// [`DropReason::Rewrite`], which the bounds that parsing has checked exclude.
#[inline(always)]
pub(crate) fn forward(ctx: &XdpContext, packet: &Packet, new: &Tuple, link: Link) -> Result<(), DropReason> {
    let rewritten =
        if packet.is_v4 { rewrite_v4(ctx, &packet.tuple, new) } else { rewrite_v6(ctx, &packet.tuple, new) };
    rewritten.and_then(|()| put(ctx, 0, link)).ok_or(DropReason::Rewrite)
}

#[inline(always)]
fn rewrite_v4(ctx: &XdpContext, old: &Tuple, new: &Tuple) -> Option<()> {
    let addresses = v4_difference(old, new);
    rewrite_l4::<V4_L4>(ctx, old, new, addresses)?;
    // SAFETY: the bounds were checked; bytes; see `packet::Header` for the alignment.
    let ends = unsafe { &mut *at::<V4Ends>(ctx, V4_ENDS)? };
    // SAFETY: as above.
    let ttl = unsafe { &mut *at::<u8>(ctx, V4_TTL)? };
    *ttl -= 1;
    // The TTL is the high byte of its word.
    let hop = u64::from(!u16::from_ne_bytes([1, 0]));
    let sum = u64::from(!u16::from_ne_bytes(ends.checksum)) + addresses + hop;
    ends.checksum = (!fold(sum)).to_ne_bytes();
    (ends.src, ends.dst) = (new.src.v4_octets(), new.dst.v4_octets());
    Some(())
}

#[inline(always)]
fn rewrite_v6(ctx: &XdpContext, old: &Tuple, new: &Tuple) -> Option<()> {
    rewrite_l4::<V6_L4>(ctx, old, new, difference(old, new))?;
    // SAFETY: the bounds were checked; a byte.
    let hop_limit = unsafe { &mut *at::<u8>(ctx, V6_HOP_LIMIT)? };
    *hop_limit -= 1;
    put(ctx, V6_ENDS, V6Ends { src: new.src.0, dst: new.dst.0 })
}

/// Ports and checksum of the transport header at the offset `L4`.
#[inline(always)]
fn rewrite_l4<const L4: usize>(ctx: &XdpContext, old: &Tuple, new: &Tuple, addresses: u64) -> Option<()> {
    let difference = addresses + u64::from(ports(new)) + u64::from(!ports(old));
    if old.protocol == protocol::TCP {
        // SAFETY: the bounds were checked; bytes.
        let checksum = unsafe { &mut *at::<Checksum>(ctx, L4 + TCP_CHECKSUM)? };
        checksum.change(difference);
    } else {
        // SAFETY: as above.
        let checksum = unsafe { &mut *at::<Checksum>(ctx, L4 + UDP_CHECKSUM)? };
        // Over IPv4 a datagram may have none; one that comes to 0 is sent in its other form (RFC 768).
        if checksum.0 != [0; 2] {
            checksum.change(difference);
            if checksum.0 == [0; 2] {
                checksum.0 = [0xff; 2];
            }
        }
    }
    put(ctx, L4, Ports(ports(new).to_ne_bytes()))
}

#[inline(always)]
fn put<T>(ctx: &XdpContext, offset: usize, value: T) -> Option<()> {
    let place = at::<T>(ctx, offset)?;
    // SAFETY: the bounds were checked; the types used are bytes; the program is the packet's only user.
    unsafe { *place = value };
    Some(())
}

/// Fields, with the alignment that lets them be written in few stores (see `packet::Header`).
#[repr(C, align(2))]
struct Checksum([u8; 2]);
#[repr(C, align(4))]
struct V6Ends {
    src: [u8; 16],
    dst: [u8; 16],
}

impl Checksum {
    #[inline(always)]
    fn change(&mut self, difference: u64) {
        let old = u16::from_ne_bytes(self.0);
        self.0 = (!fold(u64::from(!old) + difference)).to_ne_bytes();
    }
}
