//! Which endpoints take flows here: the cases of kube-proxy's own test (`k8s.io/kubernetes/pkg/proxy/topology_test.go`), and
//! corners beside them.

use serde_json::{Value, json};
use sluice_abi::{FrontendKey, FrontendScope};
use sluice_core::{
    cluster::{Change, NodeName},
    compile::{Compiler, Settings},
    desired::{DesiredFrontend, FrontendKind},
    object::Object,
};

/// A Service with these policies, its endpoints, and who takes what.
struct Case {
    name: &'static str,
    /// The zone of this node.
    zone: &'static str,
    /// Words: `internal-local`, `external-local`, `node-port`, `publish-not-ready`.
    service: &'static str,
    /// The last number of the address, and words: `here`, `zone:NAME`, `node:NAME`, `unready`, `ending` (it serves and
    /// terminates), `gone` (it terminates and does not serve).
    endpoints: &'static [&'static str],
    /// The endpoints behind the cluster address, or what happens without any: `refused`, `dropped`.
    cluster_address: &'static str,
    /// Behind the node port for clients inside, and for those outside; empty without a node port.
    inside: &'static str,
    outside: &'static str,
}

const DEFAULT: Case =
    Case { name: "", zone: "a", service: "", endpoints: &[], cluster_address: "", inside: "", outside: "" };

const ZONES: &[&str] = &["3 here zone:a", "4 here zone:b", "5 zone:c", "6 zone:a"];
const PLAIN: &[&str] = &["0 here", "1"];
const REMOTE: &[&str] = &["0", "1"];
const UNREADY: &[&str] = &["0 here unready", "1 unready"];

