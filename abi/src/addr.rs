//! Addresses: one type for both families (ADR 0001).

/// An IPv4 or IPv6 address in network order; IPv4 is held as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
///
/// Aligned to words, so that the kernel side copies and compares it by words and not by bytes.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Addr(pub [u8; 16]);
pod!(Addr, 16);

impl Addr {
    /// The all-zero address, in entries that have none.
    pub const UNSPECIFIED: Self = Self([0; 16]);
    /// The prefix of every mapped IPv4 address.
    pub const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    /// Source that stands for a pod which reaches itself through a Service (link-local, RFC 3927; never on the wire
    /// between nodes, and no pod range may hold it).
    pub const HAIRPIN_V4: Self = Self::v4([169, 254, 77, 77]);
    /// The same for IPv6, from the discard-only prefix (RFC 6666): a link-local one would be resolved on the link
    /// instead of going to the gateway.
    pub const HAIRPIN_V6: Self = Self([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77, 0x77]);

    /// The mapped form of an IPv4 address.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let (high, low) = self.words();
        high == 0 && (low & 0xffff_ffff) == u64::from(u32::from_ne_bytes([0, 0, 0xff, 0xff]))
    }

    /// The four octets of an IPv4 address (the last four of an IPv6 one).
    #[inline(always)]
    pub const fn v4_octets(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    /// The address as two words in memory order, for comparing.
    #[inline(always)]
    pub fn words(&self) -> (u64, u64) {
        let b = &self.0;
        (
            u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        )
    }

    /// Multicast in either family, or the IPv4 limited broadcast address.
    #[inline(always)]
    pub fn is_multicast(&self) -> bool {
        if self.is_v4() { self.0[12] & 0xf0 == 0xe0 || self.0[12..] == [255; 4] } else { self.0[0] == 0xff }
    }

    /// One of the reserved sources of pods that reach themselves.
    #[inline(always)]
    pub fn is_hairpin(&self) -> bool {
        *self == Self::HAIRPIN_V4 || *self == Self::HAIRPIN_V6
    }

    /// IPv6 link-local unicast (`fe80::/10`).
    #[inline(always)]
    pub fn is_v6_link_local(&self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }
}

#[cfg(feature = "user")]
impl From<std::net::IpAddr> for Addr {
    fn from(ip: std::net::IpAddr) -> Self {
        match ip {
            std::net::IpAddr::V4(v4) => Self::v4(v4.octets()),
            std::net::IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

#[cfg(feature = "user")]
impl From<Addr> for std::net::IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            std::net::Ipv4Addr::from(addr.v4_octets()).into()
        } else {
            std::net::Ipv6Addr::from(addr.0).into()
        }
    }
}

#[cfg(feature = "user")]
impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        std::net::IpAddr::from(*self).fmt(f)
    }
}

/// A range of addresses; `bits` counts from the start of the 16 bytes, so an IPv4 `/24` has 120.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Prefix {
    /// First address of the range; the bits behind `bits` are zero.
    pub addr: Addr,
    /// Leading bits that count, 0–128.
    pub bits: u8,
}

impl Prefix {
    /// The range of a single address.
    pub const fn host(addr: Addr) -> Self {
        Self { addr, bits: 128 }
    }

    /// Makes a prefix, clearing the bits behind `bits` (capped at 128).
    pub fn new(addr: Addr, bits: u8) -> Self {
        let bits = bits.min(128);
        let mut masked = addr.0;
        for (index, byte) in masked.iter_mut().enumerate() {
            let kept = usize::from(bits).saturating_sub(index * 8).min(8);
            *byte &= !(0xffu16 >> kept) as u8;
        }
        Self { addr: Addr(masked), bits }
    }

    /// Whether `addr` lies in the range.
    pub fn contains(&self, addr: &Addr) -> bool {
        Self::new(*addr, self.bits).addr == self.addr
    }

    /// Whether every address of `other` lies in the range.
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(&other.addr)
    }
}

#[cfg(feature = "user")]
impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.bits >= 96 && self.addr.is_v4() {
            write!(f, "{}/{}", self.addr, self.bits - 96)
        } else {
            write!(f, "{}/{}", std::net::Ipv6Addr::from(self.addr.0), self.bits)
        }
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_family() {
        for text in ["10.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "fd00::1", "::", "::fffe:1.2.3.4"] {
            let ip: std::net::IpAddr = text.parse().expect("an address");
            assert_eq!(std::net::IpAddr::from(Addr::from(ip)), ip, "{text}");
            assert_eq!(Addr::from(ip).is_v4(), ip.is_ipv4(), "{text}");
        }
    }

    #[test]
    fn a_prefix_holds_its_ends_and_not_their_neighbours() {
        let p = Prefix::new(Addr::v4([10, 1, 2, 77]), 96 + 25);
        assert_eq!(p.to_string(), "10.1.2.0/25");
        assert!(p.contains(&Addr::v4([10, 1, 2, 0])) && p.contains(&Addr::v4([10, 1, 2, 127])));
        assert!(!p.contains(&Addr::v4([10, 1, 2, 128])) && !p.contains(&Addr::v4([10, 1, 1, 255])));
        assert!(
            Prefix::new(Addr::UNSPECIFIED, 0).covers(&p) && !p.covers(&Prefix::new(Addr::UNSPECIFIED, 0))
        );
    }
}
