//! Classes of peer addresses: which selectors in use each address satisfies, and what each class may do.
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
    policy::Sets,
    ports, served_pod,
};
use crate::{
    cluster::{Cluster, Pod, PortMatch},
    desired::{Class, DesiredState, Digest, PortPrefix, RuleEntry, RuleSet, SetRule},
    object::NamespacedName,
    selector::{Block, Labels, Namespaces, Peer, Selector},
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
    /// Brings the classes up to date: of these pods, and of all when the selectors in use have changed.
    pub(super) fn update(
        &mut self,
        cluster: &Cluster,
        sets: &Sets,
        pods: &BTreeSet<NamespacedName>,
        desired: &mut DesiredState,
    ) {
        let mut dirty = BTreeSet::new();
        let in_use = InUse::of(sets.rules());
        if in_use != self.in_use {
            self.in_use = in_use;
            self.ranges = Ranges::of(&self.in_use.blocks);
            let all: BTreeSet<_> = cluster.pods().keys().collect();
            dirty.extend(self.pods_at.keys().copied());
            self.update_profiles(cluster, all, &mut dirty);
            self.update_ranges(desired);
        }
        self.update_profiles(cluster, pods.iter().collect(), &mut dirty);
        for addr in dirty {
            self.update_address(cluster, addr, desired);
        }
        let used: BTreeSet<Digest> =
            self.singles.values().chain(self.cidrs.values().flatten()).copied().collect();
        desired.classes.retain(|digest, _| used.contains(digest));
    }

    fn update_profiles(
        &mut self,
        cluster: &Cluster,
        names: BTreeSet<&NamespacedName>,
        dirty: &mut BTreeSet<Addr>,
    ) {
        let mut namespaces: BTreeMap<&str, Labels> = BTreeMap::new();
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
            let labels = namespaces
                .entry(&name.namespace)
                .or_insert_with(|| cluster.namespace_labels(&name.namespace));
            let (addrs, is_local) = peer_addresses(cluster, name, pod);
            if addrs.is_empty() {
                continue;
            }
            let key = Arc::new(name.clone());
            for addr in &addrs {
                dirty.insert(*addr);
                self.pods_at.entry(*addr).or_default().push(key.clone());
            }
            let selectors = Arc::new(self.in_use.satisfied(name, pod, labels));
            self.profiles.insert(key, Profile { selectors, addrs, is_local });
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

    fn update_address(&mut self, cluster: &Cluster, addr: Addr, desired: &mut DesiredState) {
        let range = self.ranges.at(&addr);
        let mut selectors = self.selectors_of_pods_at(cluster, addr);
        let key = Prefix::host(addr);
        if selectors.is_empty() {
            self.singles.remove(&addr);
            match self.cidrs.get(&key) {
                Some(class) => desired.ipcache.insert(key, *class),
                None => desired.ipcache.remove(&key),
            };
            return;
        }
        selectors.extend(range.iter().cloned());
        let class = intern(&Arc::new(selectors), desired);
        self.singles.insert(addr, class);
        desired.ipcache.insert(key, Some(class));
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

/// A pod's addresses: those of its interfaces on this node, else those of its status.
fn peer_addresses(cluster: &Cluster, name: &NamespacedName, pod: &Pod) -> (Box<[Addr]>, bool) {
    let interfaces = cluster
        .endpoints()
        .values()
        .filter(|endpoint| endpoint.is_of(name) && served_pod(cluster, endpoint).is_some());
    let local: BTreeSet<_> = interfaces.flat_map(|endpoint| addresses_of(endpoint, pod)).collect();
    if local.is_empty() { (pod.addrs.clone(), false) } else { (local.into_iter().collect(), true) }
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

    /// What a pod satisfies by its labels and ports, whatever its addresses.
    fn satisfied(&self, name: &NamespacedName, pod: &Pod, namespace: &Labels) -> BTreeSet<Arc<Selector>> {
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
fn selects(peer: &Peer, name: &NamespacedName, pod: &Pod, namespace: &Labels) -> bool {
    match peer {
        Peer::Any => true,
        Peer::Block(_) => false,
        Peer::Pods { namespaces, pods } => {
            let near = match namespaces {
                Namespaces::Named(named) => *named == name.namespace,
                Namespaces::Matching(selector) => selector.matches(namespace),
            };
            near && pods.matches(&pod.labels)
        }
    }
}

/// Brings the entries of every pair of rule set and class up to date; known pairs keep theirs.
pub(super) fn update_rules(desired: &mut DesiredState) {
    let (sets, classes) = (&desired.rule_sets, &desired.classes);
    desired.rules.retain(|digest, _| sets.contains_key(digest));
    for (digest, set) in sets {
        let known = desired.rules.remove(digest);
        let fresh = known.is_none();
        let mut entries = known.unwrap_or_default();
        entries.retain(|class, _| class.is_none_or(|class| classes.contains_key(&class)));
        if fresh && let Some(rules) = entries_of(set, None) {
            entries.insert(None, rules);
        }
        for (class_digest, class) in classes {
            if !entries.contains_key(&Some(*class_digest))
                && let Some(rules) = entries_of(set, Some(class))
            {
                entries.insert(Some(*class_digest), rules);
            }
        }
        desired.rules.insert(*digest, entries);
    }
}

/// The entries a class has in a set: none of its own when no rule names it.
///
/// Those of a class hold the rules about every peer too. All allow; where several rules do, a packet is the widest's,
/// then the first's by policy and index.
fn entries_of(set: &RuleSet, class: Option<&Class>) -> Option<Arc<[RuleEntry]>> {
    if set.isolating.is_empty() {
        let all = RuleEntry { ports: PortPrefix::Any, source: None };
        return class.is_none().then(|| Arc::from([all]));
    }
    let mut own = class.is_none();
    let mut found = Vec::new();
    for rule in &set.rules {
        let named = class.is_some_and(|class| names(rule, class));
        let source = Arc::new(rule.source.clone());
        let mut ports = Vec::new();
        if named || rule.peers.contains(&Peer::Any) {
            match &rule.ports {
                None => ports.push(PortPrefix::Any),
                Some(matches) => ports.extend(matches.iter().flat_map(ports::of)),
            }
            own |= named && !ports.is_empty();
        }
        let resolved: Vec<_> = class.into_iter().flat_map(|class| resolved_ports(rule, class)).collect();
        own |= !resolved.is_empty();
        found.extend(
            ports.into_iter().chain(resolved).map(|ports| RuleEntry { ports, source: Some(source.clone()) }),
        );
    }
    if !own || found.is_empty() {
        return None;
    }
    found.sort_by_key(|entry| match entry.ports {
        PortPrefix::Any => 0,
        PortPrefix::Ports { bits: 0, .. } => 1,
        PortPrefix::Ports { .. } => 2,
    });
    let mut kept: Vec<RuleEntry> = Vec::new();
    for entry in found {
        if !kept.iter().any(|wider| wider.ports.covers(&entry.ports)) {
            kept.push(entry);
        }
    }
    kept.sort_by_key(|entry| entry.ports);
    Some(kept.into())
}

fn names(rule: &SetRule, class: &Class) -> bool {
    class.0.iter().any(|selector| match &**selector {
        Selector::Peer(peer) => rule.peers.contains(peer),
        Selector::Port { .. } => false,
    })
}

/// The ports that a rule names and that are known for a class.
fn resolved_ports<'a>(rule: &'a SetRule, class: &'a Class) -> impl Iterator<Item = PortPrefix> + 'a {
    class.0.iter().filter_map(|selector| match &**selector {
        Selector::Peer(_) => None,
        Selector::Port { peer, name, protocol, number } => {
            let wanted = PortMatch::Named { protocol: *protocol, name: name.clone() };
            let is_named = rule.peers.contains(peer) && rule.ports.as_ref()?.contains(&wanted);
            is_named.then_some(PortPrefix::Ports { protocol: *protocol, first: *number, bits: 16 })
        }
    })
}
