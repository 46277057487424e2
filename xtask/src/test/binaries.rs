//! Runs the test binaries that cargo built: which need root, which run on other kernels.

use std::{
    fmt::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{e2e, report::Report};
use crate::{build::Executable, command, vm, workspace};

/// A binary that runs longer hangs; in seconds.
const TIMEOUT_SECONDS: u64 = 900;
/// The same for the scenarios of the real cluster, which wait for much.
const SCENARIOS_TIMEOUT_SECONDS: u64 = 1800;

/// Packages whose integration tests make namespaces and load programs.
const ROOT_PACKAGES: &[&str] = &["agent", "agent/maps", "cni-plugin"];
/// The package all of whose tests do.
const ROOT_ONLY: &str = "tests";
/// What runs on other kernels: package, target, and which of its tests, all when none is named. Emulation is slow.
const OTHER_KERNELS: &[(&str, &str, &[&str])] = &[
    ("tests", "load", &[]),
    ("tests", "hooks", &[]),
    ("tests", "policy", &["the_loaded_programs_answer_rows_about_packets_and_tries"]),
    ("tests", "services", &["a_backend_of_another_node_is_reached", "what_pods_send_to_the_world"]),
    ("tests", "sockets", &["every_program_passes_the_verifier", "an_upgrade_replaces", "a_process_reaches"]),
    ("agent/maps", "maps", &[]),
];
/// What runs on one other kernel only, because this one may lack a module: the binary, the module and the kernel.
const WITH_MODULE: (&str, &str, &str) = ("sctp", "sctp", "6.12");
/// How much more patient a test with real agents is where a processor is emulated.
const SLOWNESS: u32 = 10;

/// Which tests of a binary run on other kernels; none when it does not run there.
fn on_others(built: &Executable) -> Option<&'static [&'static str]> {
    let listed = OTHER_KERNELS
        .iter()
        .find(|(folder, target, _)| built.folder() == Path::new(folder) && built.target == *target);
    listed.map(|(_, _, tests)| *tests)
}

fn needs_root(built: &Executable) -> bool {
    let folder = built.folder();
    let is_in = |packages: &[&str]| packages.iter().any(|package| folder == Path::new(package));
    is_in(&[ROOT_ONLY]) || (built.is_integration_test && is_in(ROOT_PACKAGES))
}

/// Unit, golden and property tests, and the examples in the documentation.
pub(super) fn without_root(report: &mut Report, built: &[Executable], filter: Option<&str>) {
    report.heading("unit, golden and property tests");
    for built in built.iter().filter(|built| !needs_root(built)) {
        run(report, built, filter);
    }
    if filter.is_none() {
        let mut cargo = command::cargo();
        cargo.args(["test", "--workspace", "--exclude", "sluice-ebpf", "--doc", "--locked", "--quiet"]);
        let output = cargo.output().context("starting cargo");
        record(
            report,
            "examples in the documentation",
            output.map(|output| (output.status.success(), text(output))),
        );
    }
}

/// Tests with real maps, programs and namespaces on this kernel.
pub(super) fn with_root(report: &mut Report, built: &[Executable], filter: Option<&str>) {
    report.heading("maps, programs and namespaces on this kernel");
    for built in built.iter().filter(|built| needs_root(built) && built.target != e2e::SCENARIOS) {
        if command::is_root() {
            run(report, built, filter);
        } else {
            report.tests_left_out(&name(built), count(built), "needs root");
        }
    }
}

/// What the kernel's version matters to, on every kernel: one boot each, two at a time.
pub(super) fn on_other_kernels(report: &mut Report, built: &[Executable]) {
    let listed: Vec<&Executable> = built.iter().filter(|built| on_others(built).is_some()).collect();
    for (folder, target, _) in OTHER_KERNELS {
        if !listed.iter().any(|built| built.target == *target) {
            report.tests(&format!("{folder} {target}"), false, "it was not built".to_owned());
        }
    }
    let script = guest_script(&listed);
    let (target, module, its_kernel) = WITH_MODULE;
    let with_module =
        built.iter().find(|built| built.folder() == Path::new(ROOT_ONLY) && built.target == target);
    let script_of = |kernel: &str| match with_module {
        Some(built) if kernel == its_kernel => guest_script_with(module, built) + &script,
        _ => script.clone(),
    };
    let names: Vec<String> = listed.iter().map(|built| name(built)).collect();
    for pair in vm::KERNELS.chunks(2) {
        println!("booting {}", pair.join(" and "));
        let results = std::thread::scope(|scope| {
            let threads: Vec<_> = pair
                .iter()
                .map(|kernel| {
                    let script = script_of(kernel);
                    (kernel, scope.spawn(move || boot(kernel, &script)))
                })
                .collect();
            threads.into_iter().map(|(kernel, thread)| (kernel, thread.join())).collect::<Vec<_>>()
        });
        for (kernel, result) in results {
            let result = result.expect("a thread that boots a VM does not panic");
            record(report, &format!("{kernel}: {}", names.join(", ")), result);
        }
    }
}

