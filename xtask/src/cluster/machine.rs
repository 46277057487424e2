//! A machine from outside: started, asked, entered, ended.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::{Command, ExitCode, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroups::Hierarchies,
    components,
    pid1::{Answer, Request},
    place::{self, Place},
    plan::{Families, Machine},
    underlay,
};
use crate::command;

/// Longest wait for a machine to answer after it was started.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Process {
    pid: i32,
    /// When it started, in clock ticks since boot.
    start: u64,
}

impl Process {
    /// Writes a process of this program's to a file.
    ///
    /// # Errors
    /// When it has ended, or the file cannot be written.
    pub(super) fn record(path: &Path, pid: u32) -> Result<()> {
        let pid = i32::try_from(pid).context("a process number")?;
        let start = start_of(pid).context("process 1 ended at once; see its init.log")?;
        place::write(path, &format!("{pid} {start}")).map(drop)
    }

    /// The process in a file, when it is alive.
    fn recorded(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, start) = text.split_once(' ')?;
        let process = Self { pid: pid.parse().ok()?, start: start.parse().ok()? };
        process.is_alive().then_some(process)
    }

    fn is_alive(self) -> bool {
        start_of(self.pid) == Some(self.start)
    }
}

/// When a process started; none when it has ended, also when nobody has waited for it yet (proc_pid_stat(5)).
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// True when a machine's process 1 is alive.
pub(super) fn is_alive(place: &Place, machine: Machine) -> bool {
    Process::recorded(&place.pid_file(machine)).is_some()
}

