//! The mutants: which file, what stands there, what stands there instead, and what that breaks.

/// One replacement.
#[derive(Debug)]
pub(super) struct Mutant {
    /// The file, from the root of the workspace.
    pub(super) file: &'static str,
    /// What stands there, once.
    pub(super) old: &'static str,
    /// What stands there instead.
    pub(super) new: &'static str,
    /// What that breaks.
    pub(super) why: &'static str,
}

macro_rules! mutants {
    ($($file:literal: $why:literal, $old:literal => $new:literal;)+) => {
        /// All of them, in the order of their files.
        pub(super) const MUTANTS: &[Mutant] = &[$(Mutant {
            file: concat!("agent/core/src/", $file), old: $old, new: $new, why: $why,
        },)+];
    };
}

mutants! {
    "compile/ports.rs": "a range loses its last port",
        "let (mut next, end) = (u32::from(first), u32::from(last) + 1);"
        => "let (mut next, end) = (u32::from(first), u32::from(last));";
    "compile/ports.rs": "a range loses its first port",
        "let (mut next, end) = (u32::from(first), u32::from(last) + 1);"
        => "let (mut next, end) = (u32::from(first) + 1, u32::from(last) + 1);";
    "compile/ports.rs": "every port of a protocol becomes every protocol",
        "vec![PortPrefix::Ports { protocol, first: 0, bits: 0 }]"
        => "vec![PortPrefix::Any]";
    "compile/ports.rs": "a range reaches beyond its end",
        "let free = aligned.min(fitting);"
        => "let free = aligned;";
    "compile/policy.rs": "a rule without ports matches nothing",
        "(!ports.is_empty()).then(|| resolved.collect())"
        => "Some(resolved.collect())";
    "compile/policy.rs": "a policy isolates in both directions",
        "if !policy.isolates[direction as usize] || !policy.pods.matches(&pod.labels) {"
        => "if !policy.pods.matches(&pod.labels) {";
    "compile/policy.rs": "a policy isolates every pod of its namespace",
        "if !policy.isolates[direction as usize] || !policy.pods.matches(&pod.labels) {"
        => "if !policy.isolates[direction as usize] {";
    "compile/policy.rs": "the directions of a NetworkPolicy are swapped",
        r#"policy.rules[direction as usize].iter().enumerate() {
            let source"#
        => r#"policy.rules[1 - direction as usize].iter().enumerate() {
            let source"#;
    "compile/policy.rs": "the directions of a ClusterNetworkPolicy are swapped",
        r#"policy.rules[direction as usize].iter().enumerate() {
        let possible"#
        => r#"policy.rules[1 - direction as usize].iter().enumerate() {
        let possible"#;
    "compile/policy.rs": "only the first rule of the Baseline tier counts",
        r#"        set.rules.extend(baseline);
    }"#
        => r#"    }
    set.rules.extend(baseline.into_iter().filter(|_| set.isolating.is_empty()).take(1));"#;
    "compile/policy.rs": "the Admin tier is asked backwards",
        "rules: admin };"
        => r#"rules: Vec::new() };
    set.rules.extend(admin.into_iter().rev());"#;
    "compile/policy.rs": "a Deny does not reach a namespace that is not known",
        "(Action::Deny, _) | (Action::Pass, Selection::Possibly) => vec![(Action::Deny, possible())],"
        => "(Action::Deny, _) | (Action::Pass, Selection::Possibly) => vec![(Action::Deny, rule.peers.clone())],";
    "compile/policy.rs": "a Pass does not close a namespace that is not known",
        "vec![(Action::Pass, rule.peers.clone()), (Action::Deny, possible())]"
        => "vec![(Action::Pass, rule.peers.clone())]";
    "compile/policy.rs": "an Accept opens a pod that it may not be about",
        r#"(_, Selection::No) | (Action::Accept, Selection::Possibly) => vec![],
            (Action::Accept, Selection::Surely) =>"#
        => r#"(_, Selection::No) => vec![],
            (Action::Accept, _) =>"#;
    "compile/policy.rs": "a Deny leaves a pod that it may be about",
        "(Action::Deny, _) | (Action::Pass, Selection::Possibly) => vec![(Action::Deny, possible())],"
        => r#"(Action::Deny, Selection::Possibly) => vec![],
            (Action::Deny, _) | (Action::Pass, Selection::Possibly) => vec![(Action::Deny, possible())],"#;
    "compile/policy.rs": "a named port of an ingress rule is that of TCP",
        r#"            .port(name, *protocol)
