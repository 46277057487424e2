//! Plans against the real maps. Needs root.

use sluice_abi::{
    Addr, Backend, BackendId, BackendState, Direction, Endpoint, EndpointId, EndpointMeta, Frontend,
    FrontendKey, Identity, IdentityMeta, NodeAddr, NodeFamily, PolicyId, PolicyKind, PolicyMeta, Prefix,
    Rule, RuleId, RuleKey, RuleMeta, RuleSetId, RuleSetMeta, RuleVerdict, ServiceId, ServiceMeta, Text,
    maps::{self, Numbers},
    node_flags, protocol,
};
use sluice_core::plan::{Actual, Entry, Key, Plan, RulePrefix, SourceRange, Step};
use sluice_maps::{Maps, MapsError, testing::PrivateBpffs};

use super::{apply, read_actual};

#[test]
fn what_was_applied_is_what_is_read_back() {
    let bpffs = PrivateBpffs::mount();
    let mut maps = Maps::create(bpffs.path()).expect("maps");
    let mut expected = Actual::default();
    assert_eq!(read_actual(&maps).expect("read"), expected, "new maps are empty");
    for plan in [everything(), some_of_it_changed()] {
        apply(&plan, &mut maps).expect("apply");
        plan.iter().for_each(|step| expected.apply(step));
        assert_eq!(read_actual(&maps).expect("read"), expected);
    }
    assert_eq!(expected.rules.len(), 1, "the second plan did delete");
}

#[test]
fn a_restarted_agent_reads_what_the_old_one_left() {
    let bpffs = PrivateBpffs::mount();
    let mut maps = Maps::create(bpffs.path()).expect("maps");
    apply(&everything(), &mut maps).expect("apply");
    let left = read_actual(&maps).expect("read");
    drop(maps);
    assert_eq!(read_actual(&Maps::create(bpffs.path()).expect("maps")).expect("read"), left);
}

#[test]
fn a_step_that_does_not_fit_is_named_and_nothing_behind_it_is_done() {
    let bpffs = PrivateBpffs::mount();
    let mut maps = Maps::create(bpffs.path()).expect("maps");
    let plan = vec![
        Step::Put(Entry::Interface(3, EndpointId(1))),
        Step::Put(Entry::Slot(maps::SLOTS.max_entries, BackendId(1))),
        Step::Put(Entry::Interface(4, EndpointId(2))),
    ];
    let error = apply(&plan, &mut maps).expect_err("no such slot");
    assert_eq!(error.to_string(), "carrying out step 2 of 3");
    assert!(
        matches!(error.source, MapsError::Full { map: "SLOTS", capacity, .. } if capacity == maps::SLOTS.max_entries),
        "{:?}",
        error.source
    );
    assert_eq!(read_actual(&maps).expect("read").interfaces.into_keys().collect::<Vec<_>>(), [3]);
}

#[test]
fn what_is_gone_already_may_be_deleted() {
    let bpffs = PrivateBpffs::mount();
    let mut maps = Maps::create(bpffs.path()).expect("maps");
    let plan = everything().iter().filter_map(|step| Some(Step::Delete(entry(step)?.key()))).collect();
    apply(&plan, &mut maps).expect("apply");
    assert_eq!(read_actual(&maps).expect("read"), Actual::default());
}

fn entry(step: &Step) -> Option<&Entry> {
    match step {
        Step::Put(entry) => Some(entry),
        Step::Delete(_) | Step::Number(..) | Step::Epoch(_) | Step::Grace => None,
    }
}

