//! Classes of peer addresses: which selectors in use each address satisfies.
//!
//! Selectors in use are those of the rule sets of this node's pods. A pod's *profile* is what follows from its labels
//! and ports; the ranges that hold its addresses are added per address. An address that satisfies nothing beyond its
//! range has no entry of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_abi::{Addr, Prefix};

use super::{
    addresses_of,
    ipcache::{Ranges, Satisfied},
    served_pod,
};
use crate::{
    cluster::{Cluster, NamespaceLabels, Pod, PortMatch},
    desired::{Class, DesiredState, Digest, SetRule},
    object::NamespacedName,
    selector::{Block, Namespaces, Peer, Selector},
};

/// The selectors in use, by what decides them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct InUse {
    pods: BTreeSet<Peer>,
    blocks: BTreeSet<Block>,
    named: BTreeSet<NamedPort>,
}

/// A port by name on a peer.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct NamedPort {
    peer: Peer,
    name: String,
    protocol: u8,
}

/// What is known of a pod as a peer.
#[derive(Clone, Debug)]
struct Profile {
    selectors: Satisfied,
    addrs: Box<[Addr]>,
    /// Its addresses were leased on this node: nobody else has them.
    is_local: bool,
}

/// The classes, and where they come from.
#[derive(Clone, Debug, Default)]
pub(super) struct Identities {
    /// The rule sets whose selectors are in use.
    rule_sets: BTreeSet<Digest>,
    in_use: InUse,
    ranges: Ranges,
    profiles: BTreeMap<Arc<NamespacedName>, Profile>,
    pods_at: BTreeMap<Addr, Vec<Arc<NamespacedName>>>,
    /// Classes of single addresses, where they differ from their range's.
    singles: BTreeMap<Addr, Digest>,
    /// Classes of ranges.
    cidrs: BTreeMap<Prefix, Option<Digest>>,
}

impl Identities {
    /// Brings the classes up to date: of these pods, and of those that new selectors select or old ones selected. The answer is
    /// whether any address or range has another now.
    pub(super) fn update(
        &mut self,
        cluster: &Cluster,
        pods: &BTreeSet<NamespacedName>,
        desired: &mut DesiredState,
    ) -> bool {
        let (mut dirty, mut changed) = (BTreeSet::new(), false);
        if !desired.rule_sets.keys().eq(&self.rule_sets) {
            self.rule_sets = desired.rule_sets.keys().copied().collect();
            let in_use = InUse::of(desired.rule_sets.values().flat_map(|set| &set.rules));
            let old = std::mem::replace(&mut self.in_use, in_use);
            let (added, removed) = (self.in_use.without(&old), old.without(&self.in_use));
            self.update_selectors(cluster, &added, &removed, &mut dirty);
            if self.in_use.blocks != old.blocks {
                self.ranges = Ranges::of(&self.in_use.blocks);
                self.update_ranges(desired);
                changed = true;
            }
        }
        self.update_profiles(cluster, pods.iter().collect(), &mut dirty);
        for addr in dirty {
            changed |= self.update_address(cluster, addr, desired);
        }
        if changed {
            let used: BTreeSet<Digest> =
                self.singles.values().chain(self.cidrs.values().flatten()).copied().collect();
            desired.classes.retain(|digest, _| used.contains(digest));
        }
        changed
    }

    /// Brings the profiles up to date with selectors that have come or gone.
    fn update_selectors(
        &mut self,
        cluster: &Cluster,
        added: &InUse,
        removed: &InUse,
        dirty: &mut BTreeSet<Addr>,
    ) {
        let blocks: BTreeSet<&Block> = added.all_blocks().chain(removed.all_blocks()).collect();
        if !blocks.is_empty() {
            let is_held = |addr: &&Addr| blocks.iter().any(|block| block.contains(addr));
            dirty.extend(self.pods_at.keys().filter(is_held));
        }
        let after = |namespace: &str| NamespacedName::new(format!("{namespace}\0"), "");
        let mut next = self.profiles.keys().next().cloned();
        while let Some(first) = next {
            let namespace = &*first.namespace;
            let labels = cluster.namespace_labels(namespace);
            let here = NamespacedName::new(namespace, "")..after(namespace);
            // Where labels have changed too, pods are among those that are updated next; so is one that is gone.
            let is_reached = added.reaches(namespace, &labels) || removed.reaches(namespace, &labels);
            for (name, profile) in is_reached.then(|| self.profiles.range_mut(here)).into_iter().flatten() {
                let Some(pod) = cluster.pods().get(&**name) else { continue };
                let gained = added.satisfied(name, pod, &labels);
                let loses = profile.selectors.iter().any(|selector| removed.holds(selector));
                if gained.is_empty() && !loses {
                    continue;
                }
                let mut selectors = BTreeSet::clone(&profile.selectors);
                selectors.retain(|selector| !removed.holds(selector));
                selectors.extend(gained);
                profile.selectors = Arc::new(selectors);
                dirty.extend(&profile.addrs);
            }
            next = self.profiles.range(after(namespace)..).next().map(|(name, _)| name.clone());
        }
    }

