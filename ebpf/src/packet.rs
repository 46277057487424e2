//! Reading packets: the only code that knows header offsets.
//!
//! The common headers are read by direct access after one pull; options, extension headers and fragments, which are
//! rare, by the helper, so that every offset the verifier has to follow is a constant.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_pull_data},
    macros::map,
    maps::LruHashMap,
    programs::TcContext,
};
use sluice_abi::{Addr, DropReason, FragmentKey, FragmentPorts, Tuple, maps, protocol};

use crate::{outcome, scratch};

pub(crate) mod plain;

#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(maps::FRAGMENTS.max_entries, maps::FRAGMENTS.flags);

/// Bytes of an Ethernet header; the hooks sit on Ethernet devices only.
pub(crate) const ETH_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// Bytes of a transport header that are read: up to and with the TCP flags.
const L4_LEN: usize = 14;
/// Extension headers that are followed; a sane packet has at most four kinds (RFC 8200, section 4.1).
const MAX_EXTENSIONS: usize = 6;

/// EtherTypes in the byte order of `__sk_buff::protocol`.
mod ether_type {
    pub(super) const IPV4: u32 = u16::to_be(0x0800) as u32;
    pub(super) const IPV6: u32 = u16::to_be(0x86dd) as u32;
    pub(super) const ARP: u32 = u16::to_be(0x0806) as u32;
}

/// IPv6 next-header values (IANA protocol numbers).
mod next_header {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Part {
    Whole,
    FirstFragment,
    LaterFragment,
}

/// What the datapath must know of a transport header beside the ports.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Tracked by its five-tuple.
    Flow,
    /// An ICMP or ICMPv6 error: it quotes the packet it is about.
    IcmpError,
    /// Neighbour solicitation or advertisement (RFC 4861) to a link-local or multicast address.
    Neighbor,
    /// Other ICMPv6 to such an address that never leaves its link: router discovery, redirect, multicast listeners.
    LinkLocal,
}

/// A parsed IP packet.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) tuple: Tuple,
    /// Offset of the transport header from the start of the frame, bytes.
    pub(crate) l4_offset: u32,
    /// Identification of a fragmented datagram (see [`FragmentKey::id`]).
    fragment_id: [u8; 4],
    /// Where parsing is, where the offset is no constant.
    cursor: u32,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// TOS byte or traffic class, for the route lookup.
    pub(crate) tos: u8,
    pub(crate) tcp_flags: u8,
    /// Bytes of the transport header.
    pub(crate) l4_len: u8,
    pub(crate) is_v4: bool,
    pub(crate) part: Part,
    pub(crate) kind: Kind,
}

/// What kind of frame it is; the numbers are those that [`parse_frame`] returns.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Frame {
    Ip = 0,
    Arp = 1,
    Vlan = 2,
    Other = 3,
}

