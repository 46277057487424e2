//! Whether one flow passes, and which rule says so, from a [`World`].
//!
//! Start at [`explain`]. `target` finds the addresses and ports that a question is about, `side` says why one direction
//! is as it is, `nearest` which rule came closest when none matched.
//!
//! **Invariant: the verdict is the maps'.** Words are added to what [`World::judge`] says; they never decide.

mod nearest;
mod side;
mod target;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

pub use nearest::{Miss, Nearest};
use serde::Serialize;
pub use side::{Reason, RuleName, Side};
use sluice_abi::{Addr, protocol};
pub(crate) use target::{port_on, protocol_of, served, target_on};

use crate::{
    object::NamespacedName,
    verdict::{Flow, Judgement},
    world::{Way, World},
};

/// Whether something passes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
}

impl Word {
    /// The word for "it passes".
    pub const fn of(allows: bool) -> Self {
        if allows { Self::Allow } else { Self::Deny }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// The protocol of a question.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP, ICMPv6 between IPv6 addresses.
    Icmp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp];

    /// Its name as Kubernetes spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
        }
    }

    /// Its IANA number towards an address.
    pub fn number(self, to: Addr) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Sctp => protocol::SCTP,
            Self::Icmp if to.is_v4() => protocol::ICMP,
            Self::Icmp => protocol::ICMPV6,
        }
    }

    /// Whether it has ports.
    pub const fn has_ports(self) -> bool {
        !matches!(self, Self::Icmp)
    }
}

/// One end of a question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Party {
    /// A pod.
    Pod(NamespacedName),
    /// An address, whoever has it.
    Address(IpAddr),
    /// The pods behind a Service; only as destination.
    Service(NamespacedName),
}

/// The destination port of a question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Port {
    /// A number; 0 where the protocol has none.
    Number(u16),
    /// The name of a port of the destination.
    Named(String),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Named(name) => name.fmt(f),
        }
    }
}

/// What is asked: the first packet of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// Who opens it.
    pub from: Party,
    /// Whom it is for.
    pub to: Party,
    /// With which protocol.
    pub protocol: Protocol,
    /// To which port.
    pub port: Port,
}

/// Why a question has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AskError {
    /// No object of that name.
    #[error("no pod {0} is given")]
    NoPod(NamespacedName),
    /// The pod is no longer in the network.
    #[error("pod {0} has finished: it has no network")]
    Finished(NamespacedName),
    /// No address is free for it.
    #[error("pod {0} has no address")]
    NoAddress(NamespacedName),
    /// No object of that name.
    #[error("no Service {0} is given")]
    NoService(NamespacedName),
    /// The Service does not listen there.
    #[error("Service {service} has no port {port} of {protocol}")]
    NoServicePort {
        /// Which Service.
        service: NamespacedName,
        /// Which port was asked for.
        port: Port,
        /// With which protocol.
        protocol: &'static str,
    },
    /// The pod has no port of that name.
    #[error("pod {pod} has no port {name} of {protocol}")]
    NoPort {
        /// Which pod.
        pod: NamespacedName,
        /// Which port was asked for.
        name: String,
        /// With which protocol.
        protocol: &'static str,
    },
    /// No pod is behind it.
    #[error("no pod is behind port {port} of Service {service}")]
    NoBackend {
        /// Which Service.
        service: NamespacedName,
        /// Which port was asked for.
        port: Port,
    },
    /// Only a pod can give a port a name.
    #[error("{address} is no pod's address: port {name} has no number there")]
    NoNames {
        /// Which address.
        address: IpAddr,
        /// Which port was asked for.
        name: String,
    },
    /// Flows go from a pod or an address.
    #[error("a flow does not come from a Service")]
    FromService,
    /// The two ends are of two families.
    #[error("source and destination have no address family in common")]
    Families,
}

