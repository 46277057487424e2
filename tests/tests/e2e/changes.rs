//! What changes under load.

use anyhow::{Result, ensure};
use sluice_tests::cluster::{Load, pod, until};

use super::{address, cluster, lasting_server, web};

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn a_rolling_update_under_load_loses_no_request() -> Result<()> {
    let namespace = cluster().namespace("rolling-update")?;
    namespace.apply(&web(4))?;
    cluster().rolled_out(namespace.name(), "deployment/web")?;
    namespace.client("client", Some("n1"))?;
    let kept = lasting_server(&namespace, "lasting", "n2")?;
    let load =
        Load::start(&namespace, "client", "http://web/hostname", &format!("http://{kept}:8080/hostname"))?;
    let before = backends(&namespace)?;
    cluster().kubectl(&["rollout", "restart", "-n", namespace.name(), "deployment/web"])?;
    cluster().rolled_out(namespace.name(), "deployment/web")?;
    until("no pod of before is there", || {
        let now = backends(&namespace)?;
        ensure!(now.iter().all(|name| !before.contains(name)), "{now:?}");
        Ok(())
    })?;
    load.stop()?.check()
}

/// The pods behind the Service.
fn backends(namespace: &sluice_tests::cluster::Namespace<'_>) -> Result<Vec<String>> {
    let pods = cluster().get(namespace.name(), &["pods", "-l", "app=web"])?;
    let names = pods["items"].as_array().into_iter().flatten();
    Ok(names.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// Only pods `friend` may ask pods `server`.
const ONLY_FRIENDS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-friends}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 8080}]}]
";

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn a_rollout_of_the_agent_loses_no_connection_and_pods_made_meanwhile_are_wired_and_isolated() -> Result<()> {
    let namespace = cluster().namespace("agent-rollout")?;
    namespace.apply(&web(2))?;
    namespace.apply(ONLY_FRIENDS)?;
    cluster().rolled_out(namespace.name(), "deployment/web")?;
    namespace.client("client", Some("n1"))?;
    let near = lasting_server(&namespace, "near", "n1")?;
    namespace.client("far-client", Some("n2"))?;
    let ask = |host: &str| format!("http://{host}:8080/hostname");
    let loads = [
        Load::start(&namespace, "client", "http://web/hostname", &ask(&near))?,
        Load::start(&namespace, "far-client", "http://web/hostname", &ask(&near))?,
    ];
    cluster().kubectl(&["rollout", "restart", "-n", "kube-system", "daemonset/sluice"])?;
    // Made while agents are away: each waits for its own node's.
    for (node, number) in [("n1", 1), ("n2", 2)] {
        let server = ["netexec", "--http-port=8080"];
        namespace.apply(&pod(&format!("server-{number}"), "server", Some(node), &server))?;
        namespace.apply(&pod(&format!("friend-{number}"), "friend", Some(node), &["pause"]))?;
        namespace.apply(&pod(&format!("stranger-{number}"), "stranger", Some(node), &["pause"]))?;
    }
    cluster().wait_for(namespace.name(), "condition=Ready", &["pod", "--all"])?;
    for server in ["server-1", "server-2"] {
        let url = ask(&address(&namespace, server)?);
        for number in [1, 2] {
            until("a friend is answered", || {
                namespace.shell(&format!("friend-{number}"), &format!("curl -sf -m 2 {url}"))
            })?;
            let stranger = namespace.shell(&format!("stranger-{number}"), &format!("curl -s -m 2 {url}"));
            ensure!(stranger.is_err(), "stranger-{number} reached {server}: {stranger:?}");
        }
    }
    cluster().rolled_out("kube-system", "daemonset/sluice")?;
    let [near, far] = loads;
    near.stop()?.check()?;
    far.stop()?.check()
}
