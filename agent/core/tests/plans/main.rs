//! Properties of compiling and planning, over random histories of a small cluster.
//!
//! `world` makes the histories, `oracle` reads policies literally; the properties stand here.

mod cluster_policy;
mod full;
#[path = "../policy/oracle/mod.rs"]
mod oracle;
mod services;
mod swaps;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sluice_abi::{Addr, Direction, Endpoint, EndpointId, Identity, RuleSetId, endpoint_flags};
use sluice_core::{
    cluster::{Change, LocalEndpoint, NodeName},
    compile::{Compiler, Settings, compile_with},
    diff::{Differ, Limits, Outcome, Rejection, diff},
    object::ObjectKey,
    plan::{Actual, Key, Step},
};
use world::{History, PROBES, World, history, local_node};

/// An address of a pod of this node, as long as it is that endpoint's.
type Place = (Addr, EndpointId);

/// A judgement: at which place, in which direction, about which peer, protocol and port.
type Question = (Place, Direction, Addr, (u8, u16));

fn places(actual: &Actual) -> BTreeSet<Place> {
    let pods = actual.endpoints.iter().filter(|(_, endpoint)| endpoint.flags & endpoint_flags::HOST == 0);
    pods.map(|(addr, endpoint)| (*addr, endpoint.id)).collect()
}

fn questions(addrs: &BTreeSet<Place>) -> impl Iterator<Item = Question> {
    addrs.iter().flat_map(|addr| {
        Direction::ALL.into_iter().flat_map(move |direction| {
            world::peers()
                .into_iter()
                .flat_map(move |peer| PROBES.iter().map(move |probe| (*addr, direction, peer, *probe)))
        })
    })
}

/// Whether the maps let it pass; an address without a pod's endpoint is closed.
fn passes(actual: &Actual, ((addr, id), direction, peer, (protocol, port)): Question) -> bool {
    let Some(endpoint) = actual.endpoints.get(&addr).filter(|endpoint| endpoint.id == id) else {
        return false;
    };
    let set = match direction {
        Direction::Ingress => endpoint.ingress,
        Direction::Egress => endpoint.egress,
    };
    actual.judge(set, peer, protocol, port).is_some_and(|rule| rule.allows())
}

/// Whether they would if audited policies were enforced too.
fn shadow_passes(actual: &Actual, question: Question) -> bool {
    let ((addr, _), direction, peer, (protocol, port)) = question;
    let endpoint = &actual.endpoints[&addr];
    let set = match direction {
        Direction::Ingress => endpoint.shadow_ingress,
        Direction::Egress => endpoint.shadow_egress,
    };
    if set == RuleSetId::NONE {
        return passes(actual, question);
    }
    actual.judge(set, peer, protocol, port).is_some_and(|rule| rule.allows())
}

fn answers(actual: &Actual, addrs: &BTreeSet<Place>) -> Vec<(Question, bool)> {
    questions(addrs).map(|question| (question, passes(actual, question))).collect()
}

fn applied(actual: &Actual, plan: &[Step]) -> Actual {
    let mut actual = actual.clone();
    plan.iter().for_each(|step| actual.apply(step));
    actual
}

/// Whether a step can change an answer.
fn is_seen(step: &Step) -> bool {
    !matches!(step, Step::Number(..) | Step::Epoch(_) | Step::Grace)
}

/// Whether something of policy is left out.
fn is_of_policy(rejection: &Rejection) -> bool {
    matches!(
        rejection,
        Rejection::RuleSet { .. }
            | Rejection::Addresses { .. }
            | Rejection::Endpoint { .. }
            | Rejection::Policies { .. }
            | Rejection::Audit { .. }
    )
}

fn has_shadow(endpoint: &Endpoint) -> bool {
    [endpoint.shadow_ingress, endpoint.shadow_egress] != [RuleSetId::NONE; 2]
}