"#
        => r#"            .port(name, sluice_abi::protocol::TCP)
"#;
    "compile/precedence.rs": "the last match decides",
        "one.into_iter().chain(other).min()"
        => "one.into_iter().chain(other).max()";
    "compile/precedence.rs": "a narrow range overrides an earlier rule",
        "admin: first(self.admin, wider.admin),"
        => "admin: self.admin.or(wider.admin),";
    "compile/precedence.rs": "of the Baseline tier the widest range decides",
        "baseline: first(self.baseline, wider.baseline),"
        => "baseline: wider.baseline.or(self.baseline),";
    "compile/precedence.rs": "a NetworkPolicy only allows every packet",
        "network_policy: wider.network_policy.or(self.network_policy),"
        => "network_policy: wider.network_policy,";
    "compile/precedence.rs": "a Pass accepts",
        "Some((_, Action::Pass)) | None => {}"
        => r#"Some((index, Action::Pass)) => return by(index, RuleVerdict::Allow),
                None => {}"#;
    "compile/precedence.rs": "an isolated pod that no rule opens is open",
        "if tier == Tier::Admin && !set.isolating.is_empty() {"
        => "if tier == Tier::Admin && !set.isolating.is_empty() && self.network_policy.is_some() {";
    "compile/precedence.rs": "an Accept of the Baseline tier is silent about its rule",
        "Some((index, Action::Accept)) => return by(index, RuleVerdict::Allow),"
        => r#"Some((index, Action::Accept)) if tier == Tier::Admin => return by(index, RuleVerdict::Allow),
                Some((_, Action::Accept)) => {}"#;
    "compile/precedence.rs": "what no rule allows is not said within what one does",
        "        if Some(decision) != said {"
        => "        if Some(decision) != said && decision != NO_RULE {";
    "compile/precedence.rs": "a range inherits from one beside it",
        "while around.pop_if(|(wider, ..)| !wider.covers(&ports)).is_some() {}"
        => "let _ = around.pop_if(|(wider, ..)| !wider.covers(&ports));";
    "compile/rules.rs": "an identity with entries does not carry those about every peer",
        r#"    for index in by_peer.get(&Peer::Any).into_iter().flatten() {
        hits.entry(*index).or_default().extend(ports_of(&set.rules[*index]));
    }
"#
        => "";
    "compile/rules.rs": "a named port takes its neighbour along",
        "let known = PortPrefix::Ports { protocol: *protocol, first: *number, bits: 16 };"
        => "let known = PortPrefix::Ports { protocol: *protocol, first: *number, bits: 15 };";
    "compile/rules.rs": "a named port opens the rules without that name",
        "set.rules[**index].ports.as_ref().is_some_and(|ports| ports.contains(&wanted))"
        => "set.rules[**index].ports.is_some()";
    "compile/rules.rs": "a rule without ports is about TCP",
        "None => vec![PortPrefix::Any],"
        => "None => vec![PortPrefix::Ports { protocol: 6, first: 0, bits: 0 }],";
    "compile/identity.rs": "a pod selector alone reaches into other namespaces",
        "Namespaces::Named(named) => *named == name,"
        => "Namespaces::Named(_) => true,";
    "compile/identity.rs": "one of two selectors of a peer is enough",
        "near && pods.matches(&pod.labels)"
        => "near || pods.matches(&pod.labels)";
    "compile/identity.rs": "the pod selector of a peer does not count",
        "near && pods.matches(&pod.labels)"
        => "near";
    "compile/identity.rs": "pods of the host, and finished ones, are peers",
        "cluster.pods().get(name).filter(|pod| pod.in_network) else { continue };"
        => "cluster.pods().get(name) else { continue };";
    "compile/identity.rs": "an ipBlock does not match pods",
        "selectors.extend(range.iter().cloned());"
        => "";
    "compile/identity.rs": "a new selector does not reach known pods",
        r#"            selectors.extend(gained);
