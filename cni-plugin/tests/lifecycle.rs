//! One pod's life: ADD, CHECK, traffic, DEL.

mod lab;

use std::os::unix::process::CommandExt as _;

use lab::{Namespace, Node, addresses, echo};
use serde_json::{Value, json};

#[test]
fn two_pods_reach_each_other_and_their_node_until_they_are_deleted() {
    let node = Node::new();
    let before = node.netns.contents();
    let pods = [Namespace::new(), Namespace::new()];
    let results: Vec<Value> = ["c1", "c2"]
        .iter()
        .zip(&pods)
        .map(|(id, pod)| node.call("ADD", id, Some(pod)).expect_success())
        .collect();
    for (id, (pod, result)) in ["c1", "c2"].iter().zip(pods.iter().zip(&results)) {
        node.call_with(&node.config_after(result), "CHECK", id, Some(pod)).expect_success();
    }
    let second = addresses(&results[1]);
    assert_eq!(second.len(), 2);
    for addr in second {
        echo(&pods[0], &pods[1], addr).unwrap_or_else(|error| panic!("pod to pod, {addr}: {error}"));
        echo(&pods[1], &pods[1], addr).unwrap_or_else(|error| panic!("pod to itself, {addr}: {error}"));
        echo(&node.netns, &pods[1], addr).unwrap_or_else(|error| panic!("node to pod, {addr}: {error}"));
    }
    node.call("DEL", "c1", Some(&pods[0])).expect_success();
    node.call("DEL", "c1", Some(&pods[0])).expect_success();
    assert!(!pods[0].ip("-o link").contains("eth0"));
    // The namespace may be gone before DEL comes; the veth went with it.
    drop(pods);
    node.call("DEL", "c2", None).expect_success();
    node.call("DEL", "c2", None).expect_success();
    assert_eq!(node.netns.contents(), before);
    assert_eq!(node.leased(), Vec::<String>::new());
}

#[test]
fn the_wire_is_as_documented() {
    let mut node = Node::new();
    node.config["mtu"] = json!(1400);
    let pod = Namespace::new();
    let result = node.call("ADD", "c1", Some(&pod)).expect_success();
    let [v4, v6] = addresses(&result)[..] else { panic!("{result}") };
    let host = result["interfaces"][0]["name"].as_str().expect("a name");
    let (host_mac, pod_mac) = (&result["interfaces"][0]["mac"], &result["interfaces"][1]["mac"]);
    let (host_mac, pod_mac) = (host_mac.as_str().expect("a MAC"), pod_mac.as_str().expect("a MAC"));

    let in_pod = pod.contents();
    for wanted in [
        format!("inet {v4}/32 scope global eth0"),
        format!("inet6 {v6}/128 scope global nodad"),
        "default via 169.254.1.1 dev eth0 proto static onlink".to_owned(),
        "default via fe80::1 dev eth0 proto static".to_owned(),
        format!("169.254.1.1 dev eth0 lladdr {host_mac} PERMANENT"),
        format!("fe80::1 dev eth0 lladdr {host_mac}"),
        "inet 127.0.0.1/8 scope host lo".to_owned(),
        format!("link/ether {pod_mac}"),
        "mtu 1400".to_owned(),
    ] {
        assert!(in_pod.contains(&wanted), "{wanted} is not in\n{in_pod}");
    }
    assert!(!in_pod.contains("tentative"), "{in_pod}");

    let on_host = node.netns.contents();
    for wanted in [
        format!("{v4} dev {host} proto static scope link"),
        format!("{v6} dev {host} proto static"),
        format!("{v4} dev {host} lladdr {pod_mac} PERMANENT"),
        format!("{v6} dev {host} lladdr {pod_mac} PERMANENT"),
        "alias sluice:pods".to_owned(),
    ] {
        assert!(on_host.contains(&wanted), "{wanted} is not in\n{on_host}");
    }
    assert!(!on_host.contains("fe80::"), "the host's end has a link-local address:\n{on_host}");
    let sysctl = |name: String| node.netns.enter(|| std::fs::read_to_string(format!("/proc/sys/net/{name}")));
    for (name, value) in [
        (format!("ipv4/conf/{host}/forwarding"), "1\n"),
        (format!("ipv4/conf/{host}/rp_filter"), "0\n"),
        (format!("ipv6/conf/{host}/forwarding"), "1\n"),
        (format!("ipv6/conf/{host}/accept_ra"), "0\n"),
    ] {
        assert_eq!(sysctl(name.clone()).expect("a sysctl"), value, "{name}");
    }
}

#[test]
fn one_family_alone_is_wired_alone() {
    for (range, other) in [("10.244.1.0/24", "fd00"), ("fd00:10:244:1::/64", "10.244")] {
        let mut node = Node::new();
        node.config["ipam"]["ranges"] = json!([[range]]);
        let pods = [Namespace::new(), Namespace::new()];
        node.call("ADD", "c1", Some(&pods[0])).expect_success();
        let result = node.call("ADD", "c2", Some(&pods[1])).expect_success();
        let addrs = addresses(&result);
        assert_eq!(addrs.len(), 1);
        echo(&pods[0], &pods[1], addrs[0]).unwrap_or_else(|error| panic!("{range}: {error}"));
        assert!(!pods[0].contents().contains(other));
    }
}

