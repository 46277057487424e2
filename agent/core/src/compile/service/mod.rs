//! Services: their frontends in both scopes, and the backends of each.
//!
//! `endpoints` says which endpoints take flows, `claims` who has a frontend that several ask for.

mod claims;
mod endpoints;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use claims::Claims;
use endpoints::{Backends, Endpoints, Place};
use sluice_abi::{Addr, FrontendKey, FrontendScope, protocol};

use super::Settings;
use crate::{
    cluster::{Cluster, NodeName, Service, ServicePort},
    desired::{DesiredFrontend, DesiredService, DesiredState, FrontendKind, HealthCheck, Slots},
    object::NamespacedName,
    prefix::is_v4,
};

/// The Services, and who has which frontend.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    claims: Claims,
}

impl Services {
    /// Compiles these Services anew, and others that get or lose a frontend thereby; returns all that have changed.
    pub(super) fn update(
        &mut self,
        cluster: &Cluster,
        node: &NodeName,
        settings: &Settings,
        names: &BTreeSet<NamespacedName>,
        desired: &mut DesiredState,
    ) -> BTreeSet<NamespacedName> {
        let zone = cluster.nodes().get(node).map_or("", |node| &*node.zone);
        let compiler = OneService { cluster, place: Place { node: &node.0, zone }, settings };
        let mut compiled = BTreeMap::new();
        let mut touched = names.clone();
        for name in names {
            let service = compiler.compile(name);
            touched.extend(self.claim(name, &service, desired));
            compiled.insert(name.clone(), service);
            match compiler.health_check(name) {
                Some(check) => desired.health_checks.insert(name.clone(), check),
                None => desired.health_checks.remove(name),
            };
        }
        let mut changed = BTreeSet::new();
        for name in touched {
            let mut service = compiled.remove(&name).unwrap_or_else(|| compiler.compile(&name));
            service.frontends.retain(|key, _| self.claims.has(&name, key));
            let before = desired.services.get(&name);
            if service.frontends.is_empty() {
                if desired.services.remove(&name).is_some() {
                    changed.insert(name);
                }
            } else if before.is_none_or(|before| **before != service) {
                desired.services.insert(name.clone(), Arc::new(service));
                changed.insert(name);
            }
        }
        if desired.contested != *self.claims.contested() {
            desired.contested.clone_from(self.claims.contested());
        }
        changed
    }

    /// Takes down which frontends a Service asks for now; those Services that get or lose one.
    fn claim(
        &mut self,
        name: &NamespacedName,
        service: &DesiredService,
        desired: &DesiredState,
    ) -> Vec<NamespacedName> {
        let before = desired.services.get(name);
        let held = before.iter().flat_map(|service| service.frontends.keys().copied());
        let gone: BTreeSet<FrontendKey> = held
            .chain(self.claims.contested_by(name))
            .filter(|key| !service.frontends.contains_key(key))
            .collect();
        let mut others: Vec<_> = gone.iter().filter_map(|key| self.claims.release(name, key)).collect();
        let name = Arc::new(name.clone());
        others.extend(service.frontends.keys().filter_map(|key| self.claims.claim(&name, *key)));
        others
    }
}

/// Compiles single Services.
#[derive(Clone, Copy, Debug)]
struct OneService<'a> {
    cluster: &'a Cluster,
    place: Place<'a>,
    settings: &'a Settings,
}

