//! The flows a question is about: one for each family, and for each backend of a Service.

use std::net::IpAddr;

use sluice_abi::Addr;

use super::{AskError, Party, Port, Protocol, Question};
use crate::{
    cluster,
    object::{self, NamespacedName, Object, ObjectKey, PortName},
    verdict::Flow,
    world::{Pod, World},
};

/// The flows of a question; never empty.
pub(super) fn flows(world: &World, question: &Question) -> Result<Vec<Flow>, AskError> {
    let sources = match &question.from {
        Party::Pod(name) => addresses(pod(world, name)?)?,
        Party::Address(address) => vec![Addr::from(*address)],
        Party::Service(_) => return Err(AskError::FromService),
    };
    let targets = targets(world, question)?;
    let mut flows = Vec::new();
    for (dst, port) in targets {
        for src in sources.iter().filter(|src| src.is_v4() == dst.is_v4()) {
            flows.push(Flow { src: *src, dst, protocol: question.protocol.number(dst), port });
        }
    }
    if flows.is_empty() { Err(AskError::Families) } else { Ok(flows) }
}

fn targets(world: &World, question: &Question) -> Result<Vec<(Addr, u16)>, AskError> {
    match &question.to {
        Party::Pod(name) => {
            let pod = pod(world, name)?;
            let port = port_on(world, pod, &question.port, question.protocol)?;
            Ok(addresses(pod)?.into_iter().map(|addr| (addr, port)).collect())
        }
        Party::Address(address) => {
            let port = port_at(world, *address, question)?;
            Ok(vec![(Addr::from(*address), port)])
        }
        Party::Service(name) => backends(world, name, question),
    }
}

fn pod<'a>(world: &'a World, name: &NamespacedName) -> Result<&'a Pod, AskError> {
    world.pod(name).ok_or_else(|| {
        let is_known = world.cluster().pods().contains_key(name);
        if is_known { AskError::Finished(name.clone()) } else { AskError::NoPod(name.clone()) }
    })
}

fn addresses(pod: &Pod) -> Result<Vec<Addr>, AskError> {
    if pod.addrs.is_empty() { Err(AskError::NoAddress(pod.name.clone())) } else { Ok(pod.addrs.clone()) }
}

fn port_at(world: &World, address: IpAddr, question: &Question) -> Result<u16, AskError> {
    match (&question.port, world.pod_at(Addr::from(address))) {
        (Port::Number(number), _) => Ok(*number),
        (Port::Named(_), Some(pod)) => port_on(world, pod, &question.port, question.protocol),
        (Port::Named(name), None) => Err(AskError::NoNames { address, name: name.clone() }),
    }
}

/// The number that a port has on a pod.
pub(crate) fn port_on(world: &World, pod: &Pod, port: &Port, protocol: Protocol) -> Result<u16, AskError> {
    match port {
        Port::Number(number) => Ok(*number),
        Port::Named(name) => named(world, pod, name, protocol).ok_or_else(|| AskError::NoPort {
            pod: pod.name.clone(),
            name: name.clone(),
            protocol: protocol.name(),
        }),
    }
}

fn named(world: &World, pod: &Pod, name: &str, protocol: Protocol) -> Option<u16> {
    let model: &cluster::Pod = world.cluster().pods().get(&pod.name)?;
    model.port(name, protocol.number(Addr::UNSPECIFIED))
}

/// Where the pods of a Service listen for one of its ports.
fn backends(world: &World, name: &NamespacedName, question: &Question) -> Result<Vec<(Addr, u16)>, AskError> {
    let Some(Object::Service(service)) = world.objects().get(&ObjectKey::Service(name.clone())) else {
        return Err(AskError::NoService(name.clone()));
    };
    let is_asked = |port: &&object::ServicePort| {
        port.protocol == question.protocol.name()
            && match &question.port {
                Port::Number(number) => port.port == i64::from(*number),
                Port::Named(name) => port.name == *name,
            }
    };
    let port = service.spec.ports.iter().find(is_asked).ok_or_else(|| AskError::NoServicePort {
        service: name.clone(),
        port: question.port.clone(),
        protocol: question.protocol.name(),
    })?;
    let found: Vec<_> = served(world, name, service)
        .filter_map(|pod| Some((pod, target_on(world, pod, port)?)))
        .flat_map(|(pod, number)| pod.addrs.iter().map(move |addr| (*addr, number)))
        .collect();
    if found.is_empty() {
        let (service, port) = (name.clone(), question.port.clone());
        return Err(AskError::NoBackend { service, port });
    }
    Ok(found)
}

/// The pods that a Service selects; none without a selector.
pub(crate) fn served<'a>(
    world: &'a World,
    name: &NamespacedName,
    service: &'a object::Service,
) -> impl Iterator<Item = &'a Pod> {
    let namespace = name.namespace.clone();
    world.pods().iter().filter(move |pod| {
        let wanted = &service.spec.selector;
        let labels = world.cluster().pods().get(&pod.name).map(|pod| &pod.labels);
        pod.name.namespace == namespace
            && !wanted.is_empty()
            && wanted.iter().all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
    })
}

/// The number that a Service's port leads to on a pod.
pub(crate) fn target_on(world: &World, pod: &Pod, port: &object::ServicePort) -> Option<u16> {
    match port.target() {
        PortName::Number(number) => u16::try_from(number).ok().filter(|number| *number != 0),
        PortName::Name(name) => named(world, pod, &name, protocol_of(&port.protocol)?),
    }
}

/// The protocol of that name.
pub(crate) fn protocol_of(name: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.name() == name)
}
