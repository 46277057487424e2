//! `sluice policy dump`: the compiled rules, as the kernel sees them.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;
use sluice_abi::{Identity, Rule, RuleId, RuleKey, RuleSetId, RuleSetMeta};
use sluice_maps::{Maps, MapsError, RuleRange};

use super::pods_by_rule_set;
use crate::{
    names::{self, Isolation, Names, RuleName},
    output::{self, Answer},
};

/// The rule sets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Dump {
    rule_sets: Vec<RuleSet>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleSet {
    id: u32,
    direction: &'static str,
    isolated_by: Isolation,
    /// Namespace and name of the pods of this node that use it.
    pods: Vec<String>,
    /// Those of which it is the shadow: judged, never enforced, with the audited policies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shadow_of: Vec<String>,
    /// What is allowed or denied; what no entry matches is dropped.
    entries: Vec<Entry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    identity: u32,
    /// The selectors that the peers satisfy, in words.
    peers: String,
    /// None for every protocol.
    protocol: Option<String>,
    /// None for every port.
    ports: Option<Ports>,
    verdict: &'static str,
    rule: Option<RuleName>,
}

/// Destination ports, both ends included.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ports {
    first: u16,
    last: u16,
}

/// Reads the rule sets, sorted by number; those of one pod when `pod` names it.
pub(crate) fn answer(maps: &Maps, pod: Option<&str>) -> Result<Dump, MapsError> {
    let mut users = pods_by_rule_set(maps)?;
    let mut metas: BTreeMap<RuleSetId, RuleSetMeta> = maps.rule_set_meta.entries()?.into_iter().collect();
    if let Some(pod) = pod {
        metas.retain(|id, _| users.get(id).is_some_and(|users| users.all().any(|user| user == pod)));
    }
    let mut rules: BTreeMap<RuleSetId, Vec<(RuleRange, Rule)>> = BTreeMap::new();
    maps.rules.for_each(|range, rule| {
        if metas.contains_key(&range.key.rule_set) {
            rules.entry(range.key.rule_set).or_default().push((range, rule));
        }
    })?;
    let rule_set = |(id, meta): (RuleSetId, RuleSetMeta)| {
        let users = users.remove(&id).unwrap_or_default();
        Ok(RuleSet {
            id: id.0,
            direction: names::direction(meta.direction),
            isolated_by: Names(maps).isolation(id)?,
            pods: users.enforced,
            shadow_of: users.shadow,
            entries: entries(maps, rules.remove(&id).unwrap_or_default())?,
        })
    };
    Ok(Dump { rule_sets: metas.into_iter().map(rule_set).collect::<Result<_, _>>()? })
}

/// What entries that may differ in their ports alone have in common.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
struct Subject {
    identity: Identity,
    protocol: Option<u8>,
    rule: RuleId,
    allows: bool,
}

fn entries(maps: &Maps, rules: Vec<(RuleRange, Rule)>) -> Result<Vec<Entry>, MapsError> {
    let mut ports: BTreeMap<Subject, Vec<Ports>> = BTreeMap::new();
    for (range, rule) in rules {
        let protocol = (range.bits > RuleKey::BITS_ANY_PROTOCOL).then_some(range.key.protocol);
        let subject =
            Subject { identity: range.key.identity, protocol, rule: rule.id, allows: rule.allows() };
        ports.entry(subject).or_default().push(ports_of(&range));
    }
    let ranges = ports
        .into_iter()
        .flat_map(|(subject, ports)| merged(ports).into_iter().map(move |one| (subject, one)));
    let mut found: Vec<(Subject, Ports)> = ranges.collect();
    found.sort_unstable_by_key(|(subject, ports)| (subject.identity, subject.protocol, *ports, *subject));
    found.into_iter().map(|(subject, ports)| entry(maps, subject, ports)).collect()
}