/// Parses the frame into the scratch packet.
///
/// # Errors
/// The reason's number, when it is IP and cannot be understood.
#[inline(always)]
pub(crate) fn parse(ctx: &TcContext) -> Result<Frame, u8> {
    outcome::decode(parse_frame(ctx.skb.skb)).map(|frame| match frame {
        0 => Frame::Ip,
        1 => Frame::Arp,
        2 => Frame::Vlan,
        _ => Frame::Other,
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_frame(skb: *mut __sk_buff) -> u32 {
    let Some(mut scratch) = scratch::get() else {
        return DropReason::Malformed as u32;
    };
    outcome::encode(scratch.packet.parse(&TcContext::new(skb)).map(|frame| frame as u8))
}

/// A header made of bytes alone, so that every bit pattern is a value.
///
/// Headers are declared with the alignment the kernel gives them (`NET_IP_ALIGN`), because the compiler would read
/// them byte by byte otherwise. Where a machine needs no alignment the kernel gives none, and where one does the
/// verifier checks it: BPF packet loads carry no other requirement.
///
/// # Safety
/// `repr(C)`, bytes only: no padding, no invalid values.
unsafe trait Header: Copy {}

#[repr(C, align(4))]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total_length: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    src: [u8; 4],
    dst: [u8; 4],
}
// SAFETY: bytes only.
unsafe impl Header for Ipv4 {}

#[repr(C, align(4))]
#[derive(Clone, Copy)]
struct Ipv6 {
    version_class: [u8; 4],
    payload_length: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    src: [u8; 16],
    dst: [u8; 16],
}
// SAFETY: bytes only.
unsafe impl Header for Ipv6 {}

/// The first bytes of any transport header.
#[repr(C, align(2))]
#[derive(Clone, Copy)]
struct L4([u8; L4_LEN]);
// SAFETY: bytes only.
unsafe impl Header for L4 {}
// SAFETY: bytes only.
unsafe impl Header for [u8; 8] {}

/// The header at a constant offset of the linear part.
#[inline(always)]
fn direct<H: Header>(ctx: &TcContext, offset: usize) -> Option<&H> {
    let start = ctx.data() + offset;
    if start + size_of::<H>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bounds were checked against `data_end`; see `Header` for the alignment; `H` has no invalid value.
    Some(unsafe { &*(start as *const H) })
}

/// Reads the header at any offset, also where the packet is not linear.
#[inline(always)]
fn load<H: Header>(ctx: &TcContext, offset: u32) -> Result<H, DropReason> {
    let mut header = core::mem::MaybeUninit::<H>::uninit();
    // SAFETY: the helper writes exactly `size_of::<H>()` bytes or fails.
    let result = unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, header.as_mut_ptr().cast(), size_of::<H>() as u32)
    };
    if result != 0 {
        return Err(DropReason::Malformed);
    }
    // SAFETY: written above.
    Ok(unsafe { header.assume_init() })
}

