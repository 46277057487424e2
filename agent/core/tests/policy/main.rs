//! What the compiled policies say is what the API's text says: a literal reading of it ([`oracle`]) and the compiler answer
//! random packets in random clusters ([`world`]) alike.
//!
//! `SLUICE_POLICY_CASES` is the number of packets. A case that fails is made smaller and printed.

mod flow;
mod oracle;
mod world;

use std::collections::BTreeMap;

use flow::Packet;
use oracle::Corners;
use serde_json::Value;
use sluice_core::{
    cluster::NodeName,
    compile::{Compiler, compile},
    diff::{Limits, Rejection, diff},
    object::ObjectKey,
    plan::Actual,
    verdict::{Answer, Flow, verdict},
};
use world::{Chance, NODE};

/// Packets for each cluster.
const PACKETS: u64 = 40;

fn cases() -> u64 {
    let number = std::env::var("SLUICE_POLICY_CASES").ok().and_then(|text| text.parse().ok());
    number.unwrap_or(30_000)
}

fn this_node() -> NodeName {
    NodeName(NODE.to_owned())
}

/// The maps of a node of a cluster of these objects.
fn compiled(objects: &[Value]) -> Actual {
    let mut compiler = Compiler::new(this_node());
    for change in world::changes(objects, |number| 100 + number as u32) {
        // Some policies make no sense.
        let _rejected = compiler.apply(change);
    }
    planned(&mut compiler, Actual::default())
}

fn planned(compiler: &mut Compiler, mut actual: Actual) -> Actual {
    let outcome = diff(compiler.desired(), &actual, &Limits::default());
    let is_tied = |rejection: &Rejection| matches!(rejection, Rejection::Tied { .. });
    assert!(outcome.rejected.iter().all(is_tied), "{:?}", outcome.rejected);
    outcome.plan.iter().for_each(|step| actual.apply(step));
    actual
}

fn flow(packet: &Packet) -> Flow {
    let Packet { src, dst, protocol, port } = *packet;
    Flow { src: src.into(), dst: dst.into(), protocol, port }
}

/// Whether a packet passes, and whether audited policies would drop it all the same: as the API says.
fn wanted(objects: &[Value], packet: &Packet, corners: &mut Corners) -> (bool, bool) {
    let passes = flow::allows(&oracle::enforced(objects), NODE, packet, corners);
    let would_drop = passes && !flow::allows(objects, NODE, packet, &mut Corners::new());
    if would_drop {
        oracle::hit(corners, "an audited policy would drop", true);
    }
    (passes, would_drop)
}

/// The same as the maps say.
fn found(actual: &Actual, packet: &Packet) -> (bool, bool) {
    let answer = verdict(actual, &flow(packet));
    let Answer::Direct(judged) = &answer else { return (answer.allows(), false) };
    (judged.allows(), judged.would_drop().next().is_some())
}

/// Whether oracle and maps differ.
fn differs(objects: &[Value], packet: &Packet) -> bool {
    found(&compiled(objects), packet) != wanted(objects, packet, &mut Corners::new())
}

/// The same case with as few objects and rules as still make it.
fn smaller(mut objects: Vec<Value>, packet: &Packet) -> Vec<Value> {
    loop {
        let variants = (0..objects.len()).flat_map(|index| without(&objects, index));
        match variants.into_iter().find(|variant| differs(variant, packet)) {
            Some(variant) => objects = variant,
            None => return objects,
        }
    }
}

/// Variants without an object, or without one element of a list in it.
fn without(objects: &[Value], index: usize) -> Vec<Vec<Value>> {
    let mut all =
        vec![objects.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, o)| o.clone()).collect()];
    let mut lists = Vec::new();
    pointers(&objects[index]["spec"], "/spec".to_owned(), &mut lists);
    for pointer in lists {
        let mut variant = objects.to_vec();
        let (parent, last) = pointer.rsplit_once('/').expect("a pointer below the object");
        if let Some(Value::Array(list)) = variant[index].pointer_mut(parent) {
            list.remove(last.parse().expect("an index"));
            all.push(variant);
        }
    }
    all
}

/// Pointers to all elements of lists.
fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                found.push(format!("{at}/{index}"));
                pointers(item, format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            pointers(value, format!("{at}/{}", key.replace('/', "~1")), found);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_compiled_policies_say_what_the_api_says() {
    let (mut corners, mut allowed, mut asked) = (Corners::new(), 0, 0);
    for seed in 0..cases().div_ceil(PACKETS) {
        let mut chance = Chance::new(seed);
        let objects = world::objects(&mut chance);
        let actual = compiled(&objects);
        for _ in 0..PACKETS {
            let packet = world::packet(&mut chance);
            let wanted = wanted(&objects, &packet, &mut corners);
            let found = found(&actual, &packet);
            if found != wanted {
                let few = smaller(objects.clone(), &packet);
                let text: Vec<String> = few.iter().map(Value::to_string).collect();
                panic!(
                    "seed {seed}: {packet:?}: (passes, would drop) by the API {wanted:?}, found {found:?} in\n{}",
                    text.join("\n")
                );
            }
            asked += 1;
            allowed += u64::from(wanted.0);
        }
    }
    eprintln!("{asked} packets, {allowed} allowed");
    corners.iter().for_each(|(corner, count)| eprintln!("{count:>9}  {corner}"));
    assert!((asked * 3 / 10..=asked * 7 / 10).contains(&allowed), "{allowed} of {asked} allowed");
    for corner in CORNERS {
        assert!(corners.contains_key(corner), "never met: {corner}");
    }
}

/// What a run has to meet.
const CORNERS: &[&str] = &[
    "a Deny or Pass of an unknown peer",
    "a namespace that is not known",
    "a named port",
    "a pod and its own node",
    "a pod reaches itself",
    "a policy that makes no sense",
    "a port",
    "a range of ports",
    "Admin accepts",
    "Admin denies",
    "Admin passes on",
    "an Accept of an unknown peer",
    "an audited policy would drop",
    "an exception of an ipBlock",
    "an ipBlock with a pod's address",
    "Baseline accepts",
    "Baseline denies",
    "Baseline passes on",
    "destinationNamedPort",
    "destinationPort",
    "every port of a protocol",
    "networks with a pod's address",
    "no policy decides",
    "of several, one allows",
    "one policy allows",
    "one policy isolates",
    "several isolate",
];

#[test]
fn change_by_change_gives_what_compiling_from_scratch_gives() {
    let mut compiler = Compiler::new(this_node());
    let (mut known, mut actual): (BTreeMap<ObjectKey, Value>, _) = (BTreeMap::new(), Actual::default());
    for seed in 0..cases() / 300 {
        let objects = world::objects(&mut Chance::new(seed));
        let wanted: BTreeMap<ObjectKey, Value> =
            objects.iter().map(|object| (world::read(object).key(), object.clone())).collect();
        for key in known.keys().filter(|key| !wanted.contains_key(key)) {
            let _rejected = compiler.apply(sluice_core::cluster::Change::Delete(key.clone()));
        }
        // Settled in the middle, as an agent is between any two changes.
        compiler.desired();
        for change in world::changes(&objects, |number| 100 + number as u32) {
            let _rejected = compiler.apply(change);
            if seed % 8 == 0 {
                compiler.desired();
            }
        }
        known = wanted;
        let scratch = compile(compiler.cluster(), &this_node());
        assert_eq!(*compiler.desired(), scratch, "seed {seed}");
        actual = planned(&mut compiler, actual);
        let again = diff(compiler.desired(), &actual, &Limits::default());
        assert_eq!(again.plan, [], "seed {seed}");
    }
}
