//! A cluster as a folder of objects describes it, judged by what each node's maps would hold.
//!
//! Start at [`World::new`]; [`World::judge`] answers about one flow. [`Place`] is one node: its pods attached, its maps
//! compiled, each at first need. `workload` makes pods of templates, and `assumed` gives addresses to pods that have none yet.
//!
//! **Invariant: verdicts are the maps'.** Egress is judged on the source's node and ingress on the destination's, by the
//! lookups of [`crate::verdict`] in the state that `compile` and `diff` make; nothing here reads a policy.

mod assumed;
mod place;
#[cfg(test)]
mod tests;
mod workload;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use sluice_abi::{Addr, EndpointId};

pub use assumed::Assumed;
pub use place::Place;
pub use workload::with_templates;

use crate::{
    cluster::{Change, Cluster, RejectedObject},
    object::{self, NamespacedName, Object, ObjectKey},
    prefix::V4_BITS,
    selector::Peer,
    verdict::{Answer, Flow, Judged, verdict},
};

/// A pod that has not finished.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: NamespacedName,
    /// Its addresses; a hostNetwork pod has its node's.
    pub addrs: Vec<Addr>,
    /// Whether its object has no address, and these are assumed.
    pub is_assumed: bool,
    /// Whether it lives in its node's network namespace.
    pub is_host: bool,
    /// Where it is judged, by index: a node, or a place that stands for one.
    place: usize,
}

/// Everything in a folder of objects.
#[derive(Debug)]
pub struct World {
    objects: BTreeMap<ObjectKey, Object>,
    cluster: Cluster,
    pods: Vec<Pod>,
    owners: BTreeMap<Addr, Owner>,
    sites: Vec<Site>,
}

/// A node, or a place that stands for one.
#[derive(Debug)]
struct Site {
    name: String,
    /// The node's own addresses.
    addrs: BTreeSet<Addr>,
    place: OnceCell<Place>,
}

/// Who has an address.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Owner {
    /// A pod, by its index.
    Pod(usize),
    /// A node, by its index.
    Node(usize),
}

/// How a flow is judged on its way to one destination.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The destination after translation, and both judgements.
    pub judged: Judged,
    /// Where egress is judged.
    pub source: Option<&'a Place>,
    /// Where ingress is judged.
    pub destination: Option<&'a Place>,
}

impl World {
    /// The world of these objects; of two that have the same name the last one counts. Pods without addresses get some.
    pub fn new(objects: impl IntoIterator<Item = Object>, assumed: &mut Assumed) -> Self {
        let mut objects: BTreeMap<_, _> = objects.into_iter().map(|object| (object.key(), object)).collect();
        let without = assumed.fill(&mut objects);
        let mut cluster = Cluster::default();
        for object in objects.values() {
            // What is rejected stays closed, and `rejected` tells.
            let _ = cluster.apply(Change::Upsert(object.clone()));
        }
        let mut sites: BTreeMap<String, BTreeSet<Addr>> =
            cluster.nodes().iter().map(|(name, node)| (name.0.clone(), node.addrs.clone())).collect();
        for (name, pod) in in_network(&objects) {
            let addrs = sites.entry(site_of(name, pod)).or_default();
            if pod.spec.host_network {
                addrs.extend(&*cluster.pods()[name].addrs);
            }
        }
        let sites: Vec<Site> =
            sites.into_iter().map(|(name, addrs)| Site { name, addrs, place: OnceCell::new() }).collect();
        let index_of = |name: &str| sites.binary_search_by(|site| (*site.name).cmp(name)).expect("its site");
        let pod = |(name, pod): (&NamespacedName, &object::Pod)| Pod {
            name: name.clone(),
            addrs: cluster.pods()[name].addrs.to_vec(),
            is_assumed: without.contains(name),
            is_host: pod.spec.host_network,
            place: index_of(&site_of(name, pod)),
        };
        let pods: Vec<Pod> = in_network(&objects).map(pod).collect();
        let of_nodes = sites.iter().enumerate();
        let of_nodes =
            of_nodes.flat_map(|(index, site)| site.addrs.iter().map(move |addr| (*addr, Owner::Node(index))));
        let of_pods = pods.iter().enumerate().filter(|(_, pod)| !pod.is_host);
        let of_pods =
            of_pods.flat_map(|(index, pod)| pod.addrs.iter().map(move |addr| (*addr, Owner::Pod(index))));
        let owners = of_nodes.chain(of_pods).collect();
        Self { objects, cluster, pods, owners, sites }
    }

    /// The objects by name; pods have their assumed addresses.
    pub fn objects(&self) -> &BTreeMap<ObjectKey, Object> {
        &self.objects
    }

    /// The model, without interfaces.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Objects that cannot be understood, or not wholly; they are closed.
    pub fn rejected(&self) -> impl Iterator<Item = &RejectedObject> {
        self.cluster.rejected()
    }