impl Packet {
    /// Parses the frame into `self`, which means nothing when the frame is not IP.
    #[inline(always)]
    fn parse(&mut self, ctx: &TcContext) -> Result<Frame, DropReason> {
        self.tuple = Tuple::default();
        // SAFETY: the context of a running program.
        let (protocol, vlan, tci) =
            unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).vlan_present, (*ctx.skb.skb).vlan_tci) };
        // VLAN 0 is no VLAN but a priority (IEEE 802.1Q): the stack takes the tag off and forwards.
        if vlan != 0 && tci & 0x0fff != 0 {
            return Ok(Frame::Vlan);
        }
        match protocol {
            ether_type::IPV4 => self.parse_v4(ctx)?,
            ether_type::IPV6 => self.parse_v6(ctx)?,
            ether_type::ARP => return Ok(Frame::Arp),
            _ if is_vlan(protocol) => return Ok(Frame::Vlan),
            _ => return Ok(Frame::Other),
        }
        Ok(Frame::Ip)
    }

    #[inline(always)]
    fn parse_v4(&mut self, ctx: &TcContext) -> Result<(), DropReason> {
        pull(ctx, ETH_LEN + IPV4_LEN + L4_LEN);
        let ip: &Ipv4 = direct(ctx, ETH_LEN).ok_or(DropReason::Malformed)?;
        let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
        if ip.version_ihl >> 4 != 4 || header_len < IPV4_LEN {
            return Err(DropReason::Malformed);
        }
        self.tuple.src = Addr::v4(ip.src);
        self.tuple.dst = Addr::v4(ip.dst);
        self.tuple.protocol = ip.protocol;
        self.l4_offset = (ETH_LEN + header_len) as u32;
        self.ttl = ip.ttl;
        self.tos = ip.tos;
        self.is_v4 = true;
        let offset = u16::from_be_bytes(ip.fragment);
        self.part = match (offset & 0x1fff, offset & 0x2000) {
            (0, 0) => Part::Whole,
            (0, _) => Part::FirstFragment,
            (_, _) => Part::LaterFragment,
        };
        let [id0, id1] = ip.id;
        self.fragment_id = [id0, id1, 0, 0];
        if header_len > IPV4_LEN {
            refuse_source_route(ctx, self.l4_offset, &mut self.cursor)?;
        }
        self.read_l4(ctx, header_len == IPV4_LEN, ETH_LEN + IPV4_LEN)
    }

    #[inline(always)]
    fn parse_v6(&mut self, ctx: &TcContext) -> Result<(), DropReason> {
        pull(ctx, ETH_LEN + IPV6_LEN + L4_LEN);
        let ip: &Ipv6 = direct(ctx, ETH_LEN).ok_or(DropReason::Malformed)?;
        let [class0, class1, ..] = ip.version_class;
        if class0 >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        self.tuple.src = Addr(ip.src);
        self.tuple.dst = Addr(ip.dst);
        self.tuple.protocol = ip.next_header;
        self.l4_offset = (ETH_LEN + IPV6_LEN) as u32;
        self.ttl = ip.hop_limit;
        self.tos = (class0 << 4) | (class1 >> 4);
        self.is_v4 = false;
        self.part = Part::Whole;
        if self.tuple.src.is_v4() || self.tuple.dst.is_v4() {
            return Err(DropReason::MappedAddress);
        }
        if is_extension(self.tuple.protocol) {
            self.skip_extensions(ctx)?;
        }
        let plain = self.l4_offset == (ETH_LEN + IPV6_LEN) as u32;
        self.read_l4(ctx, plain, ETH_LEN + IPV6_LEN)
    }

    /// Reads ports and flags; `direct_offset` holds when `plain`.
    #[inline(always)]
    fn read_l4(&mut self, ctx: &TcContext, plain: bool, direct_offset: usize) -> Result<(), DropReason> {
        self.tcp_flags = 0;
        self.l4_len = 20;
        self.kind = Kind::Flow;
        if self.part == Part::LaterFragment {
            return self.recall_ports();
        }
        let mut copy = L4([0; L4_LEN]);
        let header: &L4 = match if plain { direct(ctx, direct_offset) } else { None } {
            Some(header) => header,
            None => {
                load_short(ctx, self.l4_offset, self.tuple.protocol, &mut copy)?;
                &copy
            }
        };
        let L4([b0, b1, b2, b3, b4, b5, .., tcp_offset, tcp_flags]) = *header;
        match (self.tuple.protocol, self.is_v4) {
            (protocol::TCP, _) => {
                self.tcp_flags = tcp_flags;
                self.l4_len = tcp_offset >> 4 << 2;
                self.set_ports([b0, b1], [b2, b3]);
            }
            (protocol::UDP, _) => {
                self.l4_len = 8;
                self.set_ports([b0, b1], [b2, b3]);
            }
            (protocol::SCTP, _) => self.set_ports([b0, b1], [b2, b3]),
            (protocol::ICMP, true) => match b0 {
                0 | 8 => self.set_ports([b4, b5], [b4, b5]),
                // Destination unreachable, time exceeded, parameter problem (RFC 792).
                3 | 11 | 12 => self.kind = Kind::IcmpError,
                _ => {}
            },
            (protocol::ICMPV6, false) => match b0 {
                128 | 129 => self.set_ports([b4, b5], [b4, b5]),
                // Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
                1..=4 => self.kind = Kind::IcmpError,
                // What never leaves its link is told by where it goes to, and is judged like any packet otherwise.
                135 | 136 if self.ttl == 255 && self.is_on_link() => self.kind = Kind::Neighbor,
                // RFC 2710, RFC 4861, RFC 3810.
                130..=134 | 137 | 143 if self.is_on_link() => self.kind = Kind::LinkLocal,
                _ => {}
            },
            (_, _) => {}
        }
        Ok(())
    }

    /// Follows the extension headers (RFC 8200, section 4).
    #[inline(never)]
    fn skip_extensions(&mut self, ctx: &TcContext) -> Result<(), DropReason> {
        for _ in 0..MAX_EXTENSIONS {
            if !is_extension(self.tuple.protocol) || self.part == Part::LaterFragment {
                return Ok(());
            }
            let [next, len, b2, b3, id @ ..] = load::<[u8; 8]>(ctx, self.l4_offset)?;
            self.l4_offset += match self.tuple.protocol {
                next_header::FRAGMENT => {
                    let offset = u16::from_be_bytes([b2, b3]);
                    self.part = match (offset & 0xfff8, offset & 1) {
                        (0, 0) => Part::Whole, // an atomic fragment (RFC 6946)
                        (0, _) => Part::FirstFragment,
                        (_, _) => Part::LaterFragment,
                    };
                    self.fragment_id = id;
                    8
                }
                // In units of four bytes, less two (RFC 4302, section 2.2).
                next_header::AUTHENTICATION => (u32::from(len) + 2) * 4,
                // Segments left, or the deprecated type 0 (RFC 5095): it would go elsewhere than it says.
                next_header::ROUTING if b3 != 0 || b2 == 0 => return Err(DropReason::SourceRoute),
                _ => (u32::from(len) + 1) * 8,
            };
            self.tuple.protocol = next;
        }
        if is_extension(self.tuple.protocol) { Err(DropReason::ExtensionHeader) } else { Ok(()) }
    }

    /// Whether the destination is one that is never forwarded.
    #[inline(always)]
    fn is_on_link(&self) -> bool {
        self.tuple.dst.is_v6_link_local() || self.tuple.dst.is_multicast()
    }

    /// Leaves the ports for later fragments; call it when the source has been checked.
    #[inline(always)]
    pub(crate) fn note_fragment(&self) {
        if self.part == Part::FirstFragment {
            self.remember_ports();
        }
    }

    #[inline(always)]
    fn set_ports(&mut self, src_port: [u8; 2], dst_port: [u8; 2]) {
        self.tuple.src_port = src_port;
        self.tuple.dst_port = dst_port;
    }

    #[inline(always)]
    fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            src: self.tuple.src,
            dst: self.tuple.dst,
            id: self.fragment_id,
            protocol: self.tuple.protocol,
            reserved: [0; 3],
        }
    }

    #[inline(never)]
    fn remember_ports(&self) {
        let ports = FragmentPorts { src_port: self.tuple.src_port, dst_port: self.tuple.dst_port };
        // Without room the later fragments are dropped under their own reason.
        let _ = FRAGMENTS.insert(self.fragment_key(), ports, 0);
    }

    #[inline(never)]
    fn recall_ports(&mut self) -> Result<(), DropReason> {
        // SAFETY: an LRU element may be reused while it is read; four bytes of another datagram would then lead to a
        // conntrack miss and a judgement under those ports, which forwards nothing that policy forbids to that port.
        let ports = unsafe { FRAGMENTS.get(self.fragment_key()) }.ok_or(DropReason::FragmentWithoutFirst)?;
        self.set_ports(ports.src_port, ports.dst_port);
        Ok(())
    }
}

