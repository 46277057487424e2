//! The cluster of every row.

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
