//! The whole model of what the API server and the CNI plugin have told: in our own words, checked.
//!
//! Start at [`Cluster::apply`]; each submodule turns one kind of object into its words.
//!
//! **Invariant: fail closed.** An object that cannot be understood is remembered in [`Cluster::rejected`], and what
//! is left of it opens nothing: a rejected policy isolates the pods it selects (all of its namespace when its
//! `podSelector` is unreadable) and allows nothing; of a rejected ClusterNetworkPolicy each rule that cannot be understood
//! denies, or accepts nothing; a rejected Service has no frontend. A policy is enforced unless it, or its namespace, says
//! clearly that it is to be audited ([`Cluster::mode_of`]).
//!
//! **Invariant: order does not matter.** Objects refer to each other by name, so equal sets of objects and endpoints
//! make equal clusters in whatever order they came.

mod cluster_policy;
mod endpoint;
mod mode;
mod namespace;
mod node;
mod pod;
mod policy;
mod reject;
mod service;

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use sluice_abi::{Addr, EndpointId, PolicyMode};

pub use cluster_policy::{Action, ClusterPolicy, ClusterRule, Selection, Tier};
pub use endpoint::LocalEndpoint;
pub use namespace::NamespaceLabels;
pub use node::Node;
pub use pod::{NamedPort, Pod};
pub use policy::{Policy, PolicyRule, PortMatch};
pub use reject::{RejectReason, RejectedObject};
pub use service::{Hints, Service, ServicePort, Slice, SliceEndpoint, SlicePort};

use crate::object::{NamespacedName, Object, ObjectKey, PolicyName};

/// The name of a node.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeName(pub String);

impl Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "changes pass through a short queue; none is kept")]
pub enum Change {
    /// An object is new or has changed.
    Upsert(Object),
    /// An object is gone.
    Delete(ObjectKey),
    /// A pod's interface was wired on this node, or is known from before.
    Attach(LocalEndpoint),
    /// A pod's interface is gone.
    Detach(EndpointId),
    /// All addresses of this node's own stack.
    NodeAddresses(BTreeSet<Addr>),
    /// The addresses on the devices to other nodes, the preferred ones first.
    UplinkAddresses(Vec<Addr>),
}

/// The whole model.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cluster {
    pods: BTreeMap<NamespacedName, Pod>,
    namespaces: BTreeMap<String, NamespaceLabels>,
    /// What namespaces say of the mode of their policies.
    namespace_modes: BTreeMap<String, PolicyMode>,
    nodes: BTreeMap<NodeName, Node>,
    services: BTreeMap<NamespacedName, Service>,
    slices: BTreeMap<NamespacedName, Slice>,
    /// Slices by the Service they belong to.
    slices_of: BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    policies: BTreeMap<NamespacedName, Policy>,
    cluster_policies: BTreeMap<String, ClusterPolicy>,
    /// Their names in the order in which they are asked.
    precedence: BTreeSet<(Tier, u16, String)>,
    /// The policies of either kind that are audited: what [`Cluster::mode_of`] says, kept.
    audited: BTreeSet<PolicyName>,
    endpoints: BTreeMap<EndpointId, LocalEndpoint>,
    node_addresses: BTreeSet<Addr>,
    uplink_addresses: Vec<Addr>,
    rejected: BTreeMap<ObjectKey, RejectedObject>,
}

impl Cluster {
    /// Takes in a change.
    ///
    /// # Errors
    /// [`RejectedObject`] when the object, or a part of it, cannot be understood. The change is taken in all the same,
    /// closed; the same note is in [`Cluster::rejected`] until the object changes or goes.
    pub fn apply(&mut self, change: Change) -> Result<(), RejectedObject> {
        self.take(change).1
    }

    /// As [`Cluster::apply`]; says first whether anything in the model is different now.
    pub(crate) fn take(&mut self, change: Change) -> (bool, Result<(), RejectedObject>) {
        let changed = match change {
            Change::Upsert(object) => return self.upsert(object),
            Change::Delete(key) => self.delete(&key),
            Change::Attach(endpoint) => put(&mut self.endpoints, endpoint.id, endpoint),
            Change::Detach(id) => self.endpoints.remove(&id).is_some(),
            Change::NodeAddresses(addresses) => {
                let changed = self.node_addresses != addresses;
                self.node_addresses = addresses;
                changed
            }
            Change::UplinkAddresses(addresses) => {
                let changed = self.uplink_addresses != addresses;
                self.uplink_addresses = addresses;
                changed
            }
        };
        (changed, Ok(()))
    }

