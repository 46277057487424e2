//! Random clusters, and packets that find their edges.
//!
//! Everything comes from one seed, so a case is told by its number.

use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_abi::{Addr, EndpointId};
use sluice_core::{
    cluster::{Change, LocalEndpoint},
    object::Object,
};

use super::flow::Packet;

/// The node that judges.
pub(crate) const NODE: &str = "here";

/// Chance, from a seed (SplitMix64, Steele, Lea, Flood 2014).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of a few.
    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// True once in `times`.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// As many as chance has it, `least..=most`.
    fn some<T>(&mut self, least: usize, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = least + self.below(most - least + 1);
        (0..count).map(|_| make(self)).collect()
    }
}

const NAMESPACES: [&str; 3] = ["red", "blue", "green"];
/// Where pods and policies are: mostly together.
const PLACES: [&str; 6] = ["red", "red", "red", "red", "blue", "green"];
const VALUES: [&str; 3] = ["a", "a", "b"];
/// How many pods there are at most.
const PODS: usize = 9;
/// The first so many are on this node, and of its network.
pub(crate) const LOCAL: usize = 4;

/// The objects of a cluster.
pub(crate) fn objects(chance: &mut Chance) -> Vec<Value> {
    let mut objects = vec![node(NODE, 1), node("there", 2)];
    for name in NAMESPACES {
        // Sometimes nobody has told of a namespace yet.
        if !chance.once_in(8) {
            let metadata = json!({"name": name, "labels": labels(chance)});
            objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
        }
    }
    for number in 0..PODS {
        if number < LOCAL || !chance.once_in(5) {
            objects.push(pod(number, chance));
        }
    }
    for number in 0..2 + chance.below(6) {
        objects.push(network_policy(number, chance));
    }
    let cluster_policies = if chance.once_in(3) { 0 } else { 1 + chance.below(3) };
    for number in 0..cluster_policies {
        objects.push(cluster_policy(number, chance));
    }
    objects.iter_mut().for_each(|object| set_mode(object, chance));
    objects
}

/// Some policies are audited, all of some namespaces, and some say that they are enforced.
fn set_mode(object: &mut Value, chance: &mut Chance) {
    let mode = match object["kind"].as_str() {
        Some("Namespace") if chance.once_in(16) => "audit",
        Some("NetworkPolicy" | "ClusterNetworkPolicy") if chance.once_in(10) => "audit",
        Some("NetworkPolicy") if chance.once_in(8) => "enforce",
        _ => return,
    };
    object["metadata"]["annotations"]["sluice.dev/mode"] = json!(mode);
}

fn node(name: &str, number: u8) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": [
        {"type": "InternalIP", "address": format!("192.168.0.{number}")},
        {"type": "InternalIP", "address": format!("fd99::{number}")},
        {"type": "Hostname", "address": name},
    ]}})
}

fn labels(chance: &mut Chance) -> Value {
    let mut labels = json!({});
    for key in ["app", "tier"] {
        if !chance.once_in(4) {
            labels[key] = json!(*chance.one(&VALUES));
        }
    }
    labels
}

fn v4(number: usize) -> String {
    format!("10.0.{}.{number}", number / 3)
}

fn v6(number: usize) -> String {
    format!("fd00::{}:{number}", number / 3)
}

fn pod(number: usize, chance: &mut Chance) -> Value {
    let is_local = number < LOCAL;
    let is_of_host = !is_local && chance.once_in(5);
    let node = if is_local || (is_of_host && chance.once_in(2)) { NODE } else { "there" };
    let phase = if is_local {
        "Running"
    } else {
        *chance.one(&["Running", "Running", "Running", "Succeeded", "Failed"])
    };
    let host = if node == NODE { 1 } else { 2 };
    let addresses = match (is_of_host, chance.below(6)) {
        (true, _) => vec![format!("192.168.0.{host}"), format!("fd99::{host}")],
        (false, 0) => vec![v4(number)],
        (false, 1) => vec![v6(number)],
        (false, _) => vec![v4(number), v6(number)],
    };
    let addresses: Vec<_> = addresses.into_iter().map(|ip| json!({"ip": ip})).collect();
    let ports = chance.some(0, 4, |chance| {
        let name = *chance.one(&["http", "dns"]);
        json!({"name": name, "containerPort": chance.one(&[80, 81, 53]),
            "protocol": chance.one(&["TCP", "TCP", "UDP", "SCTP"])})
    });
    let namespace = *chance.one(&PLACES);
    let mut metadata =
        json!({"name": format!("pod-{number}"), "namespace": namespace, "labels": labels(chance)});
    if chance.once_in(6) {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, "hostNetwork": is_of_host, "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": phase, "podIPs": addresses},
    })
}

