//! What holds for Services at every moment of a plan.

use std::collections::BTreeMap;

use sluice_abi::{
    Addr, Backend, BackendState, Frontend, FrontendKey, NodeFamily, Prefix, frontend_flags, node_flags,
};
use sluice_core::plan::{Actual, Entry, Key, SourceRange, Step};

use super::{applied, lines, world};

/// The backends of each frontend, as the programs find them.
fn backends(actual: &Actual) -> BTreeMap<FrontendKey, Vec<Option<Backend>>> {
    let of = |frontend: &Frontend| {
        let slots = frontend.first_slot..frontend.first_slot + frontend.count;
        slots.map(|slot| actual.slots.get(&slot).and_then(|id| actual.backends.get(id)).copied()).collect()
    };
    actual.frontends.iter().map(|(key, frontend)| (*key, of(frontend))).collect()
}

/// Checks that a frontend has its old or its new backends at every moment, and that all of them take flows.
pub(crate) fn check_switches(old: &Actual, plan: &[Step]) {
    let ends = [backends(old), backends(&applied(old, plan))];
    let addresses = |backends: &[Option<Backend>]| -> Vec<_> {
        backends.iter().map(|backend| backend.map(|b| (b.addr, b.protocol, b.port))).collect()
    };
    let is_about_services = |step: &Step| {
        matches!(
            step,
            Step::Put(Entry::Frontend(..) | Entry::Slot(..) | Entry::Backend(..))
                | Step::Delete(Key::Frontend(_) | Key::Slot(_) | Key::Backend(_))
        )
    };
    let mut middle = old.clone();
    for step in plan {
        middle.apply(step);
        if !is_about_services(step) {
            continue;
        }
        for (key, now) in backends(&middle) {
            assert!(
                ends.iter().any(|end| end.get(&key).is_some_and(|end| addresses(end) == addresses(&now))),
                "{key:?} has {now:?} after {step:?} in\n{}",
                lines(plan)
            );
            let takes_flows =
                |backend: &Option<Backend>| backend.is_some_and(|b| b.state == BackendState::Active as u8);
            assert!(now.iter().all(takes_flows), "{key:?} has {now:?} after {step:?} in\n{}", lines(plan));
        }
    }
}

/// Which clients each frontend lets in.
fn clients(actual: &Actual) -> BTreeMap<FrontendKey, Vec<bool>> {
    let lets_in = |frontend: &Frontend, client: &Addr| {
        let is_in = |range: &SourceRange| range.service == frontend.service && range.clients.contains(client);
        frontend.flags & frontend_flags::SOURCE_RANGES == 0 || actual.source_ranges.keys().any(is_in)
    };
    let of = |frontend: &Frontend| world::peers().iter().map(|client| lets_in(frontend, client)).collect();
    actual.frontends.iter().map(|(key, frontend)| (*key, of(frontend))).collect()
}

/// Checks that a client whom both ends let in is let in at every moment, and one whom neither does is not.
pub(crate) fn check_clients(old: &Actual, plan: &[Step]) {
    let ends = [clients(old), clients(&applied(old, plan))];
    let mut middle = old.clone();
    for step in plan {
        middle.apply(step);
        if !matches!(
            step,
            Step::Put(Entry::Frontend(..) | Entry::SourceRange(..))
                | Step::Delete(Key::Frontend(_) | Key::SourceRange(_))
        ) {
            continue;
        }
        for (key, now) in clients(&middle) {
            for (index, is) in now.into_iter().enumerate() {
                let mut known = ends.iter().filter_map(|end| end.get(&key)).map(|end| end[index]);
                assert!(
                    known.any(|end| end == is),
                    "{key:?} client {index} {is} after {step:?} in\n{}",
                    lines(plan)
                );
            }
        }
    }
}

/// Whether what a pod sends to an address takes the node's.
fn is_masqueraded(actual: &Actual, to: &Addr) -> bool {
    let family = if to.is_v4() { NodeFamily::V4 } else { NodeFamily::V6 };
    let masquerades = actual.node.get(&family).is_some_and(|node| node.flags & node_flags::MASQUERADE != 0);
    masquerades && !actual.no_masquerade.keys().any(|range| range.contains(to))
}

/// Checks that nothing is masqueraded on the way that neither end masquerades.
pub(crate) fn check_masquerade(old: &Actual, plan: &[Step]) {
    let new = applied(old, plan);
    let at = |last: u8| [Addr::v4([10, 20, last, 1]), Addr::v4([192, 0, 2, last])];
    let probes: Vec<Addr> = (0..20).flat_map(at).chain([Addr::v4([8, 8, 8, 8]), world::v6(1)]).collect();
    let mut middle = old.clone();
    for step in plan {
        middle.apply(step);
        for to in &probes {
            let is = is_masqueraded(&middle, to);
            let ends = [is_masqueraded(old, to), is_masqueraded(&new, to)];
            assert!(ends.contains(&is), "{to} {is} after {step:?} in\n{}", lines(plan));
        }
    }
    let everything = Prefix::new(Addr::v4([0; 4]), 96);
    assert!(new.no_masquerade.keys().all(|range| !range.covers(&everything)));
}

/// The steps of a plan, with what depends on numbers left out: where slices lie, and what backends are called.
pub(crate) fn symbols(old: &Actual, plan: &[Step]) -> Vec<String> {
    let new = applied(old, plan);
    let backend = |actual: &Actual, id| {
        actual.backends.get(&id).map(|b| format!("{} {} {}", b.addr, b.protocol, u16::from_be_bytes(b.port)))
    };
    let words = |step: &Step| match step {
        Step::Put(Entry::Slot(_, id)) => format!("slot {:?}", backend(&new, *id)),
        Step::Delete(Key::Slot(_)) => "slot".to_owned(),
        Step::Put(Entry::Backend(id, value)) => format!("backend {:?} {}", backend(&new, *id), value.state),
        Step::Delete(Key::Backend(id)) => format!("no backend {:?}", backend(old, *id)),
        Step::Put(Entry::Frontend(key, value)) => {
            format!("frontend {key:?} {} {} {}", value.count, value.flags, value.affinity_s)
        }
        Step::Put(Entry::ServiceMeta(_, meta)) => format!("service {}/{}", meta.namespace, meta.name),
        Step::Put(Entry::SourceRange(range, _)) => format!("clients {}", range.clients),
        Step::Put(_) | Step::Delete(_) | Step::Number(..) | Step::Epoch(_) | Step::Grace => {
            format!("{step:?}")
        }
    };
    plan.iter().map(words).collect()
}
