//! ClusterNetworkPolicy: subjects, peers, ports.

use super::{Case, ROW};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "a subject of namespaces is every pod there",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: blue}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/1"],
        denied: &["web > other/db tcp/1", "other/db > other/web tcp/1"],
        ..ROW
    },
    Case {
        name: "a subject of pods is selected by both its selectors",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/1", "web > other/web tcp/1"],
        denied: &["web > other/db tcp/1"],
        ..ROW
    },
    Case {
        name: "empty and absent namespace selectors are every namespace",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}]}]}",
        ],
        allowed: &["job > db tcp/1", "web > job tcp/1"],
        denied: &["web > db tcp/1", "other/web > db tcp/1", "web > other/db tcp/1", "far > db tcp/1"],
        ..ROW
    },
    Case {
        name: "a namespace is found by its name",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: default}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: other}}}]}]}",
        ],
        allowed: &["web > db tcp/1", "web > other/db tcp/1"],
        denied: &["other/web > db tcp/1", "other/far > db tcp/1"],
        ..ROW
    },
    Case {
        name: "host-network pods and nodes are no namespace's and no pods' peers",
        policies: &["{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress]}"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{namespaces: {}}]}, {action: Accept, from: [{pods: {podSelector: {}}}]}], egress: [{action: Accept, to: [{namespaces: {}}]}]}",
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{namespaces: {}}]}]}",
        ],
        allowed: &[
            "far > db tcp/1",
            "db > far tcp/1",
            "farhost > job tcp/1",
            "job > farhost tcp/1",
            "node2 > job tcp/1",
            "203.0.113.9 > job tcp/1",
        ],
        denied: &["farhost > db tcp/1", "db > farhost tcp/1", "203.0.113.9 > db tcp/1", "web > job tcp/1"],
        ..ROW
    },
    Case {
        name: "pods that have ended are no peers",
        policies: &["{podSelector: {matchLabels: {app: db}}, }"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["far > db tcp/1"],
        denied: &["done > db tcp/1"],
        ..ROW
    },
    Case {
        name: "several peers of a rule add up",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}, {namespaces: {matchLabels: {team: blue}}}]}]}",
        ],
        allowed: &["job > db tcp/1", "203.0.113.9 > db tcp/1"],
        denied: &["web > db tcp/1", "other/far > db tcp/1", "far > db tcp/1"],
        ..ROW
    },
    Case {
        name: "networks are ranges of addresses, in both families",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [203.0.113.0/25, '2001:db8::/48']}]}]}",
        ],
        allowed: &["web > 203.0.113.128 tcp/1", "web > 2001:db8:1::1 tcp/1", "203.0.113.1 > web tcp/1"],
        denied: &["web > 203.0.113.127 tcp/1", "web > 2001:db8::1 icmp"],
        ..ROW
    },
    Case {
        name: "networks match pods and nodes by their addresses too, unless an earlier rule passes them on",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Pass, to: [{namespaces: {matchLabels: {team: blue}}}]}, {action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]}",
        ],
        allowed: &["web > other/db tcp/1", "web > other/far udp/1", "web > node tcp/1"],
        denied: &["web > db tcp/1", "web > node2 tcp/1", "web > 203.0.113.9 tcp/1"],
        ..ROW
    },
    Case {
        name: "networks of one family do not reach into the other",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: ['::/0']}]}]}",
        ],
        allowed: &["web > 203.0.113.9 tcp/1"],
        denied: &["web > 2001:db8::9 tcp/1"],
        ..ROW
    },
    Case {
        name: "a range of ports holds both its ends",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 100}}}}, {udp: {destinationPort: {number: 53}}}, {sctp: {destinationPort: {number: 9}}}]}]}",
        ],
        allowed: &[
            "web > db tcp/79",
            "web > db tcp/101",
            "web > db udp/80",
            "web > db tcp/53",
            "web > db tcp/9",
        ],
        denied: &["web > db tcp/80", "web > db tcp/100", "web > db udp/53", "web > db sctp/9"],
        ..ROW
    },
    Case {
        name: "a named port of ingress is each subject's own, of any protocol",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: sql}, {destinationNamedPort: dns}]}]}",
        ],
        allowed: &["web > db tcp/6543", "web > job tcp/5432", "web > db tcp/5353", "db > web tcp/5432"],
        denied: &["web > db tcp/5432", "web > job tcp/6543", "web > db udp/5353"],
        ..ROW
    },
    Case {
        name: "a named port of egress is each destination's own",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: web}}}}, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: sql}, {destinationNamedPort: http}]}]}",
        ],
        allowed: &[
            "web > db tcp/6543",
            "web > far tcp/8080",
            "job > db tcp/5432",
            "web > 203.0.113.9 tcp/5432",
        ],
        denied: &["web > db tcp/5432", "web > job tcp/6543", "web > far tcp/9090", "other/web > db tcp/5432"],
        ..ROW
    },
    Case {
        name: "a name that no port has denies nothing",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: nosuch}]}]}",
        ],
        allowed: &["web > db tcp/5432", "web > db udp/1"],
        ..ROW
    },
    Case {
        name: "expressions of namespaces and pods",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {matchExpressions: [{key: team, operator: In, values: [red]}]}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [blue]}]}, podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}}]}]}",
        ],
        allowed: &["job > db tcp/1", "other/web > db tcp/1", "web > other/db tcp/1"],
        denied: &["web > db tcp/1", "far > job tcp/1", "db > web tcp/1"],
        ..ROW
    },
];
