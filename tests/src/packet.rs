//! Building packets and reading them back.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, ip_number};

/// TCP flags for [`tcp`], in the usual letters: `S`, `A`, `F`, `R`.
pub type Flags<'a> = &'a str;

/// MAC addresses of every packet made here; the programs judge none.
const SRC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Bytes of an Ethernet header.
pub const ETH_LEN: usize = 14;
const TTL: u8 = 64;

fn ip(src: IpAddr, dst: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(SRC_MAC, DST_MAC);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), TTL),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), TTL),
        (_, _) => panic!("{src} and {dst} are of two families"),
    }
}

macro_rules! written {
    ($step:expr, $payload:expr) => {{
        let (step, payload): (_, &[u8]) = ($step, $payload);
        let mut packet = Vec::with_capacity(step.size(payload.len()));
        step.write(&mut packet, payload).expect("headers that fit");
        packet
    }};
}

/// A TCP segment.
pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: Flags<'_>) -> Vec<u8> {
    let mut step = ip(src.ip(), dst.ip()).tcp(src.port(), dst.port(), 1000, 4096);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(2000),
            'F' => step.fin(),
            'R' => step.rst(),
            _ => panic!("no TCP flag {flag}"),
        };
    }
    written!(step, b"payload of a segment")
}

/// A UDP datagram.
pub fn udp(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    written!(ip(src.ip(), dst.ip()).udp(src.port(), dst.port()), b"payload of a datagram")
}

/// An ICMP or ICMPv6 echo request.
pub fn ping(src: IpAddr, dst: IpAddr, id: u16) -> Vec<u8> {
    match src {
        IpAddr::V4(_) => written!(ip(src, dst).icmpv4_echo_request(id, 1), b"ping"),
        IpAddr::V6(_) => written!(ip(src, dst).icmpv6_echo_request(id, 1), b"ping"),
    }
}

/// An ICMP or ICMPv6 echo reply.
pub fn pong(src: IpAddr, dst: IpAddr, id: u16) -> Vec<u8> {
    match src {
        IpAddr::V4(_) => written!(ip(src, dst).icmpv4_echo_reply(id, 1), b"ping"),
        IpAddr::V6(_) => written!(ip(src, dst).icmpv6_echo_reply(id, 1), b"ping"),
    }
}

/// "Fragmentation needed" or "packet too big" from `router` about `packet`, to that packet's source.
pub fn too_big(router: IpAddr, packet: &[u8], mtu: u16) -> Vec<u8> {
    let about = tuple(packet);
    let quoted = &packet[ETH_LEN..];
    let [high, low] = mtu.to_be_bytes();
    match router {
        IpAddr::V4(_) => {
            // RFC 792 with the next hop's MTU of RFC 1191.
            let step = ip(router, about.src.ip()).icmpv4_raw(3, 4, [0, 0, high, low]);
            written!(step, quoted)
        }
        IpAddr::V6(_) => written!(ip(router, about.src.ip()).icmpv6_raw(2, 0, [0, 0, high, low]), quoted),
    }
}

/// "Port unreachable" from `router` about `packet`, to that packet's source.
pub fn unreachable(router: IpAddr, packet: &[u8]) -> Vec<u8> {
    let about = tuple(packet);
    let quoted = &packet[ETH_LEN..];
    match router {
        IpAddr::V4(_) => written!(ip(router, about.src.ip()).icmpv4_raw(3, 3, [0; 4]), quoted),
        IpAddr::V6(_) => written!(ip(router, about.src.ip()).icmpv6_raw(1, 4, [0; 4]), quoted),
    }
}

/// The identifier of an ICMP or ICMPv6 echo.
pub fn echo_id(packet: &[u8]) -> u16 {
    u16::from_be_bytes(bytes(&packet[l4_offset(packet) + 4..]))
}

/// The packet as the first or a later fragment of a datagram; a later one starts with its payload's first bytes.
///
/// # Panics
/// When the packet has extension headers.
pub fn fragment(packet: &[u8], is_first: bool) -> Vec<u8> {
    let mut fragment = packet.to_vec();
    // Later ones begin at byte 64 of the datagram.
    let offset_and_flags: u16 = match (packet[ETH_LEN] >> 4, is_first) {
        (4, true) => 0x2000,
        (4, false) => 64 / 8,
        (_, true) => 1,
        (_, false) => 64,
    };
    let [high, low] = offset_and_flags.to_be_bytes();
    if packet[ETH_LEN] >> 4 == 4 {
        fragment[ETH_LEN + 6..ETH_LEN + 8].copy_from_slice(&[high, low]);
        fix_ipv4_checksum(&mut fragment);
        return fragment;
    }
    let header = [packet[ETH_LEN + 6], 0, high, low, 0, 0, 0, 9];
    fragment[ETH_LEN + 6] = 44;
    fragment.splice(ETH_LEN + 40..ETH_LEN + 40, header);
    let payload = (fragment.len() - ETH_LEN - 40) as u16;
    fragment[ETH_LEN + 4..ETH_LEN + 6].copy_from_slice(&payload.to_be_bytes());
    fragment
}

