//! Nanoseconds per packet in the hooks, by `BPF_PROG_TEST_RUN`.
//!
//! A hook changes the packet, so a wrapper (`ebpf/src/bench.rs`) makes it whole again and tail-calls the hook, each
//! time. The same wrapper with a program that does nothing is measured right before and subtracted.

mod cases;
mod wrapper;

use anyhow::Result;
use cases::{Case, Packets, World};
use wrapper::{Target, Wrapper};

use crate::{
    Args, pin,
    report::{Figure, Report},
    spread::Spread,
};

const GROUP: &str = "datapath";
const ROUNDS: usize = 41;
/// Packets of one measurement: a few milliseconds.
const BATCH: u32 = 20_000;
/// Drops that fill the ring of events, which nobody reads here.
const WARM_UP: u32 = 100_000;

/// Measures every case, first with a few rules and then with 100 000.
pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    // A thread of its own: it moves into namespaces that end with it.
    std::thread::scope(|scope| {
        scope
            .spawn(|| measure_in_namespaces(args, report))
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn measure_in_namespaces(args: &Args, report: &mut Report) -> Result<()> {
    let is_wanted = |case: &Case| args.wants(GROUP, &case.name);
    pin::to_one_cpu()?;
    let mut world = World::new();
    let few: Vec<_> = world.cases().into_iter().filter(is_wanted).collect();
    let mut wrapper = Wrapper::load()?;
    report.heading(
        "datapath: ns per packet",
        &[
            "One CPU, hot caches; wrapper and no-op program subtracted. A dropped packet's event finds the ring full.",
            "\"new flow\": each packet is another flow (its source port moves on), in a table of half-open flows that is full.",
        ],
    );
    yardsticks(args, report, &mut wrapper, &few)?;
    run(args, report, &mut wrapper, &world, &few)?;
    let many: Vec<_> = world.with_many_rules().into_iter().filter(is_wanted).collect();
    run(args, report, &mut wrapper, &world, &many)
}

/// What is subtracted.
fn yardsticks(args: &Args, report: &mut Report, wrapper: &mut Wrapper, cases: &[Case]) -> Result<()> {
    let Some(case) = cases.first() else { return Ok(()) };
    wrapper.prepare(Target::Nothing, &case.packet)?;
    let (mut bare, mut wrapped) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds(ROUNDS) {
        bare.push(wrapper.run_nothing(case, BATCH)?);
        wrapped.push(wrapper.run(case, Target::Nothing, BATCH)?);
    }
    report.add(figure("yardstick: a program that does nothing".to_owned(), bare, None));
    report.add(figure("yardstick: the wrapper with that program".to_owned(), wrapped, None));
    Ok(())
}

fn run(args: &Args, report: &mut Report, wrapper: &mut Wrapper, world: &World, cases: &[Case]) -> Result<()> {
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for case in cases {
        let hook = world.target(case);
        wrapper.prepare(hook, &case.packet)?;
        let repeat = if case.packets == Packets::Fresh || case.warm_up { WARM_UP } else { 1 };
        wrapper.run(case, hook, repeat)?;
    }
    for _ in 0..args.rounds(ROUNDS) {
        for (case, figures) in cases.iter().zip(&mut figures) {
            let yardstick = if case.in_xdp { Target::NothingInXdp } else { Target::Nothing };
            wrapper.prepare(yardstick, &case.packet)?;
            let nothing = wrapper.run(case, yardstick, BATCH)?;
            let hook = world.target(case);
            wrapper.prepare(hook, &case.packet)?;
            figures.push(wrapper.run(case, hook, BATCH)? - nothing);
        }
    }
    for (case, figures) in cases.iter().zip(figures) {
        report.add(figure(case.name.clone(), figures, case.budget));
    }
    Ok(())
}

fn figure(name: String, figures: Vec<f64>, budget: Option<f64>) -> Figure {
    Figure { group: GROUP, name, unit: "ns", spread: Spread::of(figures), budget }
}
