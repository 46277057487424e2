//! ClusterNetworkPolicy: tiers, priorities, actions.

use super::{Case, ROW, WEB_TO_DB};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "a Deny of the Admin tier stands above what NetworkPolicies allow",
        policies: &[WEB_TO_DB],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}]}",
        ],
        allowed: &["job > web tcp/1"],
        denied: &["web > db tcp/80", "far > db tcp/80", "web > job tcp/1", "web > other/db icmp"],
        ..ROW
    },
    Case {
        name: "an Accept of the Admin tier opens what NetworkPolicies isolate",
        policies: &["{podSelector: {}}"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}",
        ],
        allowed: &["web > db tcp/80", "far > job tcp/80"],
        denied: &["web > db tcp/81", "web > db icmp", "job > db tcp/80", "203.0.113.9 > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a Pass leaves the decision to NetworkPolicies, whatever follows in its tier",
        policies: &[WEB_TO_DB],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 81}}}}]}, {action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/80", "web > job tcp/81"],
        denied: &["web > db tcp/81", "web > db tcp/79", "web > job tcp/79", "job > db tcp/80"],
        ..ROW
    },
    Case {
        name: "after a Pass without a NetworkPolicy the Baseline tier decides, then the default",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}, {action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1}}}]}]}",
            "{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 2}}}]}]}",
        ],
        allowed: &["web > db tcp/1", "web > db tcp/3", "job > db tcp/3"],
        denied: &["web > db tcp/2", "job > db tcp/1", "job > db tcp/2"],
        ..ROW
    },
    Case {
        name: "the Baseline tier is for pods that no NetworkPolicy selects in that direction",
        policies: &[WEB_TO_DB],
        cluster: &[
            "{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{namespaces: {}}]}]}",
        ],
        allowed: &["203.0.113.9 > web tcp/1", "web > 203.0.113.9 tcp/1"],
        denied: &["web > job tcp/1", "job > db tcp/80", "db > web tcp/1", "far > web tcp/1"],
        ..ROW
    },
    Case {
        name: "what a NetworkPolicy allows, the Baseline tier does not deny",
        policies: &[WEB_TO_DB],
        cluster: &[
            "{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["far > db tcp/80"],
        denied: &["far > db tcp/81", "far > web tcp/80"],
        ..ROW
    },
    Case {
        name: "an Accept of the Baseline tier does not open an isolated pod",
        policies: &["{podSelector: {matchLabels: {app: db}}, }"],
        cluster: &[
            "{tier: Baseline, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > job tcp/1"],
        denied: &["web > db tcp/1"],
        ..ROW
    },
    Case {
        name: "an Accept of the Baseline tier stands above a later Deny",
        cluster: &[
            "{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}",
            "{tier: Baseline, priority: 2, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/80"],
        denied: &["web > db tcp/81", "job > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a Pass of the Baseline tier leaves the default",
        cluster: &[
            "{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}, {action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/1"],
        denied: &["job > db tcp/1"],
        ..ROW
    },
    Case {
        name: "the lower priority value goes first",
        cluster: &[
            "{tier: Admin, priority: 1000, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
            "{tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}]}",
        ],
        allowed: &["web > db tcp/1"],
        denied: &["job > db tcp/1"],
        ..ROW
    },
    Case {
        name: "of the same priority the first by name goes first",
        cluster: &[
            "{tier: Admin, priority: 7, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}]}",
            "{tier: Admin, priority: 7, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/1"],
        denied: &["job > db tcp/1"],
        ..ROW
    },
    Case {
        name: "of one policy's rules the first that matches decides",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}, {action: Deny, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["web > db tcp/79"],
        denied: &["web > db tcp/80", "job > db tcp/79", "job > db tcp/80"],
        ..ROW
    },
    Case {
        name: "an earlier wide rule stands above a later narrow one, and the other way round",
        policies: &["{podSelector: {}}"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 90}}}}]}, {action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 85}}}]}]}",
            "{tier: Admin, priority: 2, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 95}}}]}, {action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 91, end: 99}}}}]}]}",
        ],
        allowed: &["web > db tcp/85", "web > db tcp/94", "web > db tcp/96"],
        denied: &["web > db tcp/95", "web > db tcp/100"],
        ..ROW
    },
    Case {
        name: "what is passed on and no NetworkPolicy allows stays closed within what a later rule accepts",
        policies: &["{podSelector: {matchLabels: {app: db}}, }"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}]}",
        ],
        allowed: &["web > db tcp/81", "web > db icmp", "web > job tcp/80"],
        denied: &["web > db tcp/80", "job > db tcp/81"],
        ..ROW
    },
    Case {
        name: "what is passed on is open again within what a later rule denies",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 83}}}}]}, {action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}]}]}",
        ],
        allowed: &["web > db tcp/80", "web > db tcp/83"],
        denied: &["web > db tcp/84", "web > db tcp/79", "web > db icmp"],
        ..ROW
    },
    Case {
        name: "an Accept of ingress does not open the egress of the other end, nor the other way round",
        policies: &["{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
            "{tier: Admin, priority: 2, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, egress: [{action: Deny, to: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}]}]}",
        ],
        allowed: &["far > db tcp/1"],
        denied: &["web > db tcp/1", "job > db tcp/1"],
        ..ROW
    },
    Case {
        name: "a policy without rules of a direction says nothing of it",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}]}]}",
        ],
        allowed: &["db > web tcp/1", "far > db tcp/1"],
        denied: &["web > db tcp/1"],
        ..ROW
    },
    Case {
        name: "a rule without protocols is about every protocol, one with them never about ICMP",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: job}}}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 65535}}}}, {udp: {destinationPort: {range: {start: 1, end: 65535}}}}]}]}",
        ],
        allowed: &["web > job icmp", "web > job sctp/1", "web > job gre"],
        denied: &["web > db icmp", "web > db gre", "web > db sctp/1", "web > job tcp/1", "web > job udp/1"],
        ..ROW
    },
    Case {
        name: "no tier stands between a pod and its own node, or itself",
        cluster: &[
            "{tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{nodes: {}}]}], egress: [{action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]}",
        ],
        allowed: &["web > node tcp/1", "web > hostnet udp/1"],
        denied: &["web > node2 tcp/1", "node2 > web tcp/1", "web > db tcp/1"],
        ..ROW
    },
    Case {
        name: "without a match in any tier the flow passes",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}",
            "{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {destinationPort: {number: 81}}}]}]}",
        ],
        allowed: &["job > db tcp/1", "203.0.113.9 > db icmp"],
        ..ROW
    },
];
