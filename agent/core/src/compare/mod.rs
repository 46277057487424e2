//! What changes between two sets of objects: which pods reach whom on which ports, before and after.
//!
//! Start at [`compare`]. Pods that stand on both sides are compared, each with every other and with every range of
//! addresses outside that a rule tells apart; `classes` finds those ranges, and the ports to probe.
//!
//! **Invariant: exact.** Between two ports that any rule names as a boundary all answers are equal, so one probe stands
//! for all; the same holds for addresses and the ranges that rules name.

mod classes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;
use sluice_abi::{Addr, Direction, Prefix};

use crate::{
    explain::{Protocol, Word},
    reach::{Passes, Reach},
    world::{Pod, World},
};

/// What changes.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The flows whose verdict changes, by source, destination, protocol and port.
    pub changes: Vec<Change>,
    /// Pods that are new; nothing is said about their flows.
    pub added: Vec<String>,
    /// Pods that are gone.
    pub removed: Vec<String>,
    /// Pods that were compared.
    pub compared: usize,
}

/// Flows whose verdict changes alike.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Namespace and name of the pod that opens them, or a range of addresses outside, without the smaller ones that are
    /// told apart.
    pub from: String,
    /// Whom they are for.
    pub to: String,
    /// With which protocol; `ICMP` stands for every protocol without ports, `any` for every protocol.
    pub protocol: &'static str,
    /// To which ports; none for all of them.
    pub ports: Option<Ports>,
    /// The verdict before.
    pub old: Word,
    /// The verdict after.
    pub new: Word,
}

/// Destination ports, both ends included.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// One end of the flows that are probed.
#[derive(Clone, Copy)]
enum Party<'a> {
    /// A pod, before and after.
    Pod(&'a Pod, &'a Pod),
    /// A range, and an address of it that stands for all.
    Range(Prefix, Addr),
}

impl Party<'_> {
    fn name(&self) -> String {
        match self {
            Self::Pod(pod, _) => pod.name.to_string(),
            Self::Range(range, _) => range.to_string(),
        }
    }
}

/// Verdicts before and after, of one class of ports.
type Verdicts = BTreeMap<(Protocol, Ports), (Word, Word)>;

/// Compares two worlds. Give both the same [`crate::world::Assumed`], so that pods keep the addresses that are assumed.
pub fn compare(old: &World, new: &World) -> Comparison {
    let both = old.pods().iter().filter_map(|pod| Some(Party::Pod(pod, new.pod(&pod.name)?)));
    let mut parties: Vec<Party<'_>> = both.collect();
    let compared = parties.len();
    let ranges = classes::ranges([old, new]);
    parties.extend(ranges.into_iter().map(|(range, addr)| Party::Range(range, addr)));
    let classes = classes::ports([old, new]);
    let probes: Vec<_> = classes.iter().map(|(protocol, ports)| (*protocol, ports.first)).collect();
    let mut reach = [Reach::new(old, probes.clone()), Reach::new(new, probes)];
    let mut changes = Vec::new();
    for from in &parties {
        for to in &parties {
            let differing = differing(&mut reach, from, to, &classes);
            changes.extend(merged(&differing).into_iter().map(|(protocol, ports, (old, new))| Change {
                from: from.name(),
                to: to.name(),
                protocol,
                ports,
                old,
                new,
            }));
        }
    }
    let names =
        |world: &World| -> BTreeSet<String> { world.pods().iter().map(|pod| pod.name.to_string()).collect() };
    let (before, after) = (names(old), names(new));
    Comparison {
        changes,
        added: after.difference(&before).cloned().collect(),
        removed: before.difference(&after).cloned().collect(),
        compared,
    }
}

/// The classes of ports whose verdict is another one now.
fn differing(
    reach: &mut [Reach<'_>; 2],
    from: &Party<'_>,
    to: &Party<'_>,
    classes: &[(Protocol, Ports)],
) -> Verdicts {
    let [old, new] = reach;
    let mut outside = |(old_pod, new_pod): (&Pod, &Pod), direction, peer| -> [Passes; 2] {
        let before = Passes::clone(&old.outside(old_pod, direction, peer));
        [before, Passes::clone(&new.outside(new_pod, direction, peer))]
    };
    let [before, after] = match (from, to) {
        (Party::Pod(old_pod, new_pod), Party::Range(_, peer)) => {
            outside((old_pod, new_pod), Direction::Egress, *peer)
        }
        (Party::Range(_, peer), Party::Pod(old_pod, new_pod)) => {
            outside((old_pod, new_pod), Direction::Ingress, *peer)
        }
        (Party::Pod(old_from, new_from), Party::Pod(old_to, new_to)) => {
            [old.allowed(old_from, old_to), new.allowed(new_from, new_to)]
        }
        (Party::Range(..), Party::Range(..)) => return Verdicts::new(),
    };
    if before == after {
        return Verdicts::new();
    }
    let differing = (0..classes.len()).filter(|probe| before.has(*probe) != after.has(*probe));
    let verdicts = |probe| (Word::of(before.has(probe)), Word::of(after.has(probe)));
    differing.map(|probe| (classes[probe], verdicts(probe))).collect()
}

const ALL: Ports = Ports { first: 0, last: u16::MAX };

/// The same changes in as few words as possible.
fn merged(differing: &Verdicts) -> Vec<(&'static str, Option<Ports>, (Word, Word))> {
    let mut merged: Vec<(Protocol, Ports, (Word, Word))> = Vec::new();
    for ((protocol, ports), verdicts) in differing {
        match merged.last_mut() {
            Some((last_protocol, last, last_verdicts))
                if last_protocol == protocol
                    && last_verdicts == verdicts
                    && u32::from(last.last) + 1 == u32::from(ports.first) =>
            {
                last.last = ports.last;
            }
            _ => merged.push((*protocol, *ports, *verdicts)),
        }
    }
    if let [(_, _, verdicts), ..] = merged.as_slice()
        && merged.len() == Protocol::ALL.len()
        && merged.iter().all(|(_, ports, others)| *ports == ALL && others == verdicts)
    {
        return vec![("any", None, *verdicts)];
    }
    let named = |(protocol, ports, verdicts): (Protocol, Ports, _)| {
        (protocol.name(), (ports != ALL).then_some(ports), verdicts)
    };
    merged.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_neighbouring_ports_are_one_and_of_every_protocol_too() {
        let to_deny = (Word::Allow, Word::Deny);
        let class = |protocol, first, last| ((protocol, Ports { first, last }), to_deny);
        let whole = |protocol| class(protocol, 0, u16::MAX);
        let some = Verdicts::from([
            class(Protocol::Tcp, 0, 79),
            class(Protocol::Tcp, 80, 80),
            class(Protocol::Tcp, 82, u16::MAX),
            whole(Protocol::Icmp),
        ]);
        let ports = |first, last| Some(Ports { first, last });
        let wanted = vec![
            ("TCP", ports(0, 80), to_deny),
            ("TCP", ports(82, u16::MAX), to_deny),
            ("ICMP", None, to_deny),
        ];
        assert_eq!(merged(&some), wanted);
        let all: Verdicts = Protocol::ALL.into_iter().map(whole).collect();
        assert_eq!(merged(&all), vec![("any", None, to_deny)]);
    }
}
