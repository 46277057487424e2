//! What the pure half of the agent takes: compiling and planning, first and after one change, in clusters of several sizes.
//!
//! [`cluster`] makes the clusters. Nothing is applied to a kernel: steps are counted, and made true in the model of the maps.

mod cluster;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::{Size, namespace, pod, policy};
use nix::time::{ClockId, clock_gettime};
use sluice_core::{
    cluster::{Change, NodeName},
    compile::Compiler,
    diff::{Differ, Limits},
    plan::Actual,
};

use crate::{
    Args,
    control::own_rss_mib,
    report::{Figure, Report},
    spread::Spread,
};

const GROUP: &str = "compile";
const ROUNDS: u32 = 31;

/// Pods and policies of the clusters.
const SIZES: [Size; 4] = [
    Size { pods: 10_000, policies: 1_000 },
    Size { pods: 10_000, policies: 10_000 },
    Size { pods: 50_000, policies: 1_000 },
    Size { pods: 50_000, policies: 10_000 },
];

/// Measures clusters of several sizes.
pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    if !args.wants(GROUP, "compile and plan") {
        return Ok(());
    }
    report.heading(
        "compile: policies of one node, by the size of the cluster",
        &[
            "CPU time from a change to its plan, for a node of 110 pods; steps are map operations of the plan. Nothing is",
            "executed. Memory is what the model, the compiled state and the model of the maps take together.",
        ],
    );
    for size in SIZES {
        one(size, args, report)?;
    }
    Ok(())
}

fn one(size: Size, args: &Args, report: &mut Report) -> Result<()> {
    release_memory();
    let before = own_rss_mib()?;
    let changes = size.changes();
    let mut agent = Agent {
        compiler: Compiler::new(NodeName(cluster::NODE.to_owned())),
        differ: Differ::new(Limits::default()),
        actual: Actual::default(),
    };
    let (first, steps) = agent.take(changes)?;
    let add = |report: &mut Report, what: &str, unit, figures| {
        let name = format!("{} pods, {} policies: {what}", size.pods, size.policies);
        report.add(Figure { group: GROUP, name, unit, spread: Spread::of(figures), budget: None });
    };
    add(report, "first compile and plan", "ms", vec![milliseconds(first)]);
    add(report, "first plan", "steps", vec![steps as f64]);
    release_memory();
    add(report, "memory", "MiB", vec![own_rss_mib()? - before]);
    let chosen = size.policy_of_local_pods();
    let remote = size.pods / 2 + 1;
    let events: [(&str, &dyn Fn(u32) -> Change); 4] = [
        ("a remote pod comes or goes", &|round| match round % 2 {
            0 => cluster::deletion(size, remote),
            _ => pod(size, remote, "a"),
        }),
        ("a remote pod's labels", &|round| pod(size, remote + 1, ["a", "b"][round as usize % 2])),
        ("a policy of local pods", &|round| policy(size, chosen, 8000 + round % 2)),
        ("labels of a namespace", &|round| namespace(size, 1, round % 2)),
    ];
    for (what, event) in events {
        let (mut times, mut counts) = (Vec::new(), Vec::new());
        for round in 0..u32::try_from(args.rounds(ROUNDS as usize))? {
            let (time, steps) = agent.take(vec![event(round)])?;
            times.push(milliseconds(time));
            counts.push(steps as f64);
        }
        add(report, what, "ms", times);
        add(report, what, "steps", counts);
    }
    Ok(())
}

/// The pure half of an agent, and the maps it believes in.
struct Agent {
    compiler: Compiler,
    differ: Differ,
    actual: Actual,
}

impl Agent {
    /// Takes in changes and makes the maps agree: the CPU time of compiling and planning, and the steps.
    fn take(&mut self, changes: Vec<Change>) -> Result<(Duration, usize)> {
        let begun = cpu_time()?;
        for change in changes {
            self.compiler.apply(change).context("taking in an object")?;
        }
        let (desired, changes) = self.compiler.desired_changes();
        let outcome = self.differ.plan(desired, &changes, &self.actual);
        let taken = cpu_time()?.saturating_sub(begun);
        ensure!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
        outcome.plan.iter().for_each(|step| self.actual.apply(step));
        Ok((taken, outcome.plan.len()))
    }
}

/// Gives what the cluster before took back to the kernel, so that it is not taken again unseen.
fn release_memory() {
    // SAFETY: malloc_trim has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// What this thread has taken of a processor.
fn cpu_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the thread's clock")?;
    Ok(time.into())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
