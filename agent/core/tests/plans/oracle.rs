//! A literal reading of the NetworkPolicy API reference, sharing no code with the compiler.

use std::net::{IpAddr, Ipv4Addr};

use sluice_abi::{Addr, Direction, protocol};

use super::{
    Question,
    world::{self, PolicyShape, RuleShape, World},
};

/// Whether the pod at an address may talk; `None` when no running pod has it.
pub(crate) fn allows(world: &World, ((addr, _), direction, peer, probe): Question) -> Option<bool> {
    let pod = pod_at(world, addr)?;
    let mut isolated = false;
    for (number, policy) in &world.policies {
        let here = world::namespace(*number) == world::namespace(pod);
        if !here || !selects_app(policy.selects, world.pods[&pod].0) || !is_about(policy, direction) {
            continue;
        }
        isolated = true;
        let rules = &policy.rules[direction as usize];
        if rules.iter().any(|rule| matches(world, rule, *number, direction, pod, peer, probe)) {
            return Some(true);
        }
    }
    Some(!isolated)
}

/// The running pod that has an address.
fn pod_at(world: &World, addr: Addr) -> Option<u8> {
    let mut running = world.pods.iter().filter(|(_, (_, phase, _))| *phase == 0).map(|(number, _)| *number);
    running.find(|number| world::v4(*number) == addr || world::v6(*number) == addr)
}

/// "If this field is not specified, it will default based on the existence of ingress or egress rules; policies that
/// contain an egress section are assumed to affect egress, and all policies (whether or not they contain an ingress
/// section) are assumed to affect ingress."
fn is_about(policy: &PolicyShape, direction: Direction) -> bool {
    match (policy.types % 4, direction) {
        (2, _) | (0 | 3, Direction::Ingress) | (1, Direction::Egress) => true,
        (3, Direction::Egress) => !policy.rules[1].is_empty(),
        _ => false,
    }
}

/// "This rule matches traffic if and only if the traffic matches at least one item in the from list" and in the ports
/// list; an empty list matches all.
fn matches(
    world: &World,
    rule: &RuleShape,
    policy: u8,
    direction: Direction,
    pod: u8,
    peer: Addr,
    probe: (u8, u16),
) -> bool {
    let is_peer = rule.peers.is_empty() || rule.peers.iter().any(|item| is_peer(world, *item, policy, peer));
    let receiver = match direction {
        Direction::Ingress => Some(pod),
        Direction::Egress => pod_at(world, peer),
    };
    is_peer && (rule.ports.is_empty() || rule.ports.iter().any(|item| is_port(world, *item, receiver, probe)))
}

fn selects_app(selector: u8, app: u8) -> bool {
    match selector % 3 {
        0 => true,
        other => other - 1 == app,
    }
}

fn is_peer(world: &World, item: u8, policy: u8, peer: Addr) -> bool {
    let is_pod =
        |test: &dyn Fn(u8, u8) -> bool| pod_at(world, peer).is_some_and(|pod| test(pod, world.pods[&pod].0));
    // A namespace that nobody has told of yet may have any label, or none.
    let team_is =
        |pod: u8, test: &dyn Fn(u8) -> bool| world.teams.get(&(pod % 2)).is_some_and(|team| test(*team));
    match item {
        0..3 => {
            is_pod(&|pod, app| world::namespace(pod) == world::namespace(policy) && selects_app(item, app))
        }
        3 => is_pod(&|_, _| true),
        4 => is_pod(&|pod, app| team_is(pod, &|team| team == 1) && app == 0),
        5 => is_pod(&|pod, _| team_is(pod, &|team| team != 1)),
        _ => is_in_range(item, IpAddr::from(peer)),
    }
}

fn is_in_range(item: u8, peer: IpAddr) -> bool {
    match peer {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            match item {
                6 => (a, b) == (10, 0),
                7 => a == 10 && (a, b, c) != (10, 0, 1) && b != 9,
                8 => (a, b) != (10, 0),
                9 => v4 == Ipv4Addr::new(10, 0, 1, 3),
                _ => false,
            }
        }
        IpAddr::V6(v6) => {
            let s = v6.segments();
            match item {
                10 => s[..7] != [0xfd00, 0, 0, 0, 0, 0, 1],
                11 => s[..4] == [0xfd00, 0, 0, 0],
                _ => false,
            }
        }
    }
}

/// A port without protocol is TCP; a name is looked up on the pod that receives.
fn is_port(world: &World, item: u8, receiver: Option<u8>, (number, port): (u8, u16)) -> bool {
    let tcp = number == protocol::TCP;
    match item {
        0 => tcp && port == 80,
        1 => tcp && (80..=82).contains(&port),
        2 => tcp && receiver.and_then(|pod| world::http_port(world.pods[&pod].2)) == Some(port),
        3 => number == protocol::UDP,
        _ => tcp,
    }
}