    fn upsert(&mut self, object: Object) -> (bool, Result<(), RejectedObject>) {
        let key = object.key();
        let (changed, reason) = match object {
            Object::Pod(pod) => {
                let (model, reason) = Pod::read(&pod);
                (put(&mut self.pods, pod.metadata.namespaced_name(), model), reason)
            }
            Object::Namespace(namespace) => {
                let labels = NamespaceLabels::read(&namespace.metadata);
                let (mode, reason) = match mode::read(&namespace.metadata) {
                    Ok(mode) => (mode, None),
                    Err(reason) => (None, Some(reason)),
                };
                let remoded = self.set_namespace_mode(&namespace.metadata.name, mode);
                (put(&mut self.namespaces, namespace.metadata.name, labels) | remoded, reason)
            }
            Object::Node(node) => {
                let (model, reason) = Node::read(&node);
                (put(&mut self.nodes, NodeName(node.metadata.name), model), reason)
            }
            Object::Service(service) => {
                let (model, reason) = Service::read(&service);
                (put(&mut self.services, service.metadata.namespaced_name(), model), reason)
            }
            Object::EndpointSlice(slice) => {
                let (model, reason) = Slice::read(&slice);
                (self.insert_slice(slice.metadata.namespaced_name(), model), reason)
            }
            Object::NetworkPolicy(policy) => {
                let (model, reason) = Policy::read(&policy);
                let name = policy.metadata.namespaced_name();
                let changed = put(&mut self.policies, name.clone(), model);
                self.note_mode(PolicyName::NetworkPolicy(name));
                (changed, reason)
            }
            Object::ClusterNetworkPolicy(policy) => {
                let (model, reason) = ClusterPolicy::read(&policy);
                let name = policy.metadata.name;
                let changed = self.insert_cluster_policy(name.clone(), model);
                self.note_mode(PolicyName::ClusterNetworkPolicy(name));
                (changed, reason)
            }
        };
        let Some(reason) = reason else {
            self.rejected.remove(&key);
            return (changed, Ok(()));
        };
        let rejected = RejectedObject { key: key.clone(), reason };
        self.rejected.insert(key, rejected.clone());
        (changed, Err(rejected))
    }

    fn delete(&mut self, key: &ObjectKey) -> bool {
        self.rejected.remove(key);
        match key {
            ObjectKey::Pod(name) => self.pods.remove(name).is_some(),
            ObjectKey::Namespace(name) => {
                self.set_namespace_mode(name, None) | self.namespaces.remove(name).is_some()
            }
            ObjectKey::Node(name) => self.nodes.remove(name.as_str()).is_some(),
            ObjectKey::Service(name) => self.services.remove(name).is_some(),
            ObjectKey::EndpointSlice(name) => self.remove_slice(name),
            ObjectKey::NetworkPolicy(name) => {
                self.audited.remove(&PolicyName::NetworkPolicy(name.clone()));
                self.policies.remove(name).is_some()
            }
            ObjectKey::ClusterNetworkPolicy(name) => {
                self.audited.remove(&PolicyName::ClusterNetworkPolicy(name.clone()));
                self.remove_cluster_policy(name)
            }
        }
    }

    /// Notes what a namespace says of its policies; whether that is something else than before.
    fn set_namespace_mode(&mut self, namespace: &str, mode: Option<PolicyMode>) -> bool {
        let before = match mode {
            Some(mode) => self.namespace_modes.insert(namespace.to_owned(), mode),
            None => self.namespace_modes.remove(namespace),
        };
        if before != mode {
            let names: Vec<_> = self.policies_of(namespace).map(|(name, _)| name.clone()).collect();
            names.into_iter().for_each(|name| self.note_mode(PolicyName::NetworkPolicy(name)));
        }
        before != mode
    }

    fn note_mode(&mut self, name: PolicyName) {
        match self.mode_of(&name) {
            PolicyMode::Audit => drop(self.audited.insert(name)),
            PolicyMode::Enforce => drop(self.audited.remove(&name)),
        }
    }

    fn insert_cluster_policy(&mut self, name: String, policy: ClusterPolicy) -> bool {
        if self.cluster_policies.get(&name) == Some(&policy) {
            return false;
        }
        self.remove_cluster_policy(&name);
        self.precedence.insert((policy.tier, policy.priority, name.clone()));
        self.cluster_policies.insert(name, policy);
        true
    }

    fn remove_cluster_policy(&mut self, name: &str) -> bool {
        let Some((name, policy)) = self.cluster_policies.remove_entry(name) else { return false };
        self.precedence.remove(&(policy.tier, policy.priority, name));
        true
    }

    fn insert_slice(&mut self, name: NamespacedName, slice: Slice) -> bool {
        if self.slices.get(&name) == Some(&slice) {
            return false;
        }
        self.remove_slice(&name);
        if let Some(service) = &slice.service {
            self.slices_of.entry(service.clone()).or_default().insert(name.clone());
        }
        self.slices.insert(name, slice);
        true
    }

