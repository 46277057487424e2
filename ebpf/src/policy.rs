//! Judging a flow by the rule sets of its local ends.

use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, lpm_trie::Key},
};
use sluice_abi::{
    Addr, Direction, DropReason, Hook, Identity, Judgement, Rule, RuleId, RuleKey, RuleSetId, Tuple,
    endpoint_flags, maps,
};

use crate::{
    config,
    drops::{self, Trace},
    endpoint::{self, End, EndKind},
    ipcache,
    scratch::{self, Scratch},
};

#[map]
static RULES: LpmTrie<RuleKey, Rule> = LpmTrie::with_max_entries(maps::RULES.max_entries, maps::RULES.flags);

/// Judges the flow `opened` (the direct tuple, in the opener's direction) by the egress rules of the opener and the
/// ingress rules of the responder, where they are pods of this node and were not judged under these rules and this epoch.
///
/// What a pod opens to its own node, or to itself, is nobody's policy. What the node opens never comes here: its own
/// stack's packets pass `to_pod` unjudged, and any other packet with the node's address was translated to it.
///
/// Ends that were judged now and have shadow rule sets are noted for [`audit`].
#[inline(always)]
pub(crate) fn judge(
    judged: &mut [Judgement; 2],
    opener: &End,
    responder: &End,
    opened: &Tuple,
    trace: &mut Trace,
    audits: &mut Audits,
) -> Result<(), DropReason> {
    let epoch = config::epoch();
    let [ingress, egress] = judged;
    if opener.kind == EndKind::Pod {
        let itself = responder.kind == EndKind::Pod && responder.id == opener.id;
        if responder.kind == EndKind::Host || itself {
            return Ok(());
        }
        let is_new = renew(egress, opener, Direction::Egress, &opened.dst, opened, epoch, trace)?;
        if is_new && opener.flags & endpoint_flags::AUDIT != 0 {
            audits.note(Audits::OPENER, opened);
        }
    }
    if responder.kind == EndKind::Pod {
        let is_new = renew(ingress, responder, Direction::Ingress, &opened.src, opened, epoch, trace)?;
        if is_new && responder.flags & endpoint_flags::AUDIT != 0 {
            audits.note(Audits::RESPONDER, opened);
        }
    }
    Ok(())
}

/// Which ends' shadow rule sets are to be asked once the flow has passed, and about what.
///
/// In memory, not in registers: the verifier would follow each of the four answers to the end of the packet.
pub(crate) struct Audits {
    ends: u32,
    /// The tuple as it was judged, before it got another source.
    tuple: Tuple,
}

impl Audits {
    const OPENER: u32 = 1;
    const RESPONDER: u32 = 2;

    /// Starts anew.
    #[inline(always)]
    pub(crate) fn start(&mut self) {
        self.ends = 0;
    }

    #[inline(always)]
    fn note(&mut self, end: u32, opened: &Tuple) {
        self.ends |= end;
        self.tuple = *opened;
    }
}

/// Holds the flow in `scratch.audits`, which passes, against the shadow rule sets of ends that [`judge`] named. They never drop.
///
/// They are found by the ends' own addresses: a known flow under the node's address is audited at its other end alone.
#[inline(always)]
pub(crate) fn audit(scratch: &Scratch) {
    if scratch.audits.ends != 0 {
        audit_flow(scratch.audits.ends);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn audit_flow(ends: u32) -> u32 {
    let Some(scratch) = scratch::get() else {
        return 0;
    };
    let (hook, opened) = (scratch.trace.hook, &scratch.audits.tuple);
    if ends & Audits::OPENER != 0 {
        audit_end(hook, Direction::Egress, &opened.src, &opened.dst, opened);
    }
    if ends & Audits::RESPONDER != 0 {
        audit_end(hook, Direction::Ingress, &opened.dst, &opened.src, opened);
    }
    ends
}

/// Whether the flow had to be judged.
#[inline(always)]
fn renew(
    judged: &mut Judgement,
    of: &End,
    direction: Direction,
    peer: &Addr,
    opened: &Tuple,
    epoch: u32,
    trace: &mut Trace,
) -> Result<bool, DropReason> {
    let rule_set = match direction {
        Direction::Ingress => of.ingress,
        Direction::Egress => of.egress,
    };
    if judged.rule_set == rule_set && judged.epoch == epoch {
        return Ok(false);
    }
    trace.endpoint = of.id;
    trace.direction = direction;
    trace.rule_set = rule_set;
    trace.identity = ipcache::identity_of(peer);
    let rule = check(rule_set, trace.identity, opened);
    trace.rule = rule.id;
    if !rule.allows() {
        return Err(drops::denial(rule.id));
    }
    *judged = Judgement { rule_set, epoch, rule: rule.id };
    // Whatever drops the packet after this, policy does not.
    (trace.identity, trace.rule_set, trace.rule) = (Identity::ANY, RuleSetId::NONE, RuleId::NONE);
    Ok(true)
}

/// Reports the flow where the shadow rule set of the end that has the address denies it.
#[inline(never)]
fn audit_end(hook: Hook, direction: Direction, own: &Addr, peer: &Addr, opened: &Tuple) {
    let Some(end) = endpoint::local(own) else {
        return;
    };
    let shadow = match direction {
        Direction::Ingress => end.shadow_ingress,
        Direction::Egress => end.shadow_egress,
    };
    if shadow == RuleSetId::NONE {
        return;
    }
    let identity = ipcache::identity_of(peer);
    let rule = check(shadow, identity, opened);
    if !rule.allows() {
        let would = Trace { hook, direction, endpoint: end.id, identity, rule_set: shadow, rule: rule.id };
        drops::would_drop(&would, peer, opened);
    }
}

/// The deciding rule; one that denies and has no id when none matches.
///
/// The compiler has resolved precedence, so the more specific entry is the answer, and an identity with entries in a
/// set needs no second look.
#[inline(never)]
fn check(rule_set: RuleSetId, peer: Identity, opened: &Tuple) -> Rule {
    let mut key = Key::new(
        RuleKey::BITS,
        RuleKey { rule_set, identity: peer, protocol: opened.protocol, reserved: 0, port: opened.dst_port },
    );
    if let Some(rule) = RULES.get(&key) {
        return *rule;
    }
    key.data.identity = Identity::ANY;
    RULES.get(&key).copied().unwrap_or_default()
}
