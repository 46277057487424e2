//! Random histories of a small cluster: six pods, three of them here, two namespaces, a few policies and Services.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_abi::{Addr, EndpointId, protocol};
use sluice_core::{
    cluster::{Change, LocalEndpoint, NodeName},
    diff::Limits,
    object::{NamespacedName, Object, ObjectKey},
    plan::Actual,
};

use super::cluster_policy;

/// Batches of actions; each batch is one plan.
pub(crate) type History = Vec<Vec<Action>>;

/// Protocols and ports that are asked about.
pub(crate) const PROBES: &[(u8, u16)] = &[
    (protocol::TCP, 79),
    (protocol::TCP, 80),
    (protocol::TCP, 82),
    (protocol::TCP, 83),
    (protocol::TCP, 8080),
    (protocol::UDP, 80),
    (protocol::ICMP, 0),
];

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Pod { number: u8, app: u8, phase: u8, ports: u8 },
    PodGone { number: u8 },
    Namespace { number: u8, team: u8, mode: u8 },
    Attach { number: u8 },
    Detach { number: u8 },
    Policy { number: u8, spec: PolicyShape },
    PolicyGone { number: u8 },
    ClusterPolicy { number: u8, spec: cluster_policy::Shape },
    ClusterPolicyGone { number: u8 },
    Service { number: u8, ports: u8, outside: u8 },
    ServiceGone { number: u8 },
    Slice { number: u8, conditions: [u8; 4] },
    NodeAddresses { count: u8 },
    Uplink { number: u8 },
    Node { number: u8, zone: u8, ranges: u8 },
    NodeGone { number: u8 },
}

/// A policy by the numbers of its parts.
#[derive(Clone, Debug)]
pub(crate) struct PolicyShape {
    pub(crate) mode: u8,
    pub(crate) selects: u8,
    pub(crate) types: u8,
    pub(crate) rules: [Vec<RuleShape>; 2],
}

/// A rule by the numbers of its parts.
#[derive(Clone, Debug)]
pub(crate) struct RuleShape {
    pub(crate) peers: Vec<u8>,
    pub(crate) ports: Vec<u8>,
}

/// The first of the peers that are ranges.
const FIRST_RANGE: u8 = 6;

pub(crate) fn pod_numbers() -> impl Iterator<Item = u8> {
    0..6
}

pub(crate) fn local_node() -> NodeName {
    NodeName("here".to_owned())
}

pub(crate) fn is_local(number: u8) -> bool {
    number < 3
}

pub(crate) fn namespace(number: u8) -> &'static str {
    ["a", "b"][usize::from(number % 2)]
}

pub(crate) fn pod_name(number: u8) -> NamespacedName {
    NamespacedName::new(namespace(number), format!("pod-{number}"))
}

pub(crate) fn v4(number: u8) -> Addr {
    Addr::v4([10, 0, number / 2, number])
}

pub(crate) fn v6(number: u8) -> Addr {
    let mut addr = [0; 16];
    (addr[0], addr[13], addr[15]) = (0xfd, number / 2, number);
    Addr(addr)
}

/// The other family's address of the same pod.
pub(crate) fn twin(addr: Addr) -> Addr {
    v6(addr.0[15])
}

/// Pods, and strangers in and out of the ranges.
pub(crate) fn peers() -> Vec<Addr> {
    let strangers = [Addr::v4([10, 0, 1, 77]), Addr::v4([10, 9, 0, 1]), Addr::v4([192, 0, 2, 1]), v6(200)];
    pod_numbers().flat_map(|number| [v4(number), v6(number)]).chain(strangers).collect()
}

pub(crate) fn endpoint(number: u8, id: u32) -> LocalEndpoint {
    let name = pod_name(number);
    LocalEndpoint {
        id: EndpointId(id),
        namespace: name.namespace,
        pod: name.name,
        uid: None,
        container: format!("container-{id}"),
        ifname: "eth0".to_owned(),
        host_ifname: format!("slc{id}"),
        addrs: [v4(number), v6(number)],
        ifindex: 100 + id,
        mac: [2, 0, 0, 0, 0, number],
    }
}

