//! The plugin's side of its talk with the agent: order, patience, and what remains when it fails.

mod lab;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use lab::{
    Namespace, Node,
    agent::{Calls, Reply, serve, socket, well},
};
use serde_json::json;

/// A node with an agent that answers by `reply`, and a log of what was asked and how the host's links were then.
fn node_with_agent(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (Arc<Node>, Calls) {
    let mut node = Node::new();
    let path = socket(node.folder.path());
    node.config["agent"] = json!({"socket": path, "timeoutSeconds": 2});
    let node = Arc::new(node);
    let watched = Arc::downgrade(&node);
    let watch = move || {
        let links = watched.upgrade().map(|node| node.netns.ip("-o link")).unwrap_or_default();
        match links.lines().find(|line| line.contains(": sl")) {
            None => "no veth".to_owned(),
            Some(line) if line.contains(",UP") => "up".to_owned(),
            Some(_) => "down".to_owned(),
        }
    };
    let calls = serve(&path, reply, watch);
    (node, calls)
}

fn asked(calls: &Calls) -> Vec<(String, String)> {
    let calls = calls.lock().expect("the log");
    calls
        .iter()
        .map(|(call, seen)| (call.split('?').next().unwrap_or_default().to_owned(), seen.clone()))
        .collect()
}

fn expected(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(call, seen)| ((*call).to_owned(), (*seen).to_owned())).collect()
}

const PUT: &str = "PUT /v1/endpoints/c1/eth0";
const WAIT: &str = "GET /v1/endpoints/c1/eth0/in-force";
const DELETE: &str = "DELETE /v1/endpoints/c1/eth0";

#[test]
fn programs_are_attached_before_the_link_is_up_and_the_wait_comes_after() {
    let (node, calls) = node_with_agent(well);
    let pod = Namespace::new();
    let result = node.call("ADD", "c1", Some(&pod)).expect_success();
    assert_eq!(asked(&calls), expected(&[(PUT, "down"), (WAIT, "up")]));
    node.call_with(&node.config_after(&result), "CHECK", "c1", Some(&pod)).expect_success();
    node.call("DEL", "c1", Some(&pod)).expect_success();
    assert_eq!(asked(&calls).last(), expected(&[(DELETE, "no veth")]).last());
}

#[test]
fn an_unreachable_agent_is_try_again_and_leaves_nothing() {
    let mut node = Node::new();
    node.config["agent"] = json!({"socket": socket(node.folder.path()), "timeoutSeconds": 1});
    let pod = Namespace::new();
    let before = node.netns.contents();
    assert_eq!(node.call("ADD", "c1", Some(&pod)).code(), 11);
    assert_eq!(node.netns.contents(), before);
    assert!(node.leased().is_empty());
    assert_eq!(node.call("STATUS", "", None).code(), 51);
    node.call("DEL", "c1", Some(&pod)).expect_success();
}

