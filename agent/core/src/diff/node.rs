//! What the programs know of this node.
//!
//! Ranges that keep pods' own addresses stand before masquerading begins, and go after it has ended.

use sluice_abi::{NodeAddr, NodeFamily, node_flags};

use super::{Limits, Phases, Rejection, policy::delete_unless};
use crate::{
    desired::DesiredNode,
    plan::{Actual, Entry, Key, Step},
};

/// Plans this part of the state, whole or not at all.
pub(super) fn plan(desired: &DesiredNode, actual: &Actual, limits: &Limits) -> Phases {
    let mut phases = Phases::default();
    let new = desired.no_masquerade.iter().filter(|range| !actual.no_masquerade.contains_key(range));
    phases.prepare.extend(new.map(|range| Step::Put(Entry::NoMasquerade(*range, 1))));
    // Also what goes is there until everything else is in place.
    let peak = actual.no_masquerade.len() + phases.prepare.len();
    if peak > limits.no_masquerade && !phases.prepare.is_empty() {
        let rejected = vec![Rejection::Node { map: "NO_MASQUERADE", count: peak - limits.no_masquerade }];
        return Phases { rejected, ..Phases::default() };
    }
    let flags = if desired.masquerade { node_flags::MASQUERADE } else { 0 };
    for family in [NodeFamily::V4, NodeFamily::V6] {
        let addr = desired.addrs.iter().find(|addr| addr.is_v4() == (family == NodeFamily::V4));
        let wanted = addr.map(|addr| NodeAddr { addr: *addr, flags });
        let found = actual.node.get(&family);
        match wanted {
            Some(wanted) if found != Some(&wanted) => {
                phases.switch.push(Step::Put(Entry::Node(family, wanted)));
            }
            None if found.is_some() => phases.switch.push(Step::Delete(Key::Node(family))),
            Some(_) | None => {}
        }
    }
    let stays = |range: &_| desired.no_masquerade.contains(range);
    delete_unless(&actual.no_masquerade, stays, Key::NoMasquerade, &mut phases.clear);
    phases
}