fn boot(kernel: &str, script: &str) -> Result<(bool, String)> {
    let job = vm::Job {
        kernel,
        command: &["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        directory: workspace::root(),
        share: None,
        timeout: Duration::from_secs(TIMEOUT_SECONDS),
    };
    let (outcome, output) = vm::boot(&job, vm::Output::Kept)?;
    Ok(match outcome {
        vm::Outcome::Exited(code) => (code == 0, output),
        vm::Outcome::TimedOut | vm::Outcome::Died => (false, format!("{output}\nthe VM: {outcome:?}")),
    })
}

/// Runs the tests of a binary that are ignored where the kernel lacks a module.
fn guest_script_with(module: &str, built: &Executable) -> String {
    let folder = command::quoted(&built.package.to_string_lossy());
    let executable = command::quoted(&built.executable.to_string_lossy());
    format!(
        "export RUST_BACKTRACE=0; code=0; modprobe {module} && cd {folder} && SLUICE_SLOWNESS={SLOWNESS} {executable} \
         --ignored --test-threads=1 || code=$?\n"
    )
}

/// Runs every binary, also behind one that fails.
fn guest_script(binaries: &[&Executable]) -> String {
    let mut script = "export RUST_BACKTRACE=0; code=${code:-0}\n".to_owned();
    for built in binaries {
        let folder = command::quoted(&built.package.to_string_lossy());
        let executable = command::quoted(&built.executable.to_string_lossy());
        let tests = on_others(built).unwrap_or_default().join(" ");
        let _ = writeln!(script, "cd {folder} && {executable} --test-threads=1 {tests} || code=$?");
    }
    script + "exit $code"
}

/// The scenarios of the real cluster, which the rest leaves out; one at a time.
pub(super) fn run_scenarios(report: &mut Report, built: &Executable, filter: Option<&str>) -> Result<()> {
    let door = std::env::current_exe().context("finding this program")?;
    let mut timeout = timed(built, filter, SCENARIOS_TIMEOUT_SECONDS);
    timeout
        .args(["--ignored", "--test-threads=1"])
        .env("SLUICE_XTASK", door)
        .env("SLUICE_CLUSTER", e2e::CLUSTER);
    finish(report, built, &mut timeout);
    Ok(())
}

fn run(report: &mut Report, built: &Executable, filter: Option<&str>) {
    finish(report, built, &mut timed(built, filter, TIMEOUT_SECONDS));
}

fn timed(built: &Executable, filter: Option<&str>, seconds: u64) -> Command {
    let mut timeout = command::command("timeout");
    timeout
        .args(["--foreground", "--kill-after=5", &seconds.to_string()])
        .arg(&built.executable)
        .args(filter)
        .current_dir(&built.package)
        .env("CARGO_MANIFEST_DIR", &built.package)
        .env("RUST_BACKTRACE", "0") // a backtrace buries what the verifier says
        .stdin(Stdio::null());
    timeout
}

fn finish(report: &mut Report, built: &Executable, timeout: &mut Command) {
    let output = timeout.output().with_context(|| format!("starting {}", built.executable.display()));
    record(report, &name(built), output.map(|output| (output.status.success(), text(output))));
}

fn record(report: &mut Report, name: &str, result: Result<(bool, String)>) {
    match result {
        Ok((succeeded, output)) => report.tests(name, succeeded, output),
        Err(error) => report.tests(name, false, format!("{error:#}")),
    }
}

/// How many tests a binary has.
fn count(built: &Executable) -> u64 {
    let list = command::capture(command::command(&built.executable).args(["--list", "--format", "terse"]));
    list.unwrap_or_default().lines().filter(|line| line.ends_with(": test")).count() as u64
}

fn name(built: &Executable) -> String {
    format!("{} {}", built.folder().display(), built.target)
}

fn text(output: std::process::Output) -> String {
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
