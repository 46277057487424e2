//! Services and their endpoints.

use sluice_abi::{Addr, protocol};

use super::{
    node::{address_of, keep},
    pod::{port_of, protocol_of},
    reject::RejectReason,
};
use crate::object::{self, NamespacedName};

/// A Service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Service {
    /// Its cluster addresses; empty when it is headless, external, someone else's, or rejected.
    pub addrs: Vec<Addr>,
    /// Where it listens.
    pub ports: Vec<ServicePort>,
    /// How long a client keeps its backend, seconds; `None` without session affinity.
    pub affinity_s: Option<u32>,
    /// Whether pods reach only the endpoints of their own node (`internalTrafficPolicy: Local`).
    pub local_only: bool,
    /// Whether endpoints count as ready whatever their readiness.
    pub publish_not_ready: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// Its name, which EndpointSlices refer to.
    pub name: String,
    /// IANA protocol number: TCP or UDP.
    pub protocol: u8,
    /// Its number.
    pub number: u16,
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
        match Self::read_whole(spec) {
            Ok(read) => read,
            Err(reason) => (Self::default(), Some(reason)),
        }
    }

    /// Reads a Service that has an address; a port that is not served is left out, and noted.
    fn read_whole(spec: &object::ServiceSpec) -> Result<(Self, Option<RejectReason>), RejectReason> {
        let mut note = None;
        let mut ports = Vec::new();
        for port in &spec.ports {
            let (number, protocol) = (port_of(port.port)?, protocol_of(&port.protocol)?);
            if protocol == protocol::SCTP {
                note = Some(RejectReason::NotServed { port: port.port, protocol: port.protocol.clone() });
                continue;
            }
            ports.push(ServicePort { name: port.name.clone(), protocol, number });
        }
        let seconds = spec.session_affinity_config.client_ip.timeout_seconds;
        let timeout = u32::try_from(seconds).ok().filter(|seconds| (1..=MAX_AFFINITY_S).contains(seconds));
        let affinity_s = match spec.session_affinity.as_str() {
            "ClientIP" => Some(timeout.ok_or(RejectReason::AffinityTimeout { seconds })?),
            _ => None,
        };
        let service = Self {
            addrs: spec.addresses().map(address_of).collect::<Result<_, _>>()?,
            ports,
            affinity_s,
            local_only: spec.internal_traffic_policy == "Local",
            publish_not_ready: spec.publish_not_ready_addresses,
        };
        Ok((service, note))
    }
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
