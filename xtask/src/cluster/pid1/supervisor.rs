//! Runs components, starts them again when they end, and reaps what nobody waits for.
//!
//! One thread a component; the calling thread of [`Supervisor::reap`] is the only one that waits for processes, because
//! process 1 gets every orphan.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Pause before a component that ended by itself is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// Time that a component has to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// What runs a component, and what of it can be seen.
#[derive(Debug)]
pub(super) struct Supervisor {
    state: Mutex<State>,
    changed: Condvar,
    logs: PathBuf,
}

#[derive(Debug, Default)]
struct State {
    components: BTreeMap<String, Component>,
    /// Processes that somebody waits for; how they ended, once they have.
    ended: BTreeMap<i32, Option<String>>,
    /// Processes started so far.
    started: u64,
}

#[derive(Debug, Default)]
struct Component {
    is_wanted: bool,
    pid: Option<i32>,
    starts: u32,
    failures: u32,
    last_end: Option<String>,
}

/// A component, as `cluster status` shows it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ComponentStatus {
    /// Its name.
    pub name: String,
    /// True while its process is there.
    pub running: bool,
    /// How often it was started.
    pub starts: u32,
    /// How often it ended without being asked to.
    pub failures: u32,
    /// How it ended the last time.
    pub last_end: Option<String>,
}

