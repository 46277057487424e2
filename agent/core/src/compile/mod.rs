//! Compiles the cluster model into the contents of the kernel maps.
//!
//! Start at [`compile`], or at [`Compiler`], which gives the same answer after every change for less; each submodule
//! fills one part.
//!
//! **Invariant: pure.** No I/O, clock or randomness. Equal clusters compile to equal states, so a restarted agent finds
//! nothing to write and traffic does not notice.
//!
//! **Invariant: total.** Compiling never fails: what could not be understood is closed in the model already
//! ([`Cluster::rejected`]).
//!
//! Semantics follow the NetworkPolicy v1 API reference: policies on one pod add up, none subtracts, and each direction is
//! isolated on its own. Around them stand the tiers of ClusterNetworkPolicy (`docs/adr/0013-cluster-network-policy.md`).

mod identity;
mod ipcache;
mod node;
mod policy;
mod ports;
mod precedence;
mod rules;
mod service;
mod settings;

use std::collections::{BTreeMap, BTreeSet};

pub use settings::{NodePortAddresses, Settings};
use sluice_abi::{Addr, EndpointId};

use crate::{
    cluster::{
        Change, Cluster, ClusterPolicy, LocalEndpoint, NodeName, Pod, RejectedObject, Selection, Tier,
    },
    desired::{DesiredEndpoint, DesiredState},
    object::{NamespacedName, ObjectKey, PolicyName},
};

/// What the maps of `node` shall hold, with the default settings.
pub fn compile(cluster: &Cluster, node: &NodeName) -> DesiredState {
    compile_with(cluster, node, Settings::default())
}

/// What the maps of `node` shall hold.
pub fn compile_with(cluster: &Cluster, node: &NodeName, settings: Settings) -> DesiredState {
    let mut compiler = Compiler::with_settings(node.clone(), settings);
    compiler.cluster = cluster.clone();
    compiler.pending = Pending::everything(cluster);
    compiler.settle();
    compiler.desired
}

/// Compiles change by change; a change costs about what it touches.
#[derive(Clone, Debug)]
pub struct Compiler {
    node: NodeName,
    settings: Settings,
    cluster: Cluster,
    desired: DesiredState,
    sets: policy::Sets,
    identities: identity::Identities,
    rules: rules::Rules,
    services: service::Services,
    pending: Pending,
    changes: Changes,
}

/// What may differ between two answers of a compiler.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// Services that are new, have changed, or are gone.
    pub services: BTreeSet<NamespacedName>,
    /// Whether rule sets, identities, addresses or endpoints may have changed.
    pub policy: bool,
    /// Whether what the programs know of the node may have changed.
    pub node: bool,
}

/// What changed since the last answer.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// Pods whose class may have changed.
    pods: BTreeSet<NamespacedName>,
    /// Endpoints whose rule sets may have changed.
    endpoints: BTreeSet<EndpointId>,
    /// Services that may have changed.
    services: BTreeSet<NamespacedName>,
    /// Whether the addresses that live here may have changed.
    addresses: bool,
    /// Whether nodes, or what they are known by, may have changed.
    nodes: bool,
    /// Whether ClusterNetworkPolicies may have changed their places.
    ties: bool,
    /// Whether other policies may be audited.
    modes: bool,
}

impl Pending {
    fn everything(cluster: &Cluster) -> Self {
        Self {
            pods: cluster.pods().keys().cloned().collect(),
            endpoints: cluster.endpoints().keys().copied().collect(),
            services: cluster.services().keys().cloned().collect(),
            addresses: true,
            nodes: true,
            ties: true,
            modes: true,
        }
    }

    fn extend(&mut self, other: Self) {
        self.pods.extend(other.pods);
        self.endpoints.extend(other.endpoints);
        self.services.extend(other.services);
        self.addresses |= other.addresses;
        self.nodes |= other.nodes;
        self.ties |= other.ties;
        self.modes |= other.modes;
    }
}

/// What a change is about.
#[derive(Clone, Debug)]
enum Subject {
    Object(ObjectKey),
    Endpoint(EndpointId),
    NodeAddresses,
    UplinkAddresses,
}

impl Subject {
    fn of(change: &Change) -> Self {
        match change {
            Change::Upsert(object) => Self::Object(object.key()),
            Change::Delete(key) => Self::Object(key.clone()),
            Change::Attach(endpoint) => Self::Endpoint(endpoint.id),
            Change::Detach(id) => Self::Endpoint(*id),
            Change::NodeAddresses(_) => Self::NodeAddresses,
            Change::UplinkAddresses(_) => Self::UplinkAddresses,
        }
    }
}

impl Compiler {
    /// A compiler for a node, of an empty cluster, with the default settings.
    pub fn new(node: NodeName) -> Self {
        Self::with_settings(node, Settings::default())
    }