/// Makes the first `len` bytes linear, if the packet has them.
#[inline(always)]
fn pull(ctx: &TcContext, len: usize) {
    if ctx.data() + len > ctx.data_end() {
        let len = (len as u32).min(ctx.len());
        // SAFETY: the context of a running program. What could not be pulled fails the check that follows.
        unsafe { bpf_skb_pull_data(ctx.skb.skb, len) };
    }
}

/// Reads a transport header that is not at its usual place, or shorter than [`L4_LEN`].
#[inline(never)]
fn load_short(ctx: &TcContext, offset: u32, protocol: u8, header: &mut L4) -> Result<(), DropReason> {
    match protocol {
        protocol::TCP => *header = load(ctx, offset)?,
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 | protocol::SCTP => {
            let start: [u8; 8] = load(ctx, offset)?;
            let L4([to @ .., _, _, _, _, _, _]) = header;
            *to = start;
        }
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn is_vlan(protocol: u32) -> bool {
    // 802.1Q and 802.1ad tags that the device did not take off.
    protocol == u32::from(u16::to_be(0x8100)) || protocol == u32::from(u16::to_be(0x88a8))
}

/// Refuses loose and strict source routes among the IPv4 options (RFC 791, section 3.1).
///
/// The cursor lives in the scratch memory and is volatile, so that the verifier knows nothing of it: it would follow
/// every length of every option otherwise, fifty times the work.
#[inline(never)]
fn refuse_source_route(ctx: &TcContext, l4_offset: u32, cursor: &mut u32) -> Result<(), DropReason> {
    let cursor = core::ptr::from_mut(cursor);
    // SAFETY: made from a live reference.
    let (read, write) = (|| unsafe { cursor.read_volatile() }, |at| unsafe { cursor.write_volatile(at) });
    write((ETH_LEN + IPV4_LEN) as u32);
    for _ in 0..40 {
        let at = read();
        if at >= l4_offset {
            break;
        }
        let [kind]: [u8; 1] = load(ctx, at)?;
        match kind {
            0 => break,         // end of options
            1 => write(at + 1), // no operation
            131 | 137 => return Err(DropReason::SourceRoute),
            _ => {
                let [len]: [u8; 1] = load(ctx, at + 1)?;
                if len < 2 {
                    return Err(DropReason::Malformed);
                }
                write(at + u32::from(len));
            }
        }
    }
    Ok(())
}
// SAFETY: bytes only.
unsafe impl Header for [u8; 1] {}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        next_header::HOP_BY_HOP
            | next_header::ROUTING
            | next_header::FRAGMENT
            | next_header::AUTHENTICATION
            | next_header::DESTINATION
    )
}