/// What the API server would hold, for whoever reads it literally.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// Objects by kind and name.
    objects: BTreeMap<String, Value>,
    attached: BTreeMap<u8, u32>,
    next_endpoint: u32,
}

impl World {
    /// The objects there are.
    pub(crate) fn objects(&self) -> Vec<Value> {
        self.objects.values().cloned().collect()
    }

    fn put(&mut self, value: Value) -> Vec<Change> {
        let change = upsert(value.clone());
        if let Change::Upsert(object) = &change {
            self.objects.insert(object.key().to_string(), value);
        }
        vec![change]
    }

    fn remove(&mut self, key: ObjectKey) -> Vec<Change> {
        self.objects.remove(&key.to_string());
        vec![Change::Delete(key)]
    }

    /// The changes that an action makes.
    pub(crate) fn act(&mut self, action: &Action) -> Vec<Change> {
        match action {
            Action::Pod { number, app, phase, ports } => self.put(pod(*number, *app, *phase, *ports)),
            Action::PodGone { number } => self.remove(ObjectKey::Pod(pod_name(*number))),
            Action::Namespace { number, team, mode } => {
                let labels = json!({"team": team.to_string()});
                let annotations = annotations(*mode);
                let metadata =
                    json!({"name": namespace(*number), "labels": labels, "annotations": annotations});
                self.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
            }
            Action::Attach { number } => self.attach(*number),
            Action::Detach { number } => {
                let id = self.attached.remove(number);
                id.map(|id| Change::Detach(EndpointId(id))).into_iter().collect()
            }
            Action::Policy { number, spec } => self.put(policy(*number, spec)),
            Action::PolicyGone { number } => self.remove(ObjectKey::NetworkPolicy(policy_name(*number))),
            Action::ClusterPolicy { number, spec } => self.put(spec.object(*number)),
            Action::ClusterPolicyGone { number } => {
                self.remove(ObjectKey::ClusterNetworkPolicy(cluster_policy::name(*number)))
            }
            Action::Service { number, ports, outside } => vec![upsert(service(*number, *ports, *outside))],
            Action::ServiceGone { number } => {
                let name = NamespacedName::new("a", format!("service-{number}"));
                vec![Change::Delete(ObjectKey::Service(name))]
            }
            Action::Slice { number, conditions } => vec![upsert(slice(*number, conditions))],
            Action::NodeAddresses { count } => {
                let addresses: BTreeSet<Addr> = (0..*count).map(|last| Addr::v4([192, 0, 2, last])).collect();
                vec![Change::NodeAddresses(addresses)]
            }
            Action::Uplink { number } => {
                vec![Change::UplinkAddresses(vec![v6(200), Addr::v4([192, 0, 2, *number])])]
            }
            Action::Node { number, zone, ranges } => vec![upsert(node(*number, *zone, *ranges))],
            Action::NodeGone { number } => {
                vec![Change::Delete(ObjectKey::Node(node_name(*number).to_owned()))]
            }
        }
    }

    fn attach(&mut self, number: u8) -> Vec<Change> {
        self.next_endpoint += 1;
        let id = self.next_endpoint;
        let old = self.attached.insert(number, id).map(|old| Change::Detach(EndpointId(old)));
        old.into_iter().chain([Change::Attach(endpoint(number, id))]).collect()
    }
}

fn upsert(value: Value) -> Change {
    Change::Upsert(Object::from_value(value).expect("a good object").expect("a known kind"))
}

/// The number that `http` has on a pod.
pub(crate) fn http_port(ports: u8) -> Option<u16> {
    [None, Some(80), Some(8080)][usize::from(ports % 3)]
}

