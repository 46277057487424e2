//! The kernel's lookups, on the host: what the maps say about a flow.
//!
//! [`Actual::judge`] is one judgement: at most two lookups in `RULES`, as the programs make them. [`verdict`] is a whole
//! flow: Service translation, egress of the source, ingress of the destination, as far as they live on this node.

use sluice_abi::{
    Addr, Endpoint, EndpointId, Frontend, FrontendKey, FrontendScope, Identity, Prefix, Rule, RuleId,
    RuleSetId, RuleVerdict, ServiceId, endpoint_flags,
};

use crate::{
    desired::PortPrefix,
    plan::{Actual, RulePrefix},
    prefix::longest,
};

impl Actual {
    /// The identity that the programs see behind an address.
    pub fn identity_of(&self, addr: Addr) -> Identity {
        longest(&self.ipcache, &Prefix::host(addr)).copied().unwrap_or(Identity::ANY)
    }

    /// What a rule set says about a peer, a protocol and a destination port (0 where there is none); `None` drops.
    pub fn judge(&self, rule_set: RuleSetId, peer: Addr, protocol: u8, port: u16) -> Option<Rule> {
        let own = self.lookup(rule_set, self.identity_of(peer), protocol, port);
        own.or_else(|| self.lookup(rule_set, Identity::ANY, protocol, port))
    }

    /// The frontend a flow is for: at its address, else at the node port of one of the node's addresses.
    pub fn frontend(&self, flow: &Flow, scope: FrontendScope) -> Option<&Frontend> {
        let at = |addr| FrontendKey {
            addr,
            port: flow.port.to_be_bytes(),
            protocol: flow.protocol,
            scope: scope as u8,
        };
        let takes_node_ports = |endpoint: &&Endpoint| endpoint.flags & endpoint_flags::NODE_PORT != 0;
        let node = if flow.dst.is_v4() { FrontendKey::NODE_V4 } else { FrontendKey::NODE_V6 };
        let at_node = || {
            self.endpoints.get(&flow.dst).filter(takes_node_ports)?;
            self.frontends.get(&at(node))
        };
        self.frontends.get(&at(flow.dst)).or_else(at_node)
    }

    /// One lookup in the trie: the longest prefix of the key.
    fn lookup(&self, rule_set: RuleSetId, identity: Identity, protocol: u8, port: u16) -> Option<Rule> {
        let ports = (0..=16u8).rev().map(|bits| {
            let first = port & u16::try_from(0xffff_0000u32 >> bits & 0xffff).unwrap_or(u16::MAX);
            PortPrefix::Ports { protocol, first, bits }
        });
        let mut prefixes = ports.chain([PortPrefix::Any]);
        prefixes.find_map(|ports| self.rules.get(&RulePrefix::new(rule_set, identity, ports)).copied())
    }
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flow {
    /// Who opens it.
    pub src: Addr,
    /// Whom it is for: a pod, a Service, anything.
    pub dst: Addr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port; 0 where the protocol has none.
    pub port: u16,
}

/// What the maps say about a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The flow goes where it says.
    Direct(Judged),
    /// A Service sends it to one of these backends, at random; none refuses it.
    Service(ServiceId, Vec<Judged>),
}

impl Answer {
    /// Whether the flow passes, whichever backend is chosen.
    pub fn allows(&self) -> bool {
        match self {
            Self::Direct(judged) => judged.allows(),
            Self::Service(_, backends) => !backends.is_empty() && backends.iter().all(Judged::allows),
        }
    }
}

/// How one destination of a flow is judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Judged {
    /// The destination after translation.
    pub dst: Addr,
    /// Its port.
    pub port: u16,
    /// Egress of the source; `None` when it is not a pod of this node.
    pub egress: Option<Judgement>,
    /// Ingress of the destination; `None` when it is not a pod of this node.
    pub ingress: Option<Judgement>,
}

impl Judged {
    /// Whether both sides let it pass.
    pub fn allows(&self) -> bool {
        [self.egress, self.ingress].iter().flatten().all(Judgement::allows)
    }

    /// The judgements of which the shadow denies what passes: what the programs report and let pass.
    pub fn would_drop(&self) -> impl Iterator<Item = &Judgement> {
        let denies = |judgement: &&Judgement| judgement.shadow.is_some_and(|shadow| !shadow.allows());
        let passes = self.allows();
        [&self.egress, &self.ingress].into_iter().flatten().filter(move |one| passes && denies(one))
    }
}

/// One side's judgement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Judgement {
    /// Whose policies.
    pub endpoint: EndpointId,
    /// Their compiled form.
    pub rule_set: RuleSetId,
    /// The peer's identity.
    pub peer: Identity,
    /// The rule that matched.
    pub rule: Option<Rule>,
    /// What audited policies would make of it, where there are any.
    pub shadow: Option<Shadow>,
}

