//! Full maps: no pod's address has room, nor has an exception of one address.

use super::{Case, ROW, WEB_TO_DB};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a peer without room is denied what it is denied, and so is who cannot be told from it",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: blue}}}], \
             protocols: [{tcp: {destinationPort: {number: 80}}}]}]}",
        ],
        allowed: &["other/web > db tcp/81", "far > db udp/80", "10.9.0.1 > db icmp"],
        denied: &[
            "other/web > db tcp/80",
            "other/far > db tcp/80",
            "far > db tcp/80",
            "10.9.0.1 > db tcp/80",
        ],
        ..ROW
    },
    Case {
        name: "a peer without room that a Pass leaves to NetworkPolicies is not let in by a later Accept",
        policies: &["{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}"],
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: blue}}}]}, \
             {action: Accept, from: [{namespaces: {}}]}]}",
        ],
        allowed: &["other/far > web tcp/80"],
        denied: &["other/web > db tcp/80", "other/far > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a peer without room that egress denies is not reached",
        cluster: &[
            "{tier: Baseline, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{pods: {podSelector: {matchLabels: {app: job}}}}]}]}",
        ],
        denied: &["web > other/far tcp/80", "web > 10.9.0.1 udp/53"],
        ..ROW
    },
    Case {
        name: "an exception without room closes the range that it is an exception of",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.1/32]}}, \
             {ipBlock: {cidr: 172.16.0.0/12, except: [172.16.1.0/24]}}]}]}",
        ],
        allowed: &["172.16.0.1 > db tcp/80"],
        denied: &["10.9.0.1 > db tcp/80", "10.9.0.2 > db tcp/80", "172.16.1.1 > db tcp/80"],
        ..ROW
    },
    Case {
        name: "selectors of NetworkPolicies only add: what has no room is not added, and nothing else changes",
        policies: &[WEB_TO_DB, "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 90}]}]}"],
        allowed: &["10.9.0.1 > db tcp/90", "far > db tcp/90"],
        denied: &["far > db tcp/80", "10.9.0.1 > db tcp/80"],
        ..ROW
    },
];
