//! `cargo xtask vm`: runs a command on another kernel.
//!
//! The guest sees this machine's file system, read-only under an overlay in memory, so whatever was built here runs
//! there: [`kernel`] fetches and unpacks Debian's kernels, [`guest`] prepares what the guest starts with, [`qemu`] runs
//! one VM. QEMU emulates the processor: a `/dev/kvm` may be there and still not work.

mod guest;
mod kernel;
mod qemu;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, bail};

pub(crate) use qemu::{Job, Outcome, Output};

use crate::{command, setup};

/// Kernels that `cargo xtask test` tries: the oldest supported one, the long-term ones, the newest.
pub(crate) const KERNELS: &[&str] = &["5.10", "6.1", "6.12", kernel::NEWEST];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernel series (5.10, 6.1, 6.12, …), or `newest`. May be given more than once.
    #[arg(long, required = true)]
    kernel: Vec<String>,
    /// A folder that the command may write to, at its own path.
    #[arg(long)]
    share: Option<PathBuf>,
    /// Seconds until a VM is ended.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command on each kernel, and exits as the first that did not succeed: with its exit code, 124 when time was
/// up, 125 when the VM died twice.
///
/// # Errors
/// When a kernel cannot be had or a VM not started.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::packages()?;
    let mut code = ExitCode::SUCCESS;
    let mut has_failed = false;
    for kernel in &args.kernel {
        if args.kernel.len() > 1 {
            println!("== {kernel}");
        }
        let job = Job {
            kernel,
            command: &args.command,
            directory: &std::env::current_dir()?,
            share: args.share.as_deref(),
            timeout: Duration::from_secs(args.timeout),
        };
        let (outcome, _) = boot(&job, Output::Shown)?;
        if !has_failed && outcome != Outcome::Exited(0) {
            has_failed = true;
            code = ExitCode::from(outcome.code());
        }
    }
    Ok(code)
}

/// Runs one command on one kernel; a VM that dies under it is started once more.
///
/// # Errors
/// When the kernel cannot be had or the VM not started.
pub(crate) fn boot(job: &Job<'_>, output: Output) -> Result<(Outcome, String)> {
    if !command::is_root() {
        bail!("sharing this machine's files with a VM needs root");
    }
    let kernel = kernel::fetch(job.kernel)?;
    let initrd = guest::initrd(&kernel)?;
    let first = qemu::run(&kernel, &initrd, job, output)?;
    if first.0 != Outcome::Died {
        return Ok(first);
    }
    eprintln!("the VM of kernel {} died; starting it once more", kernel.release);
    qemu::run(&kernel, &initrd, job, output)
}
