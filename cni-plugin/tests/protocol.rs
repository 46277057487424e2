//! What the runtime sees: versions, error codes, words.

mod lab;

use lab::{Answer, Namespace, Node, run};
use serde_json::{Value, json};

#[test]
fn every_version_of_the_specification_is_answered_in_its_own_form() {
    for (version, ip_version, mtu, check) in [
        ("0.3.1", true, false, false),
        ("0.4.0", true, false, true),
        ("1.0.0", false, false, true),
        ("1.1.0", false, true, true),
    ] {
        let mut node = Node::new();
        node.config["cniVersion"] = json!(version);
        node.config["dns"] = json!({"nameservers": ["10.96.0.10"]});
        let pod = Namespace::new();
        let result = node.call("ADD", "c1", Some(&pod)).expect_success();
        assert_eq!(result["cniVersion"], version);
        let (host, inside) = (&result["interfaces"][0], &result["interfaces"][1]);
        assert!(
            host["name"].as_str().is_some_and(|name| name.starts_with("sl")) && host.get("sandbox").is_none()
        );
        assert_eq!(inside["name"], "eth0");
        assert_eq!(inside["sandbox"], pod.path().display().to_string());
        assert_eq!(inside.get("mtu").is_some(), mtu, "{version}");
        assert_eq!(result["ips"][0]["address"], "10.244.1.1/32");
        assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
        assert_eq!(result["ips"][1]["address"], "fd00:10:244:1::1/128");
        assert_eq!(result["ips"][1]["gateway"], "fe80::1");
        let forms: Vec<_> =
            [0, 1].map(|index| result["ips"][index].get("version").and_then(Value::as_str)).into();
        assert_eq!(forms, if ip_version { [Some("4"), Some("6")] } else { [None, None] }, "{version}");
        assert_eq!(
            result["routes"],
            json!([
                {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"},
            ])
        );
        assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
        let checked = node.call_with(&node.config_after(&result), "CHECK", "c1", Some(&pod));
        assert_eq!(checked.success, check, "{version}: {}", checked.json);
        node.call_with(&node.config_after(&result), "DEL", "c1", Some(&pod)).expect_success();
    }
}

#[test]
fn the_version_command_tells_what_is_spoken() {
    let node = Node::new();
    for asked in ["1.1.0", "0.4.0", "9.9.9"] {
        let answer = node.call_with(&json!({"cniVersion": asked}), "VERSION", "", None).expect_success();
        assert_eq!(
            answer,
            json!({"cniVersion": asked, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
        );
    }
}

#[test]
fn what_is_wrong_with_a_call_has_its_code_and_its_name() {
    let node = Node::new();
    let pod = Namespace::new();
    let path = pod.path().display().to_string();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut config = node.config.clone();
        change(&mut config);
        config
    };
    let add = |config: &Value, env: &[(&str, &str)]| {
        let mut command = node.plugin("ADD", "c1", Some(&path));
        command.envs(env.iter().copied());
        run(command, config)
    };
    let file = node.folder.path().join("plain").display().to_string();
    std::fs::write(&file, "no namespace").expect("a file");
    let cases: Vec<(&str, Answer, u64, &str)> = vec![
        ("old version", add(&with(&|c| c["cniVersion"] = json!("0.2.0")), &[]), 1, "0.2.0"),
        ("new version", add(&with(&|c| c["cniVersion"] = json!("2.0.0")), &[]), 1, "2.0.0"),
        ("unknown command", add(&node.config, &[("CNI_COMMAND", "JUMP")]), 4, "CNI_COMMAND"),
        ("no container", add(&node.config, &[("CNI_CONTAINERID", "")]), 4, "CNI_CONTAINERID"),
        ("bad container", add(&node.config, &[("CNI_CONTAINERID", "a/b")]), 4, "CNI_CONTAINERID"),
        ("bad interface", add(&node.config, &[("CNI_IFNAME", "a:b")]), 4, "CNI_IFNAME"),
        ("no namespace", add(&node.config, &[("CNI_NETNS", "")]), 4, "CNI_NETNS"),
        ("bad arguments", add(&node.config, &[("CNI_ARGS", "x")]), 4, "CNI_ARGS"),
        ("namespace gone", add(&node.config, &[("CNI_NETNS", "/run/netns/gone")]), 8, "/run/netns/gone"),
        ("not a namespace", add(&node.config, &[("CNI_NETNS", &file)]), 8, &file),
        ("bad name", add(&with(&|c| c["name"] = json!("a/b")), &[]), 7, "name"),
        (
            "bad range",
            add(&with(&|c| c["ipam"]["ranges"] = json!([["10.0.0.0/99"]])), &[]),
            7,
            "ipam.ranges[0][0]",
        ),
        ("bad MTU", add(&with(&|c| c["mtu"] = json!(9)), &[]), 7, "mtu"),
        ("a result that is none", add(&with(&|c| c["prevResult"] = json!(7)), &[]), 7, "prevResult"),
        (
            "the interface is there",
            add(
                &with(&|c| c["prevResult"] = json!({"interfaces": [{"name": "eth0", "sandbox": "/x"}]})),
                &[],
            ),
            7,
            "prevResult.interfaces",
        ),
        ("not JSON", add(&json!("text"), &[]), 1, "0.1.0"),
        ("unusable folder", add(&with(&|c| c["ipam"]["dataDir"] = json!(file)), &[]), 5, &file),
    ];
    for (case, answer, code, word) in cases {
        assert_eq!(answer.code(), code, "{case}: {}", answer.json);
        let message = answer.json["msg"].as_str().expect("a message");
        assert!(message.contains(word), "{case}: {message}");
        assert_eq!(answer.json["cniVersion"], "1.1.0");
        assert!(answer.stderr.contains(message), "{case}: {}", answer.stderr);
    }
    for (path, what) in
        [("/proc/self/ns/net", "the host's own"), ("/proc/self/ns/mnt", "one of another kind")]
    {
        assert_eq!(run(node.plugin("ADD", "c1", Some(path)), &node.config).code(), 8, "{what}");
    }
    assert!(node.leased().is_empty());
    assert!(!pod.ip("-o link").contains("eth0"));
}

#[test]
fn words_on_stderr_name_the_call_and_the_cause() {
    let node = Node::new();
    let answer = run(node.plugin("ADD", "c1", Some("/run/netns/gone")), &node.config);
    let line =
        "ADD c1/eth0: opening network namespace /run/netns/gone: No such file or directory (os error 2)\n";
    assert_eq!(answer.stderr, line);
    assert_eq!(answer.json["msg"], "opening network namespace /run/netns/gone");
    assert_eq!(answer.json["details"], "No such file or directory (os error 2)");
}

#[test]
fn commands_of_later_versions_are_refused_in_earlier_ones() {
    let mut node = Node::new();
    node.config["cniVersion"] = json!("1.0.0");
    assert_eq!(node.call("STATUS", "", None).code(), 1);
    assert_eq!(node.call("GC", "", None).code(), 1);
    node.config["cniVersion"] = json!("0.3.1");
    assert_eq!(node.call("CHECK", "c1", None).code(), 1);
}

#[test]
fn check_without_its_previous_result_is_a_wrong_configuration() {
    let node = Node::new();
    let pod = Namespace::new();
    node.call("ADD", "c1", Some(&pod)).expect_success();
    assert_eq!(node.call("CHECK", "c1", Some(&pod)).code(), 7);
}

#[test]
fn an_exhausted_range_is_named_and_status_says_so_before() {
    let mut node = Node::new();
    node.config["ipam"]["ranges"] = json!([["10.244.1.0/30"], ["fd00:10:244:1::/64"]]);
    let pods: Vec<_> = (0..3).map(|_| Namespace::new()).collect();
    node.call("STATUS", "", None).expect_success();
    node.call("ADD", "c0", Some(&pods[0])).expect_success();
    node.call("ADD", "c1", Some(&pods[1])).expect_success();
    assert_eq!(node.call("STATUS", "", None).code(), 50);
    let before = (node.netns.contents(), node.leases());
    let answer = node.call("ADD", "c2", Some(&pods[2]));
    assert_eq!(answer.code(), 100);
    assert_eq!(answer.json["msg"], "no free address in 10.244.1.0/30 (2 leased)");
    assert_eq!((node.netns.contents(), node.leases()), before, "both families or none");
    node.call("DEL", "c0", None).expect_success();
    node.call("STATUS", "", None).expect_success();
    node.call("ADD", "c2", Some(&pods[2])).expect_success();
}