/// The sender's protocol address of an ARP message (RFC 826) about IPv4 over Ethernet.
#[inline(always)]
pub(crate) fn arp_sender(ctx: &TcContext) -> Result<Addr, DropReason> {
    load::<[u8; 4]>(ctx, (ETH_LEN + 14) as u32).map(Addr::v4)
}
// SAFETY: bytes only.
unsafe impl Header for [u8; 4] {}

/// The packet an ICMP error is about, as far as it is quoted.
#[derive(Clone, Copy)]
pub(crate) struct Quoted {
    pub(crate) tuple: Tuple,
    /// Offset of the quoted IP header from the start of the frame, bytes.
    pub(crate) l3_offset: u32,
    /// Offset of the quoted transport header, bytes.
    pub(crate) l4_offset: u32,
}

/// Reads the packet an ICMP error quotes: its IP header and at least eight bytes more (RFC 792, RFC 4443).
///
/// `false` when it is too short, a later fragment, or has extension headers other than a first fragment's: such an error
/// is related to nothing.
#[inline(never)]
pub(crate) fn quoted(ctx: &TcContext, icmp_offset: u32, is_v4: bool, out: &mut Quoted) -> bool {
    out.l3_offset = icmp_offset + 8;
    let read = if is_v4 { quoted_v4(ctx, out) } else { quoted_v6(ctx, out) };
    if read.is_err() {
        return false;
    }
    let Ok([b0, b1, b2, b3, b4, b5, _, _]) = load::<[u8; 8]>(ctx, out.l4_offset) else {
        return false;
    };
    match out.tuple.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            out.tuple.src_port = [b0, b1];
            out.tuple.dst_port = [b2, b3];
        }
        protocol::ICMP | protocol::ICMPV6 => {
            out.tuple.src_port = [b4, b5];
            out.tuple.dst_port = [b4, b5];
        }
        _ => {}
    }
    true
}

#[inline(never)]
fn quoted_v4(ctx: &TcContext, out: &mut Quoted) -> Result<(), DropReason> {
    let ip: Ipv4 = load(ctx, out.l3_offset)?;
    if ip.version_ihl >> 4 != 4 || u16::from_be_bytes(ip.fragment) & 0x1fff != 0 {
        return Err(DropReason::Malformed);
    }
    out.tuple =
        Tuple { src: Addr::v4(ip.src), dst: Addr::v4(ip.dst), protocol: ip.protocol, ..Tuple::default() };
    out.l4_offset = out.l3_offset + u32::from(ip.version_ihl & 0x0f) * 4;
    Ok(())
}

#[inline(never)]
fn quoted_v6(ctx: &TcContext, out: &mut Quoted) -> Result<(), DropReason> {
    let [mut next_header]: [u8; 1] = load(ctx, out.l3_offset + 6)?;
    out.l4_offset = out.l3_offset + IPV6_LEN as u32;
    if next_header == next_header::FRAGMENT {
        let [next, _, b2, b3, ..] = load::<[u8; 8]>(ctx, out.l4_offset)?;
        if u16::from_be_bytes([b2, b3]) & 0xfff8 != 0 {
            return Err(DropReason::Malformed);
        }
        next_header = next;
        out.l4_offset += 8;
    }
    // SAFETY: source and destination are the first 32 bytes of a tuple, and any bytes are addresses.
    let result = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            out.l3_offset + 8,
            core::ptr::from_mut(&mut out.tuple).cast(),
            32,
        )
    };
    if result != 0 {
        return Err(DropReason::Malformed);
    }
    if out.tuple.src.is_v4() || out.tuple.dst.is_v4() {
        return Err(DropReason::MappedAddress);
    }
    out.tuple.src_port = [0; 2];
    out.tuple.dst_port = [0; 2];
    out.tuple.protocol = next_header;
    Ok(())
}
