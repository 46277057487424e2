//! Ports that nobody has.
//!
//! What a container declares is for information only (API reference, `ContainerPort`), so a number counts as missing only
//! where every pod in question declares ports.

use std::collections::BTreeSet;

use sluice_abi::Direction;

use super::{Code, Finding, Policy, Rule, Severity, count, names};
use crate::{
    explain::{port_on, protocol_of, served, target_on},
    object::{self, NamespacedName, NetworkPolicyPort, Object, ObjectKey, PortName, Service, ServicePort},
    selector::LabelSelector,
    world::{Pod, World},
};

pub(super) fn lint(world: &World, policies: &[Policy<'_>], found: &mut BTreeSet<Finding>) {
    let services: Vec<Served<'_>> = services(world);
    for policy in policies {
        for rule in policy.rules() {
            let receivers = receivers(world, policy, &rule);
            for (index, port) in rule.ports.iter().enumerate() {
                let finding = service_port(world, policy, &rule, port, &receivers, &services)
                    .or_else(|| of_no_pod(world, policy, port, &receivers));
                let field = format!("{}.ports[{index}]", rule.field());
                found.extend(finding.map(|finding| Finding { field: Some(field), ..finding }));
            }
        }
    }
}

/// A Service and the pods behind it.
struct Served<'a> {
    name: NamespacedName,
    service: &'a Service,
    pods: Vec<&'a Pod>,
}

fn services(world: &World) -> Vec<Served<'_>> {
    let services = world.objects().iter().filter_map(|(key, object)| match (key, object) {
        (ObjectKey::Service(name), Object::Service(service)) => Some((name, service)),
        _ => None,
    });
    services
        .map(|(name, service)| Served {
            name: name.clone(),
            service,
            pods: served(world, name, service).collect(),
        })
        .collect()
}

/// The pods whose ports a rule is about: those that the policy selects, or the peers of an egress rule.
fn receivers<'a>(world: &'a World, policy: &Policy<'a>, rule: &Rule<'_>) -> Vec<&'a Pod> {
    match rule.direction {
        Direction::Ingress => policy.pods.clone(),
        // Everybody, or addresses: whoever is there may have the port.
        Direction::Egress if rule.peers.iter().any(|peer| peer.ip_block.is_some()) => Vec::new(),
        Direction::Egress => {
            let is_peer = |pod: &&Pod| rule.peers.iter().any(|peer| is_peer(world, policy, peer, pod));
            world.pods().iter().filter(|pod| !pod.is_host).filter(is_peer).collect()
        }
    }
}

fn is_peer(world: &World, policy: &Policy<'_>, peer: &object::NetworkPolicyPeer, pod: &Pod) -> bool {
    let Some(model) = world.cluster().pods().get(&pod.name) else { return false };
    let reads = |selector: &object::LabelSelector| LabelSelector::read(selector).ok();
    let near = match &peer.namespace_selector {
        Some(selector) => reads(selector).is_some_and(|selector| {
            world.cluster().namespace_labels(&pod.name.namespace).are_selected_by(&selector)
        }),
        None => pod.name.namespace == policy.name.namespace,
    };
    let labels = peer.pod_selector.as_ref();
    near && labels.is_none_or(|labels| reads(labels).is_some_and(|labels| labels.matches(&model.labels)))
}

/// A rule that names the port of a Service and lets nothing through to the pods behind it.
fn service_port(
    world: &World,
    policy: &Policy<'_>,
    rule: &Rule<'_>,
    port: &NetworkPolicyPort,
    receivers: &[&Pod],
    services: &[Served<'_>],
) -> Option<Finding> {
    let Some(PortName::Number(number)) = port.port else { return None };
    let last = port.end_port.unwrap_or(number);
    for Served { name, service, pods } in services {
        for offered in &service.spec.ports {
            if offered.protocol != port.protocol || !(number..=last).contains(&offered.port) {
                continue;
            }
            let missed: Vec<&Pod> = pods
                .iter()
                .filter(|pod| receivers.iter().any(|receiver| receiver.name == pod.name))
                .filter(|pod| {
                    target_on(world, pod, offered).is_some_and(|target| {
                        !rule.ports.iter().any(|port| names_port(world, port, offered, pod, target))
                    })
                })
                .copied()
                .collect();
            let Some(first) = missed.first() else { continue };
            // Something else may listen there, too.
            if declares(world, first, &port.protocol, number, last) == Some(true) {
                continue;
            }
            let target = target_on(world, first, offered)?;
            let message = format!(
                "names {} {}, the port of Service {name}, whose pods listen on {target}: nothing gets through to them",
                port.protocol, offered.port
            );
            let fix =
                format!("name port {target}: policy is judged after the Service's address is translated");
            let finding = policy.finding(Severity::Error, Code::ServicePort, message, &fix);
            return Some(Finding { pods: names(missed), ..finding });
        }
    }
    None
}

/// Whether a port of a rule is the one that a Service leads to on a pod.
fn names_port(
    world: &World,
    port: &NetworkPolicyPort,
    offered: &ServicePort,
    pod: &Pod,
    target: u16,
) -> bool {
    port.protocol == offered.protocol
        && match &port.port {
            None => true,
            Some(PortName::Number(first)) => {
                (*first..=port.end_port.unwrap_or(*first)).contains(&i64::from(target))
            }
            Some(PortName::Name(name)) => number_of(world, pod, name, &port.protocol) == Some(target),
        }
}

fn number_of(world: &World, pod: &Pod, name: &str, protocol: &str) -> Option<u16> {
    port_on(world, pod, &crate::explain::Port::Named(name.to_owned()), protocol_of(protocol)?).ok()
}

fn of_no_pod(
    world: &World,
    policy: &Policy<'_>,
    port: &NetworkPolicyPort,
    receivers: &[&Pod],
) -> Option<Finding> {
    if receivers.is_empty() {
        return None;
    }
    let (what, fix) = match port.port.as_ref()? {
        PortName::Name(name) => {
            if receivers.iter().any(|pod| number_of(world, pod, name, &port.protocol).is_some()) {
                return None;
            }
            (
                format!("{} port {name:?}", port.protocol),
                "name a port that the containers have, or its number",
            )
        }
        PortName::Number(first) => {
            let last = port.end_port.unwrap_or(*first);
            let declared = receivers.iter().map(|pod| declares(world, pod, &port.protocol, *first, last));
            if declared.into_iter().any(|declared| declared != Some(false)) {
                return None;
            }
            let range = if last == *first { first.to_string() } else { format!("{first}-{last}") };
            (
                format!("{} {range}", port.protocol),
                "name the containers' port, or add it to what they declare",
            )
        }
    };
    let message = match receivers {
        [one] => format!("pod {} has no {what}", one.name),
        several => format!("none of {} has {what}", count(several.len(), "pod")),
    };
    let finding = policy.finding(Severity::Warning, Code::PortOfNoPod, message, fix);
    Some(Finding { pods: names(receivers.iter().copied()), ..finding })
}

/// Whether a pod declares one of these ports; `None` when it declares none at all.
fn declares(world: &World, pod: &Pod, protocol: &str, first: i64, last: i64) -> Option<bool> {
    let Some(Object::Pod(object)) = world.objects().get(&ObjectKey::Pod(pod.name.clone())) else {
        return None;
    };
    let containers = object.spec.containers.iter().chain(&object.spec.init_containers);
    let ports: Vec<_> = containers.flat_map(|container| &container.ports).collect();
    let has = |port: &&object::ContainerPort| {
        port.protocol == protocol && (first..=last).contains(&port.container_port)
    };
    (!ports.is_empty()).then(|| ports.iter().any(has))
}
