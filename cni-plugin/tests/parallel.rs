//! Many pods at once.

mod lab;

use std::{collections::HashSet, sync::Mutex, thread};

use lab::{Namespace, Node, addresses};
use serde_json::json;

const WORKERS: usize = 8;
const ROUNDS: usize = 12;

#[test]
fn parallel_adds_and_dels_share_no_address_and_leave_nothing() {
    let mut node = Node::new();
    // Few addresses: every worker's release is soon another's lease.
    node.config["ipam"]["ranges"] = json!([["10.244.1.0/28"], ["fd00:10:244:1::/124"]]);
    let before = node.netns.contents();
    let in_use = Mutex::new(HashSet::new());
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (node, in_use) = (&node, &in_use);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let (pod, id) = (Namespace::new(), format!("w{worker}r{round}"));
                    let result = node.call("ADD", &id, Some(&pod)).expect_success();
                    let leased = addresses(&result);
                    for addr in &leased {
                        assert!(in_use.lock().expect("the set").insert(*addr), "{addr} was leased twice");
                    }
                    node.call_with(&node.config_after(&result), "CHECK", &id, Some(&pod)).expect_success();
                    in_use.lock().expect("the set").retain(|addr| !leased.contains(addr));
                    let pod = (round % 2 == 0).then_some(pod);
                    node.call("DEL", &id, pod.as_ref()).expect_success();
                }
            });
        }
    });
    assert_eq!(node.netns.contents(), before);
    assert_eq!(node.leased(), Vec::<String>::new());
}
