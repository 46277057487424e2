//! Path-MTU discovery under policy (RFC 1191, RFC 8201): it must not depend on what the policy says of ICMP.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use serde_json::json;
use sluice_tests::topology::{
    AgentOptions, Cluster, OUTSIDE, PATIENCE, PodSpec, WAN_MTU,
    objects::{self, Conditions, Hint},
    traffic::{Listen, Server, transfer},
};

use crate::network_policy;

const LEN_BYTES: usize = 2 << 20;
const PORT: u16 = 8000;

/// Sends to a host behind a link with a smaller MTU, from a pod that may only open TCP to one port; what arrived in
/// time, and what the pod's routes say after, for each family.
fn send(options: &AgentOptions, limit: Duration) -> Result<[(Option<usize>, String); 2]> {
    let cluster = Cluster::start_with(1, options)?;
    let rules = json!({
        "policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"protocol": "TCP", "port": PORT}]}],
    });
    cluster.objects.put("policy", &network_policy("one-port", "sender", &rules))?;
    let pod = cluster.pod(1, &PodSpec::new("sender", "sender"))?;
    // The sender must learn from ICMP alone.
    pod.netns.sysctls(&[("net/ipv4/tcp_mtu_probing", "0")])?;
    let _sink = Server::start(&cluster.outside, "outside", &[Listen::Sink(PORT)])?;
    let [v4, v6] = OUTSIDE.map(|ip| {
        let sent = transfer(&pod.netns, (ip, PORT).into(), LEN_BYTES, limit)?;
        anyhow::Ok((sent, pod.netns.ip(&format!("route get {ip}"))?))
    });
    Ok([v4?, v6?])
}

#[test]
fn a_large_transfer_completes_under_a_policy_of_one_tcp_port() -> Result<()> {
    for (sent, route) in send(&AgentOptions::default(), PATIENCE)? {
        assert_eq!(sent, Some(LEN_BYTES));
        assert!(route.contains(&format!("mtu {WAN_MTU}")), "{route}");
    }
    Ok(())
}

#[test]
fn the_same_transfer_stalls_when_related_icmp_is_off() -> Result<()> {
    let args = vec!["--datapath-option=related-icmp=false".to_owned()];
    for (sent, route) in send(&AgentOptions { args, ..AgentOptions::default() }, Duration::from_millis(700))?
    {
        assert_eq!(sent, None);
        assert!(!route.contains("mtu"), "{route}");
    }
    Ok(())
}

#[test]
fn the_path_mtu_of_a_backend_is_learnt_for_its_cluster_address() -> Result<()> {
    const ADDRESSES: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
    let cluster = Cluster::start(1)?;
    let pod = cluster.pod(1, &PodSpec::new("sender", "sender"))?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "outside"},
        "spec": {"clusterIPs": ADDRESSES, "ports": [{"protocol": "TCP", "port": 80, "targetPort": PORT}]},
    });
    let ports = json!([{"name": "", "protocol": "TCP", "port": PORT}]);
    let member = objects::SliceMember {
        pod: "outside",
        node: "",
        addresses: OUTSIDE,
        conditions: Conditions::Ready,
        hint: Hint::None,
    };
    cluster.objects.put("slices", &objects::slices("default", "outside", &ports, &[member]))?;
    cluster.objects.put("service", &service)?;
    cluster.settle()?;
    pod.netns.sysctls(&[("net/ipv4/tcp_mtu_probing", "0")])?;
    let _sink = Server::start(&cluster.outside, "outside", &[Listen::Sink(PORT)])?;
    for address in ADDRESSES {
        // The router quotes the translated packet; the pod knows the address it asked.
        let to = SocketAddr::new(address.parse()?, 80);
        assert_eq!(transfer(&pod.netns, to, LEN_BYTES, PATIENCE)?, Some(LEN_BYTES), "{to}");
        let route = pod.netns.ip(&format!("route get {address}"))?;
        assert!(route.contains(&format!("mtu {WAN_MTU}")), "{route}");
    }
    Ok(())
}
