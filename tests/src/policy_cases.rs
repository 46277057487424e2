//! The policy table: one sentence a row, run on two engines and in both address families.
//!
//! The cluster of every row ([`fixture`]) has, on this node, the pods `web`, `db`, `job` in namespace `default` and
//! `other/web`, `other/db` in `other`; on another node `far` (labelled like `web`) and `other/far`; a host-network pod
//! `hostnet` on this node and `farhost` on the other; the nodes themselves as `node` and `node2`. Anything else in a
//! probe is an address.

/// One row: policies, and what passes and what does not while they are in force.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The rule that would be broken.
    pub name: &'static str,
    /// `spec`s of NetworkPolicies in namespace `default`; one that starts with `other:` is in that namespace.
    pub policies: &'static [&'static str],
    /// Probes that pass: `source > destination protocol[/port]`.
    pub allowed: &'static [&'static str],
    /// Probes that do not.
    pub denied: &'static [&'static str],
}

/// The objects of every row, as YAML documents.
pub fn fixture() -> String {
    let mut documents = vec![
        namespace("default", "team: red"),
        namespace("other", "team: blue"),
        "{apiVersion: v1, kind: Node, metadata: {name: node}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: 'fd99::1'}]}}".to_owned(),
        "{apiVersion: v1, kind: Node, metadata: {name: node2}, status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: InternalIP, address: 'fd99::2'}]}}".to_owned(),
    ];
    documents.extend(PODS.iter().map(Pod::yaml));
    documents.join("\n---\n")
}

fn namespace(name: &str, labels: &str) -> String {
    format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}")
}

/// A pod of the fixture.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// The name used in probes: `name` in `default`, or `namespace/name`.
    pub name: &'static str,
    /// Labels, as YAML.
    pub labels: &'static str,
    /// Container ports, as YAML.
    pub ports: &'static str,
    /// Its node, `node` or `node2`.
    pub node: &'static str,
    /// Whether it uses its node's network.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: &'static str,
    /// Its addresses, IPv4 and IPv6.
    pub addrs: [&'static str; 2],
}

impl Pod {
    /// Namespace and name.
    pub fn namespaced(&self) -> (&'static str, &'static str) {
        self.name.split_once('/').unwrap_or(("default", self.name))
    }

    /// Whether it has an interface on this node.
    pub fn is_local(&self) -> bool {
        self.node == "node" && !self.host_network
    }

    fn yaml(&self) -> String {
        let (namespace, name) = self.namespaced();
        let Self { labels, ports, node, host_network, phase, addrs: [v4, v6], .. } = self;
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, uid: uid-{namespace}-{name}, \
             labels: {{{labels}}}}}, spec: {{nodeName: {node}, hostNetwork: {host_network}, containers: [{{name: c, ports: \
             [{ports}]}}]}}, status: {{phase: {phase}, podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}]}}}}"
        )
    }
}

macro_rules! pods {
    ($($name:literal: $labels:literal, $ports:literal, $node:literal, $host:literal, $phase:literal, $v4:literal, $v6:literal;)+) => {
        /// The pods of the fixture.
        pub const PODS: &[Pod] = &[$(Pod {
            name: $name, labels: $labels, ports: $ports, node: $node, host_network: $host, phase: $phase, addrs: [$v4, $v6],
        },)+];
    };
}

pods! {
    "web": "app: web, tier: front", "{name: http, containerPort: 8080}", "node", false, "Running", "10.1.0.1", "fd01::1";
    "db": "app: db, tier: back", "{name: sql, containerPort: 5432}, {name: dns, containerPort: 5353, protocol: UDP}", "node", false, "Running", "10.1.0.2", "fd01::2";
    "job": "app: job", "{name: sql, containerPort: 6543}", "node", false, "Running", "10.1.0.3", "fd01::3";
    "other/web": "app: web", "", "node", false, "Running", "10.1.0.4", "fd01::4";
    "other/db": "app: db", "{name: sql, containerPort: 7654}", "node", false, "Running", "10.1.0.5", "fd01::5";
    "far": "app: web, tier: front", "{name: http, containerPort: 9090}", "node2", false, "Running", "10.1.2.1", "fd02::1";
    "other/far": "app: job", "", "node2", false, "Running", "10.1.2.2", "fd02::2";
    "done": "app: web, tier: front", "", "node2", false, "Succeeded", "10.1.2.9", "fd02::9";
    "hostnet": "app: web", "", "node", true, "Running", "192.168.0.1", "fd99::1";
    "farhost": "app: web", "", "node2", true, "Running", "192.168.0.2", "fd99::2";
}