    /// A compiler for a node, of an empty cluster.
    pub fn with_settings(node: NodeName, settings: Settings) -> Self {
        Self {
            node,
            settings,
            cluster: Cluster::default(),
            desired: DesiredState::default(),
            sets: policy::Sets::default(),
            identities: identity::Identities::default(),
            rules: rules::Rules::default(),
            services: service::Services::default(),
            pending: Pending { nodes: true, ..Pending::default() },
            changes: Changes::default(),
        }
    }

    /// The model.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Takes in a change.
    ///
    /// # Errors
    /// [`RejectedObject`] as [`Cluster::apply`]: the change is taken in all the same, closed.
    pub fn apply(&mut self, change: Change) -> Result<(), RejectedObject> {
        let subject = Subject::of(&change);
        // What depended on the old state need not depend on the new one.
        let before = self.dependents(&subject);
        let zone = self.zone().to_owned();
        let (changed, result) = self.cluster.take(change);
        if changed {
            let after = self.dependents(&subject);
            self.pending.extend(before);
            self.pending.extend(after);
            if zone != self.zone() {
                self.pending.services.extend(self.cluster.services().keys().cloned());
            }
        }
        result
    }

    fn zone(&self) -> &str {
        self.cluster.nodes().get(&self.node).map_or("", |node| &node.zone)
    }

    /// Whether anything has changed, since [`Compiler::desired`] was asked last, that may make a difference to what the
    /// maps shall hold.
    ///
    /// An object that is told again, or has changed only in what does not matter here, makes none.
    pub fn has_pending(&self) -> bool {
        let Pending { pods, endpoints, services, addresses, nodes, ties, modes } = &self.pending;
        *addresses
            || *nodes
            || *ties
            || *modes
            || !(pods.is_empty() && endpoints.is_empty() && services.is_empty())
    }

    /// What depends on the subject of a change, as the model has it now.
    fn dependents(&self, subject: &Subject) -> Pending {
        let mut pending = Pending::default();
        let endpoints = || self.cluster.endpoints().values();
        match subject {
            Subject::Object(ObjectKey::Pod(name)) => {
                pending.pods.insert(name.clone());
                let of_pod = endpoints().filter(|endpoint| endpoint.is_of(name));
                pending.endpoints.extend(of_pod.map(|endpoint| endpoint.id));
            }
            Subject::Object(ObjectKey::Namespace(namespace)) => {
                pending.pods.extend(self.cluster.pods_of(namespace).map(|(name, _)| name.clone()));
                // It may say how its policies count.
                pending.modes = self.cluster.namespace_mode(namespace).is_some();
                // Subjects of ClusterNetworkPolicies select by its labels.
                if pending.modes || !self.cluster.cluster_policies().is_empty() {
                    let near = endpoints().filter(|endpoint| endpoint.namespace == *namespace);
                    pending.endpoints.extend(near.map(|endpoint| endpoint.id));
                }
            }
            // Policy matches its address by ranges alone; routes are not compiled.
            Subject::Object(ObjectKey::Node(_)) | Subject::UplinkAddresses => pending.nodes = true,
            Subject::Object(ObjectKey::Service(name)) => drop(pending.services.insert(name.clone())),
            Subject::Object(ObjectKey::EndpointSlice(name)) => {
                pending.services.extend(self.cluster.service_of(name).cloned());
            }
            Subject::Object(ObjectKey::NetworkPolicy(policy)) => {
                let near = endpoints().filter(|endpoint| endpoint.namespace == policy.namespace);
                pending.endpoints.extend(near.map(|endpoint| endpoint.id));
                pending.modes = self.is_audited(PolicyName::NetworkPolicy(policy.clone()));
            }
            Subject::Object(ObjectKey::ClusterNetworkPolicy(policy)) => {
                pending.modes = self.is_audited(PolicyName::ClusterNetworkPolicy(policy.clone()));
                if let Some(policy) = self.cluster.cluster_policies().get(policy) {
                    let subjects = endpoints().filter(|endpoint| self.is_subject(endpoint, policy));
                    pending.endpoints.extend(subjects.map(|endpoint| endpoint.id));
                    pending.ties = true;
                }
            }
            Subject::Endpoint(id) => {
                pending.endpoints.insert(*id);
                pending.pods.extend(self.cluster.endpoints().get(id).map(LocalEndpoint::pod_name));
            }
            Subject::NodeAddresses => (pending.addresses, pending.nodes) = (true, true),
        }
        pending
    }

    fn is_audited(&self, policy: PolicyName) -> bool {
        self.cluster.audited().contains(&policy)
    }

