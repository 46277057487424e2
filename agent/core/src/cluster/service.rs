//! Services and their endpoints.

use std::collections::BTreeSet;

use sluice_abi::{Addr, Prefix, protocol};

use super::{
    node::{address_of, keep, prefix_of},
    pod::{port_of, protocol_of},
    reject::RejectReason,
};
use crate::{
    object::{self, NamespacedName, PortName},
    prefix::is_v4,
};

/// A Service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Service {
    /// Its cluster addresses; empty when it is headless, external, someone else's, or rejected.
    pub addrs: Vec<Addr>,
    /// Addresses that somebody else leads to the nodes (`externalIPs`), of the families of `addrs`.
    pub external_addrs: BTreeSet<Addr>,
    /// Addresses of its load balancer that packets arrive with (`ipMode: VIP`), of the families of `addrs`.
    pub balancer_addrs: BTreeSet<Addr>,
    /// Where it listens.
    pub ports: Vec<ServicePort>,
    /// How long a client keeps its backend, seconds; `None` without session affinity.
    pub affinity_s: Option<u32>,
    /// Whether its cluster addresses lead only to endpoints of the client's node (`internalTrafficPolicy: Local`).
    pub internal_local: bool,
    /// Whether clients from outside reach only endpoints of the node they come to (`externalTrafficPolicy: Local`).
    pub external_local: bool,
    /// Clients from outside that may use its load balancer's addresses; a family without any is open to all.
    pub source_ranges: BTreeSet<Prefix>,
    /// Where load balancers ask whether this node has endpoints.
    pub health_check_port: Option<u16>,
    /// Whether endpoints count as ready whatever their readiness.
    pub publish_not_ready: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// Its name, which EndpointSlices refer to.
    pub name: String,
    /// IANA protocol number.
    pub protocol: u8,
    /// Its number.
    pub number: u16,
    /// The nodes' port.
    pub node_port: Option<u16>,
}

/// Someone else serves Services with this label (`k8s.io/kubernetes/pkg/proxy/apis`).
const FOREIGN_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Marks headless Services, and their EndpointSlices: no proxy serves them.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Longest session affinity (API reference, `ClientIPConfig`), seconds.
const MAX_AFFINITY_S: u32 = 86_400;

impl Service {
    pub(super) fn read(service: &object::Service) -> (Self, Option<RejectReason>) {
        let (spec, labels) = (&service.spec, &service.metadata.labels);
        let foreign = labels.contains_key(FOREIGN_PROXY) || labels.contains_key(HEADLESS);
        if foreign
            || spec.service_type == "ExternalName"
            || spec.addresses().next().is_none_or(|ip| ip == "None")
        {
            return (Self::default(), None);
        }
        match Self::read_whole(service) {
            Ok(read) => read,
            Err(reason) => (Self::default(), Some(reason)),
        }
    }

    /// Reads a Service that has an address; a port that is not served is left out, and noted.
    fn read_whole(service: &object::Service) -> Result<(Self, Option<RejectReason>), RejectReason> {
        let spec = &service.spec;
        let mut note = None;
        let ports = spec.ports.iter().filter_map(|port| read_port(port, &mut note).transpose());
        let ports = ports.collect::<Result<_, _>>()?;
        let addrs: Vec<Addr> = spec.addresses().map(address_of).collect::<Result<_, _>>()?;
        // Each family is a proxy of its own, and serves what has a cluster address (`GetClusterIPByFamily`).
        let is_served = |addr: &Result<Addr, _>| {
            addr.as_ref().map_or(true, |addr| addrs.iter().any(|own| own.is_v4() == addr.is_v4()))
        };
        let external = spec.external_ips.iter().map(|ip| address_of(ip.trim()));
        let ingress = service.status.load_balancer.ingress.iter();
        let vips = ingress.filter(|at| !at.ip.is_empty() && matches!(at.ip_mode.as_str(), "" | "VIP"));
        let external_local = spec.external_traffic_policy == "Local";
        let is_balanced = spec.service_type == "LoadBalancer";
        let read = Self {
            external_addrs: external.filter(is_served).collect::<Result<_, _>>()?,
            balancer_addrs: vips.map(|at| address_of(&at.ip)).filter(is_served).collect::<Result<_, _>>()?,
            addrs,
            ports,
            affinity_s: read_affinity(spec)?,
            internal_local: spec.internal_traffic_policy == "Local",
            external_local,
            source_ranges: read_source_ranges(spec)?,
            health_check_port: if is_balanced && external_local && spec.health_check_node_port != 0 {
                Some(port_of(spec.health_check_node_port)?)
            } else {
                None
            },
            publish_not_ready: spec.publish_not_ready_addresses,
        };
        Ok((read, note))
    }
}