fn entry(maps: &Maps, subject: Subject, ports: Ports) -> Result<Entry, MapsError> {
    Ok(Entry {
        identity: subject.identity.0,
        peers: Names(maps).identity(subject.identity)?,
        protocol: subject.protocol.map(names::protocol),
        ports: (ports != ALL_PORTS).then_some(ports),
        verdict: if subject.allows { "allow" } else { "deny" },
        rule: Names(maps).rule(subject.rule)?,
    })
}

/// The ports that a prefix of a rule key stands for.
fn ports_of(range: &RuleRange) -> Ports {
    let fixed = range.bits.saturating_sub(RuleKey::BITS_ANY_PORT).min(16);
    let open = 0xffff_u32 >> fixed;
    let first = u16::from_be_bytes(range.key.port) & !(open as u16);
    Ports { first, last: first | open as u16 }
}

/// The same ports in as few ranges as possible, sorted.
fn merged(mut ports: Vec<Ports>) -> Vec<Ports> {
    ports.sort_unstable();
    let mut ranges: Vec<Ports> = Vec::new();
    for next in ports {
        match ranges.last_mut() {
            Some(range) if u32::from(next.first) <= u32::from(range.last) + 1 => {
                range.last = range.last.max(next.last)
            }
            _ => ranges.push(next),
        }
    }
    ranges
}

const ALL_PORTS: Ports = Ports { first: 0, last: u16::MAX };

impl Answer for Dump {
    fn text(&self) -> String {
        let mut text = String::new();
        for set in &self.rule_sets {
            if !text.is_empty() {
                text.push('\n');
            }
            // Writing to a string cannot go wrong.
            let _ = writeln!(text, "Rule set {}, {}", set.id, set.direction);
            let _ = writeln!(text, "  isolated by: {}", set.isolated_by);
            let _ = writeln!(text, "  pods:        {}", output::list(&set.pods));
            if !set.shadow_of.is_empty() {
                let _ = writeln!(text, "  shadow of:   {}", output::list(&set.shadow_of));
            }
            let rows = set.entries.iter().map(|entry| {
                [
                    entry.verdict.to_owned(),
                    entry.protocol.clone().unwrap_or_else(|| "any".to_owned()),
                    ports_text(entry.ports),
                    output::or_dash(entry.rule.as_ref()),
                    entry.identity.to_string(),
                    entry.peers.clone(),
                ]
            });
            let table = output::table(["VERDICT", "PROTOCOL", "PORTS", "RULE", "IDENTITY", "PEERS"], rows);
            table.lines().for_each(|line| {
                let _ = writeln!(text, "  {line}");
            });
        }
        text
    }
}

fn ports_text(ports: Option<Ports>) -> String {
    match ports {
        None => "any".to_owned(),
        Some(Ports { first, last }) if first == last => first.to_string(),
        Some(Ports { first, last }) => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(port: u16, bits: u32) -> Ports {
        ports_of(&RuleRange { key: RuleKey { port: port.to_be_bytes(), ..RuleKey::default() }, bits })
    }

    #[test]
    fn a_prefix_of_a_key_stands_for_its_ports() {
        assert_eq!(range(80, RuleKey::BITS), Ports { first: 80, last: 80 });
        assert_eq!(range(80, RuleKey::BITS - 1), Ports { first: 80, last: 81 });
        assert_eq!(range(0x8000, RuleKey::BITS_ANY_PORT + 1), Ports { first: 0x8000, last: 0xffff });
        assert_eq!(range(0, RuleKey::BITS_ANY_PORT), ALL_PORTS);
        assert_eq!(range(0, RuleKey::BITS_ANY_PROTOCOL), ALL_PORTS);
    }

    #[test]
    fn neighbouring_ports_make_one_range_and_gaps_stay() {
        let ports = vec![range(84, 96), range(80, 94), range(443, 96), range(65_535, 96), range(82, 95)];
        let ranges = [(80, 84), (443, 443), (65_535, 65_535)].map(|(first, last)| Ports { first, last });
        assert_eq!(merged(ports), ranges);
    }
}