    fn update_profiles(
        &mut self,
        cluster: &Cluster,
        names: BTreeSet<&NamespacedName>,
        dirty: &mut BTreeSet<Addr>,
    ) {
        let mut namespaces = BTreeMap::new();
        let local = local_addresses(cluster);
        for name in names {
            if let Some((key, profile)) = self.profiles.remove_entry(name) {
                for addr in profile.addrs {
                    dirty.insert(addr);
                    let here = self.pods_at.entry(addr).or_default();
                    here.retain(|other| *other != key);
                    if here.is_empty() {
                        self.pods_at.remove(&addr);
                    }
                }
            }
            let Some(pod) = cluster.pods().get(name).filter(|pod| pod.in_network) else { continue };
            let namespace =
                namespaces.entry(&*name.namespace).or_insert_with_key(|name| cluster.namespace_labels(name));
            let leased = local.get(name).filter(|addrs| !addrs.is_empty());
            let addrs: Box<[Addr]> =
                leased.map_or_else(|| pod.addrs.clone(), |addrs| addrs.iter().copied().collect());
            if addrs.is_empty() {
                continue;
            }
            let key = Arc::new(name.clone());
            for addr in &addrs {
                dirty.insert(*addr);
                self.pods_at.entry(*addr).or_default().push(key.clone());
            }
            let selectors = Arc::new(self.in_use.satisfied(name, pod, namespace));
            self.profiles.insert(key, Profile { selectors, addrs, is_local: leased.is_some() });
        }
    }

    fn update_ranges(&mut self, desired: &mut DesiredState) {
        for prefix in std::mem::take(&mut self.cidrs).into_keys() {
            match self.singles.get(&prefix.addr).filter(|_| prefix.bits == 128) {
                Some(single) => desired.ipcache.insert(prefix, Some(*single)),
                None => desired.ipcache.remove(&prefix),
            };
        }
        let needed: Vec<_> = self.ranges.needed().map(|(prefix, class)| (prefix, class.clone())).collect();
        for (prefix, satisfied) in needed {
            let class = (!satisfied.is_empty()).then(|| intern(&satisfied, desired));
            self.cidrs.insert(prefix, class);
            if prefix.bits < 128 || !self.singles.contains_key(&prefix.addr) {
                desired.ipcache.insert(prefix, class);
            }
        }
    }

    /// Brings an address up to date; whether it has another class now.
    fn update_address(&mut self, cluster: &Cluster, addr: Addr, desired: &mut DesiredState) -> bool {
        let range = self.ranges.at(&addr);
        let mut selectors = self.selectors_of_pods_at(cluster, addr);
        let key = Prefix::host(addr);
        let old = desired.ipcache.get(&key).copied();
        let new = if selectors.is_empty() {
            self.singles.remove(&addr);
            self.cidrs.get(&key).copied()
        } else {
            selectors.extend(range.iter().cloned());
            let class = intern(&Arc::new(selectors), desired);
            self.singles.insert(addr, class);
            Some(Some(class))
        };
        match new {
            Some(class) => drop(desired.ipcache.insert(key, class)),
            None => drop(desired.ipcache.remove(&key)),
        }
        old != new
    }

    /// What the pod at an address satisfies beyond its range. Where two pods claim it, only what both satisfy counts,
    /// unless one of them leased it on this node.
    fn selectors_of_pods_at(&self, cluster: &Cluster, addr: Addr) -> BTreeSet<Arc<Selector>> {
        let Some(names) = self.pods_at.get(&addr) else { return BTreeSet::new() };
        let claims = names.iter().map(|name| (name, &self.profiles[name]));
        let any_local = claims.clone().any(|(_, profile)| profile.is_local);
        claims
            .filter(|(_, profile)| profile.is_local || !any_local)
            .map(|(name, profile)| {
                let mut selectors = BTreeSet::clone(&profile.selectors);
                if let Some(pod) = cluster.pods().get(&**name) {
                    selectors.extend(self.in_use.ports_in_blocks(pod, addr));
                }
                selectors
            })
            .reduce(|one, other| &one & &other)
            .unwrap_or_default()
    }
}

/// The addresses of the local pods that are served: those of their interfaces.
fn local_addresses(cluster: &Cluster) -> BTreeMap<NamespacedName, BTreeSet<Addr>> {
    let mut local: BTreeMap<_, BTreeSet<Addr>> = BTreeMap::new();
    for endpoint in cluster.endpoints().values() {
        if let Some(pod) = served_pod(cluster, endpoint) {
            local.entry(endpoint.pod_name()).or_default().extend(addresses_of(endpoint, pod));
        }
    }
    local
}

