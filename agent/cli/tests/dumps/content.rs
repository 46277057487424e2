//! A small node: two pods in force, one not yet, one Service, two policies, some flows and drops.

use sluice_abi::{
    Addr, Affinity, AffinityKey, Backend, BackendId, BackendState, Counter, CtEntry, CtState, Direction,
    DropKey, DropReason, DropRecord, Endpoint, EndpointId, EndpointMeta, FlowKey, Frontend, FrontendKey,
    FrontendScope, Identity, IdentityMeta, Judgement, NodeAddr, NodeFamily, PolicyId, PolicyKind, PolicyMeta,
    PolicyMode, Prefix, Rule, RuleId, RuleKey, RuleMeta, RuleSetId, RuleSetMeta, RuleVerdict, ServiceId,
    ServiceMeta, Text, Tuple, endpoint_flags, flow_flags, frontend_flags,
    maps::COUNTERS,
    protocol::{ICMP, TCP, UDP},
};
use sluice_maps::{Maps, RuleRange, SourceRange, Table, pins};

const API: Addr = Addr::v4([10, 1, 0, 5]);
const API_V6: Addr = Addr([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
const WEB: Addr = Addr::v4([10, 1, 0, 6]);
const NEW: Addr = Addr::v4([10, 1, 0, 7]);
const NODE: Addr = Addr::v4([192, 0, 2, 10]);
const VIP: Addr = Addr::v4([10, 96, 0, 20]);
const REMOTE: Addr = Addr::v4([10, 2, 0, 9]);
const OTHER: Addr = Addr::v4([10, 2, 0, 10]);
const BALANCER: Addr = Addr::v4([203, 0, 113, 80]);
const EXTERNAL: Addr = Addr::v4([203, 0, 113, 90]);
const OUTSIDE: Addr = Addr::v4([198, 51, 100, 7]);

const API_INGRESS: RuleSetId = RuleSetId(1);
const OPEN_INGRESS: RuleSetId = RuleSetId(2);
const OPEN_EGRESS: RuleSetId = RuleSetId(3);
const WEB_EGRESS: RuleSetId = RuleSetId(4);
const API_SHADOW: RuleSetId = RuleSetId(5);

const FROM_WEB: RuleId = RuleId(16);
const FROM_CIDR: RuleId = RuleId(17);
const TO_DNS: RuleId = RuleId(18);

const EPOCH: u32 = 7;

/// Fills every map that dumps read.
pub(super) fn fill(maps: &Maps) {
    names(maps);
    endpoints(maps);
    rules(maps);
    services(maps);
    flows(maps);
    drops(maps);
    counters(maps);
    maps.epoch.put(0, &EPOCH).expect("epoch");
}

fn names(maps: &Maps) {
    for (id, kind, namespace, name) in [
        (1, PolicyKind::NetworkPolicy, "shop", "api-from-web"),
        (2, PolicyKind::NetworkPolicy, "shop", "dns-only"),
        (3, PolicyKind::ClusterNetworkPolicy, "", "baseline"),
        (4, PolicyKind::NetworkPolicy, "shop", "web-only"),
    ] {
        let (namespace, name) = (Text::new(namespace), Text::new(name));
        let mode = if id == 4 { PolicyMode::Audit } else { PolicyMode::Enforce };
        let meta = PolicyMeta { namespace, name, kind: kind as u8, mode: mode as u8, reserved: [0; 6] };
        maps.policy_meta.put(&PolicyId(id), &meta).expect("policy");
    }
    for (id, policy, index, direction) in [
        (FROM_WEB, 1, 0, Direction::Ingress),
        (FROM_CIDR, 1, 1, Direction::Ingress),
        (TO_DNS, 2, 0, Direction::Egress),
    ] {
        let meta = RuleMeta { policy: PolicyId(policy), index, direction: direction as u8, reserved: 0 };
        maps.rule_meta.put(&id, &meta).expect("rule");
    }
    for (id, direction, names) in [
        (API_INGRESS, Direction::Ingress, &[3, 1][..]),
        (OPEN_INGRESS, Direction::Ingress, &[]),
        (OPEN_EGRESS, Direction::Egress, &[]),
        (WEB_EGRESS, Direction::Egress, &[2]),
        (API_SHADOW, Direction::Ingress, &[1, 4]),
    ] {
        let mut policies = [PolicyId(0); RuleSetMeta::POLICIES];
        names.iter().zip(&mut policies).for_each(|(name, place)| *place = PolicyId(*name));
        let (direction, policy_count) = (direction as u8, names.len() as u16);
        let meta = RuleSetMeta { digest: [id.0 as u8; 16], direction, denies: 0, policy_count, policies };
        maps.rule_set_meta.put(&id, &meta).expect("rule set");
    }
    for (id, words) in [(16, "shop: app=web"), (17, "cidr 198.51.100.0/24")] {
        let meta = IdentityMeta { digest: [id as u8; 16], selectors: Text::new(words) };
        maps.identity_meta.put(&Identity(id), &meta).expect("identity");
    }
    let meta = ServiceMeta { namespace: Text::new("shop"), name: Text::new("api") };
    maps.service_meta.put(&ServiceId(1), &meta).expect("service");
}

fn endpoints(maps: &Maps) {
    for (id, pod, addrs) in [
        (1, "api-0", [API, API_V6]),
        (2, "web-0", [WEB, Addr::UNSPECIFIED]),
        (3, "new-0", [NEW, Addr::UNSPECIFIED]),
    ] {
        let meta = EndpointMeta {
            namespace: Text::new("shop"),
            pod: Text::new(pod),
            uid: Text::new("0b7f4c1e-0000-4000-8000-000000000001"),
            container: Text::new("c0ffee"),
            ifname: Text::new("eth0"),
            host_ifname: Text::new("slc0ffee"),
            addrs,
            ifindex: 40 + id,
            mac: [2, 0, 0, 0, 0, id as u8],
            reserved: [0; 6],
        };
        maps.endpoint_meta.put(&EndpointId(id), &meta).expect("endpoint");
    }
    let pod = |id, ingress, egress| Endpoint {
        id: EndpointId(id),
        ifindex: 40 + id,
        ingress,
        egress,
        mac: [2, 0, 0, 0, 0, id as u8],
        ..Endpoint::default()
    };
    let node = Endpoint { flags: endpoint_flags::HOST | endpoint_flags::NODE_PORT, ..Endpoint::default() };
    let api = Endpoint { shadow_ingress: API_SHADOW, ..pod(1, API_INGRESS, OPEN_EGRESS) };
    for (addr, endpoint) in [(API, api), (API_V6, api), (WEB, pod(2, OPEN_INGRESS, WEB_EGRESS)), (NODE, node)]
    {
        maps.endpoints.put(&addr, &endpoint).expect("address");
    }
    maps.ipcache.put(&WEB, &Identity(16)).expect("address");
    maps.ipcache.put(&REMOTE, &Identity(16)).expect("address");
    maps.ipcache_cidrs.put(&Prefix::new(OUTSIDE, 96 + 24), &Identity(17)).expect("range");
}

fn rules(maps: &Maps) {
    let rule = |rule_set, identity, protocol, port: u16, bits, id| {
        let key = RuleKey {
            rule_set,
            identity: Identity(identity),
            protocol,
            reserved: 0,
            port: port.to_be_bytes(),
        };
        maps.rules.put(&RuleRange { key, bits }, &Rule::new(id, RuleVerdict::Allow)).expect("rule");
    };
    // 8080–8083 is one prefix, 8084 another.
    rule(API_INGRESS, 16, TCP, 8080, RuleKey::BITS - 2, FROM_WEB);
    rule(API_INGRESS, 16, TCP, 8084, RuleKey::BITS, FROM_WEB);
    rule(API_INGRESS, 16, UDP, 0, RuleKey::BITS_ANY_PORT, FROM_WEB);
    rule(API_INGRESS, 17, TCP, 443, RuleKey::BITS, FROM_CIDR);
    rule(OPEN_INGRESS, 0, 0, 0, RuleKey::BITS_ANY_PROTOCOL, RuleId::NOT_ISOLATED);
    rule(OPEN_EGRESS, 0, 0, 0, RuleKey::BITS_ANY_PROTOCOL, RuleId::NOT_ISOLATED);
    rule(WEB_EGRESS, 0, UDP, 53, RuleKey::BITS, TO_DNS);
    rule(API_SHADOW, 16, TCP, 8080, RuleKey::BITS, FROM_WEB);
    let key = RuleKey { rule_set: WEB_EGRESS, identity: Identity(17), ..RuleKey::default() };
    let deny = Rule::new(RuleId(99), RuleVerdict::Deny);
    maps.rules.put(&RuleRange { key, bits: RuleKey::BITS_ANY_PROTOCOL }, &deny).expect("rule");
}

fn services(maps: &Maps) {
    let backends = [
        (1, API, BackendState::Active),
        (2, REMOTE, BackendState::Terminating),
        (3, OTHER, BackendState::Active),
    ];
    for (id, addr, state) in backends {
        let backend = Backend { addr, port: 8080u16.to_be_bytes(), protocol: TCP, state: state as u8 };
        maps.backends.put(&BackendId(id), &backend).expect("backend");
    }
    for (slot, id) in [(10, 1), (11, 2), (12, 9), (20, 1), (21, 3), (22, 1), (23, 1)] {
        maps.slots.put(slot, &BackendId(id)).expect("slot");
    }
    let (inside, outside) = (FrontendScope::Internal, FrontendScope::External);
    let put = |addr, port: u16, scope, frontend: Frontend| {
        let key = FrontendKey { addr, port: port.to_be_bytes(), protocol: TCP, scope: scope as u8 };
        maps.frontends.put(&key, &frontend).expect("frontend");
    };
    let service_port = 80u16.to_be_bytes();
    let all = Frontend {
        first_slot: 10,
        count: 3,
        backends: 3,
        service: ServiceId(1),
        service_port,
        ..Frontend::default()
    };
    put(VIP, 80, inside, Frontend { affinity_s: 10_800, flags: frontend_flags::AFFINITY, ..all });
    put(VIP, 81, inside, Frontend { count: 0, first_slot: 0, service_port: 81u16.to_be_bytes(), ..all });
    put(FrontendKey::NODE_V4, 30_080, inside, all);
    let none_here = Frontend { count: 0, first_slot: 0, flags: frontend_flags::LOCAL, ..all };
    put(FrontendKey::NODE_V4, 30_080, outside, none_here);
    let table = frontend_flags::MAGLEV | frontend_flags::SOURCE_RANGES | frontend_flags::LOAD_BALANCER;
    put(BALANCER, 80, outside, Frontend { first_slot: 20, count: 4, flags: table, ..all });
    let restricted = frontend_flags::SOURCE_RANGES | frontend_flags::LOAD_BALANCER;
    put(BALANCER, 80, inside, Frontend { flags: restricted, ..all });
    let node = NodeAddr { addr: Addr::v4([198, 51, 100, 9]), flags: 0 };
    maps.node.put(&(NodeFamily::V4 as u32), &node).expect("the node's address");
    put(EXTERNAL, 80, inside, Frontend { count: 1, flags: frontend_flags::EXTERNAL_IP, ..all });
    let clients = Prefix::new(Addr::v4([198, 51, 100, 0]), 96 + 24);
    maps.source_ranges.put(&SourceRange { service: ServiceId(1), clients }, &1).expect("range");
    let client = AffinityKey { client: WEB, service: ServiceId(1), service_port, protocol: TCP, reserved: 0 };
    let affinity = Affinity { last_used_ns: fresh(0), backend: BackendId(1), reserved: 0 };
    maps.affinity.put(&client, &affinity).expect("affinity");
}

fn flows(maps: &Maps) {
    // web-0 calls the Service, api-0 answers.
    let direct = tuple(WEB, 40_000, API, 8080, TCP);
    let foreign = tuple(WEB, 40_000, VIP, 80, TCP);
    let judged = |rule_set, epoch, rule| Judgement { rule_set, epoch, rule };
    let open = CtEntry {
        last_seen_ns: fresh(0),
        created_ns: fresh(0),
        judged: [judged(API_INGRESS, EPOCH, FROM_WEB), judged(WEB_EGRESS, EPOCH - 1, TO_DNS)],
        other: foreign,
        backend: BackendId(1),
        state: CtState::Established as u8,
        flags: flow_flags::TRANSLATED,
        ..CtEntry::default()
    };
    put_flow(maps, true, direct, open);
    let alias = CtEntry { other: direct, flags: flow_flags::ALIAS, state: 0, ..open };
    put_flow(maps, true, foreign, alias);
    // A client outside comes by way of the node to a backend elsewhere, and web-0 goes out of the cluster.
    let balanced = tuple(OUTSIDE, 40_001, BALANCER, 80, TCP);
    let led = CtEntry {
        other: balanced,
        backend: BackendId(3),
        flags: flow_flags::TRANSLATED | flow_flags::SNAT,
        judged: Default::default(),
        ..open
    };
    put_flow(maps, true, tuple(NODE, 61_000, OTHER, 8080, TCP), led);
    let out = CtEntry { other: tuple(WEB, 40_002, OUTSIDE, 443, TCP), backend: BackendId(0), ..led };
    put_flow(maps, true, tuple(NODE, 61_001, OUTSIDE, 443, TCP), out);
    // The node's kubelet probes api-0; nothing has come back yet.
    let probe = CtEntry {
        last_seen_ns: fresh(0),
        created_ns: fresh(0),
        judged: [judged(API_INGRESS, EPOCH, RuleId::OWN_NODE), Judgement::default()],
        flags: flow_flags::STACK,
        ..CtEntry::default()
    };
    put_flow(maps, false, tuple(NODE, 50_000, API, 9090, UDP), probe);
    put_flow(maps, false, tuple(NODE, 7, API, 7, ICMP), probe);
}

fn put_flow(maps: &Maps, confirmed: bool, opened: Tuple, mut entry: CtEntry) {
    let (key, opener_is_src) = FlowKey::of(&opened);
    entry.flags |= if opener_is_src { flow_flags::OPENER_IS_KEY_SRC } else { 0 };
    let table = if confirmed { &maps.ct_confirmed } else { &maps.ct_half_open };
    table.put(&key, &entry).expect("flow");
}

fn tuple(src: Addr, src_port: u16, dst: Addr, dst_port: u16, protocol: u8) -> Tuple {
    let (src_port, dst_port) = (src_port.to_be_bytes(), dst_port.to_be_bytes());
    Tuple { src, dst, src_port, dst_port, protocol, ..Tuple::default() }
}

fn drops(maps: &Maps) {
    let record = |records: &Table<DropKey, DropRecord>,
                  (endpoint, peer, port, protocol): (u32, Addr, u16, u8),
                  (direction, reason): (Direction, DropReason),
                  record: DropRecord| {
        let (endpoint, port) = (EndpointId(endpoint), port.to_be_bytes());
        let (direction, reason) = (direction as u8, reason as u8);
        let key = DropKey { peer, endpoint, port, protocol, direction, reason, reserved: [0; 3] };
        records.put(&key, &record).expect("drop");
    };
    let (drops, audits) = (&maps.drop_records, &maps.audit_records);
    let seen = |count, rank, rule_set, rule| DropRecord { count, last_seen_ns: fresh(rank), rule_set, rule };
    let denied = seen(12, 0, API_INGRESS, RuleId::NONE);
    record(drops, (1, NODE, 22, TCP), (Direction::Ingress, DropReason::PolicyDenied), denied);
    let ruled = seen(2, 1, WEB_EGRESS, RuleId(99));
    record(drops, (2, OUTSIDE, 0, ICMP), (Direction::Egress, DropReason::PolicyRuleDenied), ruled);
    let spoofed = seen(1, 2, RuleSetId::NONE, RuleId::NONE);
    record(drops, (0, WEB, 80, TCP), (Direction::Egress, DropReason::SpoofedSource), spoofed);
    let none = seen(7, 0, API_SHADOW, RuleId::NONE);
    record(audits, (1, WEB, 8084, TCP), (Direction::Ingress, DropReason::PolicyDenied), none);
    let gone = seen(1, 1, RuleSetId(99), RuleId::NONE);
    record(audits, (1, OUTSIDE, 443, TCP), (Direction::Ingress, DropReason::PolicyDenied), gone);
}

fn counters(maps: &Maps) {
    use aya::maps::{Map, PerCpuArray, PerCpuValues};

    let data = pins::open(maps.bpffs(), &COUNTERS).expect("counters");
    let mut map =
        PerCpuArray::<_, Counter>::try_from(Map::from_map_data(data).expect("a map")).expect("per CPU");
    for (place, packets) in [
        (0, 1000),
        (DropReason::PolicyDenied as u32, 12),
        (DropReason::SpoofedSource as u32, 1),
        (DropReason::WOULD_DROP, 8),
    ] {
        let mut values = vec![Counter::default(); aya::util::nr_cpus().expect("CPUs")];
        values[0] = Counter { packets, bytes: 64 * packets };
        map.set(place, PerCpuValues::try_from(values).expect("one for each CPU"), 0).expect("counter");
    }
}

/// A stamp that is always now, however slow the test is: the clock has not reached it. `rank` orders them.
fn fresh(rank: u64) -> u64 {
    u64::MAX - rank
}