/// The answer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Whether the flow passes; through a Service, whether it does whichever backend it gets.
    pub verdict: Word,
    /// Who opens it.
    pub from: End,
    /// Where it goes.
    pub to: End,
    /// With which protocol.
    pub protocol: &'static str,
    /// To which port, after translation; none where the protocol has none.
    pub port: Option<u16>,
    /// What the source's policies say.
    pub egress: Side,
    /// What the destination's policies say.
    pub ingress: Side,
    /// Every place it may go to, when a Service decides; `to`, `port` and both sides are of the first one that is
    /// refused, else of the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
}

/// One end of a flow.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Namespace and name of the pod.
    pub pod: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// Whether its object has none, and this one is assumed.
    pub assumed: bool,
    /// The node it is on.
    pub node: Option<String>,
}

/// One place a Service may send a flow to.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Namespace and name of the pod.
    pub pod: Option<String>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it can be reached.
    pub verdict: Word,
}

/// Answers a question. Where both ends have addresses of both families, the one that is refused counts.
///
/// # Errors
/// Any [`AskError`].
pub fn explain(world: &World, question: &Question) -> Result<Explanation, AskError> {
    let flows = target::flows(world, question)?;
    let mut ways: Vec<(Flow, Way<'_>)> = Vec::new();
    let mut refused = None;
    for flow in &flows {
        let judged = world.judge(flow);
        if judged.is_empty() {
            refused.get_or_insert(flow);
        }
        ways.extend(judged.into_iter().map(|way| (*flow, way)));
    }
    if let Some(flow) = refused {
        return Ok(without_backends(world, flow, question));
    }
    let deciding = ways.iter().position(|(_, way)| !way.judged.allows()).unwrap_or_default();
    let (flow, way) = ways.get(deciding).ok_or(AskError::Families)?;
    let translated = ways.iter().any(|(flow, way)| way.judged.dst != flow.dst);
    let is_service = translated || matches!(question.to, Party::Service(_));
    let backends = ways.iter().filter(|_| is_service).map(|(_, way)| backend(world, way)).collect();
    let judged = &way.judged;
    let side = |judgement: Option<Judgement>, own, peer| {
        let place = if own == flow.src { way.source } else { way.destination };
        let here = place.filter(|_| judgement.is_some());
        side::side(world, here, &side::Case { own, peer, flow, port: judged.port, judgement })
    };
    Ok(Explanation {
        verdict: Word::of(judged.allows()),
        from: end(world, flow.src, &question.from),
        to: end(world, judged.dst, &question.to),
        protocol: question.protocol.name(),
        port: question.protocol.has_ports().then_some(judged.port),
        egress: side(judged.egress, flow.src, judged.dst),
        ingress: side(judged.ingress, judged.dst, flow.src),
        backends,
    })
}

/// The answer for a Service that nobody serves.
fn without_backends(world: &World, flow: &Flow, question: &Question) -> Explanation {
    let protocol = question.protocol;
    let egress = Side { verdict: Word::Deny, ..Side::plain(Reason::NoBackend) };
    Explanation {
        verdict: Word::Deny,
        from: end(world, flow.src, &question.from),
        to: end(world, flow.dst, &question.to),
        protocol: protocol.name(),
        port: protocol.has_ports().then_some(flow.port),
        egress,
        ingress: Side::plain(Reason::Outside),
        backends: Vec::new(),
    }
}

/// An end of a flow. Pods in a node's network share its address, so only the question tells which of them it is.
fn end(world: &World, addr: Addr, asked: &Party) -> End {
    let named = if let Party::Pod(name) = asked { world.pod(name) } else { None };
    let pod = named.or_else(|| world.pod_at(addr));
    End {
        pod: pod.map(|pod| pod.name.to_string()),
        address: addr.into(),
        assumed: pod.is_some_and(|pod| pod.is_assumed),
        node: world.node_at(addr).map(str::to_owned),
    }
}

fn backend(world: &World, way: &Way<'_>) -> Backend {
    let Way { judged, .. } = way;
    Backend {
        pod: world.pod_at(judged.dst).map(|pod| pod.name.to_string()),
        address: SocketAddr::new(judged.dst.into(), judged.port),
        verdict: Word::of(judged.allows()),
    }
}