/// Source and destination address of a packet.
///
/// # Panics
/// When the packet is not IP.
pub fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let l3 = &packet[ETH_LEN..];
    match l3[0] >> 4 {
        4 => (bytes::<4>(&l3[12..]).into(), bytes::<4>(&l3[16..]).into()),
        6 => (bytes::<16>(&l3[8..]).into(), bytes::<16>(&l3[24..]).into()),
        version => panic!("IP version {version}"),
    }
}

/// Any other IP protocol.
pub fn other(src: IpAddr, dst: IpAddr, protocol: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    ip(src, dst)
        .write(&mut packet, etherparse::IpNumber(protocol), b"payload of something else")
        .expect("headers that fit");
    packet
}

/// The start of an SCTP packet (RFC 9260, section 3): ports and a verification tag, with a CRC32c that nobody checks.
pub fn sctp(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let mut payload = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    payload.extend([0; 16]);
    let mut packet = Vec::new();
    ip(src.ip(), dst.ip()).write(&mut packet, ip_number::SCTP, &payload).expect("headers that fit");
    packet
}

/// An ARP request (RFC 826) in which `sender` asks for its gateway.
pub fn arp(sender: std::net::Ipv4Addr) -> Vec<u8> {
    let mut frame = frame(0x0806);
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&SRC_MAC);
    frame[28..32].copy_from_slice(&sender.octets());
    frame
}

/// A frame that is not IP.
pub fn frame(ether_type: u16) -> Vec<u8> {
    let mut frame = [DST_MAC, SRC_MAC].concat();
    frame.extend(ether_type.to_be_bytes());
    frame.resize(64, 0);
    frame
}

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ends {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
}

/// Reads addresses and, where the protocol has them, ports; checks the IPv4 header checksum and the transport's.
///
/// # Panics
/// When the packet is not IP or a checksum is wrong.
pub fn checked(packet: &[u8]) -> Ends {
    let (ends, l3, l4) = (tuple(packet), &packet[ETH_LEN..], l4_offset(packet));
    if ends.src.is_ipv4() {
        assert_eq!(sum(&l3[..l4 - ETH_LEN]), 0xffff, "IPv4 header checksum");
    }
    let protocol = protocol(packet);
    let mut covered = packet[l4..].to_vec();
    if protocol != ip_number::ICMP.0 {
        let addresses = if ends.src.is_ipv4() { &l3[12..20] } else { &l3[8..40] };
        covered.extend(addresses);
        covered.extend([0, protocol]);
        covered.extend(((packet.len() - l4) as u16).to_be_bytes());
    }
    assert_eq!(sum_padded(&packet[l4..], &covered), 0xffff, "transport checksum of protocol {protocol}");
    ends
}

/// Reads addresses and ports without checking anything.
///
/// # Panics
/// When the packet is not IP.
pub fn tuple(packet: &[u8]) -> Ends {
    let (src, dst) = addresses(packet);
    let l4 = &packet[l4_offset(packet)..];
    let (src_port, dst_port) = match protocol(packet) {
        6 | 17 => (u16::from_be_bytes(bytes(l4)), u16::from_be_bytes(bytes(&l4[2..]))),
        _ => (0, 0),
    };
    Ends { src: SocketAddr::new(src, src_port), dst: SocketAddr::new(dst, dst_port) }
}

/// The packet an ICMP error quotes, with an Ethernet header in front so that it can be read like any other.
pub fn quoted(packet: &[u8]) -> Vec<u8> {
    [&packet[..ETH_LEN], &packet[l4_offset(packet) + 8..]].concat()
}

/// The IP protocol of a packet without extension headers.
pub fn protocol(packet: &[u8]) -> u8 {
    if packet[ETH_LEN] >> 4 == 4 { packet[ETH_LEN + 9] } else { packet[ETH_LEN + 6] }
}

/// TTL or hop limit.
pub fn ttl(packet: &[u8]) -> u8 {
    if packet[ETH_LEN] >> 4 == 4 { packet[ETH_LEN + 8] } else { packet[ETH_LEN + 7] }
}

/// Offset of the transport header of a packet without extension headers.
pub fn l4_offset(packet: &[u8]) -> usize {
    if packet[ETH_LEN] >> 4 == 4 { ETH_LEN + usize::from(packet[ETH_LEN] & 15) * 4 } else { ETH_LEN + 40 }
}

/// Recomputes the IPv4 header checksum after a test changed the header.
pub fn fix_ipv4_checksum(packet: &mut [u8]) {
    let end = l4_offset(packet);
    packet[ETH_LEN + 10..ETH_LEN + 12].fill(0);
    let checksum = !sum(&packet[ETH_LEN..end]);
    packet[ETH_LEN + 10..ETH_LEN + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// The Internet checksum's sum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of `l4` followed by a pseudo header, each padded to words on its own.
fn sum_padded(l4: &[u8], with_pseudo: &[u8]) -> u16 {
    let mut padded = l4.to_vec();
    if l4.len() % 2 == 1 {
        padded.push(0);
    }
    padded.extend(&with_pseudo[l4.len()..]);
    sum(&padded)
}

fn bytes<const N: usize>(from: &[u8]) -> [u8; N] {
    from[..N].try_into().expect("enough bytes")
}
