//! The wire: a veth pair, addresses, routes, neighbours.
//!
//! | Step | Round trips | Links |
//! | --- | --- | --- |
//! | [`create`]: pair, names, MACs, MTU, alias | 1, host | down |
//! | [`address_pod`]: addresses, loopback | 1, pod | down |
//! | [`connect_host`]: up, routes, neighbours | 1, host | host's end up |
//! | [`connect_pod`]: up, default routes, neighbours | 1, pod | up |
//! | [`await_up`]: both send, and the pod has its addresses | 1, each | up |
//!
//! **Invariant: the host-side veth holds everything.** Removing it removes the pod's end, and every address, route and
//! neighbour with them; there is nothing else to undo.
//!
//! Neighbours are permanent on both sides, so nothing is resolved, and the host's end needs no address at all: ICMP
//! errors the host sends to a pod carry one of the node's own. It gets no link-local one either, so the kernel sends no
//! duplicate address detection or multicast reports into the pod, and it accepts no router advertisement from it.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage, State},
    route::RouteType,
};
use nix::errno::Errno;

use crate::{
    attachment::Attachment,
    message::{Device, End},
    netlink::{Act, Batch, Netlink, NetlinkError},
    netns::{Netns, NetnsError},
    sysctl::{self, SysctlError},
};

/// A pod's IPv4 gateway: link-local (RFC 3927), the same in every pod.
pub(crate) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// A pod's IPv6 gateway: link-local (RFC 4291, section 2.5.6).
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// MTU in bytes when the host has no default route (RFC 894).
const ETHERNET_MTU: u32 = 1500;

/// Why a wire could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum PlumbError {
    /// The pod has an interface of this name already (CNI specification 1.1.0, section 2, "ADD": an error).
    #[error("interface {ifname} exists in the pod already")]
    InterfaceExists {
        /// Its name.
        ifname: String,
    },
    /// The attachment was added before and is in use.
    #[error("{attachment} is attached already: its host-side veth {host_ifname} is up")]
    Attached {
        /// Which.
        attachment: String,
        /// Its host-side veth.
        host_ifname: String,
    },
    /// The kernel said no.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The pod's namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A sysctl could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The host's routes cannot be read.
    #[error("finding the device of the host's default route")]
    DefaultRoute {
        /// Why not.
        source: io::Error,
    },
    /// A link was set up but does not get so far.
    #[error("waiting {UP_TIMEOUT:?} until {name} is up")]
    NotUp {
        /// Which.
        name: String,
    },
    /// An address was given to the pod, and packets for it are not taken.
    #[error("waiting {UP_TIMEOUT:?} until {addr} is the pod's")]
    NotLocal {
        /// Which.
        addr: IpAddr,
    },
    /// The kernel answered without what was asked for.
    #[error("the kernel told no index of {host_ifname} or its peer")]
    NoIndex {
        /// The host-side veth.
        host_ifname: String,
    },
}

/// How long the kernel may take to make a link that was set up usable: milliseconds, unless it is very busy.
const UP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a wire is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire<'a> {
    pub(crate) attachment: &'a Attachment,
    pub(crate) host_ifname: &'a str,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) mtu: u32,
}

/// The indexes of a pair's ends, each in its own namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Veth {
    pub(crate) host: u32,
    pub(crate) pod: u32,
}

impl<'a> Wire<'a> {
    fn host(&self, veth: Veth) -> Device<'a> {
        Device { index: veth.host, name: self.host_ifname }
    }

    fn pod(&self, veth: Veth) -> Device<'a> {
        Device { index: veth.pod, name: &self.attachment.ifname }
    }
}

/// The gateway a pod uses for addresses of `addr`'s family.
pub(crate) fn gateway_of(addr: IpAddr) -> IpAddr {
    if addr.is_ipv6() { GATEWAY_V6.into() } else { GATEWAY_V4.into() }
}

/// The alias that marks a host-side veth as one of the network `name`.
pub(crate) fn alias_of(name: &str) -> String {
    format!("sluice:{name}")
}

/// Makes the pair, both ends down. What an ADD of the same attachment left half done is replaced; after an error there
/// is no pair that was not there before.
pub(crate) fn create(
    host: &mut Netlink,
    netns: &Netns,
    wire: Wire<'_>,
    alias: &str,
) -> Result<Veth, PlumbError> {
    let mut batch = Batch::default();
    let host_end = End { name: wire.host_ifname, mac: wire.attachment.host_mac() };
    let pod_end = End { name: &wire.attachment.ifname, mac: wire.attachment.pod_mac() };
    batch.create_veth(host_end, pod_end, netns.raw_fd(), wire.mtu);
    batch.mark_host_end(wire.host_ifname, alias.to_owned(), sysctl::has_ipv6());
    batch.read_link(wire.host_ifname);
    let mut made = host.run(&batch);
    if made.as_ref().is_err_and(|error| is_refused_pair(error) && error.errno() == Some(Errno::EEXIST)) {
        clear_half_done(host, wire)?;
        made = host.run(&batch);
    }
    match made {
        Err(error) if is_refused_pair(&error) => Err(error.into()),
        // From here on the pair is there. The first error is the one to report; DEL tries again what fails here.
        made => finish(wire, made).inspect_err(|_| drop(remove(host, wire.host_ifname))),
    }
}

