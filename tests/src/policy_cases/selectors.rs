//! Peers by labels of pods and namespaces.

use super::{Case, ROW};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "an empty pod selector selects every pod of the namespace and none of another",
        policies: &["{podSelector: {}}"],
        allowed: &["web > other/web tcp/1", "other/web > other/db tcp/1"],
        denied: &["db > web tcp/1", "web > db tcp/1", "other/web > job tcp/1", "far > web tcp/1"],
        ..ROW
    },
    Case {
        name: "two peers add up, and two selectors in one peer must both match",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: web}}}], ports: [{port: 1}]}]}",
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}, {podSelector: {matchLabels: {app: web}}}], ports: [{port: 2}]}]}",
        ],
        allowed: &[
            "other/web > db tcp/1",
            "other/web > db tcp/2",
            "other/db > db tcp/2",
            "other/far > db tcp/2",
            "web > db tcp/2",
        ],
        denied: &["web > db tcp/1", "other/db > db tcp/1", "other/far > db tcp/1", "job > db tcp/2"],
        ..ROW
    },
    Case {
        name: "a namespace selector matches every pod of its namespaces, by the name label too",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}]}]}",
        ],
        allowed: &["other/web > db tcp/1", "other/far > db icmp"],
        denied: &["web > db tcp/1", "203.0.113.9 > db tcp/1"],
        ..ROW
    },
    Case {
        name: "an empty namespace selector matches every pod of the cluster and nothing else",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {}}]}]}"],
        allowed: &["web > db tcp/1", "other/far > db tcp/1"],
        denied: &["203.0.113.9 > db tcp/1", "node2 > db tcp/1", "farhost > db tcp/1"],
        ..ROW
    },
    Case {
        name: "a pod selector alone is about the policy's own namespace",
        policies: &["other:{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"],
        allowed: &["other/db > other/web tcp/1", "other/far > other/web tcp/1"],
        denied: &["web > other/web tcp/1", "far > other/db tcp/1"],
        ..ROW
    },
    Case {
        name: "In and NotIn look at the value, Exists and DoesNotExist at the key; NotIn matches a missing key",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1}], from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [web, job]}]}}]}]}",
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 2}], from: [{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [front]}]}}]}]}",
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 3}], from: [{podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]}",
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 4}], from: [{podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]}]}",
        ],
        allowed: &[
            "web > db tcp/1",
            "job > db tcp/1",
            "job > db tcp/2",
            "web > db tcp/3",
            "far > db tcp/3",
            "job > db tcp/4",
        ],
        denied: &[
            "web > db tcp/2",
            "far > db tcp/2",
            "job > db tcp/3",
            "web > db tcp/4",
            "other/web > db tcp/1",
        ],
        ..ROW
    },
    Case {
        name: "labels and expressions of one selector must all match",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: DoesNotExist}]}, namespaceSelector: {}}]}]}",
        ],
        allowed: &["other/web > db tcp/1"],
        denied: &["web > db tcp/1", "job > db tcp/1"],
        ..ROW
    },
    Case {
        name: "egress rules look at the destination: pods, blocks and ports",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 80}]}, {to: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: '2001:db8::/32'}}]}, {to: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{protocol: UDP, port: 53}]}]}",
        ],
        allowed: &[
            "web > db tcp/80",
            "web > 203.0.113.1 tcp/9",
            "web > 2001:db8::1 icmp",
            "web > other/far udp/53",
            "web > other/web udp/53",
        ],
        denied: &[
            "web > db tcp/81",
            "web > job tcp/80",
            "web > 203.0.114.1 tcp/9",
            "web > other/web tcp/53",
            "web > far tcp/80",
        ],
        ..ROW
    },
    Case {
        name: "In with several values, and two expressions on one key",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [web, job]}, {key: app, operator: NotIn, values: [job]}]}}]}]}",
        ],
        allowed: &["web > db tcp/1", "far > db tcp/1"],
        denied: &["job > db tcp/1"],
        ..ROW
    },
    Case {
        name: "the pods of a policy are selected by expressions too",
        policies: &[
            "{podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}",
            "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web, db]}]}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}",
        ],
        allowed: &["web > job tcp/1", "web > other/db tcp/1"],
        denied: &["job > web tcp/1", "job > db tcp/1", "db > job tcp/1"],
        ..ROW
    },
    Case {
        name: "NotIn and DoesNotExist of a namespace selector",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1}], from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [red]}]}}]}, {ports: [{port: 2}], from: [{namespaceSelector: {matchExpressions: [{key: zone, operator: DoesNotExist}]}}]}]}",
        ],
        allowed: &["other/web > db tcp/1", "other/far > db tcp/1", "web > db tcp/2", "other/web > db tcp/2"],
        denied: &["web > db tcp/1", "203.0.113.9 > db tcp/2"],
        ..ROW
    },
    Case {
        name: "an empty pod selector with a namespace selector is every pod there",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {}}]}]}",
        ],
        allowed: &["other/web > db tcp/1", "other/far > db tcp/1"],
        denied: &["web > db tcp/1"],
        ..ROW
    },
    Case {
        name: "a selector that no pod satisfies opens nothing",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: nosuch}}}, {namespaceSelector: {matchLabels: {team: nosuch}}}]}]}",
        ],
        denied: &["web > db tcp/1", "other/web > db tcp/1"],
        ..ROW
    },
    Case {
        name: "two selectors in one peer of an egress rule must both match",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: db}}}]}]}",
        ],
        allowed: &["web > other/db tcp/80", "web > other/db udp/53"],
        denied: &["web > other/web tcp/80", "web > db tcp/80", "web > other/far tcp/80"],
        ..ROW
    },
    Case {
        name: "a namespace is found by the name label in expressions too",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [default]}]}}]}]}",
        ],
        allowed: &["other/web > db tcp/80", "other/far > db tcp/80"],
        denied: &["web > db tcp/80", "far > db tcp/80", "10.9.0.1 > db tcp/80"],
        ..ROW
    },
];