/// A rule set that lets `web` reach `db` on TCP 80, for rows about something else.
const WEB_TO_DB: &str = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}";

/// The rows.
pub const CASES: &[Case] = &[
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
    },
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
    },
    Case {
        name: "a port without a number matches every port of its protocol",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{protocol: UDP}]}]}"],
        allowed: &["web > db udp/1", "web > db udp/65535"],
        denied: &["web > db tcp/1", "web > db icmp"],
    },
    Case {
        name: "a port range holds both its ends and nothing beside them",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 81, endPort: 200}]}]}",
        ],
        allowed: &["web > db tcp/81", "web > db tcp/128", "web > db tcp/200"],
        denied: &["web > db tcp/80", "web > db tcp/201", "web > db udp/100"],
    },
    Case {
        name: "a range may hold every port",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1, endPort: 65535}]}]}",
        ],
        allowed: &["web > db tcp/1", "web > db tcp/65535"],
        denied: &["web > db udp/1", "web > db icmp"],
    },
    Case {
        name: "an empty ingress list selects the pod and lets nothing in",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: []}"],
        allowed: &["db > web tcp/80", "web > job tcp/80"],
        denied: &["web > db tcp/80", "far > db icmp"],
    },
    Case {
        name: "a rule without peers lets in every source",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{}]}"],
        allowed: &["web > db tcp/80", "203.0.113.9 > db udp/1", "other/far > db icmp"],
        denied: &[],
    },
    Case {
        name: "an empty list of peers or ports means all, as an absent one",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{from: [], ports: []}]}"],
        allowed: &["web > db tcp/80", "203.0.113.9 > db udp/1"],
        denied: &[],
    },
    Case {
        name: "an empty pod selector selects every pod of the namespace and none of another",
        policies: &["{podSelector: {}}"],
        allowed: &["web > other/web tcp/1", "other/web > other/db tcp/1"],
        denied: &["db > web tcp/1", "web > db tcp/1", "other/web > job tcp/1", "far > web tcp/1"],
    },
    Case {
        name: "policyTypes default to Ingress, and to Egress too where there are egress rules",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}",
        ],
        allowed: &["web > db tcp/80"],
        denied: &["web > job tcp/80", "db > web tcp/80"],
    },
    Case {
        name: "policyTypes that say Egress alone leave ingress open",
        policies: &["{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}"],
        allowed: &["db > web tcp/80", "203.0.113.9 > web tcp/1"],
        denied: &["web > db tcp/80", "web > 203.0.113.9 tcp/1", "web > far icmp"],
    },
    Case {
        name: "policyTypes that say Ingress alone leave the egress rules without effect",
        policies: &["{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], egress: []}"],
        allowed: &["web > db tcp/80", "web > 203.0.113.9 tcp/1"],
        denied: &["db > web tcp/80"],
    },
    Case {
        name: "both ends must allow a flow",
        policies: &[
            WEB_TO_DB,
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: 443}]}]}",
        ],
        allowed: &["web > 203.0.113.9 tcp/443", "far > db tcp/80"],
        denied: &["web > db tcp/80", "web > db tcp/443"],
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
    },
    Case {
        name: "a namespace selector matches every pod of its namespaces, by the name label too",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}]}]}",
        ],
        allowed: &["other/web > db tcp/1", "other/far > db icmp"],
        denied: &["web > db tcp/1", "203.0.113.9 > db tcp/1"],
    },
    Case {
        name: "an empty namespace selector matches every pod of the cluster and nothing else",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {}}]}]}"],
        allowed: &["web > db tcp/1", "other/far > db tcp/1"],
        denied: &["203.0.113.9 > db tcp/1", "node2 > db tcp/1", "farhost > db tcp/1"],
    },
    Case {
        name: "a pod selector alone is about the policy's own namespace",
        policies: &["other:{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"],
        allowed: &["other/db > other/web tcp/1", "other/far > other/web tcp/1"],
        denied: &["web > other/web tcp/1", "far > other/db tcp/1"],
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
    },
    Case {
        name: "labels and expressions of one selector must all match",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: DoesNotExist}]}, namespaceSelector: {}}]}]}",
        ],
        allowed: &["other/web > db tcp/1"],
        denied: &["web > db tcp/1", "job > db tcp/1"],
    },
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
    },
    Case {
        name: "the same block with and without an exception, for different ports, keeps both meanings",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1}], from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.9/32]}}]}, {ports: [{port: 2}], from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}",
        ],
        allowed: &["203.0.113.8 > db tcp/1", "203.0.113.8 > db tcp/2", "203.0.113.9 > db tcp/2"],
        denied: &["203.0.113.9 > db tcp/1"],
    },
    Case {
        name: "a block of a family's every address does not reach into the other family",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 4}]}, {from: [{ipBlock: {cidr: '::/0'}}], ports: [{port: 6}]}]}",
        ],
        allowed: &["203.0.113.9 > db tcp/4", "2001:db8::9 > db tcp/6"],
        denied: &["203.0.113.9 > db tcp/6", "2001:db8::9 > db tcp/4"],
    },
    Case {
        name: "an ipBlock matches pods and nodes by their addresses too",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.0.3/32]}}, {ipBlock: {cidr: 192.168.0.2/32}}, {ipBlock: {cidr: 'fd01::/16', except: ['fd01::3/128']}}, {ipBlock: {cidr: 'fd02::/16'}}, {ipBlock: {cidr: 'fd99::2/128'}}]}]}",
        ],
        allowed: &["web > db tcp/1", "far > db tcp/1", "other/far > db tcp/1", "node2 > db tcp/1"],
        denied: &["job > db tcp/1"],
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
    },
    Case {
        name: "a named port of an ingress rule is each selected pod's own, with its protocol",
        policies: &["{podSelector: {}, ingress: [{ports: [{port: sql}, {protocol: UDP, port: dns}]}]}"],
        allowed: &["web > db tcp/5432", "web > job tcp/6543", "web > db udp/5353"],
        denied: &["web > db tcp/6543", "web > job tcp/5432", "web > db tcp/5353", "db > web tcp/5432"],
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
    },
    Case {
        name: "a name that no port has matches nothing",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: nosuch}]}]}"],
        allowed: &[],
        denied: &["web > db tcp/5432", "web > db tcp/80"],
    },
    Case {
        name: "a pod always reaches its own node and is reached by it, and itself",
        policies: &["{podSelector: {}, policyTypes: [Ingress, Egress]}"],
        allowed: &["web > node tcp/1", "db > node udp/2", "web > hostnet tcp/1"],
        denied: &["web > node2 tcp/1", "node2 > web tcp/1", "web > db tcp/1"],
    },
    Case {
        name: "host-network pods are no selector's peer",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}",
        ],
        allowed: &["web > db tcp/1", "db > web tcp/1", "db > far tcp/1"],
        denied: &["farhost > db tcp/1", "db > farhost tcp/1"],
    },
    Case {
        name: "pods that have ended are no peers any more",
        policies: &[WEB_TO_DB],
        allowed: &["far > db tcp/80"],
        denied: &["done > db tcp/80"],
    },
    Case {
        name: "a policy that cannot be understood keeps the pods it selects closed",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/99}}]}, {}]}",
        ],
        allowed: &["web > job tcp/1"],
        denied: &["web > db tcp/1", "203.0.113.1 > db tcp/80"],
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
    },
];