fn selector(chance: &mut Chance) -> Value {
    let mut selector = json!({});
    match chance.below(6) {
        0 | 1 => {}
        2 | 3 => {
            let key = *chance.one(&["app", "tier"]);
            selector["matchLabels"] = json!({key: chance.one(&VALUES)});
        }
        _ => {
            selector["matchExpressions"] = json!(chance.some(1, 2, |chance| {
                let key = *chance.one(&["app", "tier"]);
                match *chance.one(&["In", "NotIn", "Exists", "DoesNotExist"]) {
                    operator @ ("In" | "NotIn") => {
                        json!({"key": key, "operator": operator, "values": chance.some(1, 2, |c| *c.one(&VALUES))})
                    }
                    operator => json!({"key": key, "operator": operator}),
                }
            }));
        }
    }
    selector
}

fn namespace_selector(chance: &mut Chance) -> Value {
    if chance.once_in(4) {
        return json!({"matchLabels": {"kubernetes.io/metadata.name": chance.one(&NAMESPACES)}});
    }
    selector(chance)
}

const RANGES: [&str; 12] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.0.0/31",
    "10.0.1.4/32",
    "192.168.0.0/30",
    "203.0.113.0/25",
    "::/0",
    "fd00::/64",
    "fd00::1:0/112",
    "fd00::1:4/128",
];

fn block(chance: &mut Chance) -> Value {
    let cidr = *chance.one(&RANGES);
    let inside: Vec<&str> = RANGES.iter().copied().filter(|range| is_inside(range, cidr)).collect();
    let mut block = json!({"cidr": cidr});
    if !inside.is_empty() && !chance.once_in(3) {
        block["except"] = json!(chance.some(1, 2, |chance| *chance.one(&inside)));
    }
    block
}

/// Whether a range of [`RANGES`] lies within another, and is not the same.
fn is_inside(inner: &str, outer: &str) -> bool {
    let read = |text: &str| {
        let (addr, bits) = text.split_once('/').expect("a range");
        (addr.parse::<IpAddr>().expect("an address"), bits.parse::<u32>().expect("a length"))
    };
    let ((inner, inner_bits), (outer, bits)) = (read(inner), read(outer));
    let shared = match (inner, outer) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    shared >= bits && inner_bits > bits
}

fn network_policy(number: usize, chance: &mut Chance) -> Value {
    let mut spec = json!({"podSelector": selector(chance)});
    match chance.below(6) {
        0 => {}
        1 => spec["policyTypes"] = json!(["Ingress"]),
        2 => spec["policyTypes"] = json!(["Egress"]),
        _ => spec["policyTypes"] = json!(["Ingress", "Egress"]),
    }
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        if !chance.once_in(6) {
            spec[list] = json!(chance.some(0, 3, |chance| rule(peers, chance)));
        }
    }
    if chance.once_in(25) {
        spec["ingress"] = json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}, {}]);
    }
    let metadata = json!({"name": format!("np-{number}"), "namespace": chance.one(&PLACES)});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

fn rule(peers: &str, chance: &mut Chance) -> Value {
    let mut rule = json!({});
    if !chance.once_in(8) {
        let least = if chance.once_in(8) { 0 } else { 1 }; // none is everybody
        rule[peers] = json!(chance.some(least, 3, |chance| match chance.below(5) {
            0 => json!({"podSelector": selector(chance)}),
            1 => json!({"namespaceSelector": namespace_selector(chance)}),
            2 => json!({"podSelector": selector(chance), "namespaceSelector": namespace_selector(chance)}),
            _ => json!({"ipBlock": block(chance)}),
        }));
    }
    if chance.once_in(2) {
        rule["ports"] = json!(chance.some(0, 3, |chance| {
            let mut port = match chance.below(6) {
                0 => json!({}),
                1 | 2 => json!({"port": chance.one(&["http", "http", "dns", "none"])}),
                3 => json!({"port": 79, "endPort": chance.one(&[79, 80, 81, 5432])}),
                _ => json!({"port": chance.one(&[53, 80, 81])}),
            };
            if !chance.once_in(3) {
                port["protocol"] = json!(chance.one(&["TCP", "TCP", "UDP", "SCTP"]));
            }
            port
        }));
    }
    rule
}

fn cluster_policy(number: usize, chance: &mut Chance) -> Value {
    let subject = match chance.below(12) {
        0 => json!({}),
        1..6 => json!({"pods": namespaced_pods(chance)}),
        _ => json!({"namespaces": namespace_selector(chance)}),
    };
    let mut spec = json!({"tier": chance.one(&["Admin", "Admin", "Baseline"]),
        "priority": chance.one(&[0, 5, 5, 1000]), "subject": subject});
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        if !chance.once_in(4) {
            spec[list] = json!(cluster_rules(peers, chance));
        }
    }
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("cnp-{number}")}, "spec": spec})
}

fn namespaced_pods(chance: &mut Chance) -> Value {
    let mut pods = json!({"podSelector": selector(chance)});
    if !chance.once_in(4) {
        pods["namespaceSelector"] = namespace_selector(chance);
    }
    pods
}

