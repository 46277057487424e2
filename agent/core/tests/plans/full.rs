//! Full maps: an address that is left out is let pass nothing that the policies deny it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sluice_abi::{Addr, Direction, Prefix, protocol};
use sluice_core::{
    cluster::Change,
    compile::Compiler,
    diff::{Differ, Limits, Outcome, Rejection},
    object::Object,
    plan::Actual,
};

use super::{
    Question, answers, applied, check_prefixes, local_node, oracle, passes, places, run, settings,
    world::{self, Action, History, World},
};

/// Maps of addresses that some histories exceed, with room for all rules or not.
fn limits() -> impl Strategy<Value = Limits> {
    let rules = prop_oneof![Just(Limits::default().rules), 0usize..30];
    let sets = prop_oneof![Just(Limits::default().rule_set_meta), 2usize..8];
    (0usize..12, 0usize..5, 0usize..8, rules, sets).prop_map(
        |(ipcache, ipcache_cidrs, identity_meta, rules, rule_set_meta)| Limits {
            ipcache,
            ipcache_cidrs,
            identity_meta,
            rules,
            rule_set_meta,
            ..Limits::default()
        },
    )
}

/// The addresses that should have an entry and have none.
fn left_out(compiler: &mut Compiler, actual: &Actual) -> BTreeSet<Addr> {
    let wanted = compiler.desired().ipcache.keys().filter(|prefix| prefix.bits == 128);
    wanted.filter(|prefix| !actual.ipcache.contains_key(prefix)).map(|prefix| prefix.addr).collect()
}

proptest! {
    #[test]
    fn what_is_left_out_passes_nothing_that_is_denied(history in world::history(), limits in limits()) {
        let mut world = World::default();
        let mut batches = history.iter();
        run(&history, &limits, |actual, outcome, compiler| {
            batches.next().expect("a batch for each plan").iter().for_each(|action| drop(world.act(action)));
            check_prefixes(actual, &outcome.plan);
            let after = applied(actual, &outcome.plan);
            // A set that does not fit is refused, and the old one stays in force, whatever it says (promise 2).
            let has = |is: fn(&Rejection) -> bool| outcome.rejected.iter().any(is);
            if has(|rejection| matches!(rejection, Rejection::RuleSet { .. }))
                && !has(|rejection| matches!(rejection, Rejection::Policies { .. }))
            {
                return;
            }
            let left_out = left_out(compiler, &after);
            let objects = oracle::enforced(&world.objects());
            let oracle = oracle::Oracle { objects: &objects };
            for ((place, direction, peer, (protocol, port)), is) in answers(&after, &places(&after)) {
                let endpoint = after.endpoints[&place.0];
                let set = if direction == Direction::Ingress { endpoint.ingress } else { endpoint.egress };
                if is && left_out.contains(&peer) && after.rule_set_meta[&set].denies != 0 {
                    let corners = &mut oracle::Corners::new();
                    let wanted = oracle.judged(place.0.into(), direction, peer.into(), (protocol, port), corners);
                    assert_ne!(wanted, Some(false), "{place:?} {direction:?} {peer} {port} by {limits:?}: {:?}", outcome.rejected);
                }
            }
        });
    }
}

/// A cluster with pods on two nodes, and these policies besides.
struct Stage {
    compiler: Compiler,
    differ: Differ,
    actual: Actual,
}

impl Stage {
    /// Pod 0 of namespace a is here; pods 3 (b) and 4 (a) elsewhere, of another app.
    fn new(limits: Limits) -> Self {
        let mut stage = Self {
            compiler: Compiler::with_settings(local_node(), settings()),
            differ: Differ::new(limits),
            actual: Actual::default(),
        };
        let mut world = World::default();
        let pod = |number| Action::Pod { number, app: number % 2, phase: 0, ports: 0 };
        let mut actions = vec![Action::Attach { number: 0 }, pod(0), pod(3), pod(4)];
        actions.extend([0, 1].map(|number| Action::Namespace { number, team: number, mode: 0 }));
        for change in actions.iter().flat_map(|action| world.act(action)) {
            stage.apply(change);
        }
        stage
    }

