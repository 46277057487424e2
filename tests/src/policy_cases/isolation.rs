//! Whom a policy isolates, in which direction, and how policies add up.

use super::{Case, ROW, WEB_TO_DB};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "without a policy everything passes",
        policies: &[],
        allowed: &[
            "web > db tcp/80",
            "web > other/db udp/53",
            "far > web icmp",
            "web > far sctp/9",
            "web > 203.0.113.9 tcp/443",
            "203.0.113.9 > web tcp/1",
            "web > 2001:db8::9 udp/1",
        ],
        denied: &[],
        ..ROW
    },
    Case {
        name: "a policy isolates the pods it selects in its direction, and no other",
        policies: &[WEB_TO_DB],
        allowed: &[
            "web > db tcp/80",
            "far > db tcp/80",
            "db > web tcp/80",
            "job > web tcp/80",
            "web > other/db tcp/80",
            "db > 203.0.113.9 tcp/1",
        ],
        denied: &[
            "job > db tcp/80",
            "other/web > db tcp/80",
            "other/far > db tcp/80",
            "203.0.113.9 > db tcp/80",
            "2001:db8::9 > db tcp/80",
        ],
        ..ROW
    },
    Case {
        name: "an empty ingress list selects the pod and lets nothing in",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: []}"],
        allowed: &["db > web tcp/80", "web > job tcp/80"],
        denied: &["web > db tcp/80", "far > db icmp"],
        ..ROW
    },
    Case {
        name: "a rule without peers lets in every source",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{}]}"],
        allowed: &["web > db tcp/80", "203.0.113.9 > db udp/1", "other/far > db icmp"],
        denied: &[],
        ..ROW
    },
    Case {
        name: "an empty list of peers or ports means all, as an absent one",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{from: [], ports: []}]}"],
        allowed: &["web > db tcp/80", "203.0.113.9 > db udp/1"],
        denied: &[],
        ..ROW
    },
    Case {
        name: "policyTypes default to Ingress, and to Egress too where there are egress rules",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}",
        ],
        allowed: &["web > db tcp/80"],
        denied: &["web > job tcp/80", "db > web tcp/80"],
        ..ROW
    },
    Case {
        name: "policyTypes that say Egress alone leave ingress open",
        policies: &["{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}"],
        allowed: &["db > web tcp/80", "203.0.113.9 > web tcp/1"],
        denied: &["web > db tcp/80", "web > 203.0.113.9 tcp/1", "web > far icmp"],
        ..ROW
    },
    Case {
        name: "policyTypes that say Ingress alone leave the egress rules without effect",
        policies: &["{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], egress: []}"],
        allowed: &["web > db tcp/80", "web > 203.0.113.9 tcp/1"],
        denied: &["db > web tcp/80"],
        ..ROW
    },
    Case {
        name: "both ends must allow a flow",
        policies: &[
            WEB_TO_DB,
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: 443}]}]}",
        ],
        allowed: &["web > 203.0.113.9 tcp/443", "far > db tcp/80"],
        denied: &["web > db tcp/80", "web > db tcp/443"],
        ..ROW
    },
    Case {
        name: "policies on one pod add up, and none subtracts",
        policies: &[
            WEB_TO_DB,
            "{podSelector: {matchLabels: {tier: back}}, ingress: [{from: [{podSelector: {matchLabels: {app: job}}}]}]}",
            "{podSelector: {}}",
        ],
        allowed: &["web > db tcp/80", "job > db udp/7"],
        denied: &["web > db tcp/81", "job > web tcp/1"],
        ..ROW
    },
    Case {
        name: "a policy that cannot be understood keeps the pods it selects closed",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/99}}]}, {}]}",
        ],
        allowed: &["web > job tcp/1"],
        denied: &["web > db tcp/1", "203.0.113.1 > db tcp/80"],
        ..ROW
    },
    Case {
        name: "ingress and egress are isolated each on its own, also by two policies",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}",
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: job}}}]}]}",
        ],
        allowed: &["db > job tcp/1"],
        denied: &["web > db tcp/1", "db > web tcp/1"],
        ..ROW
    },
    Case {
        name: "an absent list of rules closes like an empty one",
        policies: &["{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress]}"],
        allowed: &["web > job tcp/1"],
        denied: &["web > db tcp/1", "db > web udp/1", "db > 203.0.113.9 tcp/1"],
        ..ROW
    },
    Case {
        name: "an empty egress list does not make a policy one of egress",
        policies: &["{podSelector: {matchLabels: {app: web}}, egress: []}"],
        allowed: &["web > db tcp/1"],
        denied: &["db > web tcp/1"],
        ..ROW
    },
    Case {
        name: "one empty rule beside others opens all",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: job}}}]}, {}]}",
        ],
        allowed: &["web > db tcp/1", "203.0.113.9 > db udp/1", "far > db icmp"],
        ..ROW
    },
    Case {
        name: "a policy of another namespace does not isolate",
        policies: &["other:{podSelector: {}}"],
        allowed: &["web > db tcp/1", "other/web > db tcp/1"],
        denied: &["web > other/db tcp/1", "other/web > other/db tcp/1"],
        ..ROW
    },
    Case {
        name: "a rule of egress alone says nothing of what comes back on its own",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}",
        ],
        allowed: &["web > db tcp/1"],
        denied: &["db > web tcp/1", "web > job tcp/1"],
        ..ROW
    },
    Case {
        name: "a policy type that does not exist closes both directions",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Sideways], ingress: [{}]}",
        ],
        allowed: &["web > job tcp/1"],
        denied: &["web > db tcp/1", "db > web tcp/1"],
        ..ROW
    },
    Case {
        name: "a policy that allows everything opens what others of the pod leave closed, in its direction",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}], egress: [{ports: [{port: 80}]}]}",
            "{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}",
            "{podSelector: {matchLabels: {app: job}}, policyTypes: [Egress]}",
            "{podSelector: {matchLabels: {app: job}}, policyTypes: [Egress], egress: [{}]}",
        ],
        allowed: &[
            "web > db tcp/81",
            "10.9.0.1 > db icmp",
            "db > web tcp/80",
            "job > web tcp/81",
            "job > 10.9.0.1 udp/1",
        ],
        denied: &["db > web tcp/81", "db > 10.9.0.1 udp/80"],
        ..ROW
    },
    Case {
        name: "an empty ingress list lets in neither UDP nor SCTP",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: []}"],
        allowed: &["web > job udp/80", "web > job sctp/80"],
        denied: &["web > db udp/80", "web > db sctp/80", "other/web > db udp/80", "other/web > db sctp/80"],
        ..ROW
    },
];
