//! Ranges: exceptions outside of them, and pods within.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use sluice_abi::Addr;

use super::{Code, Finding, Policy, Rule, Severity, count, names};
use crate::{
    object::{IpBlock, Node, Object},
    world::{Pod, World},
};

pub(super) fn lint(world: &World, policies: &[Policy<'_>], found: &mut BTreeSet<Finding>) {
    let pod_ranges: Vec<(&str, IpNetwork)> = pod_ranges(world);
    for policy in policies {
        for rule in policy.rules() {
            for (index, peer) in rule.peers.iter().enumerate() {
                let Some(block) = &peer.ip_block else { continue };
                let field = format!("{}.ipBlock", rule.peer_field(index));
                let outside = except_outside(policy, block);
                let covering = covers_pods(world, policy, &rule, block, &pod_ranges);
                let findings = outside.into_iter().chain(covering);
                found.extend(findings.map(|finding| Finding { field: Some(field.clone()), ..finding }));
            }
        }
    }
}

fn except_outside(policy: &Policy<'_>, block: &IpBlock) -> Vec<Finding> {
    let Ok(cidr) = block.cidr.parse::<IpNetwork>() else { return Vec::new() };
    let outside = block
        .except
        .iter()
        .filter(|except| except.parse().is_ok_and(|except: IpNetwork| !is_within(&except, &cidr)));
    let finding = |except: &String| {
        let message = format!("the exception {except} does not lie in {}", block.cidr);
        let fix = "the policy is refused whole and allows nothing: remove the exception, or widen the range";
        policy.finding(Severity::Error, Code::ExceptOutsideCidr, message, fix)
    };
    outside.map(finding).collect()
}

fn covers_pods(
    world: &World,
    policy: &Policy<'_>,
    rule: &Rule<'_>,
    block: &IpBlock,
    pod_ranges: &[(&str, IpNetwork)],
) -> Option<Finding> {
    let cidr: IpNetwork = block.cidr.parse().ok()?;
    let except: Vec<IpNetwork> = block.except.iter().filter_map(|except| except.parse().ok()).collect();
    let holds = |addr: &Addr| {
        let ip = std::net::IpAddr::from(*addr);
        cidr.contains(ip) && !except.iter().any(|except| except.contains(ip))
    };
    let is_held = |pod: &&Pod| !pod.is_host && !pod.is_assumed && pod.addrs.iter().any(holds);
    let pods: Vec<&Pod> = world.pods().iter().filter(is_held).collect();
    let is_open = |range: &&(&str, IpNetwork)| {
        is_within(&range.1, &cidr) && !except.iter().any(|except| is_within(&range.1, except))
    };
    let nodes: Vec<_> = pod_ranges.iter().filter(is_open).collect();
    let what = match (pods.len(), nodes.first()) {
        (0, None) => return None,
        (0, Some((node, range))) => format!("covers {range}, the range of the pods of node {node}"),
        (number, _) => {
            let example = pods[0].addrs.iter().find(|addr| holds(addr)).map(ToString::to_string);
            format!("covers {}: {} has {}", count(number, "pod"), pods[0].name, example.unwrap_or_default())
        }
    };
    let (severity, fix) = if cidr.prefix() == 0 && rule.peers.len() == 1 && block.except.is_empty() {
        (
            Severity::Note,
            "leave out the peer to say everybody; name pods by labels, and except their ranges here, to say all but them",
        )
    } else {
        (Severity::Warning, "name pods by podSelector and namespaceSelector, or except their ranges here")
    };
    let message = format!("{what}; pods get other addresses whenever they are made anew");
    let finding = policy.finding(severity, Code::IpBlockCoversPods, message, fix);
    Some(Finding { pods: names(pods), ..finding })
}

/// The ranges of the nodes' pods.
fn pod_ranges(world: &World) -> Vec<(&str, IpNetwork)> {
    let of_node = |node: &Node| -> Vec<IpNetwork> {
        let first = node.spec.pod_cidrs.is_empty().then_some(&node.spec.pod_cidr);
        let ranges = node.spec.pod_cidrs.iter().chain(first).filter_map(|range| range.parse().ok());
        ranges.collect()
    };
    let nodes = world
        .objects()
        .values()
        .filter_map(|object| if let Object::Node(node) = object { Some(node) } else { None });
    nodes
        .flat_map(|node| of_node(node).into_iter().map(|range| (node.metadata.name.as_str(), range)))
        .collect()
}

/// Whether a range lies in another one, of its family.
pub(super) fn is_within(range: &IpNetwork, outer: &IpNetwork) -> bool {
    range.is_ipv4() == outer.is_ipv4() && outer.prefix() <= range.prefix() && outer.contains(range.network())
}