    fn remove_slice(&mut self, name: &NamespacedName) -> bool {
        let Some(slice) = self.slices.remove(name) else { return false };
        if let Some(service) = slice.service
            && let Some(names) = self.slices_of.get_mut(&service)
        {
            names.remove(name);
            if names.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        true
    }

    /// Objects that cannot be understood, or not wholly, by name.
    pub fn rejected(&self) -> impl Iterator<Item = &RejectedObject> {
        self.rejected.values()
    }

    /// All pods by name.
    pub fn pods(&self) -> &BTreeMap<NamespacedName, Pod> {
        &self.pods
    }

    /// The pods of a namespace by name.
    pub fn pods_of(&self, namespace: &str) -> impl Iterator<Item = (&NamespacedName, &Pod)> {
        of_namespace(&self.pods, namespace)
    }

    /// The labels of a namespace, as far as they are known.
    pub fn namespace_labels(&self, name: &str) -> NamespaceLabels {
        self.namespaces.get(name).cloned().unwrap_or_else(|| NamespaceLabels::unknown(name))
    }

    /// All nodes by name.
    pub fn nodes(&self) -> &BTreeMap<NodeName, Node> {
        &self.nodes
    }

    /// All Services by name.
    pub fn services(&self) -> &BTreeMap<NamespacedName, Service> {
        &self.services
    }

    /// The EndpointSlices of a Service, by name.
    pub fn slices(&self, service: &NamespacedName) -> impl Iterator<Item = &Slice> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// The Service an EndpointSlice belongs to.
    pub fn service_of(&self, slice: &NamespacedName) -> Option<&NamespacedName> {
        self.slices.get(slice)?.service.as_ref()
    }

    /// The policies of a namespace by name.
    pub fn policies_of(&self, namespace: &str) -> impl Iterator<Item = (&NamespacedName, &Policy)> {
        of_namespace(&self.policies, namespace)
    }

    /// All policies by name.
    pub fn policies(&self) -> &BTreeMap<NamespacedName, Policy> {
        &self.policies
    }

    /// All ClusterNetworkPolicies by name.
    pub fn cluster_policies(&self) -> &BTreeMap<String, ClusterPolicy> {
        &self.cluster_policies
    }

    /// The ClusterNetworkPolicies in the order in which they are asked: by tier and priority; where both are equal the
    /// API leaves the order open, and the name decides.
    pub fn by_precedence(&self) -> impl Iterator<Item = (&String, &ClusterPolicy)> {
        self.precedence.iter().filter_map(|(_, _, name)| self.cluster_policies.get_key_value(name))
    }

    /// Whether a policy is enforced: as it says itself, else as its namespace says; one that is not known is.
    pub fn mode_of(&self, policy: &PolicyName) -> PolicyMode {
        let mode = match policy {
            PolicyName::NetworkPolicy(name) => {
                let own = self.policies.get(name).and_then(|policy| policy.mode);
                own.or_else(|| self.namespace_modes.get(&name.namespace).copied())
            }
            PolicyName::ClusterNetworkPolicy(name) => {
                self.cluster_policies.get(name).map(|policy| policy.mode)
            }
        };
        mode.unwrap_or(PolicyMode::Enforce)
    }

    /// What a namespace says of its policies, if anything.
    pub(crate) fn namespace_mode(&self, namespace: &str) -> Option<PolicyMode> {
        self.namespace_modes.get(namespace).copied()
    }

    /// The policies of either kind that are audited.
    pub fn audited(&self) -> &BTreeSet<PolicyName> {
        &self.audited
    }

    /// The interfaces of this node's pods.
    pub fn endpoints(&self) -> &BTreeMap<EndpointId, LocalEndpoint> {
        &self.endpoints
    }

    /// The addresses of this node's own stack.
    pub fn node_addresses(&self) -> &BTreeSet<Addr> {
        &self.node_addresses
    }

    /// The addresses on this node's devices to other nodes, the preferred ones first.
    pub fn uplink_addresses(&self) -> &[Addr] {
        &self.uplink_addresses
    }
}

fn of_namespace<'a, T>(
    objects: &'a BTreeMap<NamespacedName, T>,
    namespace: &str,
) -> impl Iterator<Item = (&'a NamespacedName, &'a T)> {
    let first = NamespacedName::new(namespace, "");
    let namespace = first.namespace.clone();
    objects.range(first..).take_while(move |(name, _)| name.namespace == namespace)
}

/// Inserts a value; whether that made a difference.
fn put<K: Ord, V: PartialEq>(values: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    let differs = values.get(&key) != Some(&value);
    if differs {
        values.insert(key, value);
    }
    differs
}