impl Supervisor {
    /// Supervises nothing yet; `logs` is the folder of `NAME.log`.
    pub(super) fn new(logs: PathBuf) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), logs })
    }

    /// Starts a component and keeps it running. `command` is the same every time but for its output.
    pub(super) fn run(self: &Arc<Self>, name: &'static str, mut command: Command) {
        self.lock().components.insert(name.to_owned(), Component { is_wanted: true, ..Component::default() });
        let supervisor = Arc::clone(self);
        thread::spawn(move || {
            loop {
                if let Err(error) = supervisor.run_once_wanted(name, &mut command) {
                    eprintln!("{name}: {error:#}");
                    if let Some(component) = supervisor.lock().components.get_mut(name) {
                        component.failures += 1;
                        component.last_end = Some(format!("{error:#}"));
                    }
                    thread::sleep(RESTART_DELAY);
                }
            }
        });
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started, or fails; its output is in the log `name`.
    pub(super) fn run_to_end(&self, name: &str, command: &mut Command) -> Result<()> {
        self.direct_output(name, command)?;
        let pid = self.spawn(command, &mut self.lock())?;
        let end = self.wait_for(pid);
        if end != SUCCESS {
            bail!("{} {end}; see its log", crate::command::shown(command));
        }
        Ok(())
    }

    /// Runs a command to its end; its output is of no interest. True when it succeeds.
    pub(super) fn succeeds(&self, command: &mut Command) -> bool {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let pid = self.spawn(command, &mut self.lock());
        pid.is_ok_and(|pid| self.wait_for(pid) == SUCCESS)
    }

    /// Takes a component down and keeps it down.
    ///
    /// # Errors
    /// When there is no component of this name.
    pub(super) fn stop(&self, name: &str) -> Result<()> {
        self.want(name, false)?;
        self.end(name)
    }

    /// Starts a component that was taken down.
    ///
    /// # Errors
    /// When there is no component of this name, or it does not start.
    pub(super) fn start(&self, name: &str) -> Result<()> {
        let starts = self.want(name, true)?;
        self.wait_until(|state| {
            state.components[name].pid.is_some() || state.components[name].starts > starts
        })
        .with_context(|| format!("starting {name}"))
    }

    /// Ends a component and starts it again.
    ///
    /// # Errors
    /// When there is no component of this name, or it does not start.
    pub(super) fn restart(&self, name: &str) -> Result<()> {
        self.stop(name)?;
        self.start(name)
    }

    /// All components.
    pub(super) fn status(&self) -> Vec<ComponentStatus> {
        let state = self.lock();
        let status = |(name, component): (&String, &Component)| ComponentStatus {
            name: name.clone(),
            running: component.pid.is_some(),
            starts: component.starts,
            failures: component.failures,
            last_end: component.last_end.clone(),
        };
        state.components.iter().map(status).collect()
    }

    /// Waits for processes, for ever.
    pub(super) fn reap(&self) -> ! {
        loop {
            let started = self.lock().started;
            // Left in place until the lock is held: whoever started it has then said that he waits for it.
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    self.reaped(pid, &format!("ended with exit code {code}"))
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.reaped(pid, &format!("was ended by {signal}"))
                }
                Err(Errno::ECHILD) => {
                    let state = self.lock();
                    drop(self.changed.wait_while(state, |state| state.started == started));
                }
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn reaped(&self, pid: Pid, end: &str) {
        let mut state = self.lock();
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG)); // waitid has just shown it
        if let Some(slot) = state.ended.get_mut(&pid.as_raw()) {
            *slot = Some(end.to_owned());
        }
        self.changed.notify_all();
    }

    fn run_once_wanted(&self, name: &str, command: &mut Command) -> Result<()> {
        let mut log = self.direct_output(name, command)?;
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| !state.components[name].is_wanted)
            .unwrap_or_else(|e| e.into_inner());
        let pid = self.spawn(command, &mut state)?;
        if let Some(component) = state.components.get_mut(name) {
            component.pid = Some(pid);
            component.starts += 1;
        }
        drop(state);
        self.changed.notify_all();
        let end = self.wait_for(pid);
        let _ = writeln!(log, "{name} {end}"); // the component's log; a full disk must not end the machine
        let mut state = self.lock();
        let component = state.components.get_mut(name).context("an unknown component")?;
        (component.pid, component.last_end) = (None, Some(end));
        let was_wanted = component.is_wanted;
        component.failures += u32::from(was_wanted);
        self.changed.notify_all();
        if was_wanted {
            // A request ends the pause: taken down, it may also be started at once.
            drop(
                self.changed
                    .wait_timeout_while(state, RESTART_DELAY, |state| state.components[name].is_wanted),
            );
        }
        Ok(())
    }

    fn direct_output(&self, name: &str, command: &mut Command) -> Result<File> {
        fs::create_dir_all(&self.logs).with_context(|| format!("making {}", self.logs.display()))?;
        let path = self.logs.join(format!("{name}.log"));
        let log = OpenOptions::new().append(true).create(true).open(&path);
        let log = log.with_context(|| format!("opening {}", path.display()))?;
        let output = || log.try_clone().context("copying a handle");
        command.stdin(Stdio::null()).stdout(output()?).stderr(output()?);
        Ok(log)
    }

    fn spawn(&self, command: &mut Command, state: &mut State) -> Result<i32> {
        let child =
            command.spawn().with_context(|| format!("starting {}", crate::command::shown(command)))?;
        let pid = i32::try_from(child.id()).context("a process number")?;
        state.ended.insert(pid, None);
        state.started += 1;
        self.changed.notify_all();
        Ok(pid)
    }

    /// How a process ended.
    fn wait_for(&self, pid: i32) -> String {
        let state = self.lock();
        let is_running = |state: &mut State| matches!(state.ended.get(&pid), Some(None));
        let mut state = self.changed.wait_while(state, is_running).unwrap_or_else(|e| e.into_inner());
        state.ended.remove(&pid).flatten().unwrap_or_default()
    }

    /// Sets what is wanted of a component; returns how often it was started.
    fn want(&self, name: &str, is_wanted: bool) -> Result<u32> {
        let mut state = self.lock();
        let names: Vec<String> = state.components.keys().cloned().collect();
        let Some(component) = state.components.get_mut(name) else {
            bail!("there is no component {name}; there are: {}", names.join(", "));
        };
        component.is_wanted = is_wanted;
        let starts = component.starts;
        self.changed.notify_all();
        Ok(starts)
    }

    fn end(&self, name: &str) -> Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let Some(pid) = self.lock().components[name].pid else { return Ok(()) };
            let _ = kill(Pid::from_raw(pid), signal); // it may have ended by itself
            if self.wait_until(|state| state.components[name].pid != Some(pid)).is_ok() {
                return Ok(());
            }
        }
        bail!("{name} does not end")
    }

    fn wait_until(&self, holds: impl Fn(&State) -> bool) -> Result<()> {
        let state = self.lock();
        let (state, waited) = self
            .changed
            .wait_timeout_while(state, GRACE, |state| !holds(state))
            .unwrap_or_else(|e| e.into_inner());
        drop(state);
        if waited.timed_out() { bail!("{} seconds were not enough", GRACE.as_secs()) } else { Ok(()) }
    }

    /// A thread that panicked leaves a state that is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|error| error.into_inner())
    }
}

/// How a process ended that did what it was for.
const SUCCESS: &str = "ended with exit code 0";