    /// The pods whose addresses are assumed, as far as that matters: when policies name ranges that hold some addresses and
    /// not all.
    pub fn guesses(&self) -> impl Iterator<Item = &Pod> {
        let policies = self.cluster.policies().values().flat_map(|policy| policy.rules.iter().flatten());
        let wide = self.cluster.cluster_policies().values().flat_map(|policy| policy.rules.iter().flatten());
        let mut peers = policies.flat_map(|rule| &rule.peers).chain(wide.flat_map(|rule| &rule.peers));
        let tells_apart = peers.any(|peer| match peer {
            Peer::Any | Peer::Pods { .. } => false,
            Peer::Block(block) => !matches!(block.cidr.bits, 0 | V4_BITS) || !block.except.is_empty(),
        });
        self.pods.iter().filter(move |pod| tells_apart && pod.is_assumed && !pod.is_host)
    }

    /// The pods that have not finished, by name.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The pod of that name.
    pub fn pod(&self, name: &NamespacedName) -> Option<&Pod> {
        let index = self.pods.binary_search_by(|pod| pod.name.cmp(name)).ok()?;
        Some(&self.pods[index])
    }

    /// The pod that has an address; a node's address is no pod's.
    pub fn pod_at(&self, addr: Addr) -> Option<&Pod> {
        match self.owners.get(&addr)? {
            Owner::Pod(index) => Some(&self.pods[*index]),
            Owner::Node(_) => None,
        }
    }

    /// The node whose own address this is, or on which its pod runs, as far as either is known.
    pub fn node_at(&self, addr: Addr) -> Option<&str> {
        let site = &self.sites[self.site_at(addr)?].name;
        (!site.is_empty() && !site.starts_with(UNSCHEDULED)).then_some(site)
    }

    /// Whether an address is a node's.
    pub fn is_node(&self, addr: Addr) -> bool {
        matches!(self.owners.get(&addr), Some(Owner::Node(_)))
    }

    /// Whether an address is that of the node that a pod runs on.
    pub(crate) fn is_own_node(&self, pod: &Pod, addr: Addr) -> bool {
        self.owners.get(&addr) == Some(&Owner::Node(pod.place))
    }

    /// What the nodes' maps say about a flow: one way, or one for each backend where a Service takes it (none: refused).
    pub fn judge(&self, flow: &Flow) -> Vec<Way<'_>> {
        let Some(site) = self.site_at(flow.src) else {
            let judged = Judged { dst: flow.dst, port: flow.port, egress: None, ingress: None };
            return vec![self.arrive(flow, judged, None)];
        };
        let ways = match verdict(&self.place(site).actual, flow) {
            Answer::Direct(judged) => vec![judged],
            Answer::Service(_, backends) => backends,
        };
        ways.into_iter().map(|judged| self.arrive(flow, judged, Some(site))).collect()
    }

    /// Adds what the destination's node says.
    fn arrive(&self, flow: &Flow, judged: Judged, source: Option<usize>) -> Way<'_> {
        let destination = self.site_at(judged.dst);
        let place = |site: Option<usize>| site.map(|site| self.place(site));
        let mut way = Way { judged, source: place(source), destination: place(destination) };
        if let Some(there) = way.destination.filter(|_| destination != source)
            && let Answer::Direct(there) =
                verdict(&there.actual, &Flow { dst: judged.dst, port: judged.port, ..*flow })
        {
            way.judged.ingress = there.ingress;
        }
        way
    }

    /// Where an address is at home.
    fn site_at(&self, addr: Addr) -> Option<usize> {
        match self.owners.get(&addr)? {
            Owner::Pod(index) => Some(self.pods[*index].place),
            Owner::Node(site) => Some(*site),
        }
    }

    /// Where a pod is judged.
    pub fn place_of(&self, pod: &Pod) -> &Place {
        self.place(pod.place)
    }

    fn place(&self, index: usize) -> &Place {
        let Site { name, addrs, place } = &self.sites[index];
        place.get_or_init(|| {
            let here = (1..).zip(&self.pods).filter(|(_, pod)| pod.place == index && !pod.is_host);
            let here = here.map(|(number, pod)| (EndpointId(number), pod));
            Place::new(&self.cluster, name, here, addrs.clone())
        })
    }
}

impl Pod {
    /// The number of the place where it is judged.
    pub(crate) const fn place(&self) -> usize {
        self.place
    }
}

/// Begins the names of places that are no nodes; no node's name has a space.
const UNSCHEDULED: &str = "unscheduled ";

/// The pods that have not finished, by name.
fn in_network(
    objects: &BTreeMap<ObjectKey, Object>,
) -> impl Iterator<Item = (&NamespacedName, &object::Pod)> {
    objects.iter().filter_map(|(key, object)| match (key, object) {
        (ObjectKey::Pod(name), Object::Pod(pod)) if !is_finished(pod) => Some((name, pod)),
        _ => None,
    })
}

/// Where a pod is judged. A node that is not chosen yet is nobody's own node: such a hostNetwork pod gets one for itself.
fn site_of(name: &NamespacedName, pod: &object::Pod) -> String {
    if pod.spec.host_network && pod.spec.node_name.is_empty() {
        format!("{UNSCHEDULED}{name}")
    } else {
        pod.spec.node_name.clone()
    }
}

/// Whether a pod has finished: it has no network any more.
fn is_finished(pod: &object::Pod) -> bool {
    matches!(pod.status.phase.as_str(), "Succeeded" | "Failed")
}