fn pod(number: u8, app: u8, phase: u8, ports: u8) -> Value {
    let name = pod_name(number);
    let ports: Vec<_> =
        http_port(ports).map(|port| json!({"name": "http", "containerPort": port})).into_iter().collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": name.namespace, "name": name.name, "labels": {"app": app.to_string()}},
        "spec": {"nodeName": if is_local(number) { "here" } else { "there" }, "containers": [{"ports": ports}]},
        "status": {
            "phase": if phase == 0 { "Running" } else { "Succeeded" },
            "podIPs": [
                {"ip": std::net::IpAddr::from(v4(number)).to_string()},
                {"ip": std::net::IpAddr::from(v6(number)).to_string()},
            ],
        },
    })
}

fn policy_name(number: u8) -> NamespacedName {
    NamespacedName::new(namespace(number), format!("policy-{number}"))
}

fn policy(number: u8, shape: &PolicyShape) -> Value {
    let name = policy_name(number);
    let rules = |direction: usize, word: &str| -> Vec<Value> {
        let rules = shape.rules[direction].iter();
        rules
            .map(|rule| {
                let peers: Vec<_> = rule.peers.iter().map(|peer| peer_value(*peer)).collect();
                let ports: Vec<_> = rule.ports.iter().map(|port| port_value(*port)).collect();
                json!({word: peers, "ports": ports})
            })
            .collect()
    };
    let types: &[&str] =
        [&["Ingress"][..], &["Egress"], &["Ingress", "Egress"], &[]][usize::from(shape.types % 4)];
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": name.namespace, "name": name.name, "annotations": annotations(shape.mode)},
        "spec": {
            "podSelector": app_selector(shape.selects),
            "policyTypes": types,
            "ingress": rules(0, "from"),
            "egress": rules(1, "to"),
        },
    })
}

/// Says whether a policy is enforced, or nothing.
pub(crate) fn annotations(mode: u8) -> Value {
    match mode {
        1 => json!({"sluice.dev/mode": "audit"}),
        2 => json!({"sluice.dev/mode": "enforce"}),
        _ => json!({}),
    }
}

/// Mostly nothing said.
pub(crate) fn mode() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(0u8), 3 => Just(1u8), 1 => Just(2u8)]
}

/// Selects an app, or all.
fn app_selector(number: u8) -> Value {
    match number % 3 {
        0 => json!({}),
        app => json!({"matchLabels": {"app": (app - 1).to_string()}}),
    }
}

fn peer_value(number: u8) -> Value {
    match number {
        0..3 => json!({"podSelector": app_selector(number)}),
        3 => json!({"namespaceSelector": {}}),
        4 => json!({"namespaceSelector": {"matchLabels": {"team": "1"}}, "podSelector": app_selector(1)}),
        5 => {
            json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["1"]}]}})
        }
        6 => json!({"ipBlock": {"cidr": "10.0.0.0/16"}}),
        7 => json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.1.0/24", "10.9.0.0/16"]}}),
        8 => json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/16"]}}),
        9 => json!({"ipBlock": {"cidr": "10.0.1.3/32"}}),
        10 => json!({"ipBlock": {"cidr": "::/0", "except": ["fd00::1:0/112"]}}),
        _ => json!({"ipBlock": {"cidr": "fd00::/64"}}),
    }
}

fn port_value(number: u8) -> Value {
    match number {
        0 => json!({"port": 80}),
        1 => json!({"port": 80, "endPort": 82}),
        2 => json!({"port": "http"}),
        3 => json!({"protocol": "UDP"}),
        _ => json!({"port": 1, "endPort": 65535}),
    }
}

/// This node and another.
fn node_name(number: u8) -> &'static str {
    ["here", "there"][usize::from(number % 2)]
}

fn node(number: u8, zone: u8, ranges: u8) -> Value {
    let ranges: Vec<_> = (0..ranges).map(|last| format!("10.20.{}.0/24", number * 16 + last)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node_name(number), "labels": {"topology.kubernetes.io/zone": format!("zone-{zone}")}},
        "spec": {"podCIDRs": ranges},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{number}")}]},
    })
}

