//! Pods.

use sluice_abi::{Addr, protocol};

use super::{
    node::{address_of, keep},
    reject::RejectReason,
};
use crate::{object, selector::Labels};

/// A pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its uid as the runtime knows it, where an API server gave one: a static pod's is the kubelet's own.
    pub uid: Option<Box<str>>,
    /// Its labels.
    pub labels: Labels,
    /// The node it runs on; empty before it is scheduled.
    pub node: Box<str>,
    /// Whether it is a peer and can be selected: it has a network of its own and has not finished. A terminating pod
    /// stays; one that Succeeded or Failed is out, though its address may still stand in its status.
    pub in_network: bool,
    /// Addresses of its status.
    pub addrs: Box<[Addr]>,
    /// The named ports of its containers and sidecars.
    pub ports: Box<[NamedPort]>,
}

/// A named port of a pod.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NamedPort {
    /// Its name.
    pub name: Box<str>,
    /// IANA protocol number.
    pub protocol: u8,
    /// Its number.
    pub number: u16,
}

impl Pod {
    pub(super) fn read(pod: &object::Pod) -> (Self, Option<RejectReason>) {
        let mut reason = None;
        let status = &pod.status;
        let first = status.pod_ips.is_empty() && !status.pod_ip.is_empty();
        let texts =
            status.pod_ips.iter().map(|ip| ip.ip.as_str()).chain(first.then_some(status.pod_ip.as_str()));
        let addrs = keep(texts.filter(|text| !text.is_empty()).map(address_of), &mut reason);
        let finished = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        let model = Self {
            uid: pod
                .metadata
                .annotations
                .get(object::MIRROR)
                .or(pod.metadata.uid.as_ref())
                .map(|uid| uid.as_str().into()),
            labels: Labels::new(pod.metadata.labels.clone()),
            node: pod.spec.node_name.as_str().into(),
            in_network: !finished && !pod.spec.host_network,
            addrs,
            ports: named_ports(&pod.spec, &mut reason),
        };
        (model, reason)
    }

    /// The numbers that `name` stands for with `protocol`; a pod may use a name twice, and the first one counts.
    pub fn port(&self, name: &str, protocol: u8) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| &*port.name == name && port.protocol == protocol)
            .map(|port| port.number)
    }
}

fn named_ports(spec: &object::PodSpec, reason: &mut Option<RejectReason>) -> Box<[NamedPort]> {
    let sidecars =
        spec.init_containers.iter().filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let named = ports.filter(|port| !port.name.is_empty()).map(|port| {
        Ok(NamedPort {
            name: port.name.as_str().into(),
            protocol: protocol_of(&port.protocol)?,
            number: port_of(port.container_port)?,
        })
    });
    keep(named, reason)
}

pub(super) fn protocol_of(text: &str) -> Result<u8, RejectReason> {
    match text {
        "TCP" => Ok(protocol::TCP),
        "UDP" => Ok(protocol::UDP),
        "SCTP" => Ok(protocol::SCTP),
        _ => Err(RejectReason::Protocol { protocol: text.to_owned() }),
    }
}

pub(super) fn port_of(number: i64) -> Result<u16, RejectReason> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or(RejectReason::Port { port: number })
}
