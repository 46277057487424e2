//! One VM: from its start to the exit code of its command.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::{guest, kernel::Kernel};
use crate::command;

/// Where QEMU 7.2 brings virtiofsd, and where Debian's package of its successor does.
const VIRTIOFSD: &[&str] = &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];

/// What to run.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// Kernel series, as [`super::kernel::fetch`] takes it.
    pub kernel: &'a str,
    /// The command and its arguments.
    pub command: &'a [String],
    /// Where it starts.
    pub directory: &'a Path,
    /// A folder that it may write to, at its own path.
    pub share: Option<&'a Path>,
    /// How long the VM may run.
    pub timeout: Duration,
}

/// What becomes of the command's output.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Output {
    /// It is ours.
    Shown,
    /// It is kept and returned, stderr behind stdout.
    Kept,
}

/// How a VM ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// The command ended with this code.
    Exited(u8),
    /// Time was up.
    TimedOut,
    /// The VM ended before the command did.
    Died,
}

impl Outcome {
    /// The exit code that tells it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::TimedOut => 124,
            Self::Died => 125,
        }
    }
}

/// Boots `kernel` and runs the job.
///
/// # Errors
/// When the VM cannot be started.
pub(super) fn run(
    kernel: &Kernel,
    initrd: &Path,
    job: &Job<'_>,
    output: Output,
) -> Result<(Outcome, String)> {
    // Not below the workspace: the path of a socket may be 107 bytes long.
    let folder = tempfile::Builder::new().prefix("sluice-vm-").tempdir().context("making a VM's folder")?;
    let folder = folder.path();
    write_job(folder, job)?;
    let share = job.share.map(fs::canonicalize).transpose().context("finding the folder to share")?;
    let _files = FileServer::start(Path::new("/"), &folder.join("files.sock"))?;
    let _share =
        share.as_deref().map(|share| FileServer::start(share, &folder.join("share.sock"))).transpose()?;

    let mut qemu = command::command("timeout");
    qemu.args(["--foreground", "--kill-after=5", &job.timeout.as_secs().to_string(), "qemu-system-x86_64"]);
    machine(&mut qemu);
    boot(&mut qemu, kernel, initrd, folder, share.as_deref());
    devices(&mut qemu, folder, share.is_some());
    let (status, text) = match output {
        Output::Shown => (pass_through(&mut qemu)?, String::new()),
        Output::Kept => {
            let output = qemu.stdin(Stdio::null()).output().context("starting QEMU")?;
            let text = [output.stdout, output.stderr].concat();
            (output.status, String::from_utf8_lossy(&text).into_owned())
        }
    };
    let code = fs::read_to_string(folder.join("code")).ok().and_then(|code| code.trim().parse().ok());
    let outcome = match (code, status.code()) {
        (Some(code), _) => Outcome::Exited(code),
        (None, Some(124 | 137)) => Outcome::TimedOut,
        (None, _) => Outcome::Died,
    };
    if !matches!(outcome, Outcome::Exited(_)) {
        show_log(&format!("kernel {}", kernel.release), &folder.join("console"));
        show_log("virtiofsd", &folder.join("files.log"));
    }
    Ok((outcome, text))
}

/// The command as a shell script, and the script that runs it.
fn write_job(folder: &Path, job: &Job<'_>) -> Result<()> {
    let words: Vec<String> = job.command.iter().map(|word| command::quoted(word)).collect();
    let directory = command::quoted(&job.directory.to_string_lossy());
    let script = format!("cd {directory} || exit 126\nexec {}\n", words.join(" "));
    for (name, text) in [("command", script.as_str()), ("job.sh", guest::JOB)] {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// An emulated machine that every kernel boots on: each of these settings was found by a crash or a hang.
fn machine(qemu: &mut Command) {
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=single",
            "-cpu",
            "max,la57=off,cx16=off",
            "-smp",
            "2",
        ])
        .args(["-m", "1024", "-object", "memory-backend-memfd,id=memory,size=1024M,share=on"])
        .args(["-numa", "node,memdev=memory"]);
}

fn boot(qemu: &mut Command, kernel: &Kernel, initrd: &Path, folder: &Path, share: Option<&Path>) {
    let mut append = format!(
        "console=ttyS0 quiet clocksource=hpet tsc=unstable no_timer_check panic=-1 mitigations=off \
         sluice.modules={} sluice.job={}",
        kernel.modules().display(),
        folder.display()
    );
    if let Some(share) = share {
        append.push_str(&format!(" sluice.share={}", share.display()));
    }
    qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initrd).args(["-append", &append]);
}

fn devices(qemu: &mut Command, folder: &Path, has_share: bool) {
    let file = |name: &str| folder.join(name).display().to_string();
    for tag in ["files", "share"].into_iter().take(1 + usize::from(has_share)) {
        let socket = file(&format!("{tag}.sock"));
        qemu.args(["-chardev", &format!("socket,id={tag},path={socket}")]);
        qemu.args(["-device", &format!("vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024")]);
    }
    qemu.args(["-device", "virtio-serial-pci"]);
    // Appending keeps a file that our own output was sent to.
    for (name, path) in [("stdout", "/dev/stdout"), ("stderr", "/dev/stderr"), ("code", &file("code"))] {
        qemu.args(["-chardev", &format!("file,id={name},path={path},append=on")]);
        qemu.args(["-device", &format!("virtserialport,chardev={name},name={name}")]);
    }
    qemu.args(["-serial", &format!("file:{}", file("console"))]);
}

/// Runs QEMU and passes on what the guest writes.
///
/// Through pipes, because QEMU opens its output anew: in a file it would write over what others wrote.
fn pass_through(qemu: &mut Command) -> Result<ExitStatus> {
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting QEMU")?;
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    std::thread::scope(|scope| {
        let errors = scope.spawn(move || io::copy(&mut stderr, &mut io::stderr()));
        io::copy(&mut stdout, &mut io::stdout()).context("passing on the guest's output")?;
        errors.join().expect("copying does not panic").context("passing on the guest's errors")
    })?;
    child.wait().context("waiting for QEMU")
}

/// The last lines of a log, for whoever wonders why a VM ended.
fn show_log(of: &str, log: &Path) {
    const LINES: usize = 40;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("last words of {of}:");
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        eprintln!("  {line}");
    }
}

/// A virtiofsd, ended when it is dropped.
struct FileServer(Child);

impl FileServer {
    /// Serves `folder` to the VM that connects to `socket`.
    fn start(folder: &Path, socket: &Path) -> Result<Self> {
        let program =
            VIRTIOFSD.iter().map(PathBuf::from).find(|path| path.exists()).context("finding virtiofsd")?;
        // It inherits a socket that listens already: QEMU need not wait for it.
        let listener =
            UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))?;
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).context("handing a socket to virtiofsd")?;
        let log = socket.with_extension("log");
        let mut virtiofsd = command::command(&program);
        virtiofsd
            .arg(format!("--fd={}", listener.as_raw_fd()))
            .stderr(File::create(&log).with_context(|| format!("making {}", log.display()))?)
            .args([
                "-f",
                "-o",
                &format!("source={},cache=always,sandbox=chroot,log_level=err", folder.display()),
            ])
            .stdin(Stdio::null());
        Ok(Self(virtiofsd.spawn().with_context(|| format!("starting {}", program.display()))?))
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        // It ends with its VM; what is left to do is to end it when the VM never came.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
