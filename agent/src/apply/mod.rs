//! The way to the kernel's maps and back: [`apply`] carries out a plan, [`read_actual`] reads what is there.
//!
//! **Invariant: nothing is decided here.** A step of the plan is one write, in the plan's order; what a plan may do
//! and when is the business of `sluice_core::plan`. Reading back after `apply` gives what [`Actual::apply`] says.

use sluice_abi::{BackendId, NodeFamily, Prefix};
use sluice_core::plan::{Actual, Entry, Key, Plan, RulePrefix, SourceRange, Step};
use sluice_maps::{Maps, MapsError, RuleRange, grace_period};

#[cfg(test)]
mod tests;

/// A step of a plan that could not be carried out. The steps before it are in force, those behind it are not: every
/// such moment is safe, and the way on is to read the maps back and plan anew.
#[derive(Debug, thiserror::Error)]
#[error("carrying out step {number} of {count}")]
pub struct ApplyError {
    /// Which step, from 1.
    pub number: usize,
    /// Steps of the plan.
    pub count: usize,
    /// What was done to which entry of which map, and why it did not work.
    pub source: MapsError,
}

/// Carries out the steps of a plan, one after the other.
///
/// # Errors
/// The first step that does not work.
pub fn apply(plan: &Plan, maps: &mut Maps) -> Result<(), ApplyError> {
    let count = plan.len();
    plan.iter().enumerate().try_for_each(|(index, step)| {
        carry_out(step, maps).map_err(|source| ApplyError { number: index + 1, count, source })
    })
}

/// Reads everything that plans are made against.
///
/// # Errors
/// The first map that cannot be read.
pub fn read_actual(maps: &Maps) -> Result<Actual, MapsError> {
    let mut actual = Actual {
        endpoints: maps.endpoints.entries()?.into_iter().collect(),
        interfaces: maps.interfaces.entries()?.into_iter().collect(),
        frontends: maps.frontends.entries()?.into_iter().collect(),
        backends: maps.backends.entries()?.into_iter().collect(),
        no_masquerade: maps.no_masquerade.entries()?.into_iter().collect(),
        endpoint_meta: maps.endpoint_meta.entries()?.into_iter().collect(),
        identity_meta: maps.identity_meta.entries()?.into_iter().collect(),
        rule_set_meta: maps.rule_set_meta.entries()?.into_iter().collect(),
        rule_meta: maps.rule_meta.entries()?.into_iter().collect(),
        policy_meta: maps.policy_meta.entries()?.into_iter().collect(),
        service_meta: maps.service_meta.entries()?.into_iter().collect(),
        epoch: maps.epoch.get(EPOCH)?,
        ..Actual::default()
    };
    actual.rules.extend(maps.rules.entries()?.into_iter().map(|(range, rule)| (prefix(range), rule)));
    maps.ipcache.for_each(|addr, identity| {
        actual.ipcache.insert(Prefix::host(addr), identity);
    })?;
    actual.ipcache.extend(maps.ipcache_cidrs.entries()?);
    let source_ranges = maps.source_ranges.entries()?.into_iter();
    actual.source_ranges.extend(source_ranges.map(|(range, present)| (source_range(range), present)));
    for family in [NodeFamily::V4, NodeFamily::V6] {
        actual.node.extend(maps.node.get(&(family as u32))?.map(|node| (family, node)));
    }
    let slots = (0..).zip(maps.slots.all()?).filter(|(_, backend)| *backend != BackendId::NONE);
    actual.slots.extend(slots);
    for kind in sluice_abi::maps::Numbers::ALL {
        actual.numbers.extend(maps.number(kind)?.map(|next| (kind, next)));
    }
    Ok(actual)
}

fn carry_out(step: &Step, maps: &Maps) -> Result<(), MapsError> {
    match step {
        Step::Put(entry) => put(entry, maps),
        Step::Delete(key) => delete(key, maps),
        Step::Number(kind, next) => maps.set_number(*kind, *next),
        Step::Epoch(epoch) => maps.epoch.put(EPOCH, epoch),
        Step::Grace => grace_period(),
    }
}

