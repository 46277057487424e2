//! Clusters of a hundred pods a namespace, ten of an app, and ten policies a namespace at a time: what is closed by default,
//! DNS, apps among themselves, monitoring, what is outside, and teams.

use serde_json::{Value, json};
use sluice_abi::{Addr, EndpointId};
use sluice_core::{
    cluster::{Change, LocalEndpoint},
    object::{NamespacedName, Object, ObjectKey},
};

/// This node.
pub(super) const NODE: &str = "here";

/// Pods on a node: kubelet's default.
const LOCAL: u32 = 110;
const PODS_OF_A_NAMESPACE: u32 = 100;
const PODS_OF_AN_APP: u32 = 10;
const POLICIES_AT_A_TIME: u32 = 10;
const TEAMS: u32 = 8;

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) pods: u32,
    pub(super) policies: u32,
}

impl Size {
    fn namespaces(self) -> u32 {
        self.pods / PODS_OF_A_NAMESPACE
    }

    /// Whether a pod is here: one of most namespaces is.
    fn is_local(self, pod: u32) -> bool {
        (pod + pod / self.namespaces() * 13).is_multiple_of(self.pods / LOCAL)
    }

    /// A policy of kind 3 that selects pods of this node.
    pub(super) fn policy_of_local_pods(self) -> u32 {
        let of = |pod: u32| pod % self.namespaces() * POLICIES_AT_A_TIME + 3;
        let mut local = (0..self.pods).filter(|pod| self.is_local(*pod) && app(*pod, self) == 3).map(of);
        local.find(|policy| *policy < self.policies).expect("some policy selects a pod here")
    }

    /// Everything in the cluster, and the interfaces of the pods here.
    pub(super) fn changes(self) -> Vec<Change> {
        let mut changes: Vec<_> = (0..self.namespaces()).map(|number| namespace(self, number, 0)).collect();
        for name in ["kube-system", "monitoring"] {
            changes.push(object(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            })));
        }
        changes.extend((0..2).map(dns));
        changes.extend((0..self.pods).map(|number| pod(self, number, "a")));
        changes.extend((0..self.policies).map(|number| policy(self, number, 8080)));
        changes.extend(
            (0..self.pods).filter(|number| self.is_local(*number)).map(|number| endpoint(self, number)),
        );
        changes
    }
}

fn object(value: Value) -> Change {
    Change::Upsert(Object::from_value(value).expect("a good object").expect("a known kind"))
}

fn namespace_name(size: Size, number: u32) -> String {
    format!("ns-{}", number % size.namespaces())
}

/// A namespace; another `variant` gives it to another team.
pub(super) fn namespace(size: Size, number: u32, variant: u32) -> Change {
    let name = namespace_name(size, number);
    object(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/metadata.name": name, "env": (["prod", "test"][number as usize % 2]),
            "team": format!("team-{}", (number + variant) % TEAMS),
        }},
    }))
}

fn pod_name(size: Size, number: u32) -> NamespacedName {
    NamespacedName::new(namespace_name(size, number), format!("app-{}-{number}", app(number, size)))
}

/// Neighbours in number are of different namespaces.
fn app(number: u32, size: Size) -> u32 {
    number / size.namespaces() % (PODS_OF_A_NAMESPACE / PODS_OF_AN_APP)
}

fn address(number: u32) -> [u8; 4] {
    let [_, high, middle, low] = (number + 1).to_be_bytes();
    [10, 64 + high, middle, low]
}

/// A pod; another `version` is another label that no policy names.
pub(super) fn pod(size: Size, number: u32, version: &str) -> Change {
    let name = pod_name(size, number);
    let app = app(number, size);
    let [a, b, c, d] = address(number);
    object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": name.namespace, "name": name.name, "labels": {
            "app": format!("app-{app}"), "tier": (["front", "back"][app as usize % 2]), "version": version,
        }},
        "spec": {
            "nodeName": if size.is_local(number) { NODE.to_owned() } else { format!("node-{}", number % (size.pods / LOCAL)) },
            "containers": [{"ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9000 + app}]}],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": format!("{a}.{b}.{c}.{d}")}]},
    }))
}

/// The same pod goes.
pub(super) fn deletion(size: Size, number: u32) -> Change {
    Change::Delete(ObjectKey::Pod(pod_name(size, number)))
}

fn dns(number: u32) -> Change {
    object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "kube-system", "name": format!("dns-{number}"), "labels": {"k8s-app": "kube-dns"}},
        "spec": {"nodeName": "node-1", "containers": [{"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.63.0.{number}")}]},
    }))
}

fn endpoint(size: Size, number: u32) -> Change {
    let name = pod_name(size, number);
    Change::Attach(LocalEndpoint {
        id: EndpointId(number + 1),
        namespace: name.namespace,
        pod: name.name,
        uid: None,
        container: format!("container-{number}"),
        ifname: "eth0".to_owned(),
        host_ifname: format!("slc{number}"),
        addrs: [Addr::v4(address(number)), Addr::UNSPECIFIED],
        ifindex: 100 + number,
        mac: [2, 0, 0, 0, 0, 1],
    })
}

/// A policy; ten in a row are of one namespace.
pub(super) fn policy(size: Size, number: u32, port: u32) -> Change {
    let app = |offset: u32| {
        let of = (number / POLICIES_AT_A_TIME / size.namespaces() + number + offset)
            % (PODS_OF_A_NAMESPACE / PODS_OF_AN_APP);
        json!({"matchLabels": {"app": format!("app-{of}")}})
    };
    let port = json!([{"port": port, "protocol": "TCP"}]);
    let egress = json!(["Egress"]);
    let spec = match number % POLICIES_AT_A_TIME {
        0 => json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
        1 => json!({"podSelector": {}, "policyTypes": egress, "egress": [{
            "to": [{"namespaceSelector": named("kube-system"), "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
            "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
        }]}),
        2 => json!({"podSelector": {}, "ingress": [{
            "from": [{"namespaceSelector": named("monitoring")}], "ports": [{"port": "metrics"}],
        }]}),
        3 | 4 => {
            json!({"podSelector": app(0), "ingress": [{"from": [{"podSelector": app(1)}], "ports": port}]})
        }
        5 => {
            json!({"podSelector": app(0), "policyTypes": egress, "egress": [{"to": [{"podSelector": app(1)}], "ports": port}]})
        }
        6 => {
            json!({"podSelector": app(0), "policyTypes": egress, "egress": [{"to": [{"podSelector": app(2)}], "ports": [{"port": "http"}]}]})
        }
        7 => json!({"podSelector": {"matchLabels": {"tier": "front"}}, "policyTypes": egress, "egress": [{
            "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]}}],
            "ports": [{"port": 443}],
        }]}),
        8 => json!({"podSelector": {"matchLabels": {"tier": "back"}}, "ingress": [{
            "from": [{
                "namespaceSelector": {"matchLabels": {"team": format!("team-{}", number / POLICIES_AT_A_TIME % TEAMS)}},
                "podSelector": {"matchLabels": {"tier": "front"}},
            }],
            "ports": port,
        }]}),
        _ => json!({"podSelector": app(0), "ingress": [{
            "from": [{"ipBlock": {"cidr": format!("203.0.{}.0/24", number / POLICIES_AT_A_TIME % 250)}}], "ports": port,
        }]}),
    };
    let namespace = namespace_name(size, number / POLICIES_AT_A_TIME);
    object(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": format!("policy-{number}")}, "spec": spec,
    }))
}

fn named(namespace: &str) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}})
}
