//! Counting and reporting: what is dropped, and to whoever wants it what is let pass.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, RingBuf},
    programs::TcContext,
};
use sluice_abi::{
    Addr, Counter, Direction, DropKey, DropReason, DropRecord, EndpointId, Event, EventKind, Hook, Identity,
    Judgement, RuleId, RuleSetId, Tuple, maps, protocol,
};

use crate::{config, scratch::Scratch};

#[map]
static COUNTERS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries(maps::COUNTERS.max_entries, maps::COUNTERS.flags);

#[map]
static DROP_RECORDS: LruHashMap<DropKey, DropRecord> =
    LruHashMap::with_max_entries(maps::DROP_RECORDS.max_entries, maps::DROP_RECORDS.flags);

#[map]
static AUDIT_RECORDS: LruHashMap<DropKey, DropRecord> =
    LruHashMap::with_max_entries(maps::AUDIT_RECORDS.max_entries, maps::AUDIT_RECORDS.flags);

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(maps::EVENTS.max_entries, maps::EVENTS.flags);

#[map]
static FLOW_EVENTS: Array<u64> =
    Array::with_max_entries(maps::FLOW_EVENTS.max_entries, maps::FLOW_EVENTS.flags);

/// Place of `COUNTERS` for what was let pass.
const FORWARDED: u32 = 0;

/// What is known of a packet so far, for the report if it is dropped.
pub(crate) struct Trace {
    pub(crate) hook: Hook,
    pub(crate) direction: Direction,
    pub(crate) endpoint: EndpointId,
    pub(crate) identity: Identity,
    pub(crate) rule_set: RuleSetId,
    pub(crate) rule: RuleId,
}

impl Trace {
    /// Starts anew for a packet at `hook`.
    #[inline(always)]
    pub(crate) fn start(&mut self, hook: Hook) {
        self.hook = hook;
        self.direction = match hook {
            Hook::FromPod | Hook::ToNetdev => Direction::Egress,
            Hook::ToPod | Hook::FromNetdev => Direction::Ingress,
        };
        self.endpoint = EndpointId::HOST;
        self.identity = Identity::ANY;
        self.rule_set = RuleSetId::NONE;
        self.rule = RuleId::NONE;
    }
}

/// Counts a packet that was let pass.
#[inline(always)]
pub(crate) fn forwarded(ctx: &TcContext) {
    forwarded_bytes(ctx.len());
}

/// The same of a packet of so many bytes.
#[inline(always)]
pub(crate) fn forwarded_bytes(len_bytes: u32) {
    count(FORWARDED, len_bytes);
}

/// Counts and reports a dropped packet; `reason` is a [`sluice_abi::DropReason`].
#[inline(always)]
pub(crate) fn record(ctx: &TcContext, scratch: &Scratch, reason: u8) {
    record_at(scratch, reason, ctx.len(), ifindex(ctx));
}

/// The same of a packet of so many bytes that came by the interface.
#[inline(always)]
pub(crate) fn record_at(scratch: &Scratch, reason: u8, len_bytes: u32, ifindex: u32) {
    count(u32::from(reason), len_bytes);
    if reason == DropReason::LinkLocal as u8 {
        return; // every pod says such things when it starts: the count is enough
    }
    let at_ns = config::now_ns();
    if remember(&scratch.trace, &scratch.packet.tuple, reason, at_ns) {
        let origin = Origin { at_ns, len_bytes, ifindex };
        report(&scratch.trace, &scratch.packet.tuple, EventKind::Drop, reason, &origin);
    }
}

/// Reports the new flow in `scratch`, which is let pass, if somebody wants to know: by whose rules, on either side.
#[inline(always)]
pub(crate) fn flow(ctx: &TcContext, scratch: &Scratch, at_ns: u64) {
    // SAFETY: a map value that lives as long as the program; volatile, since user space writes it.
    let until_ns = FLOW_EVENTS.get_ptr(0).map_or(0, |until| unsafe { until.read_volatile() });
    if until_ns > at_ns {
        report_flow(scratch, &Origin { at_ns, len_bytes: ctx.len(), ifindex: ifindex(ctx) });
    }
}

#[inline(never)]
fn report_flow(scratch: &Scratch, origin: &Origin) {
    let Scratch { sent, opened, judged, .. } = scratch;
    let tuple = Tuple { src: sent.src, src_port: sent.src_port, ..*opened };
    let sides = [
        (Direction::Egress, scratch.src.id, judged[Direction::Egress as usize]),
        (Direction::Ingress, scratch.responder.id, judged[Direction::Ingress as usize]),
    ];
    // Between a pod and its node, or itself, policy is not asked: one event, in the name of the pod.
    let is_judged = sides.iter().any(|(_, _, judged)| judged.rule_set != RuleSetId::NONE);
    for (direction, endpoint, judged) in sides {
        if judged.rule_set == RuleSetId::NONE && (is_judged || endpoint == EndpointId::HOST) {
            continue;
        }
        // A flow keeps no identity, but the rule, which says more.
        let (hook, identity) = (scratch.trace.hook, Identity::ANY);
        let Judgement { rule_set, rule, .. } = judged;
        let trace = Trace { hook, direction, endpoint, identity, rule_set, rule };
        report(&trace, &tuple, EventKind::Allowed, 0, origin);
        if !is_judged {
            break;
        }
    }
}