/// A Service; the bits of `outside` say what of it is for clients from outside, and how.
fn service(number: u8, ports: u8, outside: u8) -> Value {
    let has = |bit: u8| outside & (1 << bit) != 0;
    let ports: Vec<_> = (0..ports)
        .map(|port| {
            let node_port = if has(0) { 30_000 + u16::from(number % 2) * 8 + u16::from(port) } else { 0 };
            let (name, number) = (format!("p{port}"), 80 + u16::from(port));
            json!({"name": name, "port": number, "targetPort": "http", "nodePort": node_port})
        })
        .collect();
    let policy = |bit| if has(bit) { "Local" } else { "Cluster" };
    let ingress: Vec<_> = has(1).then(|| json!({"ip": format!("198.51.100.{number}")})).into_iter().collect();
    // Two Services may ask for the same address.
    let external: Vec<_> = has(2).then(|| format!("203.0.113.{}", number % 2)).into_iter().collect();
    let ranges: &[&str] = [&[][..], &["10.9.0.0/16"], &["10.9.0.0/16", "192.0.2.0/24"], &["198.51.100.0/24"]]
        [usize::from(outside >> 6)];
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "a", "name": format!("service-{number}")},
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": [format!("10.96.0.{number}"), format!("fd96::{number}")],
            "ports": ports,
            "externalIPs": external,
            "externalTrafficPolicy": policy(3),
            "internalTrafficPolicy": policy(4),
            "sessionAffinity": if has(5) { "ClientIP" } else { "None" },
            "loadBalancerSourceRanges": ranges,
            "healthCheckNodePort": 32_000,
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn slice(number: u8, conditions: &[u8; 4]) -> Value {
    let endpoints = conditions.iter().enumerate().filter(|(_, condition)| **condition > 0);
    let endpoints: Vec<_> = endpoints
        .map(|(index, condition)| {
            let conditions = match condition % 4 {
                1 => json!({"ready": true}),
                2 => json!({"ready": false, "serving": true, "terminating": true}),
                _ => json!({"ready": false}),
            };
            json!({
                "addresses": [format!("10.0.9.{index}")],
                "conditions": conditions,
                "nodeName": node_name(condition / 4),
                "hints": {"forZones": [{"name": format!("zone-{}", condition / 8)}]},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "a",
            "name": format!("slice-{number}"),
            "labels": {"kubernetes.io/service-name": format!("service-{}", number % 2)},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "p0", "port": 8080}, {"name": "p1", "port": 8081}],
    })
}

pub(crate) fn history() -> impl Strategy<Value = History> {
    prop::collection::vec(prop::collection::vec(action(), 1..6), 1..8)
}

fn action() -> impl Strategy<Value = Action> {
    let rule = (prop::collection::vec(0u8..12, 0..3), prop::collection::vec(0u8..5, 0..2))
        .prop_map(|(peers, ports)| RuleShape { peers, ports });
    let rules = || prop::collection::vec(rule.clone(), 0..3);
    let spec =
        (mode(), 0u8..3, 0u8..4, rules(), rules()).prop_map(|(mode, selects, types, ingress, egress)| {
            PolicyShape { mode, selects, types, rules: [ingress, egress] }
        });
    prop_oneof![
        6 => (0u8..6, 0u8..2, prop_oneof![4 => Just(0u8), 1 => Just(1u8)], 0u8..3)
            .prop_map(|(number, app, phase, ports)| Action::Pod { number, app, phase, ports }),
        1 => (0u8..6).prop_map(|number| Action::PodGone { number }),
        1 => (0u8..2, 0u8..2, mode())
            .prop_map(|(number, team, mode)| Action::Namespace { number, team, mode }),
        4 => (0u8..3).prop_map(|number| Action::Attach { number }),
        1 => (0u8..3).prop_map(|number| Action::Detach { number }),
        6 => (0u8..4, spec).prop_map(|(number, spec)| Action::Policy { number, spec }),
        2 => (0u8..4).prop_map(|number| Action::PolicyGone { number }),
        4 => (0u8..3, cluster_policy::shape())
            .prop_map(|(number, spec)| Action::ClusterPolicy { number, spec }),
        1 => (0u8..3).prop_map(|number| Action::ClusterPolicyGone { number }),
        4 => (0u8..3, 0u8..3, any::<u8>())
            .prop_map(|(number, ports, outside)| Action::Service { number, ports, outside }),
        1 => (0u8..3).prop_map(|number| Action::ServiceGone { number }),
        2 => (0u8..3, any::<[u8; 4]>())
            .prop_map(|(number, raw)| Action::Slice { number, conditions: raw.map(|raw| raw % 16) }),
        1 => (0u8..4).prop_map(|count| Action::NodeAddresses { count }),
        1 => (0u8..3).prop_map(|number| Action::Uplink { number }),
        1 => (0u8..2, 0u8..2, 0u8..3).prop_map(|(number, zone, ranges)| Action::Node { number, zone, ranges }),
        1 => (0u8..2).prop_map(|number| Action::NodeGone { number }),
    ]
}