fn is_refused_pair(error: &NetlinkError) -> bool {
    matches!(error, NetlinkError::Refused { act: Act::CreateVeth { .. }, .. })
}

fn finish(wire: Wire<'_>, made: Result<Vec<RouteNetlinkMessage>, NetlinkError>) -> Result<Veth, PlumbError> {
    let link = made?.into_iter().find_map(as_link);
    let indexes = link.and_then(|link| Some(Veth { host: link.header.index, pod: peer_index(&link)? }));
    let veth = indexes.ok_or_else(|| PlumbError::NoIndex { host_ifname: wire.host_ifname.to_owned() })?;
    protect_host_end(wire)?;
    Ok(veth)
}

/// Removes a host-side veth of this attachment whose ADD did not come to its end: its links are still down.
fn clear_half_done(host: &mut Netlink, wire: Wire<'_>) -> Result<(), PlumbError> {
    let Some(link) = find(host, wire.host_ifname)? else {
        return Err(PlumbError::InterfaceExists { ifname: wire.attachment.ifname.clone() });
    };
    if link.header.flags.contains(LinkFlags::Up) {
        let host_ifname = wire.host_ifname.to_owned();
        return Err(PlumbError::Attached { attachment: wire.attachment.to_string(), host_ifname });
    }
    remove(host, wire.host_ifname)?;
    Ok(())
}

/// Lets the host's end forward, and lets it believe nothing the pod says about routes.
fn protect_host_end(wire: Wire<'_>) -> Result<(), SysctlError> {
    let name = wire.host_ifname;
    sysctl::set("ipv4", name, "forwarding", "1")?;
    // The default route of the reply may be another device than the one a packet came from; `from_pod` checks sources.
    sysctl::set("ipv4", name, "rp_filter", "0")?;
    if sysctl::has_ipv6() {
        sysctl::set("ipv6", name, "accept_ra", "0")?;
    }
    if wire.addresses.iter().any(IpAddr::is_ipv6) {
        sysctl::set("ipv6", name, "disable_ipv6", "0")?;
        sysctl::set("ipv6", name, "forwarding", "1")?;
    }
    Ok(())
}

/// Gives the pod's end its addresses, still down, and sets the pod's loopback up. Returns the socket in the pod.
pub(crate) fn address_pod(netns: &Netns, wire: Wire<'_>, veth: Veth) -> Result<Netlink, PlumbError> {
    let name = wire.attachment.ifname.as_str();
    let v6 = wire.addresses.iter().any(IpAddr::is_ipv6);
    let open = || {
        if sysctl::has_ipv6() {
            // Routes and addresses are ours to give: no router solicitation, no wait for the link-local address.
            sysctl::set("ipv6", name, "accept_ra", "0")?;
            sysctl::set("ipv6", name, "accept_dad", "0")?;
        }
        if v6 {
            sysctl::set("ipv6", "lo", "disable_ipv6", "0")?;
            sysctl::set("ipv6", name, "disable_ipv6", "0")?;
        }
        Ok::<_, PlumbError>(Netlink::open()?)
    };
    let mut pod = netns.enter(open)??;
    let mut batch = Batch::default();
    batch.set_loopback_up();
    for addr in wire.addresses {
        batch.add_address(wire.pod(veth), *addr);
    }
    pod.run(&batch)?;
    Ok(pod)
}

/// Sets the host's end up and routes the pod's addresses to it.
pub(crate) fn connect_host(host: &mut Netlink, wire: Wire<'_>, veth: Veth) -> Result<(), PlumbError> {
    let mut batch = Batch::default();
    batch.set_up(wire.host(veth));
    for addr in wire.addresses {
        batch.add_neighbour(wire.host(veth), *addr, wire.attachment.pod_mac());
        batch.add_pod_route(wire.host(veth), *addr);
    }
    host.run(&batch)?;
    Ok(())
}

/// Sets the pod's end up and routes everything through it.
pub(crate) fn connect_pod(pod: &mut Netlink, wire: Wire<'_>, veth: Veth) -> Result<(), PlumbError> {
    let mut batch = Batch::default();
    batch.set_up(wire.pod(veth));
    for addr in wire.addresses {
        let gateway = gateway_of(*addr);
        batch.add_neighbour(wire.pod(veth), gateway, wire.attachment.host_mac());
        batch.add_default_route(wire.pod(veth), gateway);
    }
    pod.run(&batch)?;
    Ok(())
}