#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context of a running program.
    unsafe { (*ctx.skb.skb).ifindex }
}

#[inline(always)]
fn count(place: u32, len_bytes: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(place) {
        // SAFETY: this CPU's value, which no other program on this CPU writes meanwhile.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += u64::from(len_bytes);
    }
}

/// Drops that look alike are reported to the ring once in this time, 2²⁷ ns ≈ 0.13 s: its lock is every CPU's.
const REPORT_STEP_NS: u64 = 1 << 27;

/// Notes the drop among those that look like it, and says whether it is worth an event.
#[inline(never)]
fn remember(trace: &Trace, tuple: &Tuple, reason: u8, at_ns: u64) -> bool {
    let mut key = key(trace.endpoint, trace.direction, &tuple.dst, tuple, reason);
    // Not by a `match` in the initializer: that becomes an offset, which the verifier does not trust.
    if trace.direction == Direction::Ingress {
        key.peer = tuple.src;
    }
    note(&DROP_RECORDS, &key, trace.rule_set, trace.rule, at_ns)
}

/// What packets that look alike have in common.
#[inline(always)]
fn key(endpoint: EndpointId, direction: Direction, peer: &Addr, tuple: &Tuple, reason: u8) -> DropKey {
    DropKey {
        peer: *peer,
        endpoint,
        // What stands for ports in ICMP is the echo's identifier, and would make a record of every ping.
        port: if matches!(tuple.protocol, protocol::ICMP | protocol::ICMPV6) {
            [0; 2]
        } else {
            tuple.dst_port
        },
        protocol: tuple.protocol,
        direction: direction as u8,
        reason,
        reserved: [0; 3],
    }
}

/// Counts and reports a flow that is let pass, seen by the hook of `would`, and that the shadow rule set named there would
/// have dropped.
#[inline(always)]
pub(crate) fn would_drop(would: &Trace, peer: &Addr, opened: &Tuple) {
    count(DropReason::WOULD_DROP, 0);
    let at_ns = config::now_ns();
    let reason = denial(would.rule) as u8;
    let key = key(would.endpoint, would.direction, peer, opened, reason);
    if note(&AUDIT_RECORDS, &key, would.rule_set, would.rule, at_ns) {
        report(would, opened, EventKind::WouldDrop, reason, &Origin { at_ns, len_bytes: 0, ifindex: 0 });
    }
}

/// Why policy drops, when this is the deciding rule.
#[inline(always)]
pub(crate) fn denial(rule: RuleId) -> DropReason {
    if rule == RuleId::NONE { DropReason::PolicyDenied } else { DropReason::PolicyRuleDenied }
}

#[inline(always)]
fn note(
    records: &LruHashMap<DropKey, DropRecord>,
    key: &DropKey,
    rule_set: RuleSetId,
    rule: RuleId,
    at_ns: u64,
) -> bool {
    if let Some(record) = records.get_ptr_mut(key) {
        // SAFETY: a map value; racing increments may lose one, and the exact total is in `COUNTERS`.
        let record = unsafe { &mut *record };
        let is_news = at_ns.wrapping_sub(record.last_seen_ns) > REPORT_STEP_NS;
        record.count += 1;
        record.last_seen_ns = at_ns;
        record.rule_set = rule_set;
        record.rule = rule;
        return is_news;
    }
    let record = DropRecord { count: 1, last_seen_ns: at_ns, rule_set, rule };
    // When the LRU has no room the total in `COUNTERS` still counts the drop.
    let _ = records.insert(key, &record, 0);
    true
}

/// Counts and notes a call of one of the node's own processes that fails before there is a packet.
#[inline(never)]
pub(crate) fn record_call(to: &Addr, port: [u8; 2], protocol: u8, reason: DropReason) {
    // A packet's program may interrupt this one between reading and writing: then its count of this reason is lost.
    count(reason as u32, 0);
    let key = DropKey {
        peer: *to,
        endpoint: EndpointId::HOST,
        port,
        protocol,
        direction: Direction::Egress as u8,
        reason: reason as u8,
        reserved: [0; 3],
    };
    note(&DROP_RECORDS, &key, RuleSetId::NONE, RuleId::NONE, config::now_ns());
}

/// When and where a packet was seen, and how long it is.
struct Origin {
    at_ns: u64,
    len_bytes: u32,
    ifindex: u32,
}

#[inline(never)]
fn report(trace: &Trace, tuple: &Tuple, kind: EventKind, reason: u8, origin: &Origin) {
    // A full ring loses the newest event; counters and records still have a drop.
    if let Some(mut event) = EVENTS.reserve::<Event>(0) {
        event.write(Event {
            at_ns: origin.at_ns,
            tuple: *tuple,
            endpoint: trace.endpoint,
            identity: trace.identity,
            rule_set: trace.rule_set,
            rule: trace.rule,
            ifindex: origin.ifindex,
            len_bytes: origin.len_bytes,
            reason,
            direction: trace.direction as u8,
            hook: trace.hook as u8,
            kind: kind as u8,
            reserved: [0; 4],
        });
        event.submit(0);
    }
}