/// The same history with peers that are pods instead of ranges.
pub(crate) fn without_ranges(mut history: History) -> History {
    for action in history.iter_mut().flatten() {
        if let Action::Policy { spec, .. } = action {
            let peers = spec.rules.iter_mut().flatten().flat_map(|rule| &mut rule.peers);
            peers.for_each(|peer| *peer %= FIRST_RANGE);
        } else if let Action::ClusterPolicy { spec, .. } = action {
            spec.without_ranges();
        }
    }
    history
}

/// Capacities that some histories exceed.
pub(crate) fn limits() -> impl Strategy<Value = Limits> {
    (1usize..40, 1usize..20, 1usize..6, 1usize..10).prop_map(|(rules, addresses, few, services)| Limits {
        rules,
        ipcache: addresses,
        ipcache_cidrs: addresses / 2,
        endpoints: few + 2,
        interfaces: few,
        endpoint_meta: few,
        identity_meta: addresses,
        rule_set_meta: few * 2,
        rule_meta: rules,
        policy_meta: few,
        frontends: services * 3,
        slots: services * 2,
        backends: services,
        source_ranges: services / 2,
        no_masquerade: few,
        service_meta: few,
    })
}

pub(crate) fn check_fits(actual: &Actual, limits: &Limits) {
    let singles = actual.ipcache.keys().filter(|prefix| prefix.bits == 128).count();
    for (name, count, limit) in [
        ("RULES", actual.rules.len(), limits.rules),
        ("IPCACHE", singles, limits.ipcache),
        ("IPCACHE_CIDRS", actual.ipcache.len() - singles, limits.ipcache_cidrs),
        ("ENDPOINTS", actual.endpoints.len(), limits.endpoints),
        ("INTERFACES", actual.interfaces.len(), limits.interfaces),
        ("ENDPOINT_META", actual.endpoint_meta.len(), limits.endpoint_meta),
        ("IDENTITY_META", actual.identity_meta.len(), limits.identity_meta),
        ("RULE_SET_META", actual.rule_set_meta.len(), limits.rule_set_meta),
        ("RULE_META", actual.rule_meta.len(), limits.rule_meta),
        ("POLICY_META", actual.policy_meta.len(), limits.policy_meta),
        ("FRONTENDS", actual.frontends.len(), limits.frontends),
        ("BACKENDS", actual.backends.len(), limits.backends),
        ("SERVICE_META", actual.service_meta.len(), limits.service_meta),
        ("SOURCE_RANGES", actual.source_ranges.len(), limits.source_ranges),
        ("NO_MASQUERADE", actual.no_masquerade.len(), limits.no_masquerade),
    ] {
        assert!(count <= limit, "{name} holds {count} of {limit}");
    }
    let last_slot = actual.slots.keys().next_back().copied().unwrap_or_default();
    assert!(usize::try_from(last_slot).is_ok_and(|slot| slot < limits.slots));
}
