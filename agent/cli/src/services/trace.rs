//! `sluice services trace`: what the loaded programs do with a flow for a Service, and why.
//!
//! Reads the maps in the order of the programs: frontend, clients that may use it, flows that have a backend already,
//! affinity, backends. The choice by chance, or by a hash of ports, is told as such.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use serde::Serialize;
use sluice_abi::{
    Addr, Affinity, AffinityKey, BackendId, BackendState, Frontend, FrontendKey, FrontendScope, NodeFamily,
    Prefix, endpoint_flags, flow_flags, frontend_flags,
};
use sluice_maps::{Maps, MapsError, SourceRange};

use super::{BackendRow, Row, backend, backend_ids, backend_text, flags_text, row};
use crate::{
    clock,
    names::Names,
    output::{self, Answer},
};

/// What is asked.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    /// `NAMESPACE/POD`, an address, or `node`.
    pub(crate) from: &'a str,
    /// The address the flow is for.
    pub(crate) to: SocketAddr,
    /// IANA protocol number.
    pub(crate) protocol: u8,
}

/// What becomes of the flow.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    from: Client,
    to: SocketAddr,
    protocol: String,
    /// In whose name the frontend was looked up.
    scope: &'static str,
    /// `led`, `refused`, `dropped`, or `untouched` when it is for no Service.
    verdict: &'static str,
    /// Why, in a sentence.
    reason: String,
    frontend: Option<Row>,
    /// The backend that the client keeps.
    affinity: Option<Kept>,
    /// Flows of the client that are known, with their backends.
    flows: Vec<Flow>,
    /// Backends that a new flow can get, and how likely each is, in percent.
    choices: Vec<Choice>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    /// None for processes of the node, whose address depends on the way.
    address: Option<IpAddr>,
    /// Namespace and name of a pod of this node; `node`, or `outside`.
    who: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    backend: BackendRow,
    idle_seconds: u64,
    /// Whether the next new flow gets it.
    holds: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Flow {
    client_port: u16,
    backend: BackendRow,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Choice {
    backend: BackendRow,
    percent: f64,
}

/// The client, as the programs see it.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A process of the node.
    Node,
    Pod(Addr),
    Outside(Addr),
}

/// Answers the question from the maps.
pub(crate) fn answer(maps: &Maps, question: &Question) -> anyhow::Result<Trace> {
    let (source, who) = source(maps, question)?;
    let scope = match source {
        Source::Node | Source::Pod(_) => FrontendScope::Internal,
        Source::Outside(_) => FrontendScope::External,
    };
    let mut trace = Trace {
        from: Client { address: source.addr().map(IpAddr::from), who },
        to: question.to,
        protocol: crate::names::protocol(question.protocol),
        scope: super::scope(scope as u8),
        verdict: "untouched",
        reason: String::new(),
        frontend: None,
        affinity: None,
        flows: Vec::new(),
        choices: Vec::new(),
    };
    let Some((key, frontend)) = find(maps, question, source, scope)? else {
        trace.reason = why_none(maps, question, scope)?;
        return Ok(trace);
    };
    trace.frontend = Some(row(maps, &key, &frontend)?);
    trace.flows = flows(maps, question, source)?;
    trace.affinity = kept(maps, question, &frontend, source)?;
    trace.choices = choices(maps, &frontend)?;
    trace.decide(maps, &frontend, source)?;
    Ok(trace)
}

impl Source {
    fn addr(self) -> Option<Addr> {
        match self {
            Self::Node => None,
            Self::Pod(addr) | Self::Outside(addr) => Some(addr),
        }
    }
}

impl Trace {
    fn decide(&mut self, maps: &Maps, frontend: &Frontend, source: Source) -> Result<(), MapsError> {
        let has = |flag| frontend.flags & flag != 0;
        let usable = self.choices.iter().any(|choice| choice.percent > 0.0);
        (self.verdict, self.reason) =
            if has(frontend_flags::SOURCE_RANGES) && !may_use(maps, frontend, source, self.to.is_ipv4())? {
                ("dropped", "the client is outside the Service's loadBalancerSourceRanges".to_owned())
            } else if let Some(kept) = self.affinity.as_ref().filter(|kept| kept.holds) {
                let left = u64::from(frontend.affinity_s).saturating_sub(kept.idle_seconds);
                let backend = backend_text(&kept.backend);
                ("led", format!("the client keeps {backend} for {} without a new flow", clock::words(left)))
            } else if !usable && has(frontend_flags::LOCAL) {
                ("dropped", "only backends of this node count, and it has none".to_owned())
            } else if !usable {
                ("refused", "the Service has no backend".to_owned())
            } else if let [only] = &*self.choices {
                ("led", format!("{} is the only backend", backend_text(&only.backend)))
            } else if has(frontend_flags::MAGLEV) {
                ("led", "a hash of the flow's addresses and ports chooses, the same on every node".to_owned())
            } else {
                ("led", "chance chooses".to_owned())
            };
        Ok(())
    }
}

