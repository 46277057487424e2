//! Judging a flow by the rule sets of its local ends.

use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, lpm_trie::Key},
};
use sluice_abi::{
    Addr, Direction, DropReason, Endpoint, Identity, Judgement, Rule, RuleId, RuleKey, RuleSetId, Tuple, maps,
};

use crate::{drops::Trace, endpoint, ipcache};

#[map]
static RULES: LpmTrie<RuleKey, Rule> = LpmTrie::with_max_entries(maps::RULES.max_entries, maps::RULES.flags);

/// The ends of a flow that live on this node.
pub(crate) struct Ends {
    /// Who sent the flow's first packet.
    pub(crate) opener: Option<&'static Endpoint>,
    /// Whom it was for.
    pub(crate) responder: Option<&'static Endpoint>,
}

/// Judges the flow `opened` (the direct tuple, in the opener's direction) by the egress rules of the opener and the
/// ingress rules of the responder, where they live here and were not judged under these rules and this epoch.
///
/// Traffic between a pod and its own node, and from a pod to itself, is nobody's policy.
#[inline(always)]
pub(crate) fn judge(
    judged: &mut [Judgement; 2],
    ends: &Ends,
    opened: &Tuple,
    epoch: u32,
    trace: &mut Trace,
) -> Result<(), DropReason> {
    if is_exempt(ends) {
        return Ok(());
    }
    if let Some(opener) = ends.opener {
        let [_, judged] = judged;
        renew(judged, opener, Direction::Egress, &opened.dst, opened, epoch, trace)?;
    }
    if let Some(responder) = ends.responder {
        let [judged, _] = judged;
        renew(judged, responder, Direction::Ingress, &opened.src, opened, epoch, trace)?;
    }
    Ok(())
}

#[inline(always)]
fn is_exempt(ends: &Ends) -> bool {
    let host = |end: Option<&Endpoint>| end.is_some_and(endpoint::is_host);
    let same = match (ends.opener, ends.responder) {
        (Some(opener), Some(responder)) => opener.id == responder.id,
        (_, _) => false,
    };
    same || host(ends.opener) || host(ends.responder)
}

#[inline(always)]
fn renew(
    judged: &mut Judgement,
    of: &Endpoint,
    direction: Direction,
    peer: &Addr,
    opened: &Tuple,
    epoch: u32,
    trace: &mut Trace,
) -> Result<(), DropReason> {
    let rule_set = match direction {
        Direction::Ingress => of.ingress,
        Direction::Egress => of.egress,
    };
    if judged.rule_set == rule_set && judged.epoch == epoch {
        return Ok(());
    }
    trace.endpoint = of.id;
    trace.direction = direction;
    trace.rule_set = rule_set;
    trace.identity = ipcache::identity_of(peer);
    let rule = check(rule_set, trace.identity, opened);
    trace.rule = rule.id;
    if !rule.allows() {
        let no_rule = rule.id == RuleId::NONE;
        return Err(if no_rule { DropReason::PolicyDenied } else { DropReason::PolicyRuleDenied });
    }
    *judged = Judgement { rule_set, epoch, rule: rule.id };
    Ok(())
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
