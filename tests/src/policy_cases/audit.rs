//! Policies that are audited: never enforced, and what they would drop is known.

use super::{Case, ROW, STEP, Then, WEB_TO_DB};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "an audited policy drops nothing, and says what it would drop",
        policies: &[
            "audit:{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}",
        ],
        allowed: &[
            "web > db tcp/80",
            "far > db tcp/80",
            "web > job tcp/80",
            "db > web tcp/1",
            "db > node tcp/1",
        ],
        audited: &[
            "web > db tcp/81",
            "web > db udp/80",
            "web > db icmp",
            "job > db tcp/80",
            "203.0.113.9 > db tcp/80",
        ],
        ..ROW
    },
    Case {
        name: "egress is audited apart from ingress",
        policies: &[
            "audit:{podSelector: {matchLabels: {app: job}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: '2001:db8::/64'}}]}]}",
        ],
        allowed: &[
            "job > 203.0.113.9 tcp/1",
            "job > 2001:db8::1 tcp/1",
            "web > job tcp/1",
            "job > node tcp/1",
        ],
        audited: &[
            "job > db tcp/1",
            "job > 203.0.114.9 udp/1",
            "job > 2001:db8:0:1::1 tcp/1",
            "job > far icmp",
        ],
        ..ROW
    },
    Case {
        name: "both ends may be audited",
        policies: &[
            "audit:{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}",
            "audit:{podSelector: {matchLabels: {app: db}}}",
        ],
        allowed: &["web > web tcp/1", "job > web tcp/1"],
        audited: &["web > db tcp/1", "web > job tcp/1", "job > db tcp/1", "other/web > db tcp/1"],
        ..ROW
    },
    Case {
        name: "an audited policy adds up with those that are enforced",
        policies: &[
            WEB_TO_DB,
            "audit:{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: job}}}]}]}",
        ],
        allowed: &["web > db tcp/80"],
        // What it alone lets pass is let pass by nobody.
        denied: &["job > db tcp/80", "web > db tcp/81"],
        ..ROW
    },
    Case {
        name: "what is dropped is not audited",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, }",
            "audit:{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}",
        ],
        audited: &["web > job tcp/1"],
        denied: &["web > db tcp/1"],
        ..ROW
    },
    Case {
        name: "an audited policy that makes no sense would let nothing pass",
        policies: &[
            "audit:{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80, endPort: 70}]}]}",
        ],
        allowed: &["web > job tcp/75"],
        audited: &["web > db tcp/75", "web > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a namespace speaks for its policies, unless one speaks for itself",
        objects: &[
            "{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {team: red}, annotations: {sluice.dev/mode: audit}}}",
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: e0, namespace: default, annotations: {sluice.dev/mode: enforce}}, spec: {podSelector: {matchLabels: {app: job}}}}",
        ],
        policies: &[
            "{podSelector: {matchLabels: {app: db}}}",
            "other:{podSelector: {matchLabels: {app: db}}}",
        ],
        allowed: &["db > web tcp/1"],
        audited: &["web > db tcp/1", "other/web > db tcp/1"],
        denied: &["web > other/db tcp/1", "web > job tcp/1"],
        then: &[
            Then {
                what: "the namespace says nothing any more",
                upsert: &[
                    "{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {team: red}}}",
                ],
                denied: &["web > db tcp/1", "web > job tcp/1"],
                ..STEP
            },
            Then {
                what: "the other says it",
                upsert: &[
                    "{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {team: blue}, annotations: {sluice.dev/mode: audit}}}",
                ],
                audited: &["web > other/db tcp/1"],
                denied: &["web > db tcp/1"],
                ..STEP
            },
            Then {
                what: "and its object goes",
                delete: &["Namespace other"],
                denied: &["web > other/db tcp/1"],
                ..STEP
            },
        ],
        ..ROW
    },
    Case {
        name: "a mode that is unknown enforces",
        objects: &[
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p9, namespace: default, annotations: {sluice.dev/mode: dry-run}}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}}",
        ],
        allowed: &["web > db tcp/80"],
        denied: &["web > db tcp/81"],
        ..ROW
    },
    Case {
        name: "a policy goes from audit to enforcement and back",
        policies: &["audit:{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}"],
        allowed: &["web > db tcp/80"],
        audited: &["web > db tcp/81"],
        then: &[
            Then {
                what: "it is enforced",
                upsert: &[
                    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p0, namespace: default}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}}",
                ],
                allowed: &["web > db tcp/80"],
                denied: &["web > db tcp/81"],
                ..STEP
            },
            Then {
                what: "it is audited, with another port",
                upsert: &[
                    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p0, namespace: default, annotations: {sluice.dev/mode: audit}}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 81}]}]}}",
                ],
                allowed: &["web > db tcp/81"],
                audited: &["web > db tcp/80"],
                ..STEP
            },
            Then {
                what: "it goes",
                delete: &["NetworkPolicy default/p0"],
                allowed: &["web > db tcp/80", "web > db tcp/81"],
                ..STEP
            },
        ],
        ..ROW
    },
    Case {
        name: "labels make pods audited, and peers of audited policies",
        policies: &[
            "audit:{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}",
        ],
        allowed: &["web > db tcp/1"],
        audited: &["job > db tcp/1"],
        then: &[Then {
            what: "web becomes a db",
            upsert: &[
                "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: default, uid: uid-default-web, labels: {app: db}}, spec: {nodeName: node, containers: [{name: c}]}, status: {phase: Running, podIPs: [{ip: 10.1.0.1}, {ip: 'fd01::1'}]}}",
            ],
            allowed: &["far > web tcp/1", "db > job tcp/1"],
            audited: &["job > web tcp/1", "web > db tcp/1"],
            ..STEP
        }],
        ..ROW
    },
    Case {
        name: "a Deny of an audited ClusterNetworkPolicy, before what is enforced",
        policies: &[WEB_TO_DB],
        cluster: &[
            "audit:{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: default}}}, ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: web}}, namespaceSelector: {matchLabels: {team: red}}}}]}]}",
        ],
        allowed: &["job > web tcp/1", "other/web > job tcp/1"],
        audited: &["web > db tcp/80", "far > db tcp/80", "web > job tcp/1"],
        denied: &["job > db tcp/80"],
        ..ROW
    },
    Case {
        name: "an audited Accept or Pass lets nothing pass",
        policies: &["{podSelector: {matchLabels: {app: db}}}"],
        cluster: &[
            "audit:{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
            "audit:{tier: Admin, priority: 2, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, ingress: [{action: Pass, from: [{namespaces: {}}]}]}",
            "{tier: Admin, priority: 3, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: blue}}}]}]}",
        ],
        allowed: &["web > job tcp/1"],
        denied: &["web > db tcp/1", "other/web > job tcp/1"],
        ..ROW
    },
    Case {
        name: "an audited Pass takes from an enforced Accept what a NetworkPolicy does not allow",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}"],
        cluster: &[
            "audit:{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Pass, from: [{namespaces: {}}]}]}",
            "{tier: Admin, priority: 2, subject: {pods: {podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/80"],
        audited: &["web > db tcp/81"],
        denied: &["203.0.113.9 > db tcp/81"],
        ..ROW
    },
    Case {
        name: "an audited Baseline has no say where a NetworkPolicy isolates, and an audited NetworkPolicy takes it away",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{}]}",
            "audit:{podSelector: {matchLabels: {app: job}}, ingress: [{ports: [{port: 80}]}]}",
        ],
        cluster: &[
            "audit:{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/1", "web > job tcp/80", "203.0.113.9 > web tcp/1"],
        audited: &["job > web tcp/1", "web > job tcp/81"],
        ..ROW
    },
];
