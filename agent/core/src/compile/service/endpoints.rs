//! Which endpoints of a Service's port take flows here: readiness, termination, topology, traffic policy.
//!
//! The reference is kube-proxy's `CategorizeEndpoints` (`k8s.io/kubernetes/pkg/proxy/topology.go`).

use std::{collections::BTreeMap, sync::Arc};

use sluice_abi::{BackendState, protocol};

use crate::{
    cluster::{Cluster, Service, ServicePort, SliceEndpoint},
    desired::BackendKey,
    object::NamespacedName,
};

/// Where this node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The node.
    pub(super) node: &'a str,
    /// Its zone; empty when unknown.
    pub(super) zone: &'a str,
}

/// An endpoint that could take flows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Candidate {
    condition: Condition,
    is_local: bool,
    zone: Hinted,
    node: Hinted,
}

/// Whether an endpoint takes new flows; the better one first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Condition {
    /// It does.
    Ready,
    /// It serves and terminates.
    Ending,
}

/// What hints of one kind say about this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hinted {
    /// It should use the endpoint.
    Here,
    /// Others should.
    Elsewhere,
    /// There are none.
    Nowhere,
}

/// The endpoints of one port and family that could take flows.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoints(BTreeMap<BackendKey, Candidate>);

/// The backends of one traffic policy, in order.
pub(super) type Backends = Arc<[BackendKey]>;

impl Endpoints {
    /// The endpoints of a port, IPv4 ones first; one that stands in several slices is what is best for it.
    pub(super) fn of(
        cluster: &Cluster,
        place: Place,
        name: &NamespacedName,
        service: &Service,
        port: &ServicePort,
    ) -> [Self; 2] {
        let mut families = [Self::default(), Self::default()];
        for slice in cluster.slices(name) {
            let is_it = |p: &&crate::cluster::SlicePort| p.name == port.name && p.protocol == port.protocol;
            // SCTP's checksum covers its ports: they cannot be translated.
            let keeps_port = |number| port.protocol != protocol::SCTP || number == port.number;
            for target in slice.ports.iter().filter(is_it).filter(|p| keeps_port(p.number)) {
                for endpoint in &slice.endpoints {
                    let Some(candidate) = Candidate::of(endpoint, place, service.publish_not_ready) else {
                        continue;
                    };
                    let addr = endpoint.addr;
                    let key = BackendKey { addr, protocol: target.protocol, port: target.number };
                    let family = &mut families[usize::from(!addr.is_v4())].0;
                    let known = family.entry(key).or_insert(candidate);
                    if candidate.condition < known.condition {
                        *known = candidate;
                    }
                }
            }
        }
        families
    }

    /// Those that everybody may use, as hints and readiness choose.
    pub(super) fn cluster(&self) -> Backends {
        let wanted = self.topology();
        let ready = self.select(|c| {
            c.condition == Condition::Ready
                && match wanted {
                    Topology::Anywhere => true,
                    Topology::SameZone => c.zone == Hinted::Here,
                    Topology::SameNode => c.node == Hinted::Here,
                }
        });
        // Without a ready endpoint those that still serve while they terminate take new flows (KEP-1669).
        if ready.is_empty() { self.select(|c| c.condition == Condition::Ending) } else { ready }
    }

    /// Those of this node, whatever the hints.
    pub(super) fn local(&self) -> Backends {
        let of = |condition| self.select(|c| c.is_local && c.condition == condition);
        let ready = of(Condition::Ready);
        if ready.is_empty() { of(Condition::Ending) } else { ready }
    }

    /// Whether there is any, here or elsewhere.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ready ones on this node.
    pub(super) fn ready_here(&self) -> impl Iterator<Item = &BackendKey> {
        let ready = self.0.iter().filter(|(_, c)| c.is_local && c.condition == Condition::Ready);
        ready.map(|(key, _)| key)
    }

    /// Adds all that flows may be on, those elsewhere only when asked for: those `taken` take new ones.
    pub(super) fn note(
        &self,
        elsewhere: bool,
        taken: &[&Backends],
        known: &mut BTreeMap<BackendKey, BackendState>,
    ) {
        for (key, _) in self.0.iter().filter(|(_, c)| elsewhere || c.is_local) {
            let takes_new = taken.iter().any(|backends| backends.binary_search(key).is_ok());
            let state = if takes_new { BackendState::Active } else { BackendState::Terminating };
            let known = known.entry(*key).or_insert(state);
            *known = state.min(*known);
        }
    }

    fn select(&self, takes: impl Fn(&Candidate) -> bool) -> Backends {
        self.0.iter().filter(|(_, candidate)| takes(candidate)).map(|(key, _)| *key).collect()
    }

    /// Hints count when every ready endpoint has one of the kind, and one of them is meant for here.
    fn topology(&self) -> Topology {
        let ready = || self.0.values().filter(|c| c.condition == Condition::Ready);
        let counts = |hint: fn(&Candidate) -> Hinted| {
            ready().all(|c| hint(c) != Hinted::Nowhere) && ready().any(|c| hint(c) == Hinted::Here)
        };
        if counts(|c| c.node) {
            Topology::SameNode
        } else if counts(|c| c.zone) {
            Topology::SameZone
        } else {
            Topology::Anywhere
        }
    }
}

/// Which hints count.
#[derive(Clone, Copy, Debug)]
enum Topology {
    Anywhere,
    SameZone,
    SameNode,
}

impl Candidate {
    fn of(endpoint: &SliceEndpoint, place: Place, publish_not_ready: bool) -> Option<Self> {
        let condition = if endpoint.ready || publish_not_ready {
            Condition::Ready
        } else if endpoint.serving && endpoint.terminating {
            Condition::Ending
        } else {
            return None;
        };
        let hinted = |names: &[String], own: &str| match names {
            [] => Hinted::Nowhere,
            names if names.iter().any(|name| name == own) => Hinted::Here,
            _ => Hinted::Elsewhere,
        };
        let hints = endpoint.hints.as_deref();
        Some(Self {
            condition,
            is_local: *endpoint.node == *place.node,
            zone: hints.map_or(Hinted::Nowhere, |hints| hinted(&hints.zones, place.zone)),
            node: hints.map_or(Hinted::Nowhere, |hints| hinted(&hints.nodes, place.node)),
        })
    }
}
