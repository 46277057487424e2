//! Services: frontends of cluster addresses, and their backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_abi::{BackendState, FrontendKey, FrontendScope};

use crate::{
    cluster::{Cluster, NodeName, Service, ServicePort, SliceEndpoint},
    desired::{BackendKey, DesiredFrontend, DesiredService},
    object::NamespacedName,
};

/// Compiles these Services anew.
pub(super) fn compile(
    cluster: &Cluster,
    node: &NodeName,
    names: &BTreeSet<NamespacedName>,
    services: &mut BTreeMap<NamespacedName, Arc<DesiredService>>,
) {
    for name in names {
        let desired = cluster.services().get(name).map(|service| of(cluster, node, name, service));
        match desired.filter(|desired| !desired.frontends.is_empty()) {
            Some(desired) => services.insert(name.clone(), Arc::new(desired)),
            None => services.remove(name),
        };
    }
}

fn of(cluster: &Cluster, node: &NodeName, name: &NamespacedName, service: &Service) -> DesiredService {
    let mut desired = DesiredService::default();
    for port in &service.ports {
        let candidates = candidates(cluster, node, name, service, port);
        for addr in &service.addrs {
            let family = candidates.iter().filter(|(key, _)| key.addr.is_v4() == addr.is_v4());
            let family: Vec<_> = family.map(|(key, condition)| (*key, *condition)).collect();
            let mut frontend =
                DesiredFrontend { affinity_s: service.affinity_s, ..DesiredFrontend::default() };
            let ready = family.iter().any(|(_, condition)| *condition == Condition::Ready);
            for (backend, condition) in family {
                // Without a ready endpoint those that still serve while they terminate take new flows (KEP-1669).
                let taken =
                    if ready { condition == Condition::Ready } else { condition == Condition::Ending };
                if taken {
                    frontend.backends.insert(backend);
                }
                let state = if taken { BackendState::Active } else { BackendState::Terminating };
                let known = desired.backends.entry(backend).or_insert(state);
                *known = state.min(*known);
            }
            let key = FrontendKey {
                addr: *addr,
                port: port.number.to_be_bytes(),
                protocol: port.protocol,
                scope: FrontendScope::Internal as u8,
            };
            desired.frontends.insert(key, frontend);
        }
    }
    desired
}

/// Whether an endpoint takes new flows.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Condition {
    /// It does.
    Ready,
    /// It serves and terminates.
    Ending,
}

/// The endpoints of a Service's port that could take flows; one that stands in several slices is what is best for it.
fn candidates(
    cluster: &Cluster,
    node: &NodeName,
    name: &NamespacedName,
    service: &Service,
    port: &ServicePort,
) -> BTreeMap<BackendKey, Condition> {
    let mut candidates = BTreeMap::new();
    for slice in cluster.slices(name) {
        let ports = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for target in ports {
            for endpoint in &slice.endpoints {
                if service.local_only && *endpoint.node != *node.0 {
                    continue;
                }
                let Some(condition) = condition(endpoint, service.publish_not_ready) else { continue };
                let key = BackendKey { addr: endpoint.addr, protocol: target.protocol, port: target.number };
                let known = candidates.entry(key).or_insert(condition);
                *known = condition.min(*known);
            }
        }
    }
    candidates
}

fn condition(endpoint: &SliceEndpoint, publish_not_ready: bool) -> Option<Condition> {
    if endpoint.ready || publish_not_ready {
        Some(Condition::Ready)
    } else if endpoint.serving && endpoint.terminating {
        Some(Condition::Ending)
    } else {
        None
    }
}
