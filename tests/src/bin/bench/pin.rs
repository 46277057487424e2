//! Keeping a thread on one CPU.

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Keeps the calling thread on the last CPU that it may use: the first one has most interrupts.
pub(crate) fn to_one_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("reading this thread's CPUs")?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("a thread that may run somewhere")?).context("choosing a CPU")?;
    sched_setaffinity(this, &one).context("keeping this thread on one CPU")
}
