//! ClusterNetworkPolicy: what changes while policies are in force.

use super::{Case, ROW, STEP, Then};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "a policy that comes, changes and goes",
        allowed: &["web > db tcp/1"],
        then: &[
            Then {
                what: "it comes",
                upsert: &[
                    "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c9}, spec: {tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}]}}",
                ],
                allowed: &["job > db tcp/1"],
                denied: &["web > db tcp/1"],
                ..STEP
            },
            Then {
                what: "its action changes",
                upsert: &[
                    "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c9}, spec: {tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}]}}",
                ],
                allowed: &["web > db tcp/1"],
                ..STEP
            },
            Then {
                what: "its subject changes",
                upsert: &[
                    "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c9}, spec: {tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}]}}",
                ],
                allowed: &["web > db tcp/1"],
                denied: &["web > job tcp/1"],
                ..STEP
            },
            Then {
                what: "it goes",
                delete: &["ClusterNetworkPolicy c9"],
                allowed: &["web > job tcp/1"],
                ..STEP
            },
        ],
        ..ROW
    },
    Case {
        name: "a priority that changes changes who goes first",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
            "{tier: Admin, priority: 2, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/1"],
        then: &[
            Then {
                what: "the second goes first",
                upsert: &[
                    "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c1}, spec: {tier: Admin, priority: 0, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}",
                ],
                denied: &["web > db tcp/1"],
                ..STEP
            },
            Then {
                what: "and becomes a Baseline policy",
                upsert: &[
                    "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c1}, spec: {tier: Baseline, priority: 0, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}",
                ],
                allowed: &["web > db tcp/1"],
                ..STEP
            },
        ],
        ..ROW
    },
    Case {
        name: "labels of a namespace make its pods subjects, and peers",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: green}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{namespaces: {matchLabels: {team: red}}}]}]}",
        ],
        allowed: &["web > other/db tcp/1", "other/web > db tcp/1"],
        then: &[Then {
            what: "the namespace changes",
            upsert: &["{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {team: green}}}"],
            allowed: &["other/web > 203.0.113.9 tcp/1"],
            denied: &["web > other/db tcp/1", "other/web > db tcp/1"],
            ..STEP
        }],
        ..ROW
    },
    Case {
        name: "of a namespace that is not known anything may be true that denies, and nothing that accepts",
        policies: &["{podSelector: {matchLabels: {app: db}}, }"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{namespaces: {matchExpressions: [{key: team, operator: NotIn, values: [red]}]}}], protocols: [{tcp: {destinationPort: {number: 1}}}]}]}",
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: gold}}}]}]}",
        ],
        allowed: &["other/web > db tcp/1", "other/web > job tcp/1"],
        then: &[
            Then {
                what: "the namespace's object goes",
                delete: &["Namespace other"],
                allowed: &["web > job tcp/1"],
                denied: &["other/web > db tcp/1", "other/web > job tcp/1"],
                ..STEP
            },
            Then {
                what: "and returns",
                upsert: &["{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {team: blue}}}"],
                allowed: &["other/web > db tcp/1", "other/web > job tcp/1"],
                ..STEP
            },
        ],
        ..ROW
    },
    Case {
        name: "a Pass that may be meant for a pod denies until that is known",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: blue}}}]}]}",
        ],
        allowed: &["other/web > db tcp/1", "web > db tcp/1"],
        then: &[Then {
            what: "the namespace's object goes",
            delete: &["Namespace other"],
            allowed: &["web > db tcp/1"],
            denied: &["other/web > db tcp/1"],
            ..STEP
        }],
        ..ROW
    },
    Case {
        name: "a NetworkPolicy that comes takes its pods from the Baseline tier",
        cluster: &[
            "{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ],
        denied: &["web > db tcp/80"],
        then: &[
            Then {
                what: "it comes",
                upsert: &[
                    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p9, namespace: default}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}}",
                ],
                allowed: &["web > db tcp/80"],
                denied: &["web > db tcp/81", "web > job tcp/80"],
                ..STEP
            },
            Then {
                what: "it goes",
                delete: &["NetworkPolicy default/p9"],
                denied: &["web > db tcp/80"],
                ..STEP
            },
        ],
        ..ROW
    },
];