/// Rules of one list; some are about the same peers as the one before.
fn cluster_rules(peers: &str, chance: &mut Chance) -> Vec<Value> {
    let mut rules: Vec<Value> = Vec::new();
    for _ in 0..chance.below(5) {
        let mut rule = json!({"action": chance.one(&["Accept", "Deny", "Pass"])});
        rule[peers] = match rules.last() {
            Some(before) if chance.once_in(2) => before[peers].clone(),
            _ => json!(chance.some(1, 3, |chance| cluster_peer(peers, chance))),
        };
        if chance.once_in(2) {
            rule["protocols"] = json!(chance.some(1, 3, cluster_protocol));
        }
        rules.push(rule);
    }
    rules
}

fn cluster_peer(peers: &str, chance: &mut Chance) -> Value {
    match chance.below(24) {
        // One field of the experimental channel, and two at once.
        0 if chance.once_in(3) => json!({"nodes": {}}),
        1 if chance.once_in(3) => json!({"namespaces": {}, "pods": {"podSelector": {}}}),
        2..7 if peers == "to" => json!({"networks": chance.some(1, 3, |chance| *chance.one(&RANGES))}),
        0..14 => json!({"namespaces": namespace_selector(chance)}),
        _ => json!({"pods": namespaced_pods(chance)}),
    }
}

fn cluster_protocol(chance: &mut Chance) -> Value {
    let field = *chance.one(&["tcp", "tcp", "udp", "sctp"]);
    match chance.below(24) {
        0 if chance.once_in(3) => json!({"icmp": {}}),
        0..6 => json!({"destinationNamedPort": chance.one(&["http", "dns"])}),
        6..12 => {
            let (start, end) = (*chance.one(&[53, 79, 80]), *chance.one(&[81, 82, 5432]));
            json!({field: {"destinationPort": {"range": {"start": start, "end": end}}}})
        }
        _ => json!({field: {"destinationPort": {"number": chance.one(&[53, 80, 81])}}}),
    }
}

/// A packet with a pod of this node at one end.
pub(crate) fn packet(chance: &mut Chance) -> Packet {
    let family = chance.below(2);
    let near = [v4, v6][family](chance.below(LOCAL));
    let far = match chance.below(16) {
        0 => ["192.168.0.1", "fd99::1"][family].to_owned(),
        1 => ["192.168.0.2", "fd99::2"][family].to_owned(),
        2 => ["203.0.113.127", "fd00::1:77"][family].to_owned(),
        3 => ["203.0.113.128", "2001:db8::9"][family].to_owned(),
        4 => ["10.0.1.77", "fd00::77"][family].to_owned(),
        _ => [v4, v6][family](chance.below(PODS)),
    };
    let far = if far == near && !chance.once_in(4) { [v4, v6][family](LOCAL) } else { far };
    let [near, far] = [near, far].map(|text| text.parse::<IpAddr>().expect("an address"));
    let (src, dst) = if chance.once_in(2) { (near, far) } else { (far, near) };
    let protocol = *chance.one(&[6, 6, 6, 6, 17, 17, 132, [1, 58][family], 47]);
    let has_ports = matches!(protocol, 6 | 17 | 132);
    let port = if has_ports { *chance.one(&[52, 53, 79, 80, 80, 81, 82, 5432, 5433]) } else { 0 };
    Packet { src, dst, protocol, port }
}

/// The changes that make an agent know the objects, and the interfaces of the pods that are of this node.
pub(crate) fn changes(objects: &[Value], ifindex: impl Fn(usize) -> u32) -> Vec<Change> {
    let own = ["192.168.0.1", "fd99::1"].map(|ip| Addr::from(ip.parse::<IpAddr>().expect("an address")));
    let mut changes = vec![Change::NodeAddresses(own.into())];
    for object in objects {
        changes.push(Change::Upsert(read(object)));
        let number = (0..LOCAL).find(|number| object["metadata"]["name"] == format!("pod-{number}"));
        if let (Some(number), true) = (number, object["kind"] == "Pod") {
            changes.push(Change::Attach(endpoint(number, object, ifindex(number))));
        }
    }
    changes
}

pub(crate) fn read(object: &Value) -> Object {
    Object::from_value(object.clone()).expect("a good object").expect("a known kind")
}

fn endpoint(number: usize, pod: &Value, ifindex: u32) -> LocalEndpoint {
    let mut addrs = [Addr::UNSPECIFIED; 2];
    let ips = pod["status"]["podIPs"].as_array().expect("addresses");
    for (addr, ip) in addrs.iter_mut().zip(ips) {
        *addr = Addr::from(ip["ip"].as_str().expect("a text").parse::<IpAddr>().expect("an address"));
    }
    LocalEndpoint {
        id: EndpointId(number as u32 + 1),
        namespace: pod["metadata"]["namespace"].as_str().expect("a namespace").to_owned(),
        pod: format!("pod-{number}"),
        uid: None,
        container: format!("container-{number}"),
        ifname: "eth0".to_owned(),
        host_ifname: format!("slc{number}"),
        addrs,
        ifindex,
        mac: [2, 0, 0, 0, 0, number as u8],
    }
}
