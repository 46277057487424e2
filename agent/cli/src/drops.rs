//! `sluice drops`: what was dropped, and because of what.

use std::{cmp::Reverse, net::IpAddr};

use serde::Serialize;
use sluice_abi::{Direction, DropKey, DropReason, DropRecord, EndpointId};
use sluice_maps::{Maps, MapsError, Table};

use crate::{
    clock,
    names::{self, Isolation, Names, RuleName},
    output::{self, Answer},
};

/// Recent drops.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Drops {
    drops: Vec<Row>,
}

/// Packets that look alike.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    reason: String,
    help: &'static str,
    /// Number of the endpoint whose policy or interface it was; 0 when none is known.
    endpoint: u32,
    /// Its namespace and name; none when unknown.
    pod: Option<String>,
    direction: &'static str,
    /// The other side's address.
    peer: IpAddr,
    /// Namespace and name when the peer is a pod of this node; `node` when it is the node itself.
    peer_local: Option<String>,
    protocol: String,
    /// Destination port.
    port: u16,
    count: u64,
    last_seen_seconds: u64,
    /// The rule that denied; none when none matched or policy did not decide.
    rule: Option<RuleName>,
    /// The policies that isolate the pod in this direction; none when policy did not decide.
    isolated_by: Isolation,
}

/// Reads the records of drops, the latest first.
pub(crate) fn records(maps: &Maps) -> Result<Drops, MapsError> {
    Ok(Drops { drops: rows(maps, &maps.drop_records)? })
}

/// Reads records, the latest first.
pub(crate) fn rows(maps: &Maps, records: &Table<DropKey, DropRecord>) -> Result<Vec<Row>, MapsError> {
    let now = clock::now();
    let mut found = records.entries()?;
    found.sort_unstable_by_key(|(key, record)| (Reverse(record.last_seen_ns), *key));
    let row = |(key, record): (DropKey, DropRecord)| {
        let (names, reason) = (Names(maps), DropReason::from_number(key.reason));
        Ok(Row {
            reason: reason
                .map_or_else(|| format!("reason {}", key.reason), |reason| reason.name().to_owned()),
            help: reason.map_or("", DropReason::help),
            endpoint: key.endpoint.0,
            pod: if key.endpoint == EndpointId::HOST { None } else { names.pod(key.endpoint)? },
            direction: names::direction(key.direction),
            peer: key.peer.into(),
            peer_local: names.local(&key.peer)?,
            protocol: names::protocol(key.protocol),
            port: u16::from_be_bytes(key.port),
            count: record.count,
            last_seen_seconds: clock::seconds_since(now, record.last_seen_ns),
            rule: names.rule(record.rule)?,
            isolated_by: names.isolation(record.rule_set)?,
        })
    };
    found.into_iter().map(row).collect()
}

impl Answer for Drops {
    fn text(&self) -> String {
        let rows = self.drops.iter().map(|row| {
            let [last_seen, count, pod] = row.seen();
            [last_seen, count, row.reason.clone(), pod, row.packet(), row.because()]
        });
        output::table(["LAST SEEN", "COUNT", "REASON", "POD", "PACKET", "BECAUSE"], rows)
    }
}

impl Row {
    /// When the last was seen, how many there were, and whose policy it was, in words.
    pub(crate) fn seen(&self) -> [String; 3] {
        [clock::words(self.last_seen_seconds), self.count.to_string(), output::or_dash(self.pod.as_ref())]
    }

    /// The packets, in words.
    pub(crate) fn packet(&self) -> String {
        let local = self.peer_local.as_ref();
        let peer = local.map_or_else(|| self.peer.to_string(), |pod| format!("{} ({pod})", self.peer));
        let word = if self.direction == Direction::Ingress.name() { "from" } else { "to" };
        match self.port {
            0 => format!("{word} {peer} {}", self.protocol),
            port => format!("{word} {peer} {}/{port}", self.protocol),
        }
    }

    /// The policies that a drop is the work of: the rule's, else the audited ones among those that isolate, else all of these.
    pub(crate) fn blamed(&self) -> Vec<String> {
        let rule = self.rule.as_ref().and_then(|rule| rule.policy.clone());
        let Isolation { policies, audited, .. } = &self.isolated_by;
        let isolating = if audited.is_empty() { policies } else { audited };
        rule.map_or_else(|| isolating.clone(), |policy| vec![policy])
    }

    /// What decided, in words.
    pub(crate) fn because(&self) -> String {
        because(self.rule.as_ref(), &self.isolated_by, self.help)
    }
}

/// What caused a drop: the rule, or the policies of which none lets it pass, or what the reason means.
pub(crate) fn because(rule: Option<&RuleName>, isolated_by: &Isolation, help: &str) -> String {
    match rule {
        Some(rule) => rule.to_string(),
        None if isolated_by.total > 0 => format!("no rule of {isolated_by}"),
        None => help.to_owned(),
    }
}

/// Totals since the maps were made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Counters {
    forwarded: Total,
    dropped: Total,
    by_reason: Vec<ReasonTotal>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Total {
    packets: u64,
    bytes: u64,
}

impl From<sluice_abi::Counter> for Total {
    fn from(counter: sluice_abi::Counter) -> Self {
        Self { packets: counter.packets, bytes: counter.bytes }
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} packets, {} bytes", self.packets, self.bytes)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReasonTotal {
    reason: &'static str,
    packets: u64,
    bytes: u64,
    help: &'static str,
}

/// Sums the counters; every reason is listed, in the order of their numbers.
pub(crate) fn counters(maps: &Maps) -> Result<Counters, MapsError> {
    let by_reason = DropReason::ALL
        .iter()
        .map(|reason| {
            let Total { packets, bytes } = maps.counters.dropped(*reason)?.into();
            Ok(ReasonTotal { reason: reason.name(), packets, bytes, help: reason.help() })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let dropped = by_reason.iter().fold(Total::default(), |sum, one| Total {
        packets: sum.packets.saturating_add(one.packets),
        bytes: sum.bytes.saturating_add(one.bytes),
    });
    Ok(Counters { forwarded: maps.counters.forwarded()?.into(), dropped, by_reason })
}

impl Counters {
    /// What was forwarded and what was dropped, in all.
    pub(crate) fn totals(&self) -> (Total, Total) {
        (self.forwarded, self.dropped)
    }
}

impl Answer for Counters {
    fn text(&self) -> String {
        let row = |name: &str, packets: u64, bytes: u64, help: &str| {
            [name.to_owned(), packets.to_string(), bytes.to_string(), help.to_owned()]
        };
        let reasons = self.by_reason.iter().map(|one| row(one.reason, one.packets, one.bytes, one.help));
        let totals = [
            row("forwarded", self.forwarded.packets, self.forwarded.bytes, "Let pass, to or from pods."),
            row("dropped", self.dropped.packets, self.dropped.bytes, "For whatever reason:"),
        ];
        output::table(["COUNTER", "PACKETS", "BYTES", "MEANING"], totals.into_iter().chain(reasons))
    }
}
