//! Who reaches whom on several ports at once, for as many pairs of pods as there are.
//!
//! **Invariant: as [`World::judge`] says.** The maps answer alike for all pods with the same rule set, and for all peers with
//! the same identity, so each such pair is looked up once, on every port that is asked about.

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use sluice_abi::{Addr, Direction, Identity, RuleSetId};

use crate::{
    explain::{Party, Port, Protocol, Question, Word, explain},
    world::{Pod, World},
};

/// For each probe whether it passes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Passes(Box<[u64]>);

impl Passes {
    fn of(probes: usize, passes: impl Fn(usize) -> bool) -> Self {
        let mut words = vec![0; probes.div_ceil(64)];
        for probe in (0..probes).filter(|probe| passes(*probe)) {
            words[probe / 64] |= 1 << (probe % 64);
        }
        Self(words.into())
    }

    /// Whether a probe passes.
    pub(crate) fn has(&self, probe: usize) -> bool {
        self.0[probe / 64] >> (probe % 64) & 1 == 1
    }

    fn and(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
    }
}

/// Asks about the same probes again and again.
#[derive(Debug)]
pub(crate) struct Reach<'a> {
    world: &'a World,
    probes: Vec<(Protocol, u16)>,
    /// By node.
    identities: HashMap<(usize, Addr), Identity>,
    /// By node, rule set, peer, and whether the family is IPv4.
    judged: HashMap<(usize, RuleSetId, Identity, bool), Rc<Passes>>,
    all: Rc<Passes>,
    none: Rc<Passes>,
    /// Where Services may take what is for somebody else.
    has_node_ports: bool,
    service_addrs: BTreeSet<Addr>,
}

impl<'a> Reach<'a> {
    /// Asks about these protocols and ports.
    pub(crate) fn new(world: &'a World, probes: Vec<(Protocol, u16)>) -> Self {
        let services = || world.cluster().services().values();
        let node_ports = services().flat_map(|service| &service.ports).filter_map(|port| port.node_port);
        let node_ports: BTreeSet<u16> = node_ports.collect();
        let addrs = services().flat_map(|service| {
            service.addrs.iter().chain(&service.external_addrs).chain(&service.balancer_addrs)
        });
        let number = probes.len();
        Self {
            world,
            identities: HashMap::new(),
            judged: HashMap::new(),
            all: Rc::new(Passes::of(number, |_| true)),
            none: Rc::new(Passes::of(number, |_| false)),
            has_node_ports: probes.iter().any(|(_, port)| node_ports.contains(port)),
            service_addrs: addrs.copied().collect(),
            probes,
        }
    }

    /// What passes from one pod to another.
    pub(crate) fn allowed(&mut self, source: &Pod, destination: &Pod) -> Passes {
        let is_node_port = destination.is_host && self.has_node_ports;
        if is_node_port || destination.addrs.iter().any(|addr| self.service_addrs.contains(addr)) {
            return self.asked(source, destination);
        }
        let has_family = |src: &Addr| destination.addrs.iter().any(|dst| dst.is_v4() == src.is_v4());
        if !source.addrs.iter().any(has_family) {
            return Passes::clone(&self.none);
        }
        let [mut leaves, arrives] = self.sides(source, destination);
        leaves.and(&arrives);
        leaves
    }

    /// What the source's policies let pass, and what the destination's do, in every family that both have.
    pub(crate) fn sides(&mut self, source: &Pod, destination: &Pod) -> [Passes; 2] {
        let mut sides = [(); 2].map(|()| Passes::clone(&self.all));
        if source.name == destination.name {
            return sides;
        }
        for dst in &destination.addrs {
            for src in source.addrs.iter().filter(|src| src.is_v4() == dst.is_v4()) {
                sides[0].and(&self.judge(source, Direction::Egress, *src, *dst));
                sides[1].and(&self.judge(destination, Direction::Ingress, *dst, *src));
            }
        }
        sides
    }

    /// What a pod's policies let it send to an address, or receive from it.
    pub(crate) fn outside(&mut self, pod: &Pod, direction: Direction, peer: Addr) -> Rc<Passes> {
        match pod.addrs.iter().find(|own| own.is_v4() == peer.is_v4()) {
            Some(own) => self.judge(pod, direction, *own, peer),
            None => self.none.clone(),
        }
    }

    fn judge(&mut self, pod: &Pod, direction: Direction, own: Addr, peer: Addr) -> Rc<Passes> {
        if pod.is_host || self.world.is_own_node(pod, peer) {
            return self.all.clone();
        }
        let place = self.world.place_of(pod);
        let Some(sets) = place.rule_set_ids(own) else { return self.none.clone() };
        let set = sets[direction as usize];
        let identity = self.identities.entry((pod.place(), peer));
        let identity = *identity.or_insert_with(|| place.identity(peer));
        let judged = self.judged.entry((pod.place(), set, identity, peer.is_v4()));
        let probes = &self.probes;
        let passes = judged.or_insert_with(|| {
            Rc::new(Passes::of(probes.len(), |probe| {
                let (protocol, port) = probes[probe];
                let rule = place.actual.judge(set, peer, protocol.number(peer), port);
                rule.is_some_and(|rule| rule.allows())
            }))
        });
        passes.clone()
    }

    /// The verdicts about what a Service may take.
    fn asked(&self, source: &Pod, destination: &Pod) -> Passes {
        Passes::of(self.probes.len(), |probe| {
            let (protocol, port) = self.probes[probe];
            let (from, to) = (Party::Pod(source.name.clone()), Party::Pod(destination.name.clone()));
            let answer = explain(self.world, &Question { from, to, protocol, port: Port::Number(port) });
            answer.is_ok_and(|answer| answer.verdict == Word::Allow)
        })
    }
}
