//! The rtnetlink messages the plugin sends, each with the act it stands for.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::RawFd,
};

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
        LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use crate::netlink::{Act, Batch, Mode};

/// Index of the loopback device, the first one of every namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// One end of a veth pair to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
}

/// A device a message is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device<'a> {
    pub(crate) index: u32,
    pub(crate) name: &'a str,
}

impl Batch {
    /// Makes a pair, down, with the pod's end in its namespace and under its name from the start.
    pub(crate) fn create_veth(&mut self, host: End<'_>, pod: End<'_>, netns: RawFd, mtu: u32) {
        let end = |end: End<'_>| {
            let mut message = LinkMessage::default();
            message.attributes = vec![
                LinkAttribute::IfName(end.name.to_owned()),
                LinkAttribute::Address(end.mac.to_vec()),
                LinkAttribute::Mtu(mtu),
            ];
            message
        };
        let mut peer = end(pod);
        peer.attributes.push(LinkAttribute::NetNsFd(netns));
        let mut message = end(host);
        let data = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), data]));
        let act = Act::CreateVeth { host: host.name.to_owned(), pod: pod.name.to_owned() };
        self.push(act, Mode::Create, RouteNetlinkMessage::NewLink(message));
    }

    /// Marks the host's end as ours; keeps the kernel from giving it a link-local address when IPv6 is there.
    pub(crate) fn mark_host_end(&mut self, name: &str, alias: String, ipv6: bool) {
        let mut message = link_named(name);
        message.attributes.push(LinkAttribute::IfAlias(alias));
        if ipv6 {
            let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
            message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        }
        self.push(Act::ConfigureLink(name.to_owned()), Mode::Plain, RouteNetlinkMessage::SetLink(message));
    }

    pub(crate) fn read_link(&mut self, name: &str) {
        let mut message = link_named(name);
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.push(Act::ReadLink(name.to_owned()), Mode::Plain, RouteNetlinkMessage::GetLink(message));
    }

    pub(crate) fn remove_link(&mut self, name: &str) {
        let message = RouteNetlinkMessage::DelLink(link_named(name));
        self.push(Act::RemoveLink(name.to_owned()), Mode::Plain, message);
    }

    pub(crate) fn set_up(&mut self, device: Device<'_>) {
        self.set_flags(Act::SetUp(device.name.to_owned()), device, LinkFlags::Up);
    }

    pub(crate) fn set_down(&mut self, device: Device<'_>) {
        self.set_flags(Act::SetDown(device.name.to_owned()), device, LinkFlags::empty());
    }

    pub(crate) fn set_loopback_up(&mut self) {
        self.set_up(Device { index: LOOPBACK, name: "lo" });
    }

    fn set_flags(&mut self, act: Act, device: Device<'_>, flags: LinkFlags) {
        let mut message = LinkMessage::default();
        message.header.index = device.index;
        message.header.flags = flags;
        message.header.change_mask = LinkFlags::Up;
        self.push(act, Mode::Plain, RouteNetlinkMessage::SetLink(message));
    }

    /// Adds a pod's address: the whole of its subnet, and usable at once (no duplicate address detection, RFC 4862,
    /// section 5.4: the lease says that it is unique).
    pub(crate) fn add_address(&mut self, device: Device<'_>, addr: IpAddr) {
        let whole = IpNetwork::from(addr);
        let mut message = AddressMessage::default();
        message.header.family = family(addr);
        message.header.prefix_len = whole.prefix();
        message.header.scope = AddressScope::Universe;
        message.header.index = device.index;
        message.attributes = vec![AddressAttribute::Local(addr), AddressAttribute::Address(addr)];
        if addr.is_ipv6() {
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        self.push(Act::AddAddress(whole), Mode::Create, RouteNetlinkMessage::NewAddress(message));
    }

    /// Adds the host's route to a pod's address.
    pub(crate) fn add_pod_route(&mut self, device: Device<'_>, addr: IpAddr) {
        let destination = IpNetwork::from(addr);
        let mut message = route(destination, device.index);
        message.header.scope = RouteScope::Link;
        // In place of what an earlier owner of the address may have left behind.
        self.push(Act::AddRoute(destination), Mode::Replace, RouteNetlinkMessage::NewRoute(message));
    }

    /// Adds the pod's default route through a gateway that is on the link whatever its address says.
    pub(crate) fn add_default_route(&mut self, device: Device<'_>, gateway: IpAddr) {
        let destination = default_of(gateway);
        let mut message = route(destination, device.index);
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        self.push(Act::AddRoute(destination), Mode::Create, RouteNetlinkMessage::NewRoute(message));
    }

    /// Asks which route leads to an address.
    pub(crate) fn find_route(&mut self, addr: IpAddr) {
        let mut message = RouteMessage::default();
        message.header.address_family = family(addr);
        message.header.destination_prefix_length = IpNetwork::from(addr).prefix();
        message.attributes.push(RouteAttribute::Destination(addr.into()));
        self.push(Act::FindRoute(addr), Mode::Plain, RouteNetlinkMessage::GetRoute(message));
    }

    pub(crate) fn add_neighbour(&mut self, device: Device<'_>, addr: IpAddr, mac: [u8; 6]) {
        let mut message = NeighbourMessage::default();
        message.header.family = family(addr);
        message.header.ifindex = device.index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(addr.into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.push(Act::AddNeighbour(addr), Mode::Replace, RouteNetlinkMessage::NewNeighbour(message));
    }
}

/// The destination of a default route of `addr`'s family.
pub(crate) fn default_of(addr: IpAddr) -> IpNetwork {
    let any: IpAddr =
        if addr.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() };
    IpNetwork::new(any, 0).expect("a prefix of no bits")
}

pub(crate) fn family(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn link_named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn route(destination: IpNetwork, ifindex: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.ip());
    message.header.destination_prefix_length = destination.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    if destination.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.ip().into()));
    }
    message.attributes.push(RouteAttribute::Oif(ifindex));
    message
}
