//! CHECK: is everything that ADD made still as `prevResult` says?
//!
//! Only what this plugin made is compared. `prevResult` is the result of the whole chain, so a MAC address or MTU that
//! a later plugin changed is expected as changed, and routes it added or replaced in the pod do not matter, as long as
//! every route of the result is there.

use std::{net::IpAddr, path::Path};

use ipnetwork::IpNetwork;

use crate::{
    agent::Agent,
    attachment::Attachment,
    config::{self, FieldProblem, Network},
    error::{CheckError, Side},
    inspect::{self, Device},
    ipam::Ipam,
    netlink::Netlink,
    netns::Netns,
    plumb::gateway_of,
    result::{Interface, Success, mac_text},
};

pub(super) fn run(network: &Network, attachment: &Attachment, netns: &Path) -> Result<(), CheckError> {
    let json =
        network.prev_result.as_ref().ok_or_else(|| config::wrong("prevResult", FieldProblem::Missing))?;
    let expected: Success = config::decode("prevResult", json)?;
    let host_ifname = attachment.host_ifname();
    let mut host = Netlink::open()?;
    let held = Ipam::new(&network.name, &network.ipam).held(attachment)?;
    let veth = inspect::device(&mut host, &host_ifname)?;
    if held.is_empty() && veth.is_none() {
        return Err(CheckError::Unknown { attachment: attachment.to_string() });
    }
    let wanted = Wanted::of(&expected, attachment, &host_ifname)?;
    wanted.check_leases(&held, attachment)?;
    let pod_netns = Netns::open(netns)?;
    let mut pod = pod_netns.enter(Netlink::open)??;
    let host_device = compare(veth, wanted.host, Side::Host)?;
    let pod_device = compare(inspect::device(&mut pod, &attachment.ifname)?, wanted.pod, Side::Pod)?;
    wanted.check_pod(&mut pod, &pod_device, &host_device)?;
    wanted.check_host(&mut host, &host_device, &pod_device)?;
    match &network.agent {
        None => Ok(()),
        Some(config) => Agent::connect(config)
            .and_then(|mut agent| agent.check_in_force(attachment))
            .map_err(|source| CheckError::NotInForce { attachment: attachment.to_string(), source }),
    }
}

/// Our part of a result.
struct Wanted<'a> {
    host: &'a Interface,
    pod: &'a Interface,
    addresses: Vec<IpAddr>,
    routes: Vec<IpNetwork>,
}

impl<'a> Wanted<'a> {
    fn of(result: &'a Success, attachment: &Attachment, host_ifname: &str) -> Result<Self, CheckError> {
        let find = |name: &str, side| {
            let found = result.interfaces.iter().position(|interface| {
                let in_pod = interface.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty());
                interface.name == name && in_pod == (side == Side::Pod)
            });
            found.ok_or_else(|| CheckError::NotInResult { name: name.to_owned(), side })
        };
        let (host, pod) = (find(host_ifname, Side::Host)?, find(&attachment.ifname, Side::Pod)?);
        let ours = result.ips.iter().filter(|ip| ip.interface == Some(pod));
        let addresses: Vec<_> = ours.map(|ip| ip.address.ip()).collect();
        let through_us = |gateway: &IpAddr| addresses.iter().any(|addr| gateway_of(*addr) == *gateway);
        let routes = result.routes.iter().filter(|route| route.gw.as_ref().is_some_and(through_us));
        let routes = routes.map(|route| route.dst).collect();
        Ok(Self { host: &result.interfaces[host], pod: &result.interfaces[pod], addresses, routes })
    }

    fn check_leases(&self, held: &[IpAddr], attachment: &Attachment) -> Result<(), CheckError> {
        match self.addresses.iter().find(|addr| !held.contains(addr)) {
            Some(addr) => Err(CheckError::NotLeased { addr: *addr, attachment: attachment.to_string() }),
            None => Ok(()),
        }
    }

    fn check_pod(&self, pod: &mut Netlink, device: &Device, host: &Device) -> Result<(), CheckError> {
        let addresses = inspect::addresses(pod, device.index)?;
        if let Some(addr) = self.addresses.iter().find(|addr| !addresses.contains(addr)) {
            return Err(CheckError::NoAddress { addr: *addr });
        }
        let routes = inspect::routes(pod, device.index)?;
        let missing = self.routes.iter().find(|dst| !routes.iter().any(|route| route.destination == **dst));
        if let Some(destination) = missing {
            return Err(CheckError::NoRoute { destination: *destination, side: Side::Pod });
        }
        let gateways: Vec<_> = self.addresses.iter().map(|addr| gateway_of(*addr)).collect();
        check_neighbours(pod, device, &gateways, host, Side::Pod)
    }

    fn check_host(&self, host: &mut Netlink, device: &Device, pod: &Device) -> Result<(), CheckError> {
        let routes = inspect::routes(host, device.index)?;
        for addr in &self.addresses {
            let destination = IpNetwork::from(*addr);
            if !routes.iter().any(|route| route.destination == destination) {
                return Err(CheckError::NoRoute { destination, side: Side::Host });
            }
        }
        check_neighbours(host, device, &self.addresses, pod, Side::Host)
    }
}

fn compare(device: Option<Device>, wanted: &Interface, side: Side) -> Result<Device, CheckError> {
    let name = wanted.name.clone();
    let Some(device) = device else { return Err(CheckError::NoInterface { name, side }) };
    if !device.up {
        return Err(CheckError::Down { name, side });
    }
    let mac = device.mac.as_deref().map(mac_text);
    let same_mac = wanted
        .mac
        .as_ref()
        .is_none_or(|wanted| mac.as_ref().is_some_and(|mac| mac.eq_ignore_ascii_case(wanted)));
    let same_mtu = wanted.mtu.is_none_or(|mtu| device.mtu == Some(mtu));
    if same_mac && same_mtu { Ok(device) } else { Err(CheckError::Changed { name, side }) }
}

fn check_neighbours(
    netlink: &mut Netlink,
    device: &Device,
    wanted: &[IpAddr],
    other_end: &Device,
    side: Side,
) -> Result<(), CheckError> {
    let present = inspect::neighbours(netlink, device.index)?;
    let known = |addr: &IpAddr| {
        present.iter().any(|(other, mac)| other == addr && other_end.mac.as_ref() == Some(mac))
    };
    match wanted.iter().find(|addr| !known(addr)) {
        Some(addr) => Err(CheckError::NoNeighbour { addr: *addr, side }),
        None => Ok(()),
    }
}
