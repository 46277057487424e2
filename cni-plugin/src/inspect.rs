//! What is really there: a namespace's addresses, routes and neighbours, read for CHECK.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink attributes are an open set: what is not asked for is skipped"
)]

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use crate::{
    message::default_of,
    netlink::{Netlink, NetlinkError},
    plumb::{self, PlumbError},
};

/// A device as it is.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) up: bool,
    pub(crate) mac: Option<Vec<u8>>,
    pub(crate) mtu: Option<u32>,
}

/// A route as it is.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Route {
    pub(crate) destination: IpNetwork,
    pub(crate) gateway: Option<IpAddr>,
}

/// Reads a device; `None` when there is none.
pub(crate) fn device(netlink: &mut Netlink, name: &str) -> Result<Option<Device>, PlumbError> {
    let link = plumb::find(netlink, name)?;
    Ok(link.map(|link| Device {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        mac: link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => Some(mac.clone()),
            _ => None,
        }),
        mtu: plumb::mtu_of(&link),
    }))
}

/// The addresses of a device.
pub(crate) fn addresses(netlink: &mut Netlink, ifindex: u32) -> Result<Vec<IpAddr>, NetlinkError> {
    let answers = netlink.list("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let messages = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == ifindex => Some(message),
        _ => None,
    });
    let addr = |message: AddressMessage| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(addr) => Some(*addr),
            _ => None,
        })
    };
    Ok(messages.filter_map(addr).collect())
}

/// The unicast routes of both families through a device.
pub(crate) fn routes(netlink: &mut Netlink, ifindex: u32) -> Result<Vec<Route>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        for answer in netlink.list("routes", RouteNetlinkMessage::GetRoute(question))? {
            if let RouteNetlinkMessage::NewRoute(message) = answer
                && message.header.kind == RouteType::Unicast
                && message.attributes.contains(&RouteAttribute::Oif(ifindex))
            {
                routes.extend(route(&message));
            }
        }
    }
    Ok(routes)
}

fn route(message: &RouteMessage) -> Option<Route> {
    let addr = |addr: &RouteAddress| match addr {
        RouteAddress::Inet(v4) => Some(IpAddr::from(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::from(*v6)),
        _ => None,
    };
    let gateway = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => addr(gateway),
        _ => None,
    });
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(destination) => addr(destination),
        _ => None,
    });
    let destination = match destination {
        Some(ip) => IpNetwork::new(ip, message.header.destination_prefix_length).ok()?,
        None => default_of(gateway?),
    };
    Some(Route { destination, gateway })
}

/// The permanent neighbours on a device, with their MAC addresses.
pub(crate) fn neighbours(
    netlink: &mut Netlink,
    ifindex: u32,
) -> Result<Vec<(IpAddr, Vec<u8>)>, NetlinkError> {
    let answers =
        netlink.list("neighbours", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
    let permanent = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message)
            if message.header.ifindex == ifindex && message.header.state == NeighbourState::Permanent =>
        {
            Some(message)
        }
        _ => None,
    });
    Ok(permanent.filter_map(|message| neighbour(&message)).collect())
}

fn neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Vec<u8>)> {
    let addr = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
        _ => None,
    });
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
        _ => None,
    });
    addr.zip(mac)
}
