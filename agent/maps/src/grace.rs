//! Waiting until no program still uses what was removed.

use std::os::fd::{AsFd, AsRawFd};

use crate::{MapsError, syscall};

/// Waits until every program run that began before this call has ended.
///
/// Replacing the map in an array of maps is the one map operation that the kernel ends with an RCU grace period, for
/// just this purpose (`maybe_wait_bpf_programs` in `kernel/bpf/syscall.c`; sleepable programs apart, and ours are not).
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` is no substitute: it skips the grace period on one CPU, where a cgroup program
/// can be preempted, and is refused with `nohz_full` (`kernel/sched/membarrier.c`).
///
/// # Errors
/// [`MapsError::Grace`] when the kernel makes no such map (it needs `CAP_BPF`).
pub fn grace_period() -> Result<(), MapsError> {
    let refused = |source| MapsError::Grace { source };
    let inner = syscall::create_single(None).map_err(refused)?;
    let outer = syscall::create_single(Some(inner.as_fd())).map_err(refused)?;
    let value = inner.as_raw_fd().to_ne_bytes();
    syscall::update(outer.as_fd(), &0u32.to_ne_bytes(), &value).map_err(refused)
}