#[test]
fn without_a_configured_mtu_the_default_routes_device_decides() {
    let node = Node::new();
    let pod = Namespace::new();
    let result = node.call("ADD", "c1", Some(&pod)).expect_success();
    assert_eq!(result["interfaces"][1]["mtu"], 1500, "no default route");
    node.call("DEL", "c1", None).expect_success();
    for (route, mtu) in [
        ("-6 route add default via fe80::9 dev up6", 1450),
        ("route add default via 192.0.2.9 dev up4", 1410),
    ] {
        let device = route.rsplit(' ').next().expect("a device");
        node.netns.ip(&format!("link add {device} mtu {mtu} type veth peer {device}p"));
        node.netns.ip(&format!("link set {device} up"));
        node.netns.ip(&format!("addr add 192.0.2.1/24 dev {device}"));
        node.netns.ip(route);
        let result = node.call("ADD", "c1", Some(&pod)).expect_success();
        assert_eq!(result["interfaces"][1]["mtu"], mtu, "{route}");
        node.call("DEL", "c1", None).expect_success();
        node.netns.ip(&format!("addr del 192.0.2.1/24 dev {device}"));
    }
}

#[test]
fn an_interface_that_exists_makes_add_an_error_and_stays() {
    let node = Node::new();
    let pod = Namespace::new();
    pod.ip("link add eth0 type veth peer other");
    let before = (node.netns.contents(), pod.ip("-o link"));
    assert_eq!(node.call("ADD", "c1", Some(&pod)).code(), 102);
    assert_eq!((node.netns.contents(), pod.ip("-o link")), before);
    assert!(node.leased().is_empty());

    let pod = Namespace::new();
    let result = node.call("ADD", "c2", Some(&pod)).expect_success();
    let before = (node.netns.contents(), pod.contents(), node.leased());
    assert_eq!(node.call("ADD", "c2", Some(&pod)).code(), 102);
    assert_eq!(
        (node.netns.contents(), pod.contents(), node.leased()),
        before,
        "the attachment in use is untouched"
    );
    node.call_with(&node.config_after(&result), "CHECK", "c2", Some(&pod)).expect_success();
}

#[test]
fn a_step_that_fails_undoes_the_steps_before_it() {
    let node = Node::new();
    let before = (node.netns.contents(), node.leased());

    // The last step: the pod has a default route already.
    let pod = Namespace::new();
    pod.ip("link add other type veth peer another");
    pod.ip("link set other up");
    pod.ip("route add default dev other");
    let answer = node.call("ADD", "c1", Some(&pod));
    assert_eq!(answer.code(), 101);
    assert_eq!(answer.json["msg"], "adding route to 0.0.0.0/0");
    assert_eq!(answer.json["details"], "File exists (os error 17)");
    assert_eq!((node.netns.contents(), node.leased()), before);
    assert!(!pod.ip("-o link").contains("eth0"));

    // An early one: a sysctl of the host's end cannot be written.
    let pod = Namespace::new();
    let path = pod.path().display().to_string();
    let mut command = node.plugin("ADD", "c1", Some(&path));
    // SAFETY: system calls with constant arguments: nothing that a fork of a threaded process must not do.
    unsafe { command.pre_exec(|| Ok(lab::hide_sysctls()?)) };
    let answer = lab::run(command, &node.config);
    assert_eq!(answer.code(), 5, "{}", answer.json);
    assert!(
        answer.json["msg"].as_str().is_some_and(|text| text.ends_with("accept_ra to 0")),
        "{}",
        answer.json
    );
    assert_eq!((node.netns.contents(), node.leased()), before);
    assert!(!pod.ip("-o link").contains("eth0"));
}