/// What a change is about; the later of two about the same replaces the earlier.
fn subject(change: &Change) -> String {
    match change {
        Change::Upsert(object) => object.key().to_string(),
        Change::Delete(key) => key.to_string(),
        Change::Attach(LocalEndpoint { id, .. }) | Change::Detach(id) => format!("endpoint {}", id.0),
        Change::NodeAddresses(_) => "addresses".to_owned(),
        Change::UplinkAddresses(_) => "uplinks".to_owned(),
    }
}

/// A plan, a step a line.
fn lines(plan: &[Step]) -> String {
    plan.iter().map(|step| format!("{step:?}\n")).collect()
}

/// Checks that every prefix of the plan passes what both ends pass and nothing that neither does.
fn check_prefixes(old: &Actual, plan: &[Step]) {
    let new = applied(old, plan);
    let addrs = &places(old) | &places(&new);
    let (before, after) = (answers(old, &addrs), answers(&new, &addrs));
    let mut middle = old.clone();
    for (index, step) in plan.iter().enumerate() {
        middle.apply(step);
        if !is_seen(step) {
            continue;
        }
        for (((question, was), (_, will)), (_, is)) in before.iter().zip(&after).zip(answers(&middle, &addrs))
        {
            assert!(!is || *was || *will, "step {index} opens {question:?}: {step:?}\n{}", lines(plan));
            assert!(is || !*was || !*will, "step {index} closes {question:?}: {step:?}\n{}", lines(plan));
        }
    }
}