/// One entry or more in every map.
fn everything() -> Plan {
    let addr = Addr::v4([10, 0, 0, 1]);
    let v6 = Addr([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let (sets, id) = ((RuleSetId(1), RuleSetId(2)), EndpointId(1));
    let endpoint =
        Endpoint { id, ifindex: 3, ingress: sets.0, egress: sets.1, mac: [2; 6], ..Endpoint::default() };
    let rule = Rule::new(RuleId(16), RuleVerdict::Allow);
    let frontend = Frontend { first_slot: 5, count: 2, service: ServiceId(1), ..Frontend::default() };
    let mut plan: Plan = Numbers::ALL.iter().map(|kind| Step::Number(*kind, kind.first() + 3)).collect();
    plan.extend(
        [
            Entry::PolicyMeta(PolicyId(1), policy("web")),
            Entry::RuleMeta(RuleId(16), rule_meta()),
            Entry::RuleSetMeta(sets.0, rule_set_meta(Direction::Ingress)),
            Entry::RuleSetMeta(sets.1, rule_set_meta(Direction::Egress)),
            Entry::IdentityMeta(
                Identity(16),
                IdentityMeta { digest: [7; 16], selectors: Text::new("app=web") },
            ),
            Entry::EndpointMeta(id, endpoint_meta([addr, v6])),
            Entry::ServiceMeta(
                ServiceId(1),
                ServiceMeta { namespace: Text::new("shop"), name: Text::new("web") },
            ),
            Entry::Rule(rule_prefix(80, RuleKey::BITS), rule),
            Entry::Rule(rule_prefix(0, RuleKey::BITS_ANY_PORT), rule),
            Entry::Ipcache(Prefix::host(addr), Identity(16)),
            Entry::Ipcache(Prefix::new(addr, 120), Identity(17)),
            Entry::Ipcache(Prefix::new(Addr::UNSPECIFIED, 0), Identity(18)),
            Entry::Backend(BackendId(1), backend(addr)),
            Entry::Backend(BackendId(2), backend(v6)),
            Entry::Slot(5, BackendId(1)),
            Entry::Slot(6, BackendId(2)),
            Entry::Frontend(FrontendKey { addr, port: [0, 80], protocol: protocol::TCP, scope: 0 }, frontend),
            Entry::SourceRange(source_range(104), 1),
            Entry::SourceRange(source_range(96), 1),
            Entry::Node(NodeFamily::V4, NodeAddr { addr, flags: node_flags::MASQUERADE }),
            Entry::Node(NodeFamily::V6, NodeAddr { addr: v6, flags: 0 }),
            Entry::NoMasquerade(Prefix::new(addr, 104), 1),
            Entry::NoMasquerade(Prefix::host(v6), 1),
            Entry::Interface(3, id),
            Entry::Endpoint(addr, endpoint),
            Entry::Endpoint(v6, endpoint),
        ]
        .map(Step::Put),
    );
    plan.extend([Step::Epoch(1), Step::Grace]);
    plan
}

fn some_of_it_changed() -> Plan {
    let addr = Addr::v4([10, 0, 0, 1]);
    vec![
        Step::Number(Numbers::RuleSet, 9),
        Step::Put(Entry::PolicyMeta(PolicyId(1), policy("api"))),
        Step::Epoch(2),
        Step::Grace,
        Step::Delete(Key::Rule(rule_prefix(80, RuleKey::BITS))),
        Step::Delete(Key::Ipcache(Prefix::host(addr))),
        Step::Delete(Key::Ipcache(Prefix::new(addr, 120))),
        Step::Delete(Key::Slot(5)),
        Step::Delete(Key::SourceRange(source_range(96))),
        Step::Delete(Key::Node(NodeFamily::V6)),
        Step::Delete(Key::NoMasquerade(Prefix::new(addr, 104))),
        Step::Delete(Key::Endpoint(addr)),
    ]
}

fn source_range(bits: u8) -> SourceRange {
    SourceRange { service: ServiceId(1), clients: Prefix::new(Addr::v4([10, 0, 0, 0]), bits) }
}

fn rule_prefix(port: u16, bits: u32) -> RulePrefix {
    let (rule_set, identity, port) = (RuleSetId(1), Identity(16), port.to_be_bytes());
    RulePrefix { key: RuleKey { rule_set, identity, protocol: protocol::TCP, reserved: 0, port }, bits }
}

fn backend(addr: Addr) -> Backend {
    Backend { addr, port: [31, 144], protocol: protocol::TCP, state: BackendState::Active as u8 }
}

fn policy(name: &str) -> PolicyMeta {
    let kind = PolicyKind::NetworkPolicy as u8;
    PolicyMeta { namespace: Text::new("shop"), name: Text::new(name), kind, mode: 0, reserved: [0; 6] }
}

fn rule_meta() -> RuleMeta {
    RuleMeta { policy: PolicyId(1), index: 0, direction: Direction::Ingress as u8, reserved: 0 }
}

fn rule_set_meta(direction: Direction) -> RuleSetMeta {
    let mut policies = [PolicyId(0); RuleSetMeta::POLICIES];
    policies[0] = PolicyId(1);
    RuleSetMeta {
        digest: [direction as u8; 16],
        direction: direction as u8,
        denies: 0,
        policy_count: 1,
        policies,
    }
}

fn endpoint_meta(addrs: [Addr; 2]) -> EndpointMeta {
    EndpointMeta {
        namespace: Text::new("shop"),
        pod: Text::new("web-0"),
        uid: Text::new("5f3c"),
        container: Text::new("c0ffee"),
        ifname: Text::new("eth0"),
        host_ifname: Text::new("slc0ffee"),
        addrs,
        ifindex: 3,
        mac: [2; 6],
        reserved: [0; 6],
    }
}