const CASES: &[Case] = &[
    Case {
        name: "hints for this node's zone count when all endpoints have some",
        endpoints: ZONES,
        cluster_address: "3 6",
        ..DEFAULT
    },
    Case {
        name: "hints do not count for endpoints of this node with externalTrafficPolicy Local",
        service: "external-local node-port",
        endpoints: ZONES,
        cluster_address: "3 6",
        inside: "3 6",
        outside: "3 4",
        ..DEFAULT
    },
    Case {
        name: "hints do not count for endpoints of this node with internalTrafficPolicy Local",
        service: "internal-local node-port",
        endpoints: ZONES,
        cluster_address: "3 4",
        inside: "3 6",
        outside: "3 6",
        ..DEFAULT
    },
    Case {
        name: "hints do not count on a node without zone",
        zone: "",
        endpoints: &["3 zone:a", "4 zone:b"],
        cluster_address: "3 4",
        ..DEFAULT
    },
    Case {
        name: "hints do not count where none is for this node's zone",
        zone: "b",
        endpoints: &["3 zone:a", "4 zone:a"],
        cluster_address: "3 4",
        ..DEFAULT
    },
    Case {
        name: "an unready endpoint of this zone takes nothing",
        endpoints: &["3 zone:a", "4 zone:a unready", "5 zone:b"],
        cluster_address: "3",
        ..DEFAULT
    },
    Case {
        name: "hints do not count when all endpoints of this zone are unready",
        endpoints: &["3 zone:a unready", "4 zone:b", "5 zone:c"],
        cluster_address: "4 5",
        ..DEFAULT
    },
    Case {
        name: "hints do not count when a ready endpoint has none",
        endpoints: &["3 zone:a", "4 zone:b", "5"],
        cluster_address: "3 4 5",
        ..DEFAULT
    },
    Case {
        name: "hints of unready endpoints may be missing",
        endpoints: &["3 zone:a", "4 zone:b", "5 unready"],
        cluster_address: "3",
        ..DEFAULT
    },
    Case {
        name: "an endpoint may be meant for several zones",
        zone: "c",
        endpoints: &["3 zone:a zone:b zone:c", "4 zone:b zone:c", "5 zone:b zone:d", "6 zone:c"],
        cluster_address: "3 4 6",
        ..DEFAULT
    },
    Case {
        name: "hints for nodes go before those for zones",
        endpoints: &["3 zone:a node:here", "4 zone:a node:there", "5 zone:b node:there"],
        cluster_address: "3",
        ..DEFAULT
    },
    Case {
        name: "hints for nodes do not count when a ready endpoint has none",
        endpoints: &["3 zone:a node:here", "4 zone:a", "5 zone:b node:there"],
        cluster_address: "3 4",
        ..DEFAULT
    },
    Case {
        name: "without an endpoint for this node the zone decides",
        endpoints: &["3 zone:a node:there", "4 zone:a node:there", "5 zone:b node:there"],
        cluster_address: "3 4",
        ..DEFAULT
    },
    Case {
        name: "internalTrafficPolicy Local without endpoints refuses",
        service: "internal-local",
        cluster_address: "refused",
        ..DEFAULT
    },
    Case {
        name: "internalTrafficPolicy Local with endpoints elsewhere only drops",
        service: "internal-local",
        endpoints: REMOTE,
        cluster_address: "dropped",
        ..DEFAULT
    },
    Case {
        name: "internalTrafficPolicy Local leads to this node's endpoints",
        service: "internal-local",
        endpoints: PLAIN,
        cluster_address: "0",
        ..DEFAULT
    },
    Case {
        name: "unready endpoints take nothing",
        endpoints: UNREADY,
        cluster_address: "refused",
        ..DEFAULT
    },
    Case {
        name: "ready endpoints take everything, also beside unready ones",
        endpoints: &["0 here", "1 unready"],
        cluster_address: "0",
        ..DEFAULT
    },
    Case {
        name: "ending endpoints take flows when none is ready",
        endpoints: &["0 here ending", "1 ending", "2 gone"],
        cluster_address: "0 1",
        ..DEFAULT
    },
    Case {
        name: "ending endpoints take nothing beside a ready one",
        endpoints: &["0 here ending", "1"],
        cluster_address: "1",
        ..DEFAULT
    },
    Case {
        name: "internal Local and external Cluster",
        service: "internal-local node-port",
        endpoints: PLAIN,
        cluster_address: "0",
        inside: "0 1",
        outside: "0 1",
        ..DEFAULT
    },
    Case {
        name: "internal Cluster and external Local",
        service: "external-local node-port",
        endpoints: PLAIN,
        cluster_address: "0 1",
        inside: "0 1",
        outside: "0",
        ..DEFAULT
    },
    Case {
        name: "both Local",
        service: "internal-local external-local node-port",
        endpoints: PLAIN,
        cluster_address: "0",
        inside: "0 1",
        outside: "0",
        ..DEFAULT
    },
    Case {
        name: "both Local with endpoints elsewhere only",
        service: "internal-local external-local node-port",
        endpoints: REMOTE,
        cluster_address: "dropped",
        inside: "0 1",
        outside: "dropped",
        ..DEFAULT
    },
    Case {
        name: "both Local with ending endpoints elsewhere only",
        service: "internal-local external-local node-port",
        endpoints: &["0 ending", "1 ending"],
        cluster_address: "dropped",
        inside: "0 1",
        outside: "dropped",
        ..DEFAULT
    },
    Case {
        name: "externalTrafficPolicy Local falls back to this node's ending endpoints while others are ready",
        service: "external-local node-port",
        endpoints: &["0", "1 here ending", "2 here gone", "3 ending"],
        cluster_address: "0",
        inside: "0",
        outside: "1",
        ..DEFAULT
    },
    Case {
        name: "externalTrafficPolicy Local prefers this node's ready endpoints to its ending ones",
        service: "external-local node-port",
        endpoints: &["0 here", "1 here ending"],
        cluster_address: "0",
        inside: "0",
        outside: "0",
        ..DEFAULT
    },
    Case {
        name: "externalTrafficPolicy means nothing to a Service that clients outside cannot reach",
        service: "external-local",
        endpoints: PLAIN,
        cluster_address: "0 1",
        ..DEFAULT
    },
    Case {
        name: "externalTrafficPolicy Local without any endpoint refuses",
        service: "external-local node-port",
        endpoints: UNREADY,
        cluster_address: "refused",
        inside: "refused",
        outside: "refused",
        ..DEFAULT
    },
    Case {
        name: "unready endpoints of a Service that publishes them take everything",
        service: "publish-not-ready node-port",
        endpoints: UNREADY,
        cluster_address: "0 1",
        inside: "0 1",
        outside: "0 1",
        ..DEFAULT
    },
];

