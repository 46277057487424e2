//! Namespaces held by files, so that nothing of them has a name and nothing is left when this process ends.

use std::{
    fs::File,
    io::Write as _,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    panic,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{prctl, signal::Signal},
};

/// A network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

/// A mount namespace, and its `/`.
#[derive(Debug)]
pub struct Mounts {
    file: File,
    root: File,
}

impl Netns {
    /// Makes one. Needs root.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> Result<Self> {
        apart(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (needs root)")?;
            let file = File::open("/proc/thread-self/ns/net").context("opening a network namespace")?;
            Ok(Self { file })
        })
    }

    /// The same namespace, held once more.
    ///
    /// # Errors
    /// When there can be no more open files.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { file: self.file.try_clone().context("duplicating a namespace's file")? })
    }

    /// A path under which every process finds it while this one lives.
    pub fn path(&self) -> PathBuf {
        path_of(&self.file)
    }

    /// Runs `inside` in the namespace, on a thread of its own; a panic goes on here.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        apart(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("a namespace that is held can be entered");
            inside()
        })
    }

    /// A command that runs in the namespace, and in those mounts if there are any. It dies with the calling thread.
    ///
    /// # Errors
    /// When the files cannot be duplicated.
    pub fn command(&self, mounts: Option<&Mounts>, program: impl AsRef<Path>) -> Result<Command> {
        let duplicate =
            |file: &File| file.try_clone().map(OwnedFd::from).context("duplicating a namespace's file");
        let netns = duplicate(&self.file)?;
        let mounts = mounts.map(|mounts| duplicate(&mounts.file)).transpose()?;
        let mut command = Command::new(program.as_ref());
        let enter = move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            setns(&netns, CloneFlags::CLONE_NEWNET)?;
            mounts.as_ref().map_or(Ok(()), |mounts| setns(mounts, CloneFlags::CLONE_NEWNS))?;
            Ok(())
        };
        // SAFETY: system calls only, no memory: nothing that the fork of a threaded process must not do.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Runs `ip LINE` for each line, in one process.
    ///
    /// # Errors
    /// When `ip` cannot be run or refuses a line; the error carries its words.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut command = self.command(None, "ip")?;
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting ip (iproute2)")?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(lines.as_bytes()).context("writing to ip")?;
        drop(stdin);
        words_of(&child.wait_with_output().context("waiting for ip")?)
            .map(drop)
            .with_context(|| format!("ip: {lines}"))
    }

    /// The answer of `ip ARGS…`.
    ///
    /// # Errors
    /// When `ip` cannot be run or fails.
    pub fn ip(&self, args: &str) -> Result<String> {
        let output = self.command(None, "ip")?.args(args.split_whitespace()).output();
        words_of(&output.context("starting ip (iproute2)")?).with_context(|| format!("ip {args}"))
    }

    /// Writes sysctls, given as `net/…` path and value.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn sysctls(&self, values: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in values {
                std::fs::write(Path::new("/proc/sys").join(name), value)
                    .with_context(|| format!("setting sysctl {name} to {value}"))?;
            }
            Ok(())
        })
    }
}

impl Mounts {
    /// Makes a copy of `parent`'s mounts (of this process's when there is none) and lets `prepare` change it.
    ///
    /// # Errors
    /// When the kernel refuses, and those of `prepare`.
    pub fn new(parent: Option<&Self>, prepare: impl FnOnce() -> Result<()> + Send) -> Result<Self> {
        apart(|| {
            if let Some(parent) = parent {
                unshare(CloneFlags::CLONE_FS).context("leaving the other threads' root")?;
                setns(&parent.file, CloneFlags::CLONE_NEWNS).context("entering a mount namespace")?;
            }
            unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace (needs root)")?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                .context("keeping mounts private")?;
            prepare()?;
            let file = File::open("/proc/thread-self/ns/mnt").context("opening a mount namespace")?;
            Ok(Self { file, root: File::open("/").context("opening a mount namespace's root")? })
        })
    }

    /// A path under which processes outside find what is `inside` at this absolute path.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        path_of(&self.root).join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A path under which every process finds the namespace while this one lives.
    pub fn namespace(&self) -> PathBuf {
        path_of(&self.file)
    }
}

/// Mounts a file system of its own at `path`.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn mount_new(kind: &str, path: &str) -> Result<()> {
    mount(Some("sluice-lab"), path, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mounting {kind} at {path}"))
}

/// What a finished command wrote.
///
/// # Errors
/// When it failed; the error carries what it wrote to stderr.
pub fn words_of(output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Runs on a thread of its own: what that does to its namespaces ends with it.
fn apart<T: Send>(inside: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
}
