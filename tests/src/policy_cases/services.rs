//! Traffic to a Service, judged after translation.

use super::{Case, ROW};

/// The rows.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "what a pod sends to a Service is judged by its backend's address and port",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 5432}]}]}",
        ],
        objects: &[
            "{apiVersion: v1, kind: Service, metadata: {name: sql}, spec: {clusterIPs: [10.96.0.10, 'fd96::10'], ports: [{port: 80, targetPort: 5432}]}}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv4, labels: {kubernetes.io/service-name: sql}}, addressType: IPv4, endpoints: [{addresses: ['10.1.0.2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv6, labels: {kubernetes.io/service-name: sql}}, addressType: IPv6, endpoints: [{addresses: ['fd01::2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
        ],
        allowed: &["web > 10.96.0.10 tcp/80", "web > fd96::10 tcp/80", "web > db tcp/5432"],
        denied: &["web > db tcp/80"],
        ..ROW
    },
    Case {
        name: "a rule about a Service's own address and port opens nothing",
        policies: &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}, {ipBlock: {cidr: 'fd96::/16'}}], ports: [{port: 80}]}]}",
        ],
        objects: &[
            "{apiVersion: v1, kind: Service, metadata: {name: sql}, spec: {clusterIPs: [10.96.0.10, 'fd96::10'], ports: [{port: 80, targetPort: 5432}]}}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv4, labels: {kubernetes.io/service-name: sql}}, addressType: IPv4, endpoints: [{addresses: ['10.1.0.2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv6, labels: {kubernetes.io/service-name: sql}}, addressType: IPv6, endpoints: [{addresses: ['fd01::2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
        ],
        denied: &["web > 10.96.0.10 tcp/80", "web > fd96::10 tcp/80", "web > db tcp/5432"],
        ..ROW
    },
    Case {
        name: "the backend sees the client and its own port",
        policies: &[
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}]}",
        ],
        objects: &[
            "{apiVersion: v1, kind: Service, metadata: {name: sql}, spec: {clusterIPs: [10.96.0.10, 'fd96::10'], ports: [{port: 80, targetPort: 5432}]}}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv4, labels: {kubernetes.io/service-name: sql}}, addressType: IPv4, endpoints: [{addresses: ['10.1.0.2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv6, labels: {kubernetes.io/service-name: sql}}, addressType: IPv6, endpoints: [{addresses: ['fd01::2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
        ],
        allowed: &["web > 10.96.0.10 tcp/80", "web > fd96::10 tcp/80"],
        denied: &["job > 10.96.0.10 tcp/80", "job > fd96::10 tcp/80"],
        ..ROW
    },
    Case {
        name: "a rule about the Service's port does not let in to its backend",
        policies: &["{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}"],
        objects: &[
            "{apiVersion: v1, kind: Service, metadata: {name: sql}, spec: {clusterIPs: [10.96.0.10, 'fd96::10'], ports: [{port: 80, targetPort: 5432}]}}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv4, labels: {kubernetes.io/service-name: sql}}, addressType: IPv4, endpoints: [{addresses: ['10.1.0.2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv6, labels: {kubernetes.io/service-name: sql}}, addressType: IPv6, endpoints: [{addresses: ['fd01::2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
        ],
        denied: &[
            "web > 10.96.0.10 tcp/80",
            "web > fd96::10 tcp/80",
            "job > 10.96.0.10 tcp/80",
            "job > fd96::10 tcp/80",
        ],
        ..ROW
    },
    Case {
        name: "a ClusterNetworkPolicy sees the backend too",
        cluster: &[
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: db}}}}], protocols: [{tcp: {destinationPort: {number: 5432}}}]}]}",
        ],
        objects: &[
            "{apiVersion: v1, kind: Service, metadata: {name: sql}, spec: {clusterIPs: [10.96.0.10, 'fd96::10'], ports: [{port: 80, targetPort: 5432}]}}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv4, labels: {kubernetes.io/service-name: sql}}, addressType: IPv4, endpoints: [{addresses: ['10.1.0.2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sql-ipv6, labels: {kubernetes.io/service-name: sql}}, addressType: IPv6, endpoints: [{addresses: ['fd01::2'], conditions: {ready: true}}], ports: [{port: 5432}]}",
        ],
        allowed: &["web > db tcp/80"],
        denied: &["web > 10.96.0.10 tcp/80", "web > fd96::10 tcp/80"],
        ..ROW
    },
];
