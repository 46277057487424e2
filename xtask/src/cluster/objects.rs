//! Objects that every cluster has: CoreDNS, and what kube-proxy may do.

use std::net::IpAddr;

use anyhow::Result;

use super::{
    images,
    plan::{self, DOMAIN, Families},
};

/// kube-proxy is no ServiceAccount here, so the binding that comes with Kubernetes does not name it.
const KUBE_PROXY: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cluster:kube-proxy}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:node-proxier}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: system:kube-proxy}]
";

/// All of them, as YAML.
///
/// # Errors
/// When CoreDNS' version is not known.
pub(super) fn base(families: Families) -> Result<String> {
    Ok(format!("{KUBE_PROXY}---\n{}", coredns(&images::coredns()?, families)))
}

/// As kubeadm deploys it, but with nobody to forward to.
fn coredns(image: &str, families: Families) -> String {
    let addresses: Vec<String> = plan::dns(families).iter().map(IpAddr::to_string).collect();
    let list = addresses.iter().map(|address| format!("'{address}'")).collect::<Vec<_>>().join(", ");
    let policy = if families == Families::Dual { "PreferDualStack" } else { "SingleStack" };
    format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: coredns, namespace: kube-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: system:coredns}}
rules:
- {{apiGroups: [''], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: system:coredns}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}}
subjects: [{{kind: ServiceAccount, name: coredns, namespace: kube-system}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: coredns, namespace: kube-system}}
data:
  Corefile: |
    .:53 {{
        errors
        health {{
           lameduck 1s
        }}
        ready
        kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
           pods insecure
           fallthrough in-addr.arpa ip6.arpa
           ttl 5
        }}
        cache 5
        loop
        reload
        loadbalance
    }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: coredns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{k8s-app: kube-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: kube-dns}}}}
    spec:
      serviceAccountName: coredns
      priorityClassName: system-cluster-critical
      dnsPolicy: Default
      containers:
      - name: coredns
        image: {image}
        imagePullPolicy: IfNotPresent
        args: [-conf, /etc/coredns/Corefile]
        resources: {{requests: {{cpu: 100m, memory: 70Mi}}, limits: {{memory: 170Mi}}}}
        volumeMounts: [{{name: config, mountPath: /etc/coredns, readOnly: true}}]
        ports:
        - {{containerPort: 53, name: dns, protocol: UDP}}
        - {{containerPort: 53, name: dns-tcp, protocol: TCP}}
        - {{containerPort: 9153, name: metrics, protocol: TCP}}
        livenessProbe: {{httpGet: {{path: /health, port: 8080}}, initialDelaySeconds: 60, failureThreshold: 5}}
        readinessProbe: {{httpGet: {{path: /ready, port: 8181}}, periodSeconds: 1}}
      volumes: [{{name: config, configMap: {{name: coredns}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns, kubernetes.io/name: CoreDNS}}}}
spec:
  selector: {{k8s-app: kube-dns}}
  clusterIP: '{first}'
  clusterIPs: [{list}]
  ipFamilyPolicy: {policy}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
  - {{name: metrics, port: 9153, protocol: TCP}}
",
        first = addresses[0],
    )
}

/// The reference plugins' configuration on a node with these ranges for pods.
pub(super) fn reference_conflist(pod_ranges: &[String]) -> String {
    let ranges: Vec<serde_json::Value> =
        pod_ranges.iter().map(|range| serde_json::json!([{ "subnet": range }])).collect();
    let routes: Vec<serde_json::Value> = pod_ranges
        .iter()
        .map(|range| serde_json::json!({ "dst": if range.contains(':') { "::/0" } else { "0.0.0.0/0" } }))
        .collect();
    let conflist = serde_json::json!({
        "cniVersion": "1.1.0",
        "name": "reference",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "hairpinMode": true,
                "ipMasq": false,
                "isGateway": true,
                "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    format!("{conflist:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflist_has_a_range_and_a_way_out_for_each_family() {
        let ranges = ["10.244.0.0/24".to_owned(), "fd00:244::/64".to_owned()];
        let conflist: serde_json::Value = serde_json::from_str(&reference_conflist(&ranges)).unwrap();
        let ipam = &conflist["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][1][0]["subnet"], "fd00:244::/64");
        assert_eq!(ipam["routes"][1]["dst"], "::/0");
        let one: serde_json::Value = serde_json::from_str(&reference_conflist(&ranges[..1])).unwrap();
        assert_eq!(one["plugins"][0]["ipam"]["routes"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn dns_has_an_address_of_each_family_in_use() {
        let dual = coredns("image", Families::Dual);
        assert!(
            dual.contains("clusterIPs: ['10.96.0.10', 'fd00:96::10']\n  ipFamilyPolicy: PreferDualStack")
        );
        let v6 = coredns("image", Families::Ipv6);
        assert!(v6.contains("clusterIPs: ['fd00:96::10']\n  ipFamilyPolicy: SingleStack"), "{v6}");
    }
}