    /// Whether a policy may be about an endpoint's pod.
    fn is_subject(&self, endpoint: &LocalEndpoint, policy: &ClusterPolicy) -> bool {
        let labels = self.cluster.namespace_labels(&endpoint.namespace);
        served_pod(&self.cluster, endpoint).is_some_and(|pod| policy.selects(pod, &labels) != Selection::No)
    }

    /// What the maps shall hold.
    pub fn desired(&mut self) -> &DesiredState {
        self.settle();
        &self.desired
    }

    /// What the maps shall hold, and what of it may have changed since this was asked last.
    pub fn desired_changes(&mut self) -> (&DesiredState, Changes) {
        self.settle();
        (&self.desired, std::mem::take(&mut self.changes))
    }

    fn settle(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        if !pending.services.is_empty() {
            let (node, settings, names) = (&self.node, &self.settings, &pending.services);
            let changed = self.services.update(&self.cluster, node, settings, names, &mut self.desired);
            self.changes.services.extend(changed);
        }
        if pending.nodes {
            let node = node::compile(&self.cluster, &self.node, &self.settings);
            pending.addresses |= node.addrs != self.desired.node.addrs;
            self.changes.node |= node != self.desired.node;
            self.desired.node = node;
        }
        if pending.ties {
            let ties = ties(&self.cluster);
            self.changes.policy |= ties != self.desired.ties;
            self.desired.ties = ties;
        }
        if pending.modes && self.desired.audited != *self.cluster.audited() {
            self.changes.policy = true;
            self.desired.audited.clone_from(self.cluster.audited());
        }
        if pending.pods.is_empty() && pending.endpoints.is_empty() && !pending.addresses {
            return;
        }
        self.sets.update(&self.cluster, &pending.endpoints);
        let rule_sets = self.sets.rule_sets();
        let moved_sets = !rule_sets.keys().eq(self.desired.rule_sets.keys());
        self.desired.rule_sets = rule_sets;
        let moved_peers = self.identities.update(&self.cluster, &pending.pods, &mut self.desired);
        if moved_sets || moved_peers {
            self.rules.update(&mut self.desired);
        }
        let endpoints = self.endpoints();
        let moved_pods =
            self.desired.interfaces != *self.cluster.endpoints() || self.desired.endpoints != endpoints;
        if moved_pods {
            self.desired.interfaces = self.cluster.endpoints().clone();
            self.desired.endpoints = endpoints;
        }
        self.changes.policy |= moved_sets || moved_peers || moved_pods;
    }

    fn endpoints(&self) -> BTreeMap<Addr, DesiredEndpoint> {
        let takes_node_ports = |addr| {
            let addresses = &self.settings.node_port_addresses;
            self.settings.replaces_kube_proxy && addresses.takes(addr, &self.desired.node.addrs)
        };
        let node = self.cluster.node_addresses().iter();
        let host =
            node.map(|addr| (*addr, DesiredEndpoint::Host { takes_node_ports: takes_node_ports(addr) }));
        let pods = self.cluster.endpoints().values().filter_map(|endpoint| {
            let sets = self.sets.of(endpoint.id)?;
            let pod = served_pod(&self.cluster, endpoint)?;
            let served =
                DesiredEndpoint::Pod { id: endpoint.id, rule_sets: sets.enforced, shadows: sets.shadow };
            Some(addresses_of(endpoint, pod).into_iter().map(move |addr| (addr, served)))
        });
        // Later ones replace earlier ones: a pod's address is the pod's, of two pods the newer one's.
        host.chain(pods.flatten()).collect()
    }
}

/// The ClusterNetworkPolicies that share a place in their tier.
fn ties(cluster: &Cluster) -> BTreeMap<(Tier, u16), BTreeSet<String>> {
    let mut places: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for (name, policy) in cluster.cluster_policies() {
        places.entry((policy.tier, policy.priority)).or_default().insert(name.clone());
    }
    places.retain(|_, names| names.len() > 1);
    places
}

/// The pod behind an endpoint, when it is in the network.
fn served_pod<'a>(cluster: &'a Cluster, endpoint: &LocalEndpoint) -> Option<&'a Pod> {
    let pod = cluster.pods().get(&endpoint.pod_name())?;
    let same = match (&endpoint.uid, &pod.uid) {
        (Some(wired), Some(known)) => **wired == **known,
        (None, _) | (_, None) => true,
    };
    (same && pod.in_network).then_some(pod)
}

/// The addresses of a local pod: those that were leased, else those of its status.
fn addresses_of(endpoint: &LocalEndpoint, pod: &Pod) -> Vec<Addr> {
    let leased: Vec<_> = endpoint.addrs.into_iter().filter(|addr| *addr != Addr::UNSPECIFIED).collect();
    if leased.is_empty() { pod.addrs.to_vec() } else { leased }
}