impl OneService<'_> {
    /// A Service on its own; one that is gone has no frontends.
    fn compile(&self, name: &NamespacedName) -> DesiredService {
        let mut desired = DesiredService::default();
        let Some(service) = self.cluster.services().get(name) else { return desired };
        for port in &service.ports {
            let families = Endpoints::of(self.cluster, self.place, name, service, port);
            for (endpoints, v4) in families.iter().zip([true, false]) {
                if service.addrs.iter().any(|addr| addr.is_v4() == v4) {
                    self.port(service, port, endpoints, v4, &mut desired);
                }
            }
        }
        if desired.frontends.values().any(|frontend| frontend.has_source_ranges) {
            desired.source_ranges.clone_from(&service.source_ranges);
        }
        desired
    }

    fn port(
        &self,
        service: &Service,
        port: &ServicePort,
        endpoints: &Endpoints,
        v4: bool,
        desired: &mut DesiredService,
    ) {
        let outside = self.outside(service, port, v4);
        let uses_cluster = !service.internal_local || !outside.is_empty();
        let uses_local = service.internal_local || (service.external_local && !outside.is_empty());
        let none = Backends::default;
        let cluster = if uses_cluster { endpoints.cluster() } else { none() };
        let local = if uses_local { endpoints.local() } else { none() };
        endpoints.note(uses_cluster, &[&cluster, &local], &mut desired.backends);
        let frontend = |kind, backends: &Backends, only_local: bool| DesiredFrontend {
            kind,
            slots: Slots { backends: Arc::clone(backends), table: None },
            affinity_s: service.affinity_s,
            // Where nobody has an endpoint it is better to refuse at once than to drop.
            is_local: only_local && !endpoints.is_empty(),
            has_source_ranges: false,
            service_port: port.number,
        };
        let mut add = |addr, number, scope, frontend| {
            desired.frontends.entry(key(addr, number, port.protocol, scope)).or_insert(frontend);
        };
        let inside = if service.internal_local { &local } else { &cluster };
        for addr in service.addrs.iter().filter(|addr| addr.is_v4() == v4) {
            let frontend = frontend(FrontendKind::ClusterIp, inside, service.internal_local);
            add(*addr, port.number, FrontendScope::Internal, frontend);
        }
        let is_restricted = service.source_ranges.iter().any(|range| is_v4(range) == v4);
        for (kind, addr, number) in outside {
            // Whoever is inside reaches all endpoints, as if there were no way through the outside.
            let mut internal = frontend(kind, &cluster, false);
            // By the load balancer's address clients inside are as good as those outside.
            internal.has_source_ranges = kind == FrontendKind::LoadBalancer && is_restricted;
            add(addr, number, FrontendScope::Internal, internal);
            // A client from outside needs another source port when its backend is elsewhere, and SCTP cannot have one.
            if port.protocol == protocol::SCTP && !service.external_local {
                continue;
            }
            let backends = if service.external_local { &local } else { &cluster };
            let mut external = frontend(kind, backends, service.external_local);
            external.has_source_ranges = kind == FrontendKind::LoadBalancer && is_restricted;
            external.slots.table = self.table(service, backends.len());
            add(addr, number, FrontendScope::External, external);
        }
    }

    /// Where clients from outside find a port, the more particular first.
    fn outside(&self, service: &Service, port: &ServicePort, v4: bool) -> Vec<(FrontendKind, Addr, u16)> {
        if !self.settings.replaces_kube_proxy {
            return Vec::new();
        }
        let node = if v4 { FrontendKey::NODE_V4 } else { FrontendKey::NODE_V6 };
        let node_port = port.node_port.map(|number| (FrontendKind::NodePort, node, number));
        let of_family = |addr: &&Addr| addr.is_v4() == v4;
        let balancer = service.balancer_addrs.iter().filter(of_family);
        let external = service.external_addrs.iter().filter(of_family);
        let balancer = balancer.map(|addr| (FrontendKind::LoadBalancer, *addr, port.number));
        let external = external.map(|addr| (FrontendKind::ExternalIp, *addr, port.number));
        node_port.into_iter().chain(balancer).chain(external).collect()
    }

    /// The table for clients from outside that may come to any node; it takes a choice, and a place for each.
    fn table(&self, service: &Service, backends: usize) -> Option<u32> {
        let size = self.settings.maglev_table_size;
        let fits = usize::try_from(size).is_ok_and(|places| (2..=places).contains(&backends));
        (!service.external_local && fits).then_some(size)
    }

    fn health_check(&self, name: &NamespacedName) -> Option<HealthCheck> {
        let service = self.cluster.services().get(name).filter(|_| self.settings.replaces_kube_proxy)?;
        let port = service.health_check_port?;
        let mut here = BTreeSet::new();
        for port in &service.ports {
            for endpoints in Endpoints::of(self.cluster, self.place, name, service, port) {
                here.extend(endpoints.ready_here().map(|key| key.addr));
            }
        }
        Some(HealthCheck { port, local_endpoints: here.len() })
    }
}

fn key(addr: Addr, number: u16, protocol: u8, scope: FrontendScope) -> FrontendKey {
    FrontendKey { addr, port: number.to_be_bytes(), protocol, scope: scope as u8 }
}
