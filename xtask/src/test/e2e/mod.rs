//! `cargo xtask test e2e`: a real Kubernetes with Sluice in it, our own scenarios, and the upstream suite.
//!
//! The cluster is brought up, the image made and loaded, and the manifest applied, as a user would do it. Then come the
//! scenarios of `tests/tests/e2e`, then the specs of [`suite`]. What came of them is in `target/e2e/results.md` and
//! `results.json`.

mod install;
mod results;
mod suite;

pub(super) use install::CLUSTER;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use results::{Outcome, Spec};
use suite::Suite;

use super::{binaries, report::Report};
use crate::{build, cluster, command, setup, workspace};

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Every spec of the upstream suite that is about the network, not only those of the gate.
    #[arg(long)]
    all: bool,
    /// Only upstream specs whose name matches this regular expression, and no scenario.
    #[arg(long, value_name = "REGEX", conflicts_with_all = ["all", "scenario"])]
    focus: Option<String>,
    /// Only our own scenarios whose name contains this, and no upstream spec.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
}

impl Args {
    /// As many nodes as the specs that are asked for need: one of all needs two in each of three zones.
    fn nodes(&self) -> u8 {
        if self.all || self.focus.is_some() { 6 } else { 2 }
    }
}

/// Runs the layer alone.
///
/// # Errors
/// When it cannot be run at all.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut report = Report::new();
    report.heading("setup");
    report.check("packages", setup::packages());
    let toolchain = report.check("toolchain of the kernel side", setup::toolchain());
    report.heading("build");
    if toolchain.is_some()
        && let Some(built) = report.check("scenarios", build_scenarios())
    {
        layer(&mut report, &built, args);
    }
    Ok(report.finish())
}

fn build_scenarios() -> Result<Vec<build::Executable>> {
    let mut cargo = command::cargo();
    build::executables(cargo.args([
        "test",
        "--package",
        "sluice-tests",
        "--test",
        "e2e",
        "--locked",
        "--no-run",
    ]))
    .context("building the scenarios")
}

/// The layer, as a part of all tests.
pub(super) fn layer(report: &mut Report, built: &[build::Executable], args: &Args) {
    report.heading("a real Kubernetes");
    if let Some(access) = report.check("cluster with Sluice", install::bring_up(args.nodes())) {
        if args.focus.is_none() {
            scenarios(report, built, args.scenario.as_deref());
        }
        if args.scenario.is_none() {
            upstream(report, args, &access);
        }
    }
    if !args.keep {
        report.check("cluster removed", cluster::remove(CLUSTER));
    }
}

/// Our own scenarios, one after the other: each has the cluster to itself.
fn scenarios(report: &mut Report, built: &[build::Executable], filter: Option<&str>) {
    let Some(scenarios) = built.iter().find(|built| built.target == SCENARIOS) else {
        return report.tests("scenarios", false, "they were not built".to_owned());
    };
    if let Err(error) = binaries::run_scenarios(report, scenarios, filter) {
        report.tests("scenarios", false, format!("{error:#}"));
    }
}

/// The test target that holds the scenarios.
pub(super) const SCENARIOS: &str = "e2e";

/// The specs of the upstream suite.
fn upstream(report: &mut Report, args: &Args, access: &cluster::Access) {
    let suites = if args.all { suite::ALL } else { suite::GATE };
    let suites = if args.focus.is_some() { &suite::ALL[..1] } else { suites };
    let mut done = Vec::new();
    for suite in suites {
        let specs = folder().and_then(|folder| suite::run(suite, args.focus.as_deref(), access, &folder));
        match specs {
            Ok(specs) => {
                count(report, suite, &specs);
                done.push((suite.name, specs));
            }
            Err(error) => report.tests(suite.name, false, format!("{error:#}")),
        }
    }
    report.check("results written", write(&done));
}

fn count(report: &mut Report, suite: &Suite, specs: &[Spec]) {
    let sums = results::Sums::of(specs);
    let failures: Vec<String> = specs
        .iter()
        .filter_map(|spec| match &spec.outcome {
            Outcome::Failed(why) => Some(format!("{}\n    {why}", spec.name)),
            Outcome::Passed | Outcome::KnownFailure(_) | Outcome::Skipped(_) => None,
        })
        .collect();
    report.specs(
        &format!("upstream {}", suite.name),
        sums.passed,
        sums.known_failures + sums.skipped,
        &failures,
    );
}

/// Where results go.
fn folder() -> Result<PathBuf> {
    let folder = workspace::root().join("target/e2e");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

fn write(done: &[(&str, Vec<Spec>)]) -> Result<()> {
    let folder = folder()?;
    let mut text = "# The upstream suite on Sluice\n\n".to_owned();
    for (name, specs) in done {
        text += &results::markdown(name, specs);
        text.push('\n');
    }
    text += "## Left out\n\n| Specs | Why |\n| --- | --- |\n";
    for (pattern, why) in suite::LEFT_OUT {
        text += &format!("| `{}` | {why} |\n", pattern.replace('|', r"\|"));
    }
    fs::write(folder.join("results.md"), text).context("writing results.md")?;
    let all: std::collections::BTreeMap<_, _> = done.iter().map(|(name, specs)| (*name, specs)).collect();
    let json = serde_json::to_string_pretty(&all).context("results as JSON")?;
    fs::write(folder.join("results.json"), json + "\n").context("writing results.json")
}
