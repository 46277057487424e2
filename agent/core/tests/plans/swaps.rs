//! Pods that change their places with one another.

use sluice_core::diff::Limits;

use super::{
    answers, applied, is_seen, places, run,
    world::{Action, History, PolicyShape, RuleShape},
};

/// A policy of namespace a: an app lets in the other, on one port.
fn policy(number: u8, app: u8, peer: u8) -> Action {
    let rule = RuleShape { peers: vec![1 + peer], ports: vec![0] };
    Action::Policy {
        number,
        spec: PolicyShape { mode: 0, selects: 1 + app, types: 0, rules: [vec![rule], Vec::new()] },
    }
}

#[test]
fn a_peer_on_its_way_may_only_what_both_its_identities_may_where_pods_change_their_rules_too() {
    // Pods 0, 2 and 4 are of namespace a, the first two on this node. When all change their labels, both rule sets are left by
    // one pod and entered by the other, while pod 4 goes from a peer of the one to a peer of the other.
    let pods = |apps: [u8; 3]| {
        let pod = |(number, app): (u8, u8)| Action::Pod { number, app, phase: 0, ports: 0 };
        [0, 2, 4].into_iter().zip(apps).map(pod).collect::<Vec<_>>()
    };
    let mut first = pods([0, 1, 0]);
    first.extend([0, 2].map(|number| Action::Attach { number }));
    first.extend([policy(0, 0, 1), policy(2, 1, 0)]);
    let history: History = vec![first, pods([1, 0, 1]), pods([0, 1, 0])];
    run(&history, &Limits::default(), |actual, outcome, _| {
        let after = applied(actual, &outcome.plan);
        let addrs = &places(actual) | &places(&after);
        let ends: Vec<_> = answers(actual, &addrs).into_iter().zip(answers(&after, &addrs)).collect();
        let mut middle = actual.clone();
        for step in &outcome.plan {
            middle.apply(step);
            // One set and one peer, for a pod that leaves the set and one that enters it: what neither end passes stays closed,
            // and some of what both pass has to wait.
            for (((question, was), (_, will)), (_, is)) in
                ends.iter().zip(answers(&middle, &addrs)).filter(|_| is_seen(step))
            {
                assert!(!is || *was || *will, "{step:?} opens {question:?}");
            }
        }
    });
}