#[test]
fn rules_not_in_force_in_time_are_try_again_and_everything_is_undone() {
    for (status, code) in [(504, 11), (503, 11), (404, 104)] {
        let (node, calls) = node_with_agent(move |call| match call.split(' ').next() {
            Some("GET") => (status, r#"{"message":"pod ns/c1 is not known yet"}"#),
            _ => well(call),
        });
        let pod = Namespace::new();
        let before = node.netns.contents();
        let answer = node.call("ADD", "c1", Some(&pod));
        assert_eq!(answer.code(), code, "{}", answer.json);
        assert!(answer.json.to_string().contains("pod ns/c1 is not known yet"), "{}", answer.json);
        // The link is down again before the programs may go.
        assert_eq!(asked(&calls), expected(&[(PUT, "down"), (WAIT, "up"), (DELETE, "down")]));
        assert_eq!(node.netns.contents(), before);
        assert!(!pod.ip("-o link").contains("eth0"));
        assert!(node.leased().is_empty());
    }
}

#[test]
fn a_refused_registration_never_sets_a_link_up() {
    let (node, calls) = node_with_agent(|call| match call.split(' ').next() {
        Some("PUT") => (507, r#"{"message":"ENDPOINTS is full"}"#),
        _ => well(call),
    });
    let pod = Namespace::new();
    assert_eq!(node.call("ADD", "c1", Some(&pod)).code(), 11);
    assert_eq!(asked(&calls), expected(&[(PUT, "down"), (DELETE, "down")]));
    assert!(node.leased().is_empty());
}

#[test]
fn an_agent_that_never_answers_costs_no_more_than_the_timeout() {
    let mut node = Node::new();
    let path = socket(node.folder.path());
    node.config["agent"] = json!({"socket": path, "timeoutSeconds": 1});
    let silent = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let pod = Namespace::new();
    let before = node.netns.contents();
    let answer = node.call("ADD", "c1", Some(&pod));
    assert_eq!(answer.code(), 11, "{}", answer.json);
    assert!(answer.stderr.contains("undoing: telling the agent"), "{}", answer.stderr);
    assert_eq!(node.netns.contents(), before);
    assert!(node.leased().is_empty());
    node.call("DEL", "c1", Some(&pod)).expect_success();
    drop(silent);
}

#[test]
fn an_agent_that_is_not_ready_makes_status_50() {
    let (node, _calls) = node_with_agent(|call| match call {
        "GET /readyz" => (503, r#"{"message":"waiting for Pods"}"#),
        _ => well(call),
    });
    let answer = node.call("STATUS", "", None);
    assert_eq!(answer.code(), 50);
    assert!(answer.json.to_string().contains("waiting for Pods"), "{}", answer.json);
}

#[test]
fn an_agent_that_was_ready_may_be_away_for_a_while() {
    let ready = Arc::new(AtomicBool::new(true));
    let is_ready = Arc::clone(&ready);
    let (node, _calls) = node_with_agent(move |call| match call {
        "GET /readyz" if !is_ready.load(Ordering::Relaxed) => (503, r#"{"message":"starting"}"#),
        _ => well(call),
    });
    node.call("STATUS", "", None).expect_success();
    ready.store(false, Ordering::Relaxed);
    node.call("STATUS", "", None).expect_success();
    let path = socket(node.folder.path());
    fs::remove_file(&path).expect("the agent is gone");
    let answer = node.call("STATUS", "", None);
    assert!(answer.success && answer.stderr.contains("away"), "{answer:?}");
    fs::remove_file(path.with_extension("seen")).expect("the note that it was there");
    assert_eq!(node.call("STATUS", "", None).code(), 51);
}

#[test]
fn an_add_waits_for_an_agent_that_restarts() {
    let mut node = Node::new();
    let path = socket(node.folder.path());
    node.config["agent"] = json!({"socket": path, "timeoutSeconds": 60});
    let pod = Namespace::new();
    thread::scope(|scope| {
        let add = scope.spawn(|| node.call("ADD", "c1", Some(&pod)));
        assert!(!add.is_finished(), "it waits");
        serve(&path, well, String::new);
        add.join().expect("no panic").expect_success();
    });
}

#[test]
fn the_agent_must_be_told_which_pod_it_is() {
    let (node, calls) = node_with_agent(well);
    let pod = Namespace::new();
    let path = pod.path().display().to_string();
    let mut command = node.plugin("ADD", "c1", Some(&path));
    command.env_remove("CNI_ARGS");
    let answer = lab::run(command, &node.config);
    assert_eq!(answer.code(), 4);
    assert!(answer.json["msg"].as_str().is_some_and(|text| text.contains("K8S_POD_NAMESPACE")));
    assert!(asked(&calls).is_empty());
    assert!(node.leased().is_empty());
}

#[test]
fn garbage_collection_tells_the_agent_what_is_gone() {
    let (node, calls) = node_with_agent(well);
    let pod = Namespace::new();
    node.call("ADD", "c1", Some(&pod)).expect_success();
    let mut gc = node.config.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "c2", "ifname": "eth0"}]);
    node.call_with(&gc, "GC", "", None).expect_success();
    assert_eq!(asked(&calls).last(), expected(&[(DELETE, "no veth")]).last());
    assert!(node.leased().is_empty());
}
