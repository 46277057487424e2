//! Ports, ranges and protocols.

use super::{Case, ROW, WEB_TO_DB};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "a rule with ports matches these ports and this protocol, and never ICMP",
        policies: &[WEB_TO_DB],
        allowed: &["web > db tcp/80"],
        denied: &[
            "web > db tcp/79",
            "web > db tcp/81",
            "web > db udp/80",
            "web > db sctp/80",
            "web > db icmp",
            "web > db gre",
        ],
        ..ROW
    },
    Case {
        name: "a rule without ports matches every protocol",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}",
        ],
        allowed: &[
            "web > db tcp/1",
            "web > db udp/65535",
            "web > db sctp/80",
            "web > db icmp",
            "web > db gre",
        ],
        denied: &["job > db icmp", "job > db tcp/1"],
        ..ROW
    },
    Case {
        name: "the protocol of a port defaults to TCP, and the three are kept apart",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 53}, {protocol: UDP, port: 54}, {protocol: SCTP, port: 55}]}]}",
        ],
        allowed: &["web > db tcp/53", "web > db udp/54", "web > db sctp/55", "203.0.113.9 > db tcp/53"],
        denied: &[
            "web > db udp/53",
            "web > db tcp/54",
            "web > db tcp/55",
            "web > db udp/55",
            "web > db sctp/53",
        ],
        ..ROW
    },
    Case {
        name: "a port without a number matches every port of its protocol",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{protocol: UDP}]}]}"],
        allowed: &["web > db udp/1", "web > db udp/65535"],
        denied: &["web > db tcp/1", "web > db icmp"],
        ..ROW
    },
    Case {
        name: "a port range holds both its ends and nothing beside them",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 81, endPort: 200}]}]}",
        ],
        allowed: &["web > db tcp/81", "web > db tcp/128", "web > db tcp/200"],
        denied: &["web > db tcp/80", "web > db tcp/201", "web > db udp/100"],
        ..ROW
    },
    Case {
        name: "a range may hold every port",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1, endPort: 65535}]}]}",
        ],
        allowed: &["web > db tcp/1", "web > db tcp/65535"],
        denied: &["web > db udp/1", "web > db icmp"],
        ..ROW
    },
    Case {
        name: "many rules for one peer and overlapping ranges answer the same as each alone",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 10, endPort: 20}], from: [{podSelector: {matchLabels: {app: web}}}]}, {ports: [{port: 15, endPort: 30}], from: [{podSelector: {matchLabels: {tier: front}}}]}, {ports: [{port: 25}]}]}",
        ],
        allowed: &[
            "web > db tcp/10",
            "web > db tcp/20",
            "web > db tcp/21",
            "web > db tcp/30",
            "job > db tcp/25",
            "203.0.113.1 > db tcp/25",
        ],
        denied: &["web > db tcp/9", "web > db tcp/31", "job > db tcp/24", "job > db tcp/26"],
        ..ROW
    },
    Case {
        name: "a range of one port",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80, endPort: 80}]}]}"],
        allowed: &["web > db tcp/80"],
        denied: &["web > db tcp/79", "web > db tcp/81"],
        ..ROW
    },
    Case {
        name: "the first and the last port there are",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1}, {port: 65535}]}]}",
        ],
        allowed: &["web > db tcp/1", "web > db tcp/65535"],
        denied: &["web > db tcp/2", "web > db tcp/65534"],
        ..ROW
    },
    Case {
        name: "a range of UDP and one of SCTP",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{protocol: UDP, port: 100, endPort: 103}, {protocol: SCTP, port: 102, endPort: 110}]}]}",
        ],
        allowed: &["web > db udp/100", "web > db udp/103", "web > db sctp/102", "web > db sctp/110"],
        denied: &["web > db udp/104", "web > db sctp/101", "web > db tcp/102"],
        ..ROW
    },
    Case {
        name: "an endPort below its port closes the policy",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80, endPort: 79}]}, {ports: [{port: 81}]}]}",
        ],
        denied: &["web > db tcp/80", "web > db tcp/79", "web > db tcp/81"],
        ..ROW
    },
    Case {
        name: "an endPort with a named port closes the policy",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: sql, endPort: 6000}]}]}",
        ],
        denied: &["web > db tcp/5432", "web > db tcp/6000"],
        ..ROW
    },
    Case {
        name: "ports of egress rules are those of the destination",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 53}, {port: 53}]}]}",
        ],
        allowed: &["web > db udp/53", "web > 203.0.113.9 tcp/53"],
        denied: &["web > db udp/54", "web > db icmp", "web > db sctp/53"],
        ..ROW
    },
];
