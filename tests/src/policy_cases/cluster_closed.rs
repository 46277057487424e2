//! ClusterNetworkPolicy: what is unknown, empty or wrong fails closed.

use super::{Case, ROW, WEB_TO_DB};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "an Accept with a peer of the experimental channel matches nothing, also by its other peers",
        policies: &["{podSelector: {matchLabels: {app: db}}, }"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}, {nodes: {}}]}, {action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}",
        ],
        allowed: &["web > db tcp/80"],
        denied: &["web > db tcp/81", "job > db tcp/80", "node2 > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a Deny with a peer that is not known denies everything, on every port",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 7}}}]}]}",
        ],
        allowed: &["web > job tcp/1", "db > web tcp/1"],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp"],
        ..ROW
    },
    Case {
        name: "a Pass with a peer that is not known denies everything",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{}]}"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Pass, from: [{nodes: {}}]}]}",
        ],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp"],
        ..ROW
    },
    Case {
        name: "rules before one that fails closed keep their say",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Deny, from: [{}]}]}",
        ],
        allowed: &["web > db tcp/80"],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp"],
        ..ROW
    },
    Case {
        name: "an empty peer is one that is not known",
        policies: &["{podSelector: {matchLabels: {app: db}}, }"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{}]}]}",
        ],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp"],
        ..ROW
    },
    Case {
        name: "a rule without peers fails closed",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny}]}",
            "{tier: Admin, priority: 2, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, ingress: [{action: Pass, from: []}]}",
        ],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp", "web > job tcp/1"],
        ..ROW
    },
    Case {
        name: "domain names fail closed",
        policies: &["{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{domainNames: [kubernetes.io]}]}]}",
        ],
        allowed: &["job > db tcp/1"],
        denied: &["web > 203.0.113.9 tcp/443"],
        ..ROW
    },
    Case {
        name: "networks are no peer of ingress",
        policies: &["{podSelector: {matchLabels: {app: db}}, }"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{networks: [203.0.113.0/24]}]}]}",
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, ingress: [{action: Deny, from: [{networks: [203.0.113.0/24]}]}]}",
        ],
        denied: &["203.0.113.9 > db tcp/1", "web > job tcp/1", "203.0.113.9 > job tcp/1"],
        ..ROW
    },
    Case {
        name: "peers of the other direction are none",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, to: [{namespaces: {}}]}]}",
        ],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp"],
        ..ROW
    },
    Case {
        name: "a range that is none fails closed",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: web}}}}, egress: [{action: Deny, to: [{networks: [203.0.113.0/33]}]}]}",
        ],
        allowed: &["job > db tcp/1"],
        denied: &["web > db tcp/1", "web > 198.51.100.1 tcp/1"],
        ..ROW
    },
    Case {
        name: "two fields of a peer are none",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: nosuch}}, pods: {podSelector: {}}}]}]}",
        ],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp"],
        ..ROW
    },
    Case {
        name: "pods without a pod selector are none",
        policies: &["{podSelector: {matchLabels: {app: db}}, }"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}}}]}]}",
        ],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp"],
        ..ROW
    },
    Case {
        name: "an action that is not known denies everything",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Log, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > job tcp/1"],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp"],
        ..ROW
    },
    Case {
        name: "a protocol that is not known, or says nothing, fails closed",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{icmp: {}}]}]}",
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, ingress: [{action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {}}]}]}",
        ],
        denied: &[
            "web > db tcp/1",
            "203.0.113.9 > db udp/1",
            "job > db icmp",
            "web > job udp/1",
            "db > job tcp/1",
        ],
        ..ROW
    },
    Case {
        name: "a named port with networks fails closed",
        policies: &["{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: web}}}}, egress: [{action: Accept, to: [{networks: [0.0.0.0/0, '::/0']}], protocols: [{destinationNamedPort: sql}]}]}",
        ],
        denied: &["web > db tcp/5432"],
        ..ROW
    },
    Case {
        name: "a tier that is not known is taken for Admin",
        policies: &[WEB_TO_DB],
        cluster: &[
            "{tier: Sideways, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ],
        denied: &["web > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a priority out of its range goes first",
        cluster: &[
            "{tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}",
            "{tier: Admin, priority: 1001, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 81}}}]}, {action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/80"],
        denied: &["web > db tcp/81"],
        ..ROW
    },
    Case {
        name: "a policy whose subject is not known denies for every pod what it denies or passes on, and accepts nothing",
        policies: &["other:{podSelector: {}}"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {services: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1}}}]}, {action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {number: 2}}}]}, {action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {number: 3}}}]}]}",
        ],
        allowed: &["web > db tcp/4", "web > db tcp/1", "job > db tcp/2"],
        denied: &["web > db tcp/2", "far > job tcp/3", "web > other/db tcp/1"],
        ..ROW
    },
    Case {
        name: "a selector that makes no sense fails closed",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {matchExpressions: [{key: team, operator: Like, values: [red]}]}}]}]}",
        ],
        denied: &["web > db tcp/1", "203.0.113.9 > db udp/1", "job > db icmp"],
        ..ROW
    },
];