/// Reads a port. SCTP's checksum covers its ports, so they cannot be translated: such a port, or its node port, is left
/// out, and noted.
fn read_port(
    port: &object::ServicePort,
    note: &mut Option<RejectReason>,
) -> Result<Option<ServicePort>, RejectReason> {
    let (number, protocol) = (port_of(port.port)?, protocol_of(&port.protocol)?);
    let mut node_port = if port.node_port == 0 { None } else { Some(port_of(port.node_port)?) };
    if protocol == protocol::SCTP {
        let mut left_out = |port| {
            note.get_or_insert(RejectReason::NotServed { port, protocol: "SCTP".to_owned() });
        };
        if matches!(port.target(), PortName::Number(target) if target != port.port) {
            left_out(port.port);
            return Ok(None);
        }
        if let Some(other) = node_port.take_if(|node_port| *node_port != number) {
            left_out(i64::from(other));
        }
    }
    Ok(Some(ServicePort { name: port.name.clone(), protocol, number, node_port }))
}

fn read_affinity(spec: &object::ServiceSpec) -> Result<Option<u32>, RejectReason> {
    if spec.session_affinity != "ClientIP" {
        return Ok(None);
    }
    let seconds = spec.session_affinity_config.client_ip.timeout_seconds;
    let timeout = u32::try_from(seconds).ok().filter(|seconds| (1..=MAX_AFFINITY_S).contains(seconds));
    timeout.map(Some).ok_or(RejectReason::AffinityTimeout { seconds })
}

/// Ranges by family, as kube-proxy takes them: with a range of everything, or without any, the family is open.
fn read_source_ranges(spec: &object::ServiceSpec) -> Result<BTreeSet<Prefix>, RejectReason> {
    let ranges = spec.load_balancer_source_ranges.iter().map(|range| prefix_of(range.trim()));
    let mut ranges: BTreeSet<Prefix> = ranges.collect::<Result<_, _>>()?;
    let open: Vec<Prefix> = ranges.iter().filter(|range| matches!(range.bits, 0 | 96)).copied().collect();
    for everything in open.iter().filter(|range| range.bits == 0 || is_v4(range)) {
        ranges.retain(|range| is_v4(range) != is_v4(everything));
    }
    Ok(ranges)
}

/// An EndpointSlice: every endpoint has every port.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Slice {
    /// Whose endpoints these are; `None` when no Service is served by them.
    pub service: Option<NamespacedName>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports.
    pub ports: Vec<SlicePort>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SliceEndpoint {
    /// Its address.
    pub addr: Addr,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, terminating or not.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// The node it is on; empty when unknown.
    pub node: Box<str>,
    /// Who should use it; `None` when nobody said so.
    pub hints: Option<Box<Hints>>,
}

/// Who should use an endpoint (`hints`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hints {
    /// Zones whose nodes should.
    pub zones: Vec<String>,
    /// Nodes that should.
    pub nodes: Vec<String>,
}

/// One port of a slice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: String,
    /// IANA protocol number.
    pub protocol: u8,
    /// The endpoints' port.
    pub number: u16,
}

impl Slice {
    pub(super) fn read(slice: &object::EndpointSlice) -> (Self, Option<RejectReason>) {
        let labels = &slice.metadata.labels;
        if slice.address_type == "FQDN" || labels.contains_key(HEADLESS) {
            return (Self::default(), None);
        }
        let mut reason = None;
        let namespace = slice.metadata.namespaced_name().namespace;
        let service =
            labels.get("kubernetes.io/service-name").map(|name| NamespacedName::new(namespace, &**name));
        let endpoints = slice.endpoints.iter().filter_map(|endpoint| {
            let addr = address_of(endpoint.addresses.first()?);
            Some(addr.map(|addr| SliceEndpoint {
                addr,
                ready: endpoint.conditions.is_ready(),
                serving: endpoint.conditions.is_serving(),
                terminating: endpoint.conditions.is_terminating(),
                node: endpoint.node_name.as_str().into(),
                hints: Hints::read(&endpoint.hints),
            }))
        });
        let endpoints = keep(endpoints, &mut reason);
        let ports = slice.ports.iter().filter_map(|port| {
            let number = port.port.map(port_of)?;
            Some(number.and_then(|number| {
                Ok(SlicePort { name: port.name.clone(), protocol: protocol_of(&port.protocol)?, number })
            }))
        });
        let ports = keep(ports, &mut reason);
        (Self { service, endpoints, ports }, reason)
    }
}

impl Hints {
    fn read(hints: &object::EndpointHints) -> Option<Box<Self>> {
        let names = |hints: &[object::Hint]| hints.iter().map(|hint| hint.name.clone()).collect::<Vec<_>>();
        let read = Self { zones: names(&hints.for_zones), nodes: names(&hints.for_nodes) };
        (read != Self::default()).then(|| Box::new(read))
    }
}
