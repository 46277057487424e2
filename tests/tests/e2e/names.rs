//! Names and what stands behind them.

use anyhow::{Result, ensure};
use sluice_tests::cluster::{IMAGE, until};

use super::{cluster, web};

/// Nothing goes out of the namespace's pods but questions to CoreDNS.
const ONLY_DNS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-dns}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
";

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn coredns_answers_through_the_policy_that_allows_it_and_not_without() -> Result<()> {
    let namespace = cluster().namespace("dns")?;
    namespace.apply(&web(1))?;
    cluster().rolled_out(namespace.name(), "deployment/web")?;
    for node in ["n1", "n2"] {
        namespace.client(node, Some(node))?;
        let question = format!("nslookup web.{}.svc.cluster.local", namespace.name());
        let question = question.as_str();
        namespace.shell(node, question)?;
        namespace.shell(node, "curl -sf -m 2 http://web/hostname")?;
        namespace.apply(ONLY_DNS)?;
        until("the policy is in force", || {
            ensure!(namespace.shell(node, "curl -sf -m 1 http://web/hostname").is_err(), "still reached");
            Ok(())
        })?;
        namespace.shell(node, question)?;
        namespace
            .shell(node, &format!("{question} -vc || dig +tcp web.{}.svc.cluster.local", namespace.name()))?;
        namespace.apply(&ONLY_DNS.replace("port: 53", "port: 54"))?;
        until("the policy that forgot DNS is in force", || {
            ensure!(
                namespace.shell(node, &format!("{question} -timeout=1 -retry=0")).is_err(),
                "still answered"
            );
            Ok(())
        })?;
        cluster().kubectl(&["delete", "networkpolicy", "-n", namespace.name(), "only-dns"])?;
        until("the policy is gone", || namespace.shell(node, "curl -sf -m 2 http://web/hostname"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn every_pod_of_a_stateful_set_answers_by_its_name() -> Result<()> {
    let namespace = cluster().namespace("stateful")?;
    namespace.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: db}}
spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{name: http, port: 8080}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: 3
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: c, image: '{IMAGE}', args: [netexec, --http-port=8080], readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}}}]
"
    ))?;
    cluster().rolled_out(namespace.name(), "statefulset/db")?;
    namespace.client("client", None)?;
    let answers = |pod: &str| {
        until("the pod answers by its name", || {
            let said = namespace.shell("client", &format!("curl -sf -m 2 http://{pod}.db:8080/hostname"))?;
            ensure!(said == pod, "{pod} answered {said}");
            Ok(())
        })
    };
    for pod in ["db-0", "db-1", "db-2"] {
        answers(pod)?;
    }
    // The same name, another pod and address.
    cluster().kubectl(&["delete", "pod", "-n", namespace.name(), "db-1"])?;
    cluster().rolled_out(namespace.name(), "statefulset/db")?;
    answers("db-1")
}