fn intern(satisfied: &Satisfied, desired: &mut DesiredState) -> Digest {
    let class = Class(BTreeSet::clone(satisfied));
    let digest = Digest::of(&class.to_string());
    desired.classes.entry(digest).or_insert_with(|| Arc::new(class));
    digest
}

impl InUse {
    fn of<'a>(rules: impl Iterator<Item = &'a SetRule>) -> Self {
        let mut in_use = Self::default();
        for rule in rules {
            for peer in &rule.peers {
                match peer {
                    Peer::Any => {}
                    Peer::Pods { .. } => drop(in_use.pods.insert(peer.clone())),
                    Peer::Block(block) => drop(in_use.blocks.insert(block.clone())),
                }
                for port in rule.ports.iter().flatten() {
                    if let PortMatch::Named { protocol, name } = port {
                        let (peer, name) = (peer.clone(), name.clone());
                        in_use.named.insert(NamedPort { peer, name, protocol: *protocol });
                    }
                }
            }
        }
        in_use
    }

    /// The selectors that `other` has not.
    fn without(&self, other: &Self) -> Self {
        Self {
            pods: &self.pods - &other.pods,
            blocks: &self.blocks - &other.blocks,
            named: &self.named - &other.named,
        }
    }

    /// Whether a pod of a namespace may satisfy one of these by its labels and ports.
    fn reaches(&self, name: &str, namespace: &NamespaceLabels) -> bool {
        let named = self.named.iter().map(|named| &named.peer);
        self.pods.iter().chain(named).any(|peer| match peer {
            Peer::Any => true,
            Peer::Block(_) => false,
            Peer::Pods { namespaces, .. } => are_of(namespaces, name, namespace),
        })
    }

    /// Whether a pod's selector is one of these.
    fn holds(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Peer(peer) => self.pods.contains(peer),
            Selector::Port { peer, name, protocol, .. } => {
                let (peer, name) = (peer.clone(), name.clone());
                self.named.contains(&NamedPort { peer, name, protocol: *protocol })
            }
        }
    }

    /// The blocks, also those with named ports.
    fn all_blocks(&self) -> impl Iterator<Item = &Block> {
        let named = self.named.iter().filter_map(|named| match &named.peer {
            Peer::Block(block) => Some(block),
            Peer::Any | Peer::Pods { .. } => None,
        });
        self.blocks.iter().chain(named)
    }

    /// What a pod satisfies by its labels and ports, whatever its addresses.
    fn satisfied(
        &self,
        name: &NamespacedName,
        pod: &Pod,
        namespace: &NamespaceLabels,
    ) -> BTreeSet<Arc<Selector>> {
        let mut satisfied = BTreeSet::new();
        for peer in self.pods.iter().filter(|peer| selects(peer, name, pod, namespace)) {
            satisfied.insert(Arc::new(Selector::Peer(peer.clone())));
        }
        for named in self.named.iter().filter(|named| selects(&named.peer, name, pod, namespace)) {
            satisfied.extend(named.on(pod).map(Arc::new));
        }
        satisfied
    }

    /// Named ports of the blocks that hold a pod's address.
    fn ports_in_blocks(&self, pod: &Pod, addr: Addr) -> impl Iterator<Item = Arc<Selector>> {
        let named = self.named.iter().filter(move |named| match &named.peer {
            Peer::Block(block) => block.contains(&addr),
            Peer::Any | Peer::Pods { .. } => false,
        });
        named.filter_map(|named| named.on(pod)).map(Arc::new)
    }
}

impl NamedPort {
    fn on(&self, pod: &Pod) -> Option<Selector> {
        let number = pod.port(&self.name, self.protocol)?;
        let (peer, name) = (self.peer.clone(), self.name.clone());
        Some(Selector::Port { peer, name, protocol: self.protocol, number })
    }
}

/// Whether a peer is this pod, whatever its addresses.
fn selects(peer: &Peer, name: &NamespacedName, pod: &Pod, namespace: &NamespaceLabels) -> bool {
    match peer {
        Peer::Any => true,
        Peer::Block(_) => false,
        Peer::Pods { namespaces, pods } => {
            let near = are_of(namespaces, &name.namespace, namespace);
            near && pods.matches(&pod.labels)
        }
    }
}

/// Whether a namespace is one of these.
fn are_of(namespaces: &Namespaces, name: &str, labels: &NamespaceLabels) -> bool {
    match namespaces {
        Namespaces::Named(named) => *named == name,
        Namespaces::Matching(selector) => labels.are_selected_by(selector),
        Namespaces::Possibly(selector) => labels.may_be_selected_by(selector),
    }
}