"#
        => "";
    "compile/identity.rs": "selectors out of use stay",
        "selectors.retain(|selector| !removed.holds(selector));"
        => "";
    "compile/ipcache.rs": "an except is dropped",
        "let holding = blocks.iter().filter(|(block, _)| block.covers(prefix));"
        => "let holding = blocks.iter().filter(|(block, _)| crate::prefix::in_range(&block.cidr, prefix));";
    "compile/ipcache.rs": "an IPv6 range reaches into IPv4",
        r#"        prefixes.insert(v4);
"#
        => "";
    "compile/mod.rs": "labels of a namespace change nothing for its pods",
        "pending.pods.extend(self.cluster.pods_of(namespace).map(|(name, _)| name.clone()));"
        => "";
    "compile/mod.rs": "labels of a namespace do not move subjects",
        r#"                    pending.endpoints.extend(near.map(|endpoint| endpoint.id));
                }
            }"#
        => r#"                    drop(near);
                }
            }"#;
    "compile/mod.rs": "a ClusterNetworkPolicy reaches the first of its pods",
        "let subjects = endpoints().filter(|endpoint| self.is_subject(endpoint, policy));"
        => "let subjects = endpoints().filter(|endpoint| self.is_subject(endpoint, policy)).take(1);";
    "selector.rs": "NotIn needs the label",
        "Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),"
        => "Self::NotIn(key, values) => labels.get(key).is_some_and(|value| !values.contains(value)),";
    "selector.rs": "Exists and DoesNotExist are swapped",
        r#"Self::Exists(key) => labels.get(key).is_some(),
            Self::DoesNotExist(key) => labels.get(key).is_none(),"#
        => r#"Self::Exists(key) => labels.get(key).is_none(),
            Self::DoesNotExist(key) => labels.get(key).is_some(),"#;
    "selector.rs": "one requirement of a selector is enough",
        "self.0.iter().all(|requirement| requirement.holds(labels))"
        => "self.0.iter().any(|requirement| requirement.holds(labels)) || self.0.is_empty()";
    "selector.rs": "the first exception does not count",
        "in_range(&self.cidr, prefix) && !self.except.iter().any(|except| in_range(except, prefix))"
        => "in_range(&self.cidr, prefix) && !self.except.iter().skip(1).any(|except| in_range(except, prefix))";
    "cluster/policy.rs": "policyTypes default to both",
        "return Ok([true, !spec.egress.is_empty()]);"
        => "return Ok([true, true]);";
    "cluster/policy.rs": "policyTypes default to Ingress alone",
        "return Ok([true, !spec.egress.is_empty()]);"
        => "return Ok([true, false]);";
    "cluster/policy.rs": "a policy that makes no sense keeps its other rules",
        "let rules = if reason.is_some() { Default::default() } else { rules };"
        => "";
    "cluster/policy.rs": "an empty list of rules does not isolate",
        "let isolates = isolated(spec).map_err(&mut or_note).unwrap_or([true; 2]);"
        => "let isolates = isolated(spec).map_err(&mut or_note).unwrap_or([true; 2]).map(|isolates| isolates && !spec.ingress.is_empty());";
    "cluster/policy.rs": "endPort does not count",
        "port_of(end.unwrap_or(*number))?"
        => "port_of(*number)?";
    "cluster/pod.rs": "a named port may be of another protocol",
        ".find(|port| &*port.name == name && port.protocol == protocol)"
        => ".find(|port| &*port.name == name)";
    "cluster/pod.rs": "a pod that failed stays a peer",
        r#"matches!(status.phase.as_str(), "Succeeded" | "Failed")"#
        => r#"matches!(status.phase.as_str(), "Succeeded")"#;
    "cluster/namespace.rs": "a namespace that is not known has no labels",
        "if self.is_complete { selector.matches(&self.labels) } else { selector.matches_surely(&self.labels) }"
        => "selector.matches(&self.labels)";
    "cluster/cluster_policy.rs": "a Deny of an unknown peer denies nothing",
        "            (Action::Deny, BTreeSet::from([Peer::Any]))"
        => "            (Action::Deny, BTreeSet::new())";
    "cluster/cluster_policy.rs": "an Accept of an unknown peer accepts everything",
        r#"            (Action::Accept, BTreeSet::new())
