//! Judging a flow by the rule sets of its local ends.

use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, lpm_trie::Key},
};
use sluice_abi::{
    Addr, Direction, DropReason, Identity, Judgement, Rule, RuleKey, RuleSetId, Tuple, endpoint_flags, maps,
};

use crate::{
    config,
    drops::{self, Trace},
    endpoint::{self, End, EndKind},
    ipcache,
};

#[map]
static RULES: LpmTrie<RuleKey, Rule> = LpmTrie::with_max_entries(maps::RULES.max_entries, maps::RULES.flags);

/// Judges the flow `opened` (the direct tuple, in the opener's direction) by the egress rules of the opener and the
/// ingress rules of the responder, where they are pods of this node and were not judged under these rules and this epoch.
///
/// What a pod opens to its own node, or to itself, is nobody's policy. What the node opens never comes here: its own
/// stack's packets pass `to_pod` unjudged, and any other packet with the node's address was translated to it.
///
/// What passes, and was judged now, is held against the shadow rule sets of both ends too, which never drop. They are found
/// by the ends' own addresses: a known flow under the node's address is audited at its other end alone.
#[inline(always)]
pub(crate) fn judge(
    judged: &mut [Judgement; 2],
    opener: &End,
    responder: &End,
    opened: &Tuple,
    trace: &mut Trace,
) -> Result<(), DropReason> {
    let epoch = config::epoch();
    let [ingress, egress] = judged;
    let (mut audits_opener, mut audits_responder) = (false, false);
    if opener.kind == EndKind::Pod {
        let itself = responder.kind == EndKind::Pod && responder.id == opener.id;
        if responder.kind == EndKind::Host || itself {
            return Ok(());
        }
        let is_new = renew(egress, opener, Direction::Egress, &opened.dst, opened, epoch, trace)?;
        audits_opener = is_new && opener.flags & endpoint_flags::AUDIT != 0;
    }
    if responder.kind == EndKind::Pod {
        let is_new = renew(ingress, responder, Direction::Ingress, &opened.src, opened, epoch, trace)?;
        audits_responder = is_new && responder.flags & endpoint_flags::AUDIT != 0;
    }
    if audits_opener {
        audit(Direction::Egress, &opened.src, &opened.dst, opened);
    }
    if audits_responder {
        audit(Direction::Ingress, &opened.dst, &opened.src, opened);
    }
    Ok(())
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
    Ok(true)
}

/// Reports the flow where the shadow rule set of the end that has the address denies it.
#[inline(never)]
fn audit(direction: Direction, own: &Addr, peer: &Addr, opened: &Tuple) {
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
    let rule = check(shadow, ipcache::identity_of(peer), opened);
    if !rule.allows() {
        drops::would_drop(end.id, direction, peer, opened, shadow, rule.id);
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