#[test]
fn check_names_what_is_missing() {
    let node = Node::new();
    let pod = Namespace::new();
    let result = node.call("ADD", "c1", Some(&pod)).expect_success();
    let config = node.config_after(&result);
    let host = result["interfaces"][0]["name"].as_str().expect("a name").to_owned();
    let [v4, v6] = addresses(&result)[..] else { panic!("{result}") };
    let pod_mac = result["interfaces"][1]["mac"].as_str().expect("a MAC").to_owned();
    let host_mac = result["interfaces"][0]["mac"].as_str().expect("a MAC").to_owned();
    let lease = |name: &str| {
        let path = node.folder.path().join("leases/pods");
        let boot = std::fs::read_dir(path).expect("a folder").flatten().find(|entry| entry.path().is_dir());
        boot.expect("a boot").path().join(name)
    };
    let file = node.leased().into_iter().find(|name| name.starts_with(&v4.to_string())).expect("a lease");
    let hidden = lease(".hidden");
    let steps: [(&str, &Namespace, String, String); 6] = [
        (
            "route to 0.0.0.0/0 is missing in the pod",
            &pod,
            "route del default".into(),
            "route add default via 169.254.1.1 dev eth0 onlink".into(),
        ),
        (
            "neighbour 169.254.1.1",
            &pod,
            "neigh del 169.254.1.1 dev eth0".into(),
            format!("neigh add 169.254.1.1 lladdr {host_mac} nud permanent dev eth0"),
        ),
        (
            &format!("address {v6}"),
            &pod,
            format!("addr del {v6}/128 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
        ),
        (
            &format!("route to {v4}/32 is missing on the host"),
            &node.netns,
            format!("route del {v4}/32"),
            format!("route add {v4}/32 dev {host} scope link"),
        ),
        (
            &format!("neighbour {v6}"),
            &node.netns,
            format!("neigh del {v6} dev {host}"),
            format!("neigh add {v6} lladdr {pod_mac} nud permanent dev {host}"),
        ),
        ("MAC address or MTU", &pod, "link set eth0 mtu 1300".into(), "link set eth0 mtu 1500".into()),
    ];
    for (message, netns, spoil, repair) in &steps {
        node.call_with(&config, "CHECK", "c1", Some(&pod)).expect_success();
        netns.ip(spoil);
        let answer = node.call_with(&config, "CHECK", "c1", Some(&pod));
        assert_eq!(answer.code(), 103, "{spoil}");
        assert!(
            answer.json["msg"].as_str().expect("a message").contains(message),
            "{spoil}: {}",
            answer.json
        );
        netns.ip(repair);
    }
    std::fs::rename(lease(&file), &hidden).expect("the lease");
    assert_eq!(node.call_with(&config, "CHECK", "c1", Some(&pod)).code(), 103, "no lease");
    std::fs::rename(&hidden, lease(&file)).expect("the lease");
    // Another plugin of the chain may add routes and addresses.
    pod.ip("route add 192.0.2.0/24 via 169.254.1.1 dev eth0 onlink");
    pod.ip("addr add 192.0.2.7/32 dev eth0");
    node.call_with(&config, "CHECK", "c1", Some(&pod)).expect_success();
    node.netns.ip(&format!("link set {host} down"));
    assert_eq!(node.call_with(&config, "CHECK", "c1", Some(&pod)).code(), 103, "link down");
    node.call("DEL", "c1", Some(&pod)).expect_success();
    assert_eq!(node.call_with(&config, "CHECK", "c1", Some(&pod)).code(), 3, "deleted");
}

#[test]
fn behind_another_plugin_both_results_are_passed_on() {
    let node = Node::new();
    let pod = Namespace::new();
    let before = json!({"cniVersion": "1.1.0",
        "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": pod.path().display().to_string(), "pciID": "0:1"}],
        "ips": [{"address": "192.0.2.5/24", "interface": 0}],
        "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1", "priority": 7}]});
    let result = node.call_with(&node.config_after(&before), "ADD", "c1", Some(&pod)).expect_success();
    assert_eq!(result["interfaces"][0], before["interfaces"][0]);
    assert_eq!((&result["ips"][0], &result["routes"][0]), (&before["ips"][0], &before["routes"][0]));
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(3));
    let ours: Vec<_> =
        result["ips"].as_array().expect("a list").iter().skip(1).map(|ip| &ip["interface"]).collect();
    assert_eq!(ours, [&json!(2), &json!(2)], "the pod's end of our pair");
    node.call_with(&node.config_after(&result), "CHECK", "c1", Some(&pod)).expect_success();
    node.call_with(&node.config_after(&result), "DEL", "c1", Some(&pod)).expect_success();
    assert_eq!(node.leased(), Vec::<String>::new());
}

#[test]
fn garbage_collection_keeps_valid_attachments_and_other_networks() {
    let node = Node::new();
    let mut other = node.config.clone();
    other["name"] = json!("other");
    other["ipam"]["ranges"] = json!([["10.99.0.0/24"]]);
    let pods: Vec<_> = (0..3).map(|_| Namespace::new()).collect();
    let kept = node.call("ADD", "kept", Some(&pods[0])).expect_success();
    let gone = node.call("ADD", "gone", Some(&pods[1])).expect_success();
    let foreign = node.call_with(&other, "ADD", "foreign", Some(&pods[2])).expect_success();
    let mut gc = node.config.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "kept", "ifname": "eth0"}]);
    node.call_with(&gc, "GC", "", None).expect_success();
    let links = node.netns.ip("-o link");
    let there = |result: &Value| links.contains(result["interfaces"][0]["name"].as_str().expect("a name"));
    assert!(there(&kept) && there(&foreign) && !there(&gone), "{links}");
    assert_eq!(node.leased().len(), 2);
    node.call_with(&node.config_after(&kept), "CHECK", "kept", Some(&pods[0])).expect_success();
    other["prevResult"] = foreign;
    node.call_with(&other, "CHECK", "foreign", Some(&pods[2])).expect_success();
    gc["cni.dev/valid-attachments"] = json!(null);
    node.call_with(&gc, "GC", "", None).expect_success();
    assert!(node.leased().is_empty());
}