/// Waits until both ends send. The kernel gives a device its queue after it has answered that the device is up, on a work
/// queue of its own, and drops what is sent meanwhile; the operational state (RFC 2863, section 3.1.12) turns to up behind
/// that.
pub(crate) fn await_up(host: &mut Netlink, pod: &mut Netlink, wire: Wire<'_>) -> Result<(), PlumbError> {
    let deadline = Instant::now() + UP_TIMEOUT;
    for (netlink, name) in [(host, wire.host_ifname), (pod, wire.attachment.ifname.as_str())] {
        while !find(netlink, name)?.as_ref().is_some_and(is_up) {
            if Instant::now() > deadline {
                return Err(PlumbError::NotUp { name: name.to_owned() });
            }
            // From Linux 6.8 on the question itself brings the answer about.
            thread::sleep(Duration::from_millis(1));
        }
    }
    // An IPv6 address is the pod's only once a work queue has been at it, though there is no duplicate to detect
    // (`addrconf_dad_work`, `net/ipv6/addrconf.c`); until then packets for it are answered by an error.
    for addr in wire.addresses.iter().filter(|addr| addr.is_ipv6()) {
        while !is_local(pod, *addr)? {
            if Instant::now() > deadline {
                return Err(PlumbError::NotLocal { addr: *addr });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Whether packets for an address are for the namespace of `netlink`.
fn is_local(netlink: &mut Netlink, addr: IpAddr) -> Result<bool, PlumbError> {
    let mut batch = Batch::default();
    batch.find_route(addr);
    let answers = netlink.run(&batch)?;
    Ok(answers.iter().any(|answer| {
        matches!(answer, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
    }))
}

fn is_up(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up)))
}

/// Stops all traffic of the pod.
pub(crate) fn disconnect(host: &mut Netlink, wire: Wire<'_>, veth: Veth) -> Result<(), PlumbError> {
    let mut batch = Batch::default();
    batch.set_down(wire.host(veth));
    host.run(&batch)?;
    Ok(())
}

/// Removes a host-side veth and all that hangs on it; returns whether it was there.
pub(crate) fn remove(host: &mut Netlink, host_ifname: &str) -> Result<bool, PlumbError> {
    let mut batch = Batch::default();
    batch.remove_link(host_ifname);
    absent(host.run(&batch)).map(|answer| answer.is_some())
}

/// Reads a device of the namespace of `netlink`; `None` when there is none.
pub(crate) fn find(netlink: &mut Netlink, name: &str) -> Result<Option<LinkMessage>, PlumbError> {
    let mut batch = Batch::default();
    batch.read_link(name);
    Ok(absent(netlink.run(&batch))?.and_then(|answers| answers.into_iter().find_map(as_link)))
}

/// The host-side veths of a network, by their alias.
pub(crate) fn owned(host: &mut Netlink, alias: &str) -> Result<Vec<String>, PlumbError> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let links = host.list("devices", RouteNetlinkMessage::GetLink(question))?;
    let ours = links.into_iter().filter_map(as_link).filter(|link| {
        link.attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::IfAlias(text) if text == alias))
    });
    let name = |link: LinkMessage| {
        link.attributes
            .into_iter()
            .find_map(|attribute| if let LinkAttribute::IfName(name) = attribute { Some(name) } else { None })
    };
    Ok(ours.filter_map(name).collect())
}

/// MTU of the device of the host's default route: IPv4's first, then IPv6's.
pub(crate) fn default_mtu(host: &mut Netlink) -> Result<u32, PlumbError> {
    let Some(device) = default_device().map_err(|source| PlumbError::DefaultRoute { source })? else {
        return Ok(ETHERNET_MTU);
    };
    let mtu = find(host, &device)?.as_ref().and_then(mtu_of);
    Ok(mtu.unwrap_or(ETHERNET_MTU))
}

pub(crate) fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| if let LinkAttribute::Mtu(mtu) = attribute { Some(*mtu) } else { None })
}

/// Looks into `/proc/net`, where default routes come first: a netlink list would carry every route of the node.
fn default_device() -> io::Result<Option<String>> {
    // Fields of /proc/net/route: Iface Destination Gateway Flags RefCnt Use Metric Mask …
    let v4 = first_line("/proc/thread-self/net/route", |fields| {
        (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000"))
            .then(|| fields.first().copied())?
    })?;
    if v4.is_some() {
        return Ok(v4);
    }
    // Fields of /proc/net/ipv6_route: destination, prefix length, …, device. The null route is on lo.
    first_line("/proc/thread-self/net/ipv6_route", |fields| {
        let default =
            fields.first().is_some_and(|dst| dst.bytes().all(|b| b == b'0')) && fields.get(1) == Some(&"00");
        default.then(|| fields.last().copied())?.filter(|device| *device != "lo")
    })
}

fn first_line(
    path: &str,
    pick: impl for<'l> Fn(&[&'l str]) -> Option<&'l str>,
) -> io::Result<Option<String>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    for line in BufReader::new(file).lines() {
        let line = line?;
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if let Some(device) = pick(&fields) {
            return Ok(Some(device.to_owned()));
        }
    }
    Ok(None)
}

/// `None` for a device that does not exist.
fn absent<T>(result: Result<T, NetlinkError>) -> Result<Option<T>, PlumbError> {
    match result {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn as_link(answer: RouteNetlinkMessage) -> Option<LinkMessage> {
    if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None }
}

fn peer_index(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| if let LinkAttribute::Link(index) = attribute { Some(*index) } else { None })
}
