//! Packets of the plainest form, as XDP sees them: Ethernet, IP without options or extension headers, TCP or UDP, whole.

use aya_ebpf::programs::XdpContext;

use super::{ETH_LEN, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Kind, L4, Packet, Part};
use sluice_abi::{Addr, protocol};

/// EtherTypes as they lie in memory.
const IPV4: [u8; 2] = 0x0800_u16.to_be_bytes();
const IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();

/// The field or header at a constant offset of the frame, if the frame is as long.
#[inline(always)]
pub(crate) fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}

impl Packet {
    /// Parses a plain packet into `self`; `None` for every other one, which is not judged here. Gives the bytes of the
    /// datagram, as IP has them.
    #[inline(always)]
    pub(crate) fn parse_plain(&mut self, ctx: &XdpContext) -> Option<u16> {
        let ether_type = at::<[u8; 2]>(ctx, ETH_LEN - 2)?;
        // SAFETY: the bounds were checked; bytes.
        let (length, l4) = match unsafe { *ether_type } {
            IPV4 => (self.plain_v4(ctx)?, at::<L4>(ctx, ETH_LEN + IPV4_LEN)),
            IPV6 => (self.plain_v6(ctx)?, at::<L4>(ctx, ETH_LEN + IPV6_LEN)),
            _ => return None,
        };
        self.part = Part::Whole;
        self.kind = Kind::Flow;
        (self.tuple.beside, self.tuple.reserved) = (0, [0; 2]);
        self.tcp_flags = 0;
        self.l4_len = 8;
        if self.tuple.protocol == protocol::TCP {
            // SAFETY: as above; see `Header` for the alignment.
            let L4([b0, b1, b2, b3, .., offset, flags]) = unsafe { *l4? };
            self.set_ports([b0, b1], [b2, b3]);
            self.tcp_flags = flags;
            self.l4_len = offset >> 4 << 2;
        } else {
            // SAFETY: as above.
            let [a, b, c, d, ..] = unsafe { *at::<[u8; 8]>(ctx, self.l4_offset as usize & 0x3f)? };
            self.set_ports([a, b], [c, d]);
        }
        Some(length)
    }

    #[inline(always)]
    fn plain_v4(&mut self, ctx: &XdpContext) -> Option<u16> {
        // SAFETY: the bounds were checked; bytes; see `Header` for the alignment.
        let ip = unsafe { &*at::<Ipv4>(ctx, ETH_LEN)? };
        let is_plain = ip.version_ihl == 0x45 && u16::from_be_bytes(ip.fragment) & 0x3fff == 0;
        if !is_plain || !is_balanced(ip.protocol) {
            return None;
        }
        self.tuple.src = Addr::v4(ip.src);
        self.tuple.dst = Addr::v4(ip.dst);
        self.tuple.protocol = ip.protocol;
        self.l4_offset = (ETH_LEN + IPV4_LEN) as u32;
        self.ttl = ip.ttl;
        self.tos = ip.tos;
        self.is_v4 = true;
        Some(u16::from_be_bytes(ip.total_length))
    }

    #[inline(always)]
    fn plain_v6(&mut self, ctx: &XdpContext) -> Option<u16> {
        // SAFETY: as in `plain_v4`.
        let ip = unsafe { &*at::<Ipv6>(ctx, ETH_LEN)? };
        let [class0, class1, ..] = ip.version_class;
        if class0 >> 4 != 6 || !is_balanced(ip.next_header) {
            return None;
        }
        self.tuple.src = Addr(ip.src);
        self.tuple.dst = Addr(ip.dst);
        self.tuple.protocol = ip.next_header;
        self.l4_offset = (ETH_LEN + IPV6_LEN) as u32;
        self.ttl = ip.hop_limit;
        self.tos = (class0 << 4) | (class1 >> 4);
        self.is_v4 = false;
        if self.tuple.src.is_v4() || self.tuple.dst.is_v4() {
            return None;
        }
        u16::from_be_bytes(ip.payload_length).checked_add(IPV6_LEN as u16)
    }
}

#[inline(always)]
fn is_balanced(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}