fn put(entry: &Entry, maps: &Maps) -> Result<(), MapsError> {
    match entry {
        Entry::Endpoint(addr, endpoint) => maps.endpoints.put(addr, endpoint),
        Entry::Interface(ifindex, endpoint) => maps.interfaces.put(ifindex, endpoint),
        Entry::Ipcache(prefix, identity) if prefix.bits == SINGLE => maps.ipcache.put(&prefix.addr, identity),
        Entry::Ipcache(prefix, identity) => maps.ipcache_cidrs.put(prefix, identity),
        Entry::Rule(prefix, rule) => maps.rules.put(&range(*prefix), rule),
        Entry::Frontend(key, frontend) => {
            maps.note_port(key)?;
            maps.frontends.put(key, frontend)
        }
        Entry::Slot(index, backend) => maps.slots.put(*index, backend),
        Entry::Backend(id, backend) => maps.backends.put(id, backend),
        Entry::SourceRange(range, present) => maps.source_ranges.put(&clients(*range), present),
        Entry::Node(family, node) => maps.node.put(&(*family as u32), node),
        Entry::NoMasquerade(range, present) => maps.no_masquerade.put(range, present),
        Entry::EndpointMeta(id, meta) => maps.endpoint_meta.put(id, meta),
        Entry::IdentityMeta(id, meta) => maps.identity_meta.put(id, meta),
        Entry::RuleSetMeta(id, meta) => maps.rule_set_meta.put(id, meta),
        Entry::RuleMeta(id, meta) => maps.rule_meta.put(id, meta),
        Entry::PolicyMeta(id, meta) => maps.policy_meta.put(id, meta),
        Entry::ServiceMeta(id, meta) => maps.service_meta.put(id, meta),
    }
}

/// What is gone already is as the step wants it.
fn delete(key: &Key, maps: &Maps) -> Result<(), MapsError> {
    match key {
        Key::Endpoint(addr) => maps.endpoints.delete(addr),
        Key::Interface(ifindex) => maps.interfaces.delete(ifindex),
        Key::Ipcache(prefix) if prefix.bits == SINGLE => maps.ipcache.delete(&prefix.addr),
        Key::Ipcache(prefix) => maps.ipcache_cidrs.delete(prefix),
        Key::Rule(prefix) => maps.rules.delete(&range(*prefix)),
        Key::Frontend(key) => maps.frontends.delete(key),
        Key::Slot(index) => return maps.slots.put(*index, &BackendId::NONE),
        Key::Backend(id) => maps.backends.delete(id),
        Key::SourceRange(range) => maps.source_ranges.delete(&clients(*range)),
        Key::Node(family) => maps.node.delete(&(*family as u32)),
        Key::NoMasquerade(range) => maps.no_masquerade.delete(range),
        Key::EndpointMeta(id) => maps.endpoint_meta.delete(id),
        Key::IdentityMeta(id) => maps.identity_meta.delete(id),
        Key::RuleSetMeta(id) => maps.rule_set_meta.delete(id),
        Key::RuleMeta(id) => maps.rule_meta.delete(id),
        Key::PolicyMeta(id) => maps.policy_meta.delete(id),
        Key::ServiceMeta(id) => maps.service_meta.delete(id),
    }
    .map(drop)
}

fn range(prefix: RulePrefix) -> RuleRange {
    RuleRange { key: prefix.key, bits: prefix.bits }
}

fn prefix(range: RuleRange) -> RulePrefix {
    RulePrefix { key: range.key, bits: range.bits }
}

fn clients(SourceRange { service, clients }: SourceRange) -> sluice_maps::SourceRange {
    sluice_maps::SourceRange { service, clients }
}

fn source_range(range: sluice_maps::SourceRange) -> SourceRange {
    SourceRange { service: range.service, clients: range.clients }
}

/// The only place in `EPOCH`.
const EPOCH: u32 = 0;

/// Bits of a prefix that is a single address, which `IPCACHE` holds.
const SINGLE: u8 = 128;
