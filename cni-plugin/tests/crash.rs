//! The plugin is killed at every step that changes something, and whoever calls next finds nothing left behind.
//!
//! The steps are found from outside: the binary runs under ptrace and gets SIGKILL when it enters its n-th system call
//! that can change anything, for every n until it comes to its end.

mod lab;

use std::{io::Write as _, os::unix::process::CommandExt as _, process::Command};

use lab::{Namespace, Node, addresses, echo};
use nix::{
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde_json::{Value, json};

/// System calls that can change something outside of the process.
const CHANGES: &[i64] = &[
    nix::libc::SYS_sendto,
    nix::libc::SYS_write,
    nix::libc::SYS_openat,
    nix::libc::SYS_flock,
    nix::libc::SYS_setns,
    nix::libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    nix::libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    nix::libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    nix::libc::SYS_mkdir,
    #[cfg(not(target_arch = "x86_64"))]
    nix::libc::SYS_renameat,
    #[cfg(not(target_arch = "x86_64"))]
    nix::libc::SYS_mkdirat,
];

/// Runs a call and kills it on entry to its `nth` change; returns whether it lived to see it.
#[expect(clippy::zombie_processes, reason = "the loop reaps it, by waitpid")]
fn killed_at(mut command: Command, config: &Value, nth: usize) -> bool {
    // SAFETY: ptrace(PTRACE_TRACEME) is one system call: nothing that a fork of a threaded process must not do.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let mut child = command.spawn().expect("the plugin");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(config.to_string().as_bytes()).expect("a configuration smaller than a pipe");
    drop(stdin);
    let main = Pid::from_raw(child.id().cast_signed());
    waitpid(main, None).expect("the stop after exec");
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(main, options).expect("a tracee");
    ptrace::syscall(main, None).expect("a tracee");
    // Only children of this thread: other tests of this process have theirs.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    let (mut seen, mut killed) = (0, false);
    loop {
        let (thread, signal) = match waitpid(Pid::from_raw(-1), Some(flags)).expect("a tracee") {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == main => return killed,
            WaitStatus::PtraceSyscall(thread) => {
                seen += usize::from(!killed && enters_change(thread));
                if seen == nth && !killed {
                    kill(main, Signal::SIGKILL).expect("the plugin");
                    killed = true;
                }
                (thread, None)
            }
            // A new thread's first stop is not a signal to pass on.
            WaitStatus::Stopped(thread, Signal::SIGSTOP) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            WaitStatus::Exited(..)
            | WaitStatus::Signaled(..)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive => continue,
        };
        // Fails for a thread that SIGKILL has reached already.
        let _ = ptrace::syscall(thread, signal);
    }
}

fn enters_change(thread: Pid) -> bool {
    let Ok(info) = ptrace::syscall_info(thread) else { return false };
    // SAFETY: `op` says that `entry` is the member of the union which the kernel filled in.
    info.op == nix::libc::PTRACE_SYSCALL_INFO_ENTRY
        && CHANGES.contains(&unsafe { info.u.entry.nr }.cast_signed())
}

fn node() -> Node {
    let mut node = Node::new();
    node.config["ipam"]["quarantineSeconds"] = json!(0);
    node
}

/// Calls `ADD`, killed at every step in turn, and `then` after each.
fn for_every_step_of_add(then: impl Fn(&Node, &Namespace, &str)) {
    let node = node();
    let before = node.netns.contents();
    let mut steps = 0;
    for nth in 1.. {
        let pod = Namespace::new();
        let path = pod.path().display().to_string();
        let killed = killed_at(node.plugin("ADD", "c1", Some(&path)), &node.config, nth);
        let step = format!("step {nth}");
        then(&node, &pod, &step);
        node.call("DEL", "c1", Some(&pod)).expect_success();
        assert_eq!(node.netns.contents(), before, "{step}");
        assert_eq!(node.leased(), Vec::<String>::new(), "{step}");
        assert!(!pod.ip("-o link").contains("eth0"), "{step}");
        if !killed {
            break;
        }
        steps = nth;
    }
    assert!(steps > 20, "only {steps} steps were found");
}

#[test]
fn an_add_killed_anywhere_is_cleaned_by_del() {
    for_every_step_of_add(|node, pod, step| {
        assert!(node.leased().len() <= 2, "{step}");
        node.call("DEL", "c1", Some(pod)).expect_success();
        assert_eq!(node.leased(), Vec::<String>::new(), "{step}");
    });
}

#[test]
fn an_add_killed_anywhere_is_replaced_or_reported_by_the_next_add() {
    for_every_step_of_add(|node, pod, step| {
        let held = node.leased();
        let answer = node.call("ADD", "c1", Some(pod));
        let after = node.leased();
        assert!(
            held.iter().all(|lease| after.contains(lease)),
            "{step}: the lease is kept: {held:?}, {after:?}"
        );
        assert_eq!(after.len(), 2, "{step}: {after:?}");
        if answer.success {
            for addr in addresses(&answer.json) {
                echo(&node.netns, pod, addr).unwrap_or_else(|error| panic!("{step}: {addr}: {error}"));
            }
        } else {
            assert_eq!(answer.code(), 102, "{step}: only links that are up already stand in the way");
        }
    });
}

#[test]
fn an_add_killed_anywhere_is_cleaned_by_garbage_collection() {
    for_every_step_of_add(|node, _, step| {
        let mut gc = node.config.clone();
        gc["cni.dev/valid-attachments"] = json!([]);
        node.call_with(&gc, "GC", "", None).expect_success();
        assert_eq!(node.leased(), Vec::<String>::new(), "{step}");
        assert!(!node.netns.ip("-o link").contains(": sl"), "{step}");
    });
}

#[test]
fn a_del_killed_anywhere_is_finished_by_the_next() {
    let node = node();
    let before = node.netns.contents();
    for nth in 1.. {
        let pod = Namespace::new();
        node.call("ADD", "c1", Some(&pod)).expect_success();
        let killed = killed_at(node.plugin("DEL", "c1", None), &node.config, nth);
        node.call("DEL", "c1", None).expect_success();
        assert_eq!(node.netns.contents(), before, "step {nth}");
        assert_eq!(node.leased(), Vec::<String>::new(), "step {nth}");
        if !killed {
            break;
        }
    }
}