    fn apply(&mut self, change: Change) {
        self.compiler.apply(change).expect("nothing to reject");
    }

    fn put(&mut self, yaml: &str) {
        let value = serde_saphyr::from_str(yaml).expect("YAML");
        self.apply(Change::Upsert(Object::from_value(value).expect("an object").expect("a known kind")));
    }

    fn plan(&mut self) -> Outcome {
        let (desired, changes) = self.compiler.desired_changes();
        let outcome = self.differ.plan(desired, &changes, &self.actual);
        check_prefixes(&self.actual, &outcome.plan);
        self.actual = applied(&self.actual, &outcome.plan);
        outcome
    }

    /// Whether the pod here lets a peer in, on TCP.
    fn lets_in(&self, peer: Addr, port: u16) -> bool {
        let place = places(&self.actual).into_iter().find(|(addr, _)| *addr == world::v4(0));
        let question = |place| -> Question { (place, Direction::Ingress, peer, (protocol::TCP, port)) };
        place.is_some_and(|place| passes(&self.actual, question(place)))
    }
}

/// Denies namespace b TCP 80 to every pod.
const DENY: &str = "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: deny},
    spec: {tier: Admin, priority: 1, subject: {namespaces: {}},
    ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: '1'}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}}";

const STRANGER: Addr = Addr::v4([10, 9, 0, 1]);

#[test]
fn a_denied_peer_that_does_not_fit_is_denied_with_whoever_looks_like_it() {
    for limits in
        [Limits { ipcache: 0, ..Limits::default() }, Limits { identity_meta: 0, ..Limits::default() }]
    {
        let mut stage = Stage::new(limits);
        stage.put(DENY);
        let outcome = stage.plan();
        let words: Vec<_> = outcome.rejected.iter().map(ToString::to_string).collect();
        assert!(words[0].ends_with("has no room for 2 more addresses"), "{words:?}");
        assert!(words[1].contains("that the ingress rules of deny deny: who cannot be told"), "{words:?}");
        // Pod 3 is denied, and on that port and no other so are pod 4 and strangers.
        for peer in [world::v4(3), world::v6(3), world::v4(4), STRANGER] {
            assert!(!stage.lets_in(peer, 80) && stage.lets_in(peer, 81), "{peer}");
        }
    }
}

#[test]
fn a_denied_peer_that_fits_later_opens_the_others_again() {
    let mut stage = Stage::new(Limits { ipcache: 2, ..Limits::default() });
    stage.put(DENY);
    assert_eq!(stage.plan().rejected, []);
    assert!(!stage.lets_in(world::v4(3), 80) && stage.lets_in(STRANGER, 80));
    let mut world = World::default();
    let pod = Action::Pod { number: 5, app: 1, phase: 0, ports: 0 };
    world.act(&pod).into_iter().for_each(|change| stage.apply(change));
    assert!(matches!(
        stage.plan().rejected[..],
        [Rejection::Addresses { count: 2, .. }, Rejection::Narrowed { .. }]
    ));
    assert!(!stage.lets_in(world::v4(5), 80) && !stage.lets_in(STRANGER, 80) && stage.lets_in(STRANGER, 81));
    assert_eq!(stage.plan().plan, []);
    world.act(&Action::PodGone { number: 5 }).into_iter().for_each(|change| stage.apply(change));
    assert_eq!(stage.plan().rejected, []);
    assert!(!stage.lets_in(world::v4(3), 80) && stage.lets_in(STRANGER, 80));
}

