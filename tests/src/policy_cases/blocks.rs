//! `ipBlock`: ranges, exceptions, both families, and the addresses of pods and nodes.

use super::{Case, ROW};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "an ipBlock matches addresses outside the cluster, less its exceptions",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.64/26, 203.0.113.9/32]}}, {ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}}]}]}",
        ],
        allowed: &[
            "203.0.113.8 > db tcp/1",
            "203.0.113.63 > db icmp",
            "203.0.113.128 > db udp/1",
            "2001:db8:2::1 > db tcp/1",
        ],
        denied: &[
            "203.0.113.9 > db tcp/1",
            "203.0.113.64 > db tcp/1",
            "203.0.113.127 > db tcp/1",
            "203.0.112.255 > db tcp/1",
            "203.0.114.0 > db tcp/1",
            "2001:db8:1::1 > db tcp/1",
            "2001:db9::1 > db tcp/1",
            "web > db tcp/1",
        ],
        ..ROW
    },
    Case {
        name: "an exception of one block may be inside another, nested or beside it",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 203.0.0.0/16, except: [203.0.113.0/24]}}, {ipBlock: {cidr: 203.0.113.128/25}}, {ipBlock: {cidr: 203.0.113.0/28, except: [203.0.113.4/30]}}]}]}",
        ],
        allowed: &[
            "203.0.1.1 > db tcp/1",
            "203.0.113.200 > db tcp/1",
            "203.0.113.3 > db tcp/1",
            "203.0.113.8 > db tcp/1",
        ],
        denied: &[
            "203.0.113.4 > db tcp/1",
            "203.0.113.7 > db tcp/1",
            "203.0.113.16 > db tcp/1",
            "203.0.113.127 > db tcp/1",
            "203.1.0.0 > db tcp/1",
        ],
        ..ROW
    },
    Case {
        name: "the same block with and without an exception, for different ports, keeps both meanings",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1}], from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.9/32]}}]}, {ports: [{port: 2}], from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}",
        ],
        allowed: &["203.0.113.8 > db tcp/1", "203.0.113.8 > db tcp/2", "203.0.113.9 > db tcp/2"],
        denied: &["203.0.113.9 > db tcp/1"],
        ..ROW
    },
    Case {
        name: "a block of a family's every address does not reach into the other family",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 4}]}, {from: [{ipBlock: {cidr: '::/0'}}], ports: [{port: 6}]}]}",
        ],
        allowed: &["203.0.113.9 > db tcp/4", "2001:db8::9 > db tcp/6"],
        denied: &["203.0.113.9 > db tcp/6", "2001:db8::9 > db tcp/4"],
        ..ROW
    },
    Case {
        name: "an ipBlock matches pods and nodes by their addresses too",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.0.3/32]}}, {ipBlock: {cidr: 192.168.0.2/32}}, {ipBlock: {cidr: 'fd01::/16', except: ['fd01::3/128']}}, {ipBlock: {cidr: 'fd02::/16'}}, {ipBlock: {cidr: 'fd99::2/128'}}]}]}",
        ],
        allowed: &["web > db tcp/1", "far > db tcp/1", "other/far > db tcp/1", "node2 > db tcp/1"],
        denied: &["job > db tcp/1"],
        ..ROW
    },
    Case {
        name: "a block with its bits behind the mask set is the whole range",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.77/24}}]}]}",
        ],
        allowed: &["203.0.113.1 > db tcp/1"],
        denied: &["203.0.114.1 > db tcp/1"],
        ..ROW
    },
    Case {
        name: "an exception that is the whole block leaves nothing",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/24]}}]}]}",
        ],
        denied: &["203.0.113.1 > db tcp/1"],
        ..ROW
    },
    Case {
        name: "overlapping exceptions",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 203.0.0.0/16, except: [203.0.112.0/22, 203.0.113.0/24, 203.0.113.9/32]}}]}]}",
        ],
        allowed: &["203.0.116.1 > db tcp/1", "203.0.111.255 > db tcp/1"],
        denied: &[
            "203.0.113.9 > db tcp/1",
            "203.0.113.10 > db tcp/1",
            "203.0.112.1 > db tcp/1",
            "203.0.115.255 > db tcp/1",
        ],
        ..ROW
    },
    Case {
        name: "an exception of one policy does not subtract from a block of another",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.9/32]}}]}]}",
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.8/31}}]}]}",
        ],
        allowed: &["203.0.113.9 > db tcp/1", "203.0.113.8 > db tcp/1", "203.0.113.1 > db tcp/1"],
        ..ROW
    },
    Case {
        name: "an egress block matches pods of any namespace by address, and their names do not matter",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.2.0/24}}, {ipBlock: {cidr: 'fd02::/16'}}]}]}",
        ],
        allowed: &["web > far tcp/1", "web > other/far udp/1"],
        denied: &["web > db tcp/1", "web > 203.0.113.9 tcp/1"],
        ..ROW
    },
    Case {
        name: "a pod that satisfies a selector and a block has the rights of both",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 1}]}, {from: [{ipBlock: {cidr: 10.1.0.0/30}}, {ipBlock: {cidr: 'fd01::/126'}}], ports: [{port: 2}]}]}",
        ],
        allowed: &["web > db tcp/1", "web > db tcp/2", "job > db tcp/2", "far > db tcp/1"],
        denied: &["job > db tcp/1", "far > db tcp/2"],
        ..ROW
    },
    Case {
        name: "an exception outside of its block closes the policy",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [198.51.100.0/24]}}]}]}",
        ],
        denied: &["203.0.113.1 > db tcp/1"],
        ..ROW
    },
    Case {
        name: "an exception of an egress block cuts off what is behind it, a pod too",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.2.0/24]}}, {ipBlock: {cidr: 'fd00::/8', except: ['fd02::/16']}}]}]}",
        ],
        allowed: &["web > db tcp/1", "web > other/db tcp/1"],
        denied: &["web > far tcp/1", "web > other/far udp/1"],
        ..ROW
    },
];
