//! What [`World`] says is what compiling for each node says, and the faster ways to ask give the same answers.

mod generated;

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, strategy::ValueTree};
use serde_json::json;
use sluice_abi::{Addr, EndpointId};

use self::generated::{Plan, plans};
use super::{Assumed, World};
use crate::{
    cluster::{Change, Cluster, LocalEndpoint, NodeName},
    compare::{Comparison, compare},
    compile::compile,
    diff::{Limits, diff},
    explain::{AskError, Party, Port, Protocol, Question, Word, explain},
    matrix::matrix,
    object::{NamespacedName, Object},
    plan::Actual,
    verdict::{Answer, Flow, verdict},
};

/// The ports that rules of the generated policies name, and their neighbours.
const PORTS: [u16; 7] = [1, 79, 80, 81, 82, 83, 8080];

const CASES: u32 = 48;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_cell_is_what_check_says_and_what_the_maps_of_both_nodes_say(plan in plans()) {
        let world = World::new(plan.objects(), &mut Assumed::default());
        let maps = ["n1", "n2", ""].map(|node| (node, maps_of(&plan, &world, node))).into();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            for port in PORTS {
                let port = if protocol.has_ports() { port } else { 0 };
                let cells = matrix(&world, protocol, &Port::Number(port));
                for (row, from) in world.pods().iter().enumerate() {
                    for (column, to) in world.pods().iter().enumerate() {
                        let question = question(&from.name, &to.name, protocol, Port::Number(port));
                        let answer = explain(&world, &question);
                        let is_allowed = passes(&answer);
                        prop_assert_eq!(cells.allowed[row][column], is_allowed, "{:?}", question);
                        prop_assert_eq!(is_allowed, both_nodes_allow(&plan, &maps, &world, &question), "{:?}", question);
                    }
                }
            }
        }
    }

    #[test]
    fn a_named_port_in_a_matrix_is_each_destinations_own(plan in plans()) {
        let world = World::new(plan.objects(), &mut Assumed::default());
        let cells = matrix(&world, Protocol::Tcp, &Port::Named("http".to_owned()));
        for (row, from) in world.pods().iter().enumerate() {
            for (column, to) in world.pods().iter().enumerate() {
                let port = Port::Named("http".to_owned());
                let answer = explain(&world, &question(&from.name, &to.name, Protocol::Tcp, port));
                prop_assert_eq!(cells.allowed[row][column], passes(&answer));
            }
        }
    }

    #[test]
    fn a_comparison_has_every_change_and_no_other(old in plans(), policies in plans()) {
        let new = Plan { policies: policies.policies, ..old.clone() };
        let mut assumed = Assumed::default();
        let worlds = [&old, &new].map(|plan| World::new(plan.objects(), &mut assumed));
        let comparison = compare(&worlds[0], &worlds[1]);
        for from in worlds[0].pods() {
            for to in worlds[0].pods() {
                for protocol in Protocol::ALL {
                    for port in PORTS {
                        let port = if protocol.has_ports() { port } else { 0 };
                        let question = question(&from.name, &to.name, protocol, Port::Number(port));
                        let [old, new] = [&worlds[0], &worlds[1]].map(|world| passes(&explain(world, &question)));
                        let told = told(&comparison, &question, port);
                        prop_assert_eq!(told, (old != new).then_some(Word::of(new)), "{:?}", question);
                    }
                }
            }
        }
    }
}

/// Whether the generated clusters are worth asking: about half of the answers are yes.
#[test]
fn neither_verdict_is_rare_in_generated_clusters() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut asked, mut allowed) = (0, 0);
    for _ in 0..40 {
        let plan = plans().new_tree(&mut runner).expect("a plan").current();
        let world = World::new(plan.objects(), &mut Assumed::default());
        let cells = matrix(&world, Protocol::Tcp, &Port::Number(80));
        asked += cells.allowed.iter().flatten().count();
        allowed += cells.allowed.iter().flatten().filter(|allowed| **allowed).count();
    }
    assert!((30..=80).contains(&(100 * allowed / asked)), "{allowed} of {asked}");
}

fn question(from: &NamespacedName, to: &NamespacedName, protocol: Protocol, port: Port) -> Question {
    Question { from: Party::Pod(from.clone()), to: Party::Pod(to.clone()), protocol, port }
}

fn passes(answer: &Result<crate::explain::Explanation, AskError>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.verdict == Word::Allow)
}

