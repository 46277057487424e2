//! Who is a peer and who is judged: the own node, pods of the host network, pods that end.

use super::{Case, ROW, WEB_TO_DB};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "a pod always reaches its own node and is reached by it, and itself",
        policies: &["{podSelector: {}, policyTypes: [Ingress, Egress]}"],
        allowed: &["web > node tcp/1", "db > node udp/2", "web > hostnet tcp/1"],
        denied: &["web > node2 tcp/1", "node2 > web tcp/1", "web > db tcp/1"],
        ..ROW
    },
    Case {
        name: "host-network pods are no selector's peer",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}",
        ],
        allowed: &["web > db tcp/1", "db > web tcp/1", "db > far tcp/1"],
        denied: &["farhost > db tcp/1", "db > farhost tcp/1"],
        ..ROW
    },
    Case {
        name: "pods that have ended are no peers any more",
        policies: &[WEB_TO_DB],
        allowed: &["far > db tcp/80"],
        denied: &["done > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a terminating pod stays a peer, and its policies stay in force",
        policies: &[WEB_TO_DB],
        objects: &[
            "{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: default, uid: uid-default-far, labels: {app: web}, deletionTimestamp: '2026-01-01T00:00:00Z'}, spec: {nodeName: node2, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Running, podIPs: [{ip: 10.1.2.1}, {ip: 'fd02::1'}]}}",
            "{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: default, uid: uid-default-db, labels: {app: db}, deletionTimestamp: '2026-01-01T00:00:00Z'}, spec: {nodeName: node, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Running, podIPs: [{ip: 10.1.0.2}, {ip: 'fd01::2'}]}}",
        ],
        allowed: &["far > db tcp/80"],
        denied: &["job > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a pod that has failed is no peer",
        policies: &[WEB_TO_DB],
        objects: &[
            "{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: default, uid: uid-default-far, labels: {app: web}}, spec: {nodeName: node2, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Failed, podIPs: [{ip: 10.1.2.1}, {ip: 'fd02::1'}]}}",
        ],
        allowed: &["web > db tcp/80"],
        denied: &["far > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a pending pod with an address is a peer",
        policies: &[WEB_TO_DB],
        objects: &[
            "{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: default, uid: uid-default-far, labels: {app: web}}, spec: {nodeName: node2, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Pending, podIPs: [{ip: 10.1.2.1}, {ip: 'fd02::1'}]}}",
        ],
        allowed: &["far > db tcp/80"],
        ..ROW
    },
    Case {
        name: "the address of a pod that has ended belongs to its next pod",
        policies: &[WEB_TO_DB],
        objects: &[
            "{apiVersion: v1, kind: Pod, metadata: {name: next, namespace: default, uid: uid-default-next, labels: {app: job}}, spec: {nodeName: node2, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Running, podIPs: [{ip: 10.1.2.9}, {ip: 'fd02::9'}]}}",
        ],
        denied: &["10.1.2.9 > db tcp/80"],
        ..ROW
    },
    Case {
        name: "the own node reaches an isolated pod, also by its host-network pods",
        policies: &["{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress]}"],
        allowed: &["db > node tcp/1", "db > hostnet udp/1"],
        denied: &["db > node2 tcp/1", "db > farhost tcp/1", "farhost > db tcp/1"],
        ..ROW
    },
];
