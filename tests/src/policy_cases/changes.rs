//! What changes while policies are in force.

use super::{Case, ROW, STEP, Then, WEB_TO_DB};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "a label of a pod changes what it may as a peer",
        policies: &[WEB_TO_DB],
        allowed: &["web > db tcp/80"],
        denied: &["job > db tcp/80"],
        then: &[
            Then {
                what: "web is no web any more",
                upsert: &[
                    "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: default, uid: uid-default-web, labels: {app: job}}, spec: {nodeName: node, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Running, podIPs: [{ip: 10.1.0.1}, {ip: 'fd01::1'}]}}",
                ],
                allowed: &["far > db tcp/80"],
                denied: &["web > db tcp/80"],
                ..STEP
            },
            Then {
                what: "and is again",
                upsert: &[
                    "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: default, uid: uid-default-web, labels: {app: web}}, spec: {nodeName: node, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Running, podIPs: [{ip: 10.1.0.1}, {ip: 'fd01::1'}]}}",
                ],
                allowed: &["web > db tcp/80"],
                ..STEP
            },
        ],
        ..ROW
    },
    Case {
        name: "a label of a pod changes which policies isolate it",
        policies: &[WEB_TO_DB],
        allowed: &["job > web tcp/1"],
        then: &[Then {
            what: "web becomes a db",
            upsert: &[
                "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: default, uid: uid-default-web, labels: {app: db}}, spec: {nodeName: node, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Running, podIPs: [{ip: 10.1.0.1}, {ip: 'fd01::1'}]}}",
            ],
            allowed: &["far > web tcp/80"],
            denied: &["job > web tcp/1", "job > web tcp/80"],
            ..STEP
        }],
        ..ROW
    },
    Case {
        name: "labels of a namespace change who is a peer",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]}",
        ],
        allowed: &["other/web > db tcp/1"],
        then: &[
            Then {
                what: "the team leaves",
                upsert: &[
                    "{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {team: green}}}",
                ],
                denied: &["other/web > db tcp/1", "other/far > db tcp/1"],
                ..STEP
            },
            Then {
                what: "and returns",
                upsert: &["{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {team: blue}}}"],
                allowed: &["other/far > db tcp/1"],
                ..STEP
            },
        ],
        ..ROW
    },
    Case {
        name: "a policy that is deleted isolates nobody",
        policies: &[WEB_TO_DB, "{podSelector: {}}"],
        denied: &["job > db tcp/1", "job > web tcp/1"],
        then: &[
            Then {
                what: "one goes",
                delete: &["NetworkPolicy default/p1"],
                allowed: &["job > web tcp/1", "web > db tcp/80"],
                denied: &["job > db tcp/1"],
                ..STEP
            },
            Then {
                what: "the other goes",
                delete: &["NetworkPolicy default/p0"],
                allowed: &["job > db tcp/1", "203.0.113.9 > db udp/1"],
                ..STEP
            },
        ],
        ..ROW
    },
    Case {
        name: "a policy that changes says at once what it says now",
        policies: &[WEB_TO_DB],
        allowed: &["web > db tcp/80"],
        denied: &["web > db tcp/81"],
        then: &[
            Then {
                what: "another port",
                upsert: &[
                    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p0, namespace: default}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 81}]}]}}",
                ],
                allowed: &["web > db tcp/81", "job > db tcp/81"],
                denied: &["web > db tcp/80"],
                ..STEP
            },
            Then {
                what: "another selection",
                upsert: &[
                    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p0, namespace: default}, spec: {podSelector: {matchLabels: {app: job}}}}",
                ],
                allowed: &["job > db tcp/1"],
                denied: &["web > job tcp/1"],
                ..STEP
            },
        ],
        ..ROW
    },
    Case {
        name: "a pod that ends is no peer from then on, and one that comes is",
        policies: &[WEB_TO_DB],
        allowed: &["far > db tcp/80"],
        then: &[
            Then {
                what: "far ends",
                upsert: &[
                    "{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: default, uid: uid-default-far, labels: {app: web}}, spec: {nodeName: node2, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Succeeded, podIPs: [{ip: 10.1.2.1}, {ip: 'fd02::1'}]}}",
                ],
                denied: &["far > db tcp/80"],
                ..STEP
            },
            Then {
                what: "another has its address",
                upsert: &[
                    "{apiVersion: v1, kind: Pod, metadata: {name: far2, namespace: default, uid: uid-default-far2, labels: {app: web}}, spec: {nodeName: node2, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}, status: {phase: Running, podIPs: [{ip: 10.1.2.1}, {ip: 'fd02::1'}]}}",
                ],
                allowed: &["far > db tcp/80"],
                ..STEP
            },
            Then { what: "and goes", delete: &["Pod default/far2"], denied: &["far > db tcp/80"], ..STEP },
        ],
        ..ROW
    },
    Case {
        name: "a named port follows the pod",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: sql}]}]}"],
        allowed: &["web > db tcp/5432"],
        then: &[Then {
            what: "it has another number",
            upsert: &[
                "{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: default, uid: uid-default-db, labels: {app: db}}, spec: {nodeName: node, containers: [{name: c, ports: [{name: sql, containerPort: 7}]}]}, status: {phase: Running, podIPs: [{ip: 10.1.0.2}, {ip: 'fd01::2'}]}}",
            ],
            allowed: &["web > db tcp/7"],
            denied: &["web > db tcp/5432"],
            ..STEP
        }],
        ..ROW
    },
];
