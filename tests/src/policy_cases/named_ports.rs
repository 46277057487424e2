//! Named ports, resolved per destination pod.

use super::{Case, ROW};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "a named port of an ingress rule is each selected pod's own, with its protocol",
        policies: &["{podSelector: {}, ingress: [{ports: [{port: sql}, {protocol: UDP, port: dns}]}]}"],
        allowed: &["web > db tcp/5432", "web > job tcp/6543", "web > db udp/5353"],
        denied: &["web > db tcp/6543", "web > job tcp/5432", "web > db tcp/5353", "db > web tcp/5432"],
        ..ROW
    },
    Case {
        name: "a named port of an egress rule is each destination pod's own",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: sql}, {port: http}]}]}",
        ],
        allowed: &[
            "web > db tcp/5432",
            "web > job tcp/6543",
            "web > other/db tcp/7654",
            "web > far tcp/9090",
        ],
        denied: &[
            "web > db tcp/6543",
            "web > job tcp/5432",
            "web > other/db tcp/5432",
            "web > far tcp/8080",
            "web > other/web tcp/5432",
            "web > 203.0.113.1 tcp/5432",
        ],
        ..ROW
    },
    Case {
        name: "a name that no port has matches nothing",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: nosuch}]}]}"],
        allowed: &[],
        denied: &["web > db tcp/5432", "web > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a named port has a protocol",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: dns}]}, {ports: [{protocol: UDP, port: sql}]}]}",
        ],
        denied: &["web > db udp/5353", "web > db tcp/5353", "web > db tcp/5432", "web > db udp/5432"],
        ..ROW
    },
    Case {
        name: "a named port of an egress rule without peers is that of whoever receives",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: sql}]}]}",
        ],
        allowed: &["web > db tcp/5432", "web > job tcp/6543", "web > other/db tcp/7654"],
        denied: &["web > 203.0.113.9 tcp/5432", "web > job tcp/5432", "web > far tcp/5432"],
        ..ROW
    },
    Case {
        name: "a named port of an egress rule with a block is that of the pod there",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.0.3/32]}}, {ipBlock: {cidr: 'fd01::/16', except: ['fd01::3/128']}}], ports: [{port: sql}]}]}",
        ],
        allowed: &["web > db tcp/5432"],
        denied: &["web > job tcp/6543", "web > db tcp/5433", "web > db udp/5432"],
        ..ROW
    },
    Case {
        name: "the same name with two numbers on two selected pods",
        policies: &[
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}]}",
        ],
        allowed: &["web > db tcp/5432", "far > job tcp/6543"],
        denied: &["web > db tcp/6543", "far > job tcp/5432", "db > job tcp/6543"],
        ..ROW
    },
    Case {
        name: "a named port of an ingress rule with a namespace selector is open to that namespace alone",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: sql}]}]}",
        ],
        allowed: &["other/web > db tcp/5432", "other/far > db tcp/5432"],
        denied: &[
            "web > db tcp/5432",
            "other/web > db tcp/80",
            "other/web > db udp/5353",
            "10.9.0.1 > db tcp/5432",
        ],
        ..ROW
    },
];