"#
        => r#"            (Action::Accept, BTreeSet::from([Peer::Any]))
"#;
    "cluster/cluster_policy.rs": "a subject that is not understood is everybody, also for an Accept",
        "None => return Selection::Possibly,"
        => "None => return Selection::Surely,";
    "cluster/cluster_policy.rs": "a named port is not looked for among those of SCTP",
        "Ok([protocol::TCP, protocol::UDP, protocol::SCTP].map(named).into())"
        => "Ok([protocol::TCP, protocol::UDP].map(named).into())";
    "cluster/cluster_policy.rs": "networks count as a peer of ingress",
        "networks @ [_, ..]) if direction == Direction::Egress =>"
        => "networks @ [_, ..]) =>";
    "cluster/mod.rs": "a higher priority value goes first",
        "self.precedence.insert((policy.tier, policy.priority, name.clone()));"
        => "self.precedence.insert((policy.tier, 1000 - policy.priority, name.clone()));";
    "cluster/mod.rs": "the place of a policy that is gone stays",
        r#"let Some((name, policy)) = self.cluster_policies.remove_entry(name) else { return false };
        self.precedence"#
        => r#"let Some((name, policy)) = self.cluster_policies.remove_entry(name) else { return false };
        let policy = ClusterPolicy { priority: 0, ..policy };
        self.precedence"#;
    "diff/bind.rs": "every entry allows",
        r#"(None, RuleVerdict::Deny) => RuleId::NONE,
                };
                (*ports, Rule::new(id, *verdict))"#
        => r#"(None, RuleVerdict::Deny) => RuleId::NONE,
                };
                (*ports, Rule::new(id, RuleVerdict::Allow))"#;
    "diff/moves.rs": "on its way an address may what either identity may",
        "(ports, if one.allows() { other } else { one })"
        => "(ports, if one.allows() { one } else { other })";
    "diff/moves.rs": "identities that differ by a denial are taken for alike",
        "if around.last().is_some_and(|(_, allows)| *allows) != rule.allows() {"
        => "if around.last().is_some_and(|(_, allows)| *allows) != rule.allows() && rule.allows() {";
    "diff/narrow.rs": "a set is not narrowed for what is left out",
        "if opens_more(&verdicts(open), &verdicts(&both)) {"
        => "if opens_more(&verdicts(open), &verdicts(&both)) && taken_for == class {";
    "diff/narrow.rs": "a set is narrowed to what the left-out address is taken for",
        "if one.verdict == RuleVerdict::Allow { other } else { one }"
        => "if one.verdict == RuleVerdict::Allow { one } else { other }";
    "diff/narrow.rs": "only every peer is narrowed, not the range around a left-out address",
        "narrowed.insert(*taken_for, both.into());"
        => "narrowed.insert(taken_for.filter(|_| false), both.into());";
    "diff/policy.rs": "a pod that keeps its old rules lets in who is left out",
        "if sets.any(|(old, wanted)| keeps(&old) && mistaken.pass(desired, actual, old, wanted)) {"
        => "if sets.any(|(old, wanted)| keeps(&old) && !mistaken.pass(desired, actual, old, wanted)) && draft.is_none() {";
    "diff/policy.rs": "an exception is left out before a pod",
        "new.sort_by_key(|prefix| is_range(desired, prefix));"
        => "new.sort_by_key(|prefix| !is_range(desired, prefix));";
    "verdict.rs": "entries about every peer are not looked up",
        "own.or_else(|| self.lookup(rule_set, Identity::ANY, protocol, port))"
        => "own";
}