/// What a shadow rule set says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shadow {
    /// Which one.
    pub rule_set: RuleSetId,
    /// The rule that matched.
    pub rule: Option<Rule>,
}

impl Shadow {
    /// Whether it would let pass.
    pub fn allows(&self) -> bool {
        self.rule.is_some_and(|rule| rule.allows())
    }
}

impl Judgement {
    /// Whether it lets pass.
    pub fn allows(&self) -> bool {
        self.rule.is_some_and(|rule| rule.allows())
    }
}

/// What the maps say about a flow. An address that has no endpoint here is somebody else's: nothing is judged for it.
pub fn verdict(actual: &Actual, flow: &Flow) -> Answer {
    let Some(frontend) = actual.frontend(flow, FrontendScope::Internal) else {
        return Answer::Direct(judged(actual, flow));
    };
    let slice = frontend.first_slot..frontend.first_slot.saturating_add(frontend.count);
    let backends = slice.filter_map(|slot| actual.backends.get(actual.slots.get(&slot)?));
    let to_backend = |backend: &sluice_abi::Backend| {
        judged(actual, &Flow { dst: backend.addr, port: u16::from_be_bytes(backend.port), ..*flow })
    };
    Answer::Service(frontend.service, backends.map(to_backend).collect())
}

fn judged(actual: &Actual, flow: &Flow) -> Judged {
    let (src, dst) = (actual.endpoints.get(&flow.src), actual.endpoints.get(&flow.dst));
    let is_host = |endpoint: Option<&Endpoint>| endpoint.is_some_and(|e| e.flags & endpoint_flags::HOST != 0);
    // A pod and its own node, and a pod and itself, always reach each other (DESIGN, promise 5).
    let own_node = is_host(src) || is_host(dst);
    let itself = src.zip(dst).is_some_and(|(src, dst)| src.id == dst.id);
    let by_policy = !own_node && !itself;
    let judge = |rule_set, peer| actual.judge(rule_set, peer, flow.protocol, flow.port);
    let judgement = |endpoint: &Endpoint, [rule_set, shadow]: [RuleSetId; 2], peer: Addr| Judgement {
        endpoint: endpoint.id,
        rule_set,
        peer: actual.identity_of(peer),
        rule: if by_policy {
            judge(rule_set, peer)
        } else {
            Some(Rule::new(RuleId::OWN_NODE, RuleVerdict::Allow))
        },
        shadow: (by_policy && shadow != RuleSetId::NONE)
            .then(|| Shadow { rule_set: shadow, rule: judge(shadow, peer) }),
    };
    let pod = |endpoint: Option<&Endpoint>| endpoint.filter(|_| !is_host(endpoint)).copied();
    Judged {
        dst: flow.dst,
        port: flow.port,
        egress: pod(src)
            .map(|endpoint| judgement(&endpoint, [endpoint.egress, endpoint.shadow_egress], flow.dst)),
        ingress: pod(dst)
            .map(|endpoint| judgement(&endpoint, [endpoint.ingress, endpoint.shadow_ingress], flow.src)),
    }
}

#[cfg(test)]
mod tests {
    use sluice_abi::RuleKey;

    use super::*;

    #[test]
    fn the_longest_port_prefix_of_the_peer_answers_and_then_any() {
        let mut actual = Actual::default();
        let (set, peer) = (RuleSetId(1), Addr::v4([10, 0, 0, 1]));
        let rule = |id| Rule::new(RuleId(id), RuleVerdict::Allow);
        let mut put = |identity, ports, id| {
            actual.rules.insert(RulePrefix::new(set, identity, ports), rule(id));
        };
        put(Identity(16), PortPrefix::Ports { protocol: 6, first: 80, bits: 12 }, 20);
        put(Identity(16), PortPrefix::Ports { protocol: 6, first: 82, bits: 16 }, 21);
        put(Identity::ANY, PortPrefix::Any, 22);
        actual.ipcache.insert(Prefix::host(peer), Identity(16));
        let judge = |protocol, port| actual.judge(set, peer, protocol, port).map(|rule| rule.id.0);
        assert_eq!(judge(6, 82), Some(21));
        assert_eq!(judge(6, 95), Some(20));
        assert_eq!(judge(6, 96), Some(22));
        assert_eq!(judge(1, 0), Some(22));
        assert_eq!(actual.judge(RuleSetId(2), peer, 6, 82), None);
    }

    #[test]
    fn a_rule_prefix_tells_its_ports_again() {
        let all = [PortPrefix::Any, PortPrefix::Ports { protocol: 17, first: 0, bits: 0 }];
        for ports in all.into_iter().chain([PortPrefix::Ports { protocol: 6, first: 8080, bits: 16 }]) {
            assert_eq!(RulePrefix::new(RuleSetId(3), Identity(17), ports).ports(), Some(ports));
        }
        assert_eq!(RulePrefix { key: RuleKey::default(), bits: 70 }.ports(), None);
    }
}
