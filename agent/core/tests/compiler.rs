//! What a compiler tells of single changes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_abi::{Addr, EndpointId};
use sluice_core::{
    cluster::{Change, LocalEndpoint, NodeName},
    compile::Compiler,
    object::{Object, ObjectKey},
};

fn upsert(value: Value) -> Change {
    Change::Upsert(Object::from_value(value).expect("a good object").expect("a known kind"))
}

fn attach(uid: &str) -> Change {
    Change::Attach(LocalEndpoint {
        id: EndpointId(1),
        namespace: "default".to_owned(),
        pod: "web".to_owned(),
        uid: Some(uid.to_owned()),
        container: "c1".to_owned(),
        ifname: "eth0".to_owned(),
        host_ifname: "slc1".to_owned(),
        addrs: [Addr::v4([10, 0, 0, 1]), Addr::UNSPECIFIED],
        ifindex: 7,
        mac: [2, 0, 0, 0, 0, 1],
    })
}

fn pod(metadata: Value) -> Change {
    upsert(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"nodeName": "here"}, "status": {"phase": "Running", "podIP": "10.0.0.1"}}))
}

#[test]
fn a_static_pod_is_known_by_the_uid_that_its_kubelet_gave_it() {
    for (metadata, is_served) in [
        (json!({"name": "web", "uid": "mirror"}), false),
        (json!({"name": "web", "uid": "static"}), true),
        (
            json!({"name": "web", "uid": "mirror", "annotations": {"kubernetes.io/config.mirror": "static"}}),
            true,
        ),
        (
            json!({"name": "web", "uid": "static", "annotations": {"kubernetes.io/config.mirror": "older"}}),
            false,
        ),
    ] {
        let mut compiler = Compiler::new(NodeName("here".to_owned()));
        compiler.apply(attach("static")).expect("nothing to reject");
        compiler.apply(pod(metadata.clone())).expect("nothing to reject");
        assert_eq!(!compiler.desired().endpoints.is_empty(), is_served, "{metadata}");
    }
}

/// One object of each kind: as it comes first, and as a status update or a relist tells it again.
fn objects_told_again() -> Vec<[Value; 2]> {
    let object = |api_version: &str, kind: &str, rest: Value| {
        let told = |version: &str| {
            let mut value = rest.clone();
            value["apiVersion"] = api_version.into();
            value["kind"] = kind.into();
            value["metadata"]["name"] = "web".into();
            value["metadata"]["resourceVersion"] = version.into();
            value["status"]["conditions"] = json!([{"type": "Ready", "message": version}]);
            value
        };
        [told("1"), told("2")]
    };
    let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 8080}]});
    vec![
        object("v1", "Pod", json!({"spec": {"nodeName": "here"}, "status": {"podIP": "10.0.0.1"}})),
        object("v1", "Namespace", json!({"metadata": {"labels": {"team": "a"}}})),
        object("v1", "Node", json!({"spec": {"podCIDR": "10.0.0.0/24"}})),
        object("v1", "Service", json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}})),
        object("discovery.k8s.io/v1", "EndpointSlice", slice),
        object("networking.k8s.io/v1", "NetworkPolicy", json!({"spec": {"ingress": [{}]}})),
    ]
}

#[test]
fn an_object_that_is_told_again_makes_nothing_pending() {
    let mut compiler = Compiler::new(NodeName("here".to_owned()));
    compiler.apply(attach("static")).expect("nothing to reject");
    let addresses = Change::NodeAddresses(BTreeSet::from([Addr::v4([192, 0, 2, 1])]));
    compiler.apply(addresses.clone()).expect("nothing to reject");
    for [first, _] in objects_told_again() {
        compiler.apply(upsert(first)).expect("nothing to reject");
    }
    assert!(compiler.has_pending());
    compiler.desired();
    let unknown = Change::Delete(ObjectKey::Node("gone".to_owned()));
    let again = objects_told_again().into_iter().map(|[_, again]| upsert(again));
    for change in again.chain([attach("static"), addresses, unknown, Change::Detach(EndpointId(9))]) {
        compiler.apply(change.clone()).expect("nothing to reject");
        assert!(!compiler.has_pending(), "{change:?}");
    }
}

#[test]
fn a_change_of_what_matters_here_is_pending() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 81}]}});
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "web"}, "spec": {"ingress": []}});
    let slice =
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "web"}});
    let changes = [
        upsert(service),
        upsert(policy),
        // The Service it belonged to loses its backends.
        upsert(slice),
        pod(json!({"name": "web", "labels": {"app": "web"}})),
        attach("other"),
        Change::NodeAddresses(BTreeSet::new()),
        Change::Detach(EndpointId(1)),
    ];
    for change in changes {
        let mut compiler = Compiler::new(NodeName("here".to_owned()));
        compiler.apply(attach("static")).expect("nothing to reject");
        let addresses = Change::NodeAddresses(BTreeSet::from([Addr::v4([192, 0, 2, 1])]));
        compiler.apply(addresses).expect("nothing to reject");
        for [first, _] in objects_told_again() {
            compiler.apply(upsert(first)).expect("nothing to reject");
        }
        compiler.desired();
        compiler.apply(change.clone()).expect("nothing to reject");
        assert!(compiler.has_pending(), "{change:?}");
    }
}

/// A ClusterNetworkPolicy of the Admin tier about namespaces of team a.
fn cluster_policy(name: &str, priority: u16, action: &str) -> Change {
    upsert(json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": {"tier": "Admin", "priority": priority,
        "subject": {"namespaces": {"matchLabels": {"team": "a"}}},
        "ingress": [{"action": action, "from": [{"namespaces": {}}]}]}}))
}

fn namespace(team: &str) -> Change {
    upsert(json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "default", "labels": {"team": team}}}))
}

/// The policies that have a say about what the pod receives, in the order in which they are asked.
fn asked(compiler: &mut Compiler) -> Vec<String> {
    let sets = compiler.desired().rule_sets.values();
    sets.flat_map(|set| &set.rules).map(|rule| rule.source.policy.to_string()).collect()
}

#[test]
fn labels_of_a_namespace_and_priorities_change_who_is_asked() {
    let mut compiler = Compiler::new(NodeName("here".to_owned()));
    let wired = [attach("static"), pod(json!({"name": "web"})), namespace("b")];
    let policies = [cluster_policy("one", 1, "Accept"), cluster_policy("two", 2, "Deny")];
    for change in wired.into_iter().chain(policies) {
        compiler.apply(change).expect("nothing to reject");
    }
    assert!(asked(&mut compiler).is_empty());
    compiler.apply(namespace("a")).expect("nothing to reject");
    assert_eq!(asked(&mut compiler), ["one", "two"]);
    compiler.apply(cluster_policy("one", 3, "Accept")).expect("nothing to reject");
    assert_eq!(asked(&mut compiler), ["two", "one"]);
    compiler.apply(namespace("b")).expect("nothing to reject");
    assert!(asked(&mut compiler).is_empty());
}