/// What a comparison says about one flow: the new verdict where there is one.
fn told(comparison: &Comparison, question: &Question, port: u16) -> Option<Word> {
    let (Party::Pod(from), Party::Pod(to)) = (&question.from, &question.to) else { return None };
    let mut changes = comparison.changes.iter().filter(|change| {
        change.from == from.to_string()
            && change.to == to.to_string()
            && ["any", question.protocol.name()].contains(&change.protocol)
            && change.ports.is_none_or(|ports| (ports.first..=ports.last).contains(&port))
    });
    let told = changes.next()?;
    assert!(changes.next().is_none(), "told twice");
    assert_ne!(told.old, told.new);
    Some(told.new)
}

/// The same question put to the maps of the two nodes, compiled here, without anything of [`World`] but the addresses.
fn both_nodes_allow(plan: &Plan, maps: &BTreeMap<&str, Actual>, world: &World, question: &Question) -> bool {
    let (Party::Pod(from), Party::Pod(to)) = (&question.from, &question.to) else { return false };
    let Port::Number(port) = question.port else { return false };
    let pod = |name: &NamespacedName| world.pod(name).expect("a pod of the plan");
    let (sources, destinations) = (&pod(from).addrs, &pod(to).addrs);
    let mut shared = 0;
    for dst in destinations {
        for src in sources.iter().filter(|src| src.is_v4() == dst.is_v4()) {
            shared += 1;
            let flow = Flow { src: *src, dst: *dst, protocol: question.protocol.number(*dst), port };
            let allows = [from, to].into_iter().all(|name| match verdict(&maps[plan.node_of(name)], &flow) {
                Answer::Direct(judged) => judged.allows(),
                Answer::Service(..) => false,
            });
            if !allows {
                return false;
            }
        }
    }
    shared > 0
}

/// The maps of a node of the plan; those of the node called "" hold the pods that are not scheduled.
fn maps_of(plan: &Plan, world: &World, node: &str) -> Actual {
    let mut cluster = Cluster::default();
    for object in world.objects().values() {
        let _ = cluster.apply(Change::Upsert(object.clone()));
    }
    let mut addresses: BTreeSet<Addr> =
        cluster.nodes().get(node).map(|node| node.addrs.clone()).unwrap_or_default();
    for (number, pod) in (1..).zip(world.pods()).filter(|(_, pod)| plan.node_of(&pod.name) == node) {
        if pod.is_host {
            addresses.extend(&pod.addrs);
            continue;
        }
        let mut addrs = [Addr::UNSPECIFIED; 2];
        addrs.iter_mut().zip(&pod.addrs).for_each(|(place, addr)| *place = *addr);
        let endpoint = LocalEndpoint {
            id: EndpointId(number),
            namespace: pod.name.namespace.clone(),
            pod: pod.name.name.clone(),
            uid: None,
            container: "c".to_owned(),
            ifname: "eth0".to_owned(),
            host_ifname: "veth".to_owned(),
            addrs,
            ifindex: number,
            mac: [2, 0, 0, 0, 0, 1],
        };
        cluster.apply(Change::Attach(endpoint)).expect("an endpoint");
    }
    cluster.apply(Change::NodeAddresses(addresses)).expect("addresses");
    let mut actual = Actual::default();
    let outcome = diff(&compile(&cluster, &NodeName(node.to_owned())), &actual, &Limits::default());
    outcome.plan.iter().for_each(|step| actual.apply(step));
    actual
}

#[test]
fn a_finished_pod_is_no_part_and_a_pod_without_address_gets_one() {
    let pod = |name: &str, phase: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "status": {"phase": phase}});
    let objects = [pod("job", "Succeeded"), pod("web", "")];
    let objects = objects.map(|value| Object::from_value(value).expect("an object").expect("a known kind"));
    let world = World::new(objects, &mut Assumed::default());
    let names: Vec<String> = world.pods().iter().map(|pod| pod.name.to_string()).collect();
    assert_eq!(names, ["default/web"]);
    assert!(world.pods()[0].is_assumed);
    assert_eq!(world.pods()[0].addrs[0].to_string(), "10.244.0.2");
    let (web, job) = (NamespacedName::new("default", "web"), NamespacedName::new("default", "job"));
    let answer = explain(&world, &question(&web, &job, Protocol::Tcp, Port::Number(80)));
    assert_eq!(answer, Err(AskError::Finished(job)));
}