/// Starts a machine that is not alive, with its network. True when it was not.
///
/// # Errors
/// When it does not start.
pub(super) fn ensure(place: &Place, machine: Machine, families: Families) -> Result<bool> {
    if is_alive(place, machine) && underlay::exists(&place.namespace(machine)) {
        return Ok(false);
    }
    stop(place, machine)?;
    underlay::ensure_machine(place, machine, families)?;
    let program = std::env::current_exe().context("finding this program")?;
    let mut launch = Command::new(program);
    launch.args(["cluster", "--name", place.name(), "launch", &machine.to_string()]);
    let started = command::capture(&mut launch).with_context(|| format!("starting {machine}"))?;
    let pid =
        started.trim().parse().with_context(|| format!("reading the number of {machine}'s process 1"))?;
    Process::record(&place.pid_file(machine), pid)?;
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(place.socket(machine)).is_err() {
        if !is_alive(place, machine) {
            bail!("{machine} ended at once\n{}", last_lines(&place.logs(machine).join("init.log")));
        }
        if Instant::now() > deadline {
            bail!("{machine} does not answer\n{}", last_lines(&place.logs(machine).join("init.log")));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

/// Ends a machine at once, as a power cut would; what it keeps on its disk stays. True when something was left of it.
///
/// # Errors
/// When something of it does not end.
pub(super) fn stop(place: &Place, machine: Machine) -> Result<bool> {
    let process = Process::recorded(&place.pid_file(machine));
    if let Some(process) = process {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL); // it may have ended by itself
    }
    let cleared = Hierarchies::of_this_machine()?.clear(&place.cgroup(), Some(&machine.to_string()))?;
    let deadline = Instant::now() + PATIENCE;
    while process.is_some_and(Process::is_alive) {
        if Instant::now() > deadline {
            bail!("process 1 of {machine} does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let disconnected = underlay::delete(&place.namespace(machine))?;
    place::remove(&place.pid_file(machine))?;
    place::remove(&place.socket(machine))?;
    Ok(process.is_some() || cleared || disconnected)
}

/// Asks a machine's process 1.
///
/// # Errors
/// When the machine is not up, or could not do what it was asked.
pub(super) fn ask(place: &Place, machine: Machine, request: &Request) -> Result<Answer> {
    if !is_alive(place, machine) {
        bail!("{machine} is not up");
    }
    let path = place.socket(machine);
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("connecting to {}", path.display()))?;
    let line = serde_json::to_string(request).context("writing a request")? + "\n";
    stream.write_all(line.as_bytes()).with_context(|| format!("asking {machine}"))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).with_context(|| format!("asking {machine}"))?;
    let answer: Answer =
        serde_json::from_str(&line).with_context(|| format!("reading {machine}'s answer"))?;
    match &answer.error {
        Some(error) => bail!("{machine}: {error}"),
        None => Ok(answer),
    }
}

/// A command that runs in a machine's network namespace, and sees this machine's files.
///
/// # Errors
/// When the machine is not up.
pub(super) fn beside(place: &Place, machine: Machine, program: &Path) -> Result<Command> {
    if !is_alive(place, machine) {
        bail!("{machine} is not up: cargo xtask cluster up");
    }
    let mut nsenter = Command::new("nsenter");
    nsenter
        .arg(format!("--net={}", place::namespace_file(&place.namespace(machine)).display()))
        .arg("--")
        .arg(program)
        .env("KUBECONFIG", place.kubeconfig())
        .env("PATH", components::path());
    Ok(nsenter)
}

/// Runs a command in all namespaces and cgroups of a machine. Its exit code is that of the command.
///
/// # Errors
/// When the machine is not up, or the command cannot be started.
pub(super) fn run_inside(place: &Place, machine: Machine, words: &[String]) -> Result<ExitCode> {
    let Some(process) = Process::recorded(&place.pid_file(machine)) else {
        bail!("{machine} is not up: cargo xtask cluster up");
    };
    let (program, arguments) = words.split_first().context("a command is missing")?;
    let open = |name: &str| {
        let path = format!("/proc/{}/ns/{name}", process.pid);
        fs::File::open(&path).with_context(|| format!("opening {path}"))
    };
    // All opened before the first is entered: the mount namespace hides this /proc.
    let namespaces =
        ["cgroup", "ipc", "uts", "net", "pid", "mnt"].map(|name| open(name).map(|file| (name, file)));
    Hierarchies::of_this_machine()?.enter(&place.cgroup(), &machine.to_string())?;
    for namespace in namespaces {
        let (name, file) = namespace?;
        setns(file, CloneFlags::empty())
            .with_context(|| format!("entering the {name} namespace of {machine}"))?;
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("KUBECONFIG", place.kubeconfig())
        .env("PATH", components::path())
        .current_dir("/");
    let status = command.status().with_context(|| format!("starting {program}"))?;
    Ok(exit_code(status))
}

/// Becomes another program.
///
/// # Errors
/// When it cannot be started; else this does not return.
pub(super) fn become_program(command: &mut Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", command::shown(command)))
}

/// The exit code of a command, as a shell would have it.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The end of a log, with its name.
pub(super) fn last_lines(log: &Path) -> String {
    const LINES: usize = 12;
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
    format!("{}:\n{}", log.display(), if last.is_empty() { "(empty)" } else { &last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_not_mistaken_for_a_later_one_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        Process::record(&path, std::process::id()).unwrap();
        let process = Process::recorded(&path).unwrap();
        assert!(process.is_alive());
        fs::write(&path, format!("{} {}", process.pid, process.start + 1)).unwrap();
        assert_eq!(Process::recorded(&path), None);
    }

    #[test]
    fn a_process_that_nobody_waited_for_is_not_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        Process::record(&path, child.id()).unwrap();
        let process = Process::recorded(&path).unwrap();
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
        while process.is_alive() {
            thread::yield_now();
        }
        assert_eq!(Process::recorded(&path), None);
        child.wait().unwrap();
    }

    #[test]
    fn the_end_of_a_log_is_shown_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("kubelet.log");
        assert!(last_lines(&log).ends_with("kubelet.log:\n(empty)"));
        fs::write(&log, (1..=100).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let shown = last_lines(&log);
        assert!(shown.ends_with("line 99\nline 100"));
        assert!(!shown.contains("line 88\n"));
    }
}