fn source(maps: &Maps, question: &Question) -> anyhow::Result<(Source, String)> {
    let v4 = question.to.is_ipv4();
    if question.from == "node" {
        return Ok((Source::Node, "node".to_owned()));
    }
    if let Some((namespace, pod)) = question.from.split_once('/') {
        let metas = maps.endpoint_meta.entries()?;
        let is_it = |meta: &sluice_abi::EndpointMeta| {
            meta.namespace.to_string() == namespace && meta.pod.to_string() == pod
        };
        let newest = metas.into_iter().filter(|(_, meta)| is_it(meta)).max_by_key(|(id, _)| *id);
        let (_, meta) = newest.with_context(|| format!("{namespace}/{pod} is no pod of this node"))?;
        let own = meta.addrs.into_iter().find(|addr| *addr != Addr::UNSPECIFIED && addr.is_v4() == v4);
        let family = if v4 { "IPv4" } else { "IPv6" };
        let addr = own.with_context(|| format!("{namespace}/{pod} has no {family} address"))?;
        return Ok((Source::Pod(addr), question.from.to_owned()));
    }
    let addr: IpAddr = question.from.parse().with_context(|| {
        format!("{:?} is neither NAMESPACE/POD, nor an address, nor \"node\"", question.from)
    })?;
    if addr.is_ipv4() != v4 {
        bail!("{addr} and {} are of two families", question.to.ip());
    }
    let addr = Addr::from(addr);
    Ok(match maps.endpoints.get(&addr)? {
        Some(endpoint) if endpoint.flags & endpoint_flags::HOST != 0 => (Source::Node, "node".to_owned()),
        Some(endpoint) => {
            let pod = Names(maps).pod(endpoint.id)?;
            (Source::Pod(addr), pod.unwrap_or_else(|| format!("endpoint {}", endpoint.id.0)))
        }
        None => (Source::Outside(addr), "outside".to_owned()),
    })
}

fn key(addr: Addr, question: &Question, scope: FrontendScope) -> FrontendKey {
    let port = question.to.port().to_be_bytes();
    FrontendKey { addr, port, protocol: question.protocol, scope: scope as u8 }
}

/// The frontend of the address, else of the node's port.
fn find(
    maps: &Maps,
    question: &Question,
    source: Source,
    scope: FrontendScope,
) -> Result<Option<(FrontendKey, Frontend)>, MapsError> {
    let to = Addr::from(question.to.ip());
    let exact = key(to, question, scope);
    if let Some(frontend) = maps.frontends.get(&exact)? {
        return Ok(Some((exact, frontend)));
    }
    // Processes of the node find NodePorts at its loopback too.
    let at_loopback = question.to.ip().is_loopback() && matches!(source, Source::Node);
    if !at_loopback && !takes_node_ports(maps, &to)? {
        return Ok(None);
    }
    let node = if to.is_v4() { FrontendKey::NODE_V4 } else { FrontendKey::NODE_V6 };
    let node = key(node, question, scope);
    Ok(maps.frontends.get(&node)?.map(|frontend| (node, frontend)))
}

fn takes_node_ports(maps: &Maps, addr: &Addr) -> Result<bool, MapsError> {
    Ok(maps.endpoints.get(addr)?.is_some_and(|endpoint| endpoint.flags & endpoint_flags::NODE_PORT != 0))
}

fn why_none(maps: &Maps, question: &Question, scope: FrontendScope) -> Result<String, MapsError> {
    let to = Addr::from(question.to.ip());
    let inside = key(to, question, FrontendScope::Internal);
    Ok(if matches!(scope, FrontendScope::External) && maps.frontends.get(&inside)?.is_some() {
        "the address serves pods and nodes only".to_owned()
    } else if takes_node_ports(maps, &to)? {
        "no Service has this node port".to_owned()
    } else {
        "no Service listens there".to_owned()
    })
}

/// A process of the node is judged by the node's address.
fn may_use(maps: &Maps, frontend: &Frontend, source: Source, v4: bool) -> Result<bool, MapsError> {
    let family = if v4 { NodeFamily::V4 } else { NodeFamily::V6 };
    let addr = match source.addr() {
        None => maps.node.get(&(family as u32))?.map(|node| node.addr),
        addr => addr,
    };
    let Some(addr) = addr else { return Ok(false) };
    let client = SourceRange { service: frontend.service, clients: Prefix::host(addr) };
    Ok(maps.source_ranges.get(&client)?.is_some())
}

