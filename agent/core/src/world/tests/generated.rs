//! Random clusters: pods on two nodes and on none, with and without addresses, in the nodes' network and with two families;
//! policies whose selectors, ranges and ports meet them.

use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use crate::object::{NamespacedName, Object};

/// A cluster to be.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) pods: Vec<PodPlan>,
    pub(super) policies: Vec<Value>,
}

#[derive(Clone, Debug)]
pub(super) struct PodPlan {
    namespace: &'static str,
    app: &'static str,
    node: &'static str,
    kind: Kind,
    port: u16,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Plain,
    Dual,
    WithoutAddress,
    Host,
}

const NODES: [&str; 2] = ["n1", "n2"];

pub(super) fn plans() -> impl Strategy<Value = Plan> {
    let policies = prop::collection::vec(policy(), 0..5);
    (prop::collection::vec(pod(), 2..6), policies).prop_map(|(pods, mut policies)| {
        for (number, policy) in policies.iter_mut().enumerate() {
            policy["metadata"]["name"] = format!("p{number}").into();
        }
        Plan { pods, policies }
    })
}

fn pod() -> impl Strategy<Value = PodPlan> {
    let kind = prop_oneof![
        5 => Just(Kind::Plain),
        2 => Just(Kind::Dual),
        2 => Just(Kind::WithoutAddress),
        1 => Just(Kind::Host),
    ];
    let (namespaces, apps) = (select(vec!["a", "b"]), select(vec!["web", "db"]));
    (namespaces, apps, select(vec!["n1", "n2", ""]), kind, select(vec![80, 81, 8080]))
        .prop_map(|(namespace, app, node, kind, port)| PodPlan { namespace, app, node, kind, port })
}

fn policy() -> impl Strategy<Value = Value> {
    let rules = |peers: &'static str| prop::collection::vec(rule(peers), 0..3);
    let types =
        select(vec![json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"]), json!(null)]);
    (select(vec!["a", "b"]), labels(), types, rules("from"), rules("to")).prop_map(
        |(namespace, selector, types, ingress, egress)| {
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": namespace},
                "spec": {"podSelector": selector, "policyTypes": types, "ingress": ingress, "egress": egress}})
        },
    )
}

fn labels() -> impl Strategy<Value = Value> {
    select(vec![json!({}), json!({"matchLabels": {"app": "web"}}), json!({"matchLabels": {"app": "db"}})])
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    let block = |cidr: &str, except: &[&str]| json!({"ipBlock": {"cidr": cidr, "except": except}});
    let blocks = select(vec![
        block("10.1.0.0/16", &[]),
        block("10.0.0.0/8", &["10.2.0.0/16"]),
        block("0.0.0.0/0", &["10.244.0.0/16"]),
        block("fd00::/16", &[]),
        block("192.168.0.1/32", &[]),
    ]);
    let namespaces = select(vec![json!({}), json!({"matchLabels": {"team": "a"}})]);
    let peer = prop_oneof![
        labels().prop_map(|labels| json!({"podSelector": labels})),
        (namespaces, labels())
            .prop_map(|(namespaces, labels)| json!({"namespaceSelector": namespaces, "podSelector": labels})),
        blocks,
    ];
    let ports = select(vec![
        json!({"port": 80}),
        json!({"port": 80, "endPort": 82}),
        json!({"port": "http"}),
        json!({"protocol": "UDP"}),
        json!({"protocol": "UDP", "port": 81}),
    ]);
    (prop::collection::vec(peer, 0..3), prop::collection::vec(ports, 0..3))
        .prop_map(move |(list, ports)| json!({peers: list, "ports": ports}))
}

impl Plan {
    pub(super) fn objects(&self) -> Vec<Object> {
        let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": name}}});
        let node = |(index, name): (usize, &str)| {
            let addresses = [json!({"type": "InternalIP", "address": format!("192.168.0.{}", index + 1)})];
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "spec": {"podCIDR": format!("10.{}.0.0/16", index + 1)}, "status": {"addresses": addresses}})
        };
        let pods = self.pods.iter().enumerate().map(|(index, pod)| pod.object(index));
        let values = ["a"].into_iter().map(namespace).chain(NODES.into_iter().enumerate().map(node));
        let values = values.chain(pods).chain(self.policies.iter().cloned());
        let read = |value| Object::from_value(value).expect("an object").expect("a known kind");
        values.map(read).collect()
    }

    /// The node a pod is on; "" when it is not scheduled.
    pub(super) fn node_of(&self, name: &NamespacedName) -> &'static str {
        let named = self.pods.iter().enumerate().find(|(index, _)| name.name == format!("pod-{index}"));
        named.map_or("", |(_, pod)| pod.node())
    }
}

impl PodPlan {
    /// A hostNetwork pod is always scheduled here: it is asked about its own node.
    fn node(&self) -> &'static str {
        if self.kind == Kind::Host && self.node.is_empty() { NODES[0] } else { self.node }
    }

    fn object(&self, index: usize) -> Value {
        let number = NODES.iter().position(|node| *node == self.node()).map_or(9, |number| number + 1);
        let v4 = json!({"ip": format!("10.{number}.1.{}", index + 1)});
        let ips = match self.kind {
            Kind::Plain => vec![v4],
            Kind::Dual => vec![v4, json!({"ip": format!("fd00:{number}::{}", index + 1)})],
            Kind::WithoutAddress => Vec::new(),
            Kind::Host => vec![json!({"ip": format!("192.168.0.{number}")})],
        };
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("pod-{index}"), "namespace": self.namespace, "labels": {"app": self.app}},
            "spec": {"nodeName": self.node(), "hostNetwork": self.kind == Kind::Host,
                "containers": [{"ports": [{"name": "http", "containerPort": self.port}]}]},
            "status": {"podIPs": ips}})
    }
}