#[test]
fn a_pod_that_would_let_in_who_is_left_out_is_closed_when_rules_are_full_too() {
    let mut stage = Stage::new(Limits::default());
    stage.put(DENY);
    assert_eq!(stage.plan().rejected, []);
    let (addresses, rules) = (stage.actual.ipcache.len(), stage.actual.rules.len());
    stage.differ = Differ::new(Limits { ipcache: addresses, rules, ..Limits::default() });
    let mut world = World::default();
    let pod = Action::Pod { number: 5, app: 1, phase: 0, ports: 0 };
    world.act(&pod).into_iter().for_each(|change| stage.apply(change));
    let outcome = stage.plan();
    let is_closed = |rejection: &Rejection| matches!(rejection, Rejection::Closed { .. });
    assert!(outcome.rejected.iter().any(is_closed), "{:?}", outcome.rejected);
    assert!(
        outcome.in_force.is_empty() && !stage.lets_in(world::v4(5), 80) && !stage.lets_in(world::v4(4), 81)
    );
    assert_eq!(stage.plan().plan, []);
    world.act(&Action::PodGone { number: 5 }).into_iter().for_each(|change| stage.apply(change));
    assert_eq!((stage.plan().rejected, stage.lets_in(world::v4(4), 80)), (Vec::new(), true));
}

#[test]
fn a_pod_without_denials_keeps_its_old_rules_when_nothing_fits() {
    let mut stage = Stage::new(Limits::default());
    stage.plan();
    let rules = stage.actual.rules.len();
    stage.differ = Differ::new(Limits { ipcache: 0, rules, ..Limits::default() });
    stage.put(DENY);
    assert!(!stage.plan().rejected.is_empty());
    assert!(stage.lets_in(world::v4(3), 80));
}

#[test]
fn an_exception_of_one_address_is_left_out_after_every_pod() {
    let mut stage = Stage::new(Limits { ipcache: 1, ..Limits::default() });
    let policy = |ports: &str| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: a, name: open}}, spec: {{podSelector: {{}},
             ingress: [{{from: [{{ipBlock: {{cidr: 10.0.0.0/8, except: [10.9.0.1/32]}}}}]{ports}}},
                       {{from: [{{namespaceSelector: {{matchLabels: {{team: '1'}}}}}}]}}]}}}}"
        )
    };
    stage.put(&policy(""));
    let outcome = stage.plan();
    assert_eq!(outcome.rejected, [Rejection::Addresses { map: "IPCACHE", count: 2 }]);
    assert_eq!(
        stage.actual.ipcache.keys().filter(|prefix| prefix.bits == 128).collect::<Vec<_>>(),
        [&Prefix::host(STRANGER)]
    );
    assert!(!stage.lets_in(STRANGER, 80) && stage.lets_in(Addr::v4([10, 9, 0, 2]), 80));
    // Without room for the exception nothing of the range is let in.
    let mut stage = Stage::new(Limits { ipcache: 0, ..Limits::default() });
    stage.put(&policy(", ports: [{port: 80}]"));
    assert!(stage.plan().rejected.iter().any(|rejection| matches!(rejection, Rejection::Narrowed { .. })));
    assert!(!stage.lets_in(STRANGER, 80) && !stage.lets_in(Addr::v4([10, 9, 0, 2]), 80));
}

#[test]
fn network_policies_alone_are_not_narrowed() {
    let running = |number| Action::Pod { number, app: number % 2, phase: 0, ports: 0 };
    let rule = world::RuleShape { peers: vec![1], ports: vec![0] };
    let spec = world::PolicyShape { mode: 0, selects: 0, types: 0, rules: [vec![rule], Vec::new()] };
    let mut batch: Vec<_> = (0..6).map(running).collect();
    batch.extend([Action::Attach { number: 0 }, Action::Policy { number: 0, spec }]);
    let history: History = vec![batch];
    run(&history, &Limits { ipcache: 1, ..Limits::default() }, |_, outcome, _| {
        assert!(matches!(outcome.rejected[..], [Rejection::Addresses { map: "IPCACHE", .. }]));
    });
}