fn kept(
    maps: &Maps,
    question: &Question,
    frontend: &Frontend,
    source: Source,
) -> Result<Option<Kept>, MapsError> {
    if frontend.flags & frontend_flags::AFFINITY == 0 {
        return Ok(None);
    }
    // Processes of the node are one client, in each family.
    let of_node = if question.to.is_ipv4() { FrontendKey::NODE_V4 } else { FrontendKey::NODE_V6 };
    let client = AffinityKey {
        client: source.addr().unwrap_or(of_node),
        service: frontend.service,
        service_port: frontend.service_port,
        protocol: question.protocol,
        reserved: 0,
    };
    let Some(Affinity { last_used_ns, backend: id, .. }) = maps.affinity.get(&client)? else {
        return Ok(None);
    };
    let idle_seconds = clock::seconds_since(clock::now(), last_used_ns);
    let takes_new = is_active(maps, id)? && backend_ids(maps, frontend)?.contains(&id);
    let is_fresh = idle_seconds < u64::from(frontend.affinity_s);
    Ok(Some(Kept { backend: backend(maps, id)?, idle_seconds, holds: takes_new && is_fresh }))
}

fn is_active(maps: &Maps, id: BackendId) -> Result<bool, MapsError> {
    Ok(maps.backends.get(&id)?.is_some_and(|backend| backend.state == BackendState::Active as u8))
}

/// The client's flows to the very address.
fn flows(maps: &Maps, question: &Question, source: Source) -> Result<Vec<Flow>, MapsError> {
    let (to, port) = (Addr::from(question.to.ip()), question.to.port().to_be_bytes());
    let mut found = Vec::new();
    for table in [&maps.ct_confirmed, &maps.ct_half_open] {
        table.for_each(|_, entry| {
            // The direct entry of a translated flow holds what the client has sent.
            let sent = entry.other;
            if entry.flags & flow_flags::TRANSLATED != 0
                && Some(sent.src) == source.addr()
                && (sent.dst, sent.dst_port, sent.protocol) == (to, port, question.protocol)
            {
                found.push((u16::from_be_bytes(sent.src_port), entry.backend));
            }
        })?;
    }
    found.sort_unstable();
    let flow = |(client_port, id)| Ok(Flow { client_port, backend: backend(maps, id)? });
    found.into_iter().map(flow).collect()
}

/// Every backend in the frontend's slots with its share of them.
fn choices(maps: &Maps, frontend: &Frontend) -> Result<Vec<Choice>, MapsError> {
    let ids = backend_ids(maps, frontend)?;
    let mut places = vec![0_u32; ids.len()];
    for slot in frontend.first_slot..frontend.first_slot.saturating_add(frontend.count) {
        let id = maps.slots.get(slot)?;
        if let Some(index) = ids.iter().position(|known| *known == id) {
            places[index] += 1;
        }
    }
    let mut usable = 0;
    for (id, places) in ids.iter().zip(&mut places) {
        if maps.backends.get(id)?.is_none() {
            *places = 0;
        }
        usable += *places;
    }
    let percent = |places: u32| (f64::from(places) * 1000.0 / f64::from(usable.max(1))).round() / 10.0;
    let choice = |(id, places): (&BackendId, &u32)| {
        Ok(Choice { backend: backend(maps, *id)?, percent: percent(*places) })
    };
    ids.iter().zip(&places).map(choice).collect()
}

impl Answer for Trace {
    fn text(&self) -> String {
        let address = self.from.address.map(|addr| format!(" ({addr})")).unwrap_or_default();
        let mut text =
            format!("{}{address} to {}/{}: {}\n", self.from.who, self.to, self.protocol, self.verdict);
        text += &format!("  {}\n", self.reason);
        let Some(frontend) = &self.frontend else { return text };
        let name = output::or_dash(frontend.service.as_ref());
        text += &format!("  frontend: {} of {name}, {}", frontend.kind, frontend.scope);
        for flag in flags_text(frontend) {
            text += &format!(", {flag}");
        }
        text.push('\n');
        if let Some(kept) = &self.affinity {
            let holds = if kept.holds { "" } else { ", no longer valid" };
            let (backend, idle) = (backend_text(&kept.backend), clock::words(kept.idle_seconds));
            text += &format!("  affinity: {backend}, last used {idle} ago{holds}\n");
        }
        for flow in &self.flows {
            text += &format!("  flow from port {}: {}\n", flow.client_port, backend_text(&flow.backend));
        }
        for choice in &self.choices {
            let local = choice.backend.local.as_ref().map(|who| format!(", on this node: {who}"));
            let (backend, local) = (backend_text(&choice.backend), local.unwrap_or_default());
            text += &format!("  choice of {} %: {backend}{local}\n", choice.percent);
        }
        text
    }
}