#[test]
fn endpoints_take_flows_as_kube_proxy_has_it() {
    for case in CASES {
        let frontends = compiled(case);
        let behind = |kind, scope: FrontendScope| {
            let mut found = frontends.iter().filter(|(key, f)| f.kind == kind && key.scope == scope as u8);
            found.next().map(|(_, frontend)| words(frontend)).unwrap_or_default()
        };
        let found = [
            behind(FrontendKind::ClusterIp, FrontendScope::Internal),
            behind(FrontendKind::NodePort, FrontendScope::Internal),
            behind(FrontendKind::NodePort, FrontendScope::External),
        ];
        assert_eq!(found, [case.cluster_address, case.inside, case.outside], "{}", case.name);
    }
}

#[test]
fn a_proxy_beside_leaves_everything_but_cluster_addresses_to_it() {
    let case = Case { service: "external-local node-port", endpoints: PLAIN, ..DEFAULT };
    let settings = Settings { replaces_kube_proxy: false, ..Settings::default() };
    let kinds: Vec<_> = compiled_with(&case, settings).into_iter().map(|(_, f)| f.kind).collect();
    assert_eq!(kinds, [FrontendKind::ClusterIp]);
}

#[test]
fn clients_outside_are_hashed_where_there_is_a_choice_and_every_node_may_make_it() {
    for (service, endpoints, size, want) in [
        ("node-port", PLAIN, 1021, Some(1021)),
        ("node-port", PLAIN, 0, None),
        ("node-port", &PLAIN[..1], 1021, None),
        ("node-port external-local", &["0 here", "1 here"], 1021, None),
    ] {
        let case = Case { service, endpoints, ..DEFAULT };
        let settings = Settings { maglev_table_size: size, ..Settings::default() };
        for (key, frontend) in compiled_with(&case, settings) {
            let is_outside = key.scope == FrontendScope::External as u8;
            assert_eq!(frontend.slots.table, want.filter(|_| is_outside), "{service} {size}");
        }
    }
}

fn compiled(case: &Case) -> Vec<(FrontendKey, DesiredFrontend)> {
    compiled_with(case, Settings::default())
}

fn compiled_with(case: &Case, settings: Settings) -> Vec<(FrontendKey, DesiredFrontend)> {
    let mut compiler = Compiler::with_settings(NodeName("here".to_owned()), settings);
    let labels = json!({"topology.kubernetes.io/zone": case.zone});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here", "labels": labels}});
    for value in [node, service(case.service), slice(case.endpoints)] {
        let object = Object::from_value(value).expect("a good object").expect("a known kind");
        compiler.apply(Change::Upsert(object)).expect("nothing to reject");
    }
    let services = compiler.desired().services.values();
    services.flat_map(|service| service.frontends.clone()).collect()
}

fn service(words: &str) -> Value {
    let has = |word| words.split(' ').any(|w| w == word);
    let policy = |word| if has(word) { "Local" } else { "Cluster" };
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.96.0.1",
            "internalTrafficPolicy": policy("internal-local"),
            "externalTrafficPolicy": policy("external-local"),
            "publishNotReadyAddresses": has("publish-not-ready"),
            "ports": [{"port": 80, "nodePort": if has("node-port") { 30_080 } else { 0 }}],
        },
    })
}

fn slice(endpoints: &[&str]) -> Value {
    let endpoint = |words: &&str| {
        let (last, words) = words.split_once(' ').unwrap_or((words, ""));
        let has = |word| words.split(' ').any(|w| w == word);
        let named = |kind: &str| -> Vec<Value> {
            let names = words.split(' ').filter_map(|word| word.strip_prefix(kind)?.strip_prefix(':'));
            names.map(|name| json!({"name": name})).collect()
        };
        let (ending, gone) = (has("ending"), has("gone"));
        json!({
            "addresses": [format!("10.1.2.{last}")],
            "nodeName": if has("here") { "here" } else { "there" },
            "conditions": {"ready": !(has("unready") || ending || gone), "serving": !(has("unready") || gone),
                "terminating": ending || gone},
            "hints": {"forZones": named("zone"), "forNodes": named("node")},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn words(frontend: &DesiredFrontend) -> String {
    let backends = &frontend.slots.backends;
    if backends.is_empty() {
        return if frontend.is_local { "dropped" } else { "refused" }.to_owned();
    }
    backends.iter().map(|key| key.addr.v4_octets()[3].to_string()).collect::<Vec<_>>().join(" ")
}