/// What a number means; the same number never means two things.
#[derive(Debug, Default)]
struct Meanings(BTreeMap<(&'static str, u32), String>);

impl Meanings {
    fn learn(&mut self, actual: &Actual) {
        let identities =
            actual.identity_meta.iter().map(|(id, meta)| ("identity", id.0, format!("{:?}", meta.digest)));
        let sets =
            actual.rule_set_meta.iter().map(|(id, meta)| ("rule set", id.0, format!("{:?}", meta.digest)));
        let rules = actual.rule_meta.iter().map(|(id, meta)| ("rule", id.0, format!("{meta:?}")));
        let policies = actual
            .policy_meta
            .iter()
            .map(|(id, meta)| ("policy", id.0, format!("{:?}", (meta.namespace, meta.name, meta.kind))));
        let services = actual.service_meta.iter().map(|(id, meta)| ("service", id.0, format!("{meta:?}")));
        let backends = actual
            .backends
            .iter()
            .map(|(id, b)| ("backend", id.0, format!("{:?}", (b.addr, b.protocol, b.port))));
        for (kind, number, meaning) in
            identities.chain(sets).chain(rules).chain(policies).chain(services).chain(backends)
        {
            let known = self.0.entry((kind, number)).or_insert_with(|| meaning.clone());
            assert_eq!(*known, meaning, "{kind} {number} was used twice");
        }
    }
}

/// The smallest tables there are: plans are printed when they are wrong.
fn settings() -> Settings {
    Settings { maglev_table_size: 251, ..Settings::default() }
}

/// Runs a history; `visit` sees the maps before each plan, and the plan.
fn run(
    history: &History,
    limits: &Limits,
    mut visit: impl FnMut(&Actual, &Outcome, &mut Compiler),
) -> Actual {
    let mut compiler = Compiler::with_settings(local_node(), settings());
    let mut differ = Differ::new(*limits);
    let mut actual = Actual::default();
    let mut world = World::default();
    for batch in history {
        for action in batch {
            for change in world.act(action) {
                let _rejected = compiler.apply(change);
            }
        }
        let (desired, changes) = compiler.desired_changes();
        let outcome = differ.plan(desired, &changes, &actual);
        visit(&actual, &outcome, &mut compiler);
        actual = applied(&actual, &outcome.plan);
    }
    actual
}

proptest! {
    #[test]
    fn every_prefix_of_a_plan_is_safe(history in history()) {
        run(&history, &Limits::default(), |actual, outcome, _| check_prefixes(actual, &outcome.plan));
    }

    #[test]
    fn backends_of_a_frontend_switch_whole(history in history()) {
        run(&history, &Limits::default(), |actual, outcome, _| services::check_switches(actual, &outcome.plan));
    }

    #[test]
    fn no_client_is_let_in_or_shut_out_on_the_way(history in history()) {
        run(&history, &Limits::default(), |actual, outcome, _| services::check_clients(actual, &outcome.plan));
    }

    #[test]
    fn no_pod_is_masqueraded_within_the_cluster_on_the_way(history in history()) {
        run(&history, &Limits::default(), |actual, outcome, _| services::check_masquerade(actual, &outcome.plan));
    }

    #[test]
    fn a_differ_that_remembers_plans_what_one_that_reads_the_maps_does(history in history()) {
        run(&history, &Limits::default(), |actual, outcome, compiler| {
            let fresh = diff(compiler.desired(), actual, &Limits::default());
            let mut kinds = [&outcome.plan, &fresh.plan].map(|plan| services::symbols(actual, plan));
            kinds.iter_mut().for_each(|steps| steps.sort());
            assert_eq!(kinds[0], kinds[1]);
            assert_eq!((&outcome.in_force, &outcome.rejected), (&fresh.in_force, &fresh.rejected));
        });
    }

    #[test]
    fn nothing_is_left_to_do_after_a_plan(history in history()) {
        run(&history, &Limits::default(), |actual, outcome, compiler| {
            let after = applied(actual, &outcome.plan);
            let again = diff(compiler.desired(), &after, &Limits::default());
            assert_eq!(again.plan, [], "after\n{}", lines(&outcome.plan));
            assert_eq!(again.in_force, outcome.in_force);
            let is_served = |rejection: &Rejection| {
                matches!(rejection, Rejection::Contested { .. } | Rejection::Tied { .. })
            };
            assert!(outcome.rejected.iter().all(is_served));
        });
    }

    #[test]
    fn change_by_change_gives_what_compiling_from_scratch_gives(history in history()) {
        run(&history, &Limits::default(), |_, _, compiler| {
            let scratch = compile_with(compiler.cluster(), &local_node(), settings());
            assert_eq!(*compiler.desired(), scratch);
        });
    }

    #[test]
    fn a_number_keeps_its_meaning_for_ever(history in history()) {
        let mut meanings = Meanings::default();
        run(&history, &Limits::default(), |actual, outcome, _| {
            let mut actual = actual.clone();
            for step in &outcome.plan {
                actual.apply(step);
                meanings.learn(&actual);
            }
        });
    }

    #[test]
    fn the_maps_say_what_the_policies_say(history in history()) {
        let mut world = World::default();
        let mut batches = history.iter();
        run(&history, &Limits::default(), |actual, outcome, _| {
            batches.next().expect("a batch for each plan").iter().for_each(|action| drop(world.act(action)));
            let after = applied(actual, &outcome.plan);
            let all = world.objects();
            let enforced = oracle::enforced(&all);
            let ask = |objects: &[serde_json::Value], question: Question| {
                let ((addr, _), direction, peer, (protocol, port)) = question;
                let corners = &mut oracle::Corners::new();
                oracle::Oracle { objects }.judged(addr.into(), direction, peer.into(), (protocol, port), corners)
            };
            for (question, is) in answers(&after, &places(&after)) {
                assert_eq!(is, ask(&enforced, question).unwrap_or(is), "{question:?} in {all:#?}");
                let would = shadow_passes(&after, question);
                assert_eq!(would, ask(&all, question).unwrap_or(would), "shadow of {question:?} in {all:#?}");
            }
        });
    }

    #[test]
    fn a_plan_cut_short_is_made_good(history in history(), cut in any::<prop::sample::Index>()) {
        run(&history, &Limits::default(), |actual, outcome, compiler| {
            if outcome.plan.is_empty() {
                return;
            }
            let cut = cut.index(outcome.plan.len());
            let middle = applied(actual, &outcome.plan[..cut]);
            let rest = diff(compiler.desired(), &middle, &Limits::default());
            check_prefixes(&middle, &rest.plan);
            let repaired = applied(&middle, &rest.plan);
            let whole = applied(actual, &outcome.plan);
            let addrs = places(&whole);
            assert_eq!(answers(&repaired, &addrs), answers(&whole, &addrs));
            assert_eq!(diff(compiler.desired(), &repaired, &Limits::default()).plan, []);
        });
    }

    #[test]
    fn a_plan_cut_short_still_has_flows_judged_again(history in history(), cut in any::<prop::sample::Index>()) {
        run(&history, &Limits::default(), |actual, outcome, compiler| {
            let cut = cut.index(outcome.plan.len() + 1);
            let middle = applied(actual, &outcome.plan[..cut]);
            let rest = diff(compiler.desired(), &middle, &Limits::default()).plan;
            let addrs = &places(actual) | &places(&middle);
            let verdicts_changed = answers(actual, &addrs) != answers(&middle, &addrs);
            let is_epoch = |step: &Step| matches!(step, Step::Epoch(_));
            let moved = middle.epoch != actual.epoch || rest.iter().any(is_epoch);
            assert!(moved || !verdicts_changed, "cut at {cut} of\n{}", lines(&outcome.plan));
            let repaired = applied(&middle, &rest);
            assert_eq!(diff(compiler.desired(), &repaired, &Limits::default()).plan, []);
        });
    }

    #[test]
    fn what_is_told_again_leaves_nothing_pending(history in history()) {
        let mut again: Vec<Change> = Vec::new();
        let mut world = World::default();
        let mut compiler = Compiler::with_settings(local_node(), settings());
        for change in history.iter().flatten().flat_map(|action| world.act(action)) {
            let _rejected = compiler.apply(change.clone());
            again.retain(|known| subject(known) != subject(&change));
            again.push(change);
        }
        compiler.desired();
        for change in again {
            let _rejected = compiler.apply(change);
        }
        assert!(!compiler.has_pending());
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole(history in history(), limits in world::limits()) {
        run(&history, &limits, |actual, outcome, compiler| {
            let mut middle = actual.clone();
            for step in &outcome.plan {
                middle.apply(step);
                world::check_fits(&middle, &limits);
            }
            check_prefixes(actual, &outcome.plan);
            services::check_switches(actual, &outcome.plan);
            let again = diff(compiler.desired(), &middle, &limits);
            if again.rejected == outcome.rejected {
                // Slices do not tell which backends of a refused Service only keep their flows: a restart forgets them.
                let is_forgotten = |step: &Step| matches!(step, Step::Grace | Step::Delete(Key::Backend(_)));
                let is_refused = |rejection: &Rejection| matches!(rejection, Rejection::Service { .. });
                let forgets = outcome.rejected.iter().any(is_refused);
                let left = again.plan.iter().filter(|step| !(forgets && is_forgotten(step)));
                assert_eq!(left.collect::<Vec<_>>(), Vec::<&Step>::new(), "after\n{}", lines(&outcome.plan));
            }
        });
    }

    #[test]
    fn audits_take_no_room_from_what_is_enforced(history in history(), limits in world::limits()) {
        let mut world = World::default();
        let mut batches = history.iter();
        run(&history, &Limits::default(), |_, _, compiler| {
            batches.next().expect("a batch for each plan").iter().for_each(|action| drop(world.act(action)));
            let mut cluster = compiler.cluster().clone();
            for policy in compiler.cluster().audited() {
                cluster.apply(Change::Delete(ObjectKey::from(policy.clone()))).expect("a deletion");
            }
            let alone = diff(&compile_with(&cluster, &local_node(), settings()), &Actual::default(), &limits);
            let both = diff(compiler.desired(), &Actual::default(), &limits);
            if alone.rejected.iter().any(is_of_policy) {
                return;
            }
            let rejected: Vec<_> = both.rejected.iter().filter(|one| is_of_policy(one)).collect();
            assert!(rejected.iter().all(|one| matches!(one, Rejection::Audit { .. })), "{rejected:?}");
            let [alone, both] = [&alone, &both].map(|outcome| applied(&Actual::default(), &outcome.plan));
            assert_eq!(answers(&alone, &places(&alone)), answers(&both, &places(&alone)));
            let has_shadow = |actual: &Actual| actual.endpoints.values().any(has_shadow);
            assert!(!has_shadow(&both) || rejected.is_empty());
        });
    }

    #[test]
    fn both_families_fare_alike(history in history()) {
        let history = world::without_ranges(history);
        let last = run(&history, &Limits::default(), |_, _, _| {});
        for (addr, id) in places(&last).into_iter().filter(|(addr, _)| addr.is_v4()) {
            for direction in Direction::ALL {
                for peer in world::pod_numbers() {
                    for probe in PROBES {
                        let v4 = ((addr, id), direction, world::v4(peer), *probe);
                        let v6 = ((world::twin(addr), id), direction, world::v6(peer), *probe);
                        prop_assert_eq!(passes(&last, v4), passes(&last, v6), "{:?}", v4);
                    }
                }
            }
        }
    }
}

#[test]
fn an_address_that_satisfies_nothing_has_no_entry() {
    let history = vec![vec![world::Action::Pod { number: 0, app: 0, phase: 0, ports: 0 }]];
    let last = run(&history, &Limits::default(), |_, _, _| {});
    assert!(last.ipcache.is_empty());
    assert_eq!(last.identity_of(world::v4(0)), Identity::ANY);
}

#[test]
fn an_identity_that_does_not_fit_leaves_out_its_addresses_and_no_others() {
    let running = |number| world::Action::Pod { number, app: number % 2, phase: 0, ports: 0 };
    // Who may talk to the pods of namespace a: those of either app there, on a port each.
    let rules = (1..3).map(|app| world::RuleShape { peers: vec![app], ports: vec![0] });
    let spec = world::PolicyShape { mode: 0, selects: 0, types: 0, rules: [rules.collect(), Vec::new()] };
    let mut batch: Vec<_> = (0..6).map(running).collect();
    batch.push(world::Action::Pod { number: 2, app: 1, phase: 0, ports: 0 });
    batch.extend([world::Action::Attach { number: 0 }, world::Action::Policy { number: 0, spec }]);
    let limits = Limits { identity_meta: 1, ..Limits::default() };
    let last = run(&vec![batch], &limits, |_, outcome, _| {
        assert_eq!(outcome.rejected, [Rejection::Addresses { map: "IDENTITY_META", count: 2 }]);
    });
    // Pods 0 and 4 are of the first app, pod 2 of the second; both families.
    assert_eq!((last.identity_meta.len(), last.ipcache.len()), (1, 4));
}

#[test]
fn an_endpoint_without_its_pod_is_closed() {
    let mut compiler = Compiler::new(NodeName("here".to_owned()));
    compiler.apply(Change::Attach(world::endpoint(0, 1))).expect("nothing to reject");
    let outcome = diff(compiler.desired(), &Actual::default(), &Limits::default());
    let actual = applied(&Actual::default(), &outcome.plan);
    assert!(actual.endpoints.is_empty() && outcome.in_force.is_empty());
    assert_eq!(actual.endpoint_meta.len(), 1);
    assert!(actual.interfaces.is_empty());
}

#[test]
fn a_table_that_does_not_fit_leaves_the_choice_to_chance_until_it_does() {
    let service = |number| world::Action::Service { number, ports: 1, outside: 0b10 };
    let slice = |number| world::Action::Slice { number, conditions: [1, 1, 0, 0] };
    let history = vec![
        vec![slice(0), slice(1), service(0), service(1)],
        vec![world::Action::ServiceGone { number: 0 }],
        vec![world::Action::NodeAddresses { count: 1 }],
    ];
    let limits = Limits { slots: 300, ..Limits::default() };
    let mut left_out = Vec::new();
    let last = run(&history, &limits, |actual, outcome, _| {
        services::check_switches(actual, &outcome.plan);
        left_out.push(outcome.rejected.iter().map(ToString::to_string).collect::<Vec<_>>());
    });
    let words = "SLOTS has no room for a table of Service a/service-1: chance chooses its backends";
    // The first Service's table still stands while it is replaced.
    assert_eq!(left_out, [vec![words.to_owned()], vec![words.to_owned()], Vec::new()]);
    assert!(last.frontends.values().any(|frontend| frontend.count == 251));
}
