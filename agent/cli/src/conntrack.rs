//! `sluice conntrack`: the flows that the datapath knows.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::Serialize;
use sluice_abi::{
    Addr, CtEntry, CtState, Direction, FlowKey, RuleSetId, Tuple, flow_flags,
    protocol::{ICMP, ICMPV6},
};
use sluice_maps::{Maps, MapsError};

use crate::{
    clock,
    names::{self, Names, RuleName},
    output::{self, Answer},
};

/// The flows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conntrack {
    flows: Vec<Row>,
    /// Entries that only lead from a foreign tuple (a Service's address, say) to one of the flows.
    aliases: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    protocol: String,
    /// Who opened the flow, before translation.
    opener: Peer,
    /// The node's address and port that stand for the opener, when its source was translated.
    snat: Option<Peer>,
    /// Who was called, after translation.
    responder: Peer,
    /// What the opener called, when it was translated.
    via: Option<Peer>,
    backend: Option<u32>,
    state: &'static str,
    /// Whether the flow is in the table that evicts nobody.
    confirmed: bool,
    age_seconds: u64,
    idle_seconds: u64,
    /// Until the flow is forgotten, if no packet comes.
    timeout_left_seconds: u64,
    /// First seen coming through the host stack: stays there.
    stack: bool,
    judged: Vec<Judged>,
}

/// One side of a flow.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    address: IpAddr,
    /// Of the protocols that have ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// Identifier of an ICMP echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_id: Option<u16>,
}

impl Peer {
    fn new(protocol: u8, addr: Addr, port: [u8; 2]) -> Self {
        let (is_icmp, number) = (matches!(protocol, ICMP | ICMPV6), u16::from_be_bytes(port));
        let port = (!is_icmp && number != 0).then_some(number);
        Self { address: addr.into(), port, icmp_id: is_icmp.then_some(number) }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.icmp_id) {
            (Some(port), _) => SocketAddr::new(self.address, port).fmt(f),
            (None, Some(id)) => write!(f, "{} id {id}", self.address),
            (None, None) => self.address.fmt(f),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Judged {
    direction: &'static str,
    rule_set: u32,
    /// Whether that was under the rules of now; else the next packet is judged again.
    current: bool,
    rule: Option<RuleName>,
}

/// Reads both tables, sorted by protocol, opener and responder.
pub(crate) fn answer(maps: &Maps) -> Result<Conntrack, MapsError> {
    let (now, epoch) = (clock::now(), maps.epoch.get(0)?);
    let mut flows: Vec<(Tuple, CtEntry, bool)> = Vec::new();
    let mut aliases = 0;
    for (table, confirmed) in [(&maps.ct_confirmed, true), (&maps.ct_half_open, false)] {
        table.for_each(|key, entry| {
            if entry.flags & flow_flags::ALIAS == 0 {
                flows.push((as_opened(&key, &entry), entry, confirmed));
            } else {
                aliases += 1;
            }
        })?;
    }
    flows.sort_unstable_by_key(|(tuple, _, confirmed)| (tuple.protocol, *tuple, !confirmed));
    let row = |(tuple, entry, confirmed): &_| row(maps, now, epoch, tuple, entry, *confirmed);
    Ok(Conntrack { flows: flows.iter().map(row).collect::<Result<_, _>>()?, aliases })
}

/// The flow's tuple as its opener sends it.
fn as_opened(key: &FlowKey, entry: &CtEntry) -> Tuple {
    if entry.flags & flow_flags::OPENER_IS_KEY_SRC != 0 { key.0 } else { key.0.reversed() }
}

fn row(
    maps: &Maps,
    now: Duration,
    epoch: u32,
    tuple: &Tuple,
    entry: &CtEntry,
    confirmed: bool,
) -> Result<Row, MapsError> {
    let state = CtState::from_number(entry.state);
    let idle_seconds = clock::seconds_since(now, entry.last_seen_ns);
    let peer = |addr, port| Peer::new(tuple.protocol, addr, port);
    let has = |flag| entry.flags & flag != 0;
    let (translated, snat) = (has(flow_flags::TRANSLATED), has(flow_flags::SNAT));
    let direct = peer(tuple.src, tuple.src_port);
    // What a pod sends out of the cluster keeps its destination.
    let is_led = (entry.other.dst, entry.other.dst_port) != (tuple.dst, tuple.dst_port);
    Ok(Row {
        protocol: names::protocol(tuple.protocol),
        opener: if snat { peer(entry.other.src, entry.other.src_port) } else { direct },
        snat: snat.then_some(direct),
        responder: peer(tuple.dst, tuple.dst_port),
        via: (translated && is_led).then(|| peer(entry.other.dst, entry.other.dst_port)),
        backend: (entry.backend.0 != 0).then_some(entry.backend.0),
        state: state.name(),
        confirmed,
        age_seconds: clock::seconds_since(now, entry.created_ns),
        idle_seconds,
        timeout_left_seconds: state.timeout_s(tuple.protocol).saturating_sub(idle_seconds),
        stack: entry.flags & flow_flags::STACK != 0,
        judged: judged(maps, epoch, entry)?,
    })
}

fn judged(maps: &Maps, epoch: u32, entry: &CtEntry) -> Result<Vec<Judged>, MapsError> {
    let sides =
        Direction::ALL.into_iter().zip(entry.judged).filter(|(_, side)| side.rule_set != RuleSetId::NONE);
    sides
        .map(|(direction, side)| {
            let (direction, rule_set, current) = (direction.name(), side.rule_set.0, side.epoch == epoch);
            Ok(Judged { direction, rule_set, current, rule: Names(maps).rule(side.rule)? })
        })
        .collect()
}

impl Answer for Conntrack {
    fn text(&self) -> String {
        let rows = self.flows.iter().map(|row| {
            let rules: Vec<_> = row.judged.iter().map(judged_text).collect();
            [
                row.protocol.clone(),
                row.opener.to_string(),
                output::or_dash(row.snat),
                row.responder.to_string(),
                output::or_dash(row.via),
                row.state.to_owned(),
                clock::words(row.age_seconds),
                clock::words(row.timeout_left_seconds),
                output::list(&rules),
            ]
        });
        output::table(
            ["PROTOCOL", "OPENER", "SNAT", "RESPONDER", "VIA", "STATE", "AGE", "TIMEOUT", "ALLOWED BY"],
            rows,
        )
    }
}

fn judged_text(judged: &Judged) -> String {
    let rule = output::or_dash(judged.rule.as_ref());
    let stale = if judged.current { "" } else { " (stale)" };
    format!("{}: {rule}{stale}", judged.direction)
}
