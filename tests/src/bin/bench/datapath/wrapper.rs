//! The programs of `ebpf/src/bench.rs`.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, ProgramArray},
    programs::{ProgramError, ProgramFd, SchedClassifier, TestRunOptions, Xdp},
};
use sluice_tests::lab::{self, Action, XdpAction};

use super::cases::{Case, Packets};

/// Built by `agent/build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SLUICE_BENCH_OBJECT"));

/// Bytes of a packet that the wrapper makes whole.
const HEADERS_LEN: usize = 72;

/// What the wrapper calls.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Nothing,
    Hook(&'a SchedClassifier),
    NothingInXdp,
    Xdp(&'a Xdp),
}

/// The loaded wrapper.
pub(super) struct Wrapper {
    ebpf: Ebpf,
    nothing: ProgramFd,
    nothing_in_xdp: ProgramFd,
}

impl Wrapper {
    pub(super) fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT).context("loading the wrapper")?;
        for name in ["same", "fresh", "nothing"] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context(name)?.try_into().context(name)?;
            program.load().with_context(|| format!("loading the program {name}"))?;
        }
        for name in ["same_xdp", "nothing_xdp"] {
            let program: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into().context(name)?;
            program.load().with_context(|| format!("loading the program {name}"))?;
        }
        let file = |fd: Result<&ProgramFd, ProgramError>| {
            fd.context("a loaded program")?.try_clone().context("duplicating a program's file")
        };
        let nothing = file(program(&ebpf, "nothing")?.fd())?;
        let nothing_in_xdp = file(program_in_xdp(&ebpf, "nothing_xdp")?.fd())?;
        Ok(Self { ebpf, nothing, nothing_in_xdp })
    }

    /// Says what is to be called, on which packet.
    pub(super) fn prepare(&mut self, target: Target<'_>, packet: &[u8]) -> Result<()> {
        let headers = packet.first_chunk::<HEADERS_LEN>().context("a packet as long as its headers")?;
        let map = self.ebpf.map_mut("HEADERS").context("the map HEADERS")?;
        Array::<_, [u8; HEADERS_LEN]>::try_from(map)?.set(0, *headers, 0).context("setting the packet")?;
        let (name, program) = match target {
            Target::Nothing => ("TARGET", &self.nothing),
            Target::Hook(hook) => ("TARGET", hook.fd().context("a loaded hook")?),
            Target::NothingInXdp => ("TARGET_XDP", &self.nothing_in_xdp),
            Target::Xdp(program) => ("TARGET_XDP", program.fd().context("a loaded program")?),
        };
        let map = self.ebpf.map_mut(name).with_context(|| format!("the map {name}"))?;
        ProgramArray::try_from(map)?.set(0, program, 0).context("setting the program to call")
    }

    /// Nanoseconds per packet of the wrapper with what was prepared; checks what `target` has answered.
    pub(super) fn run(&self, case: &Case, target: Target<'_>, repeat: u32) -> Result<f64> {
        let name = match case.packets {
            Packets::Same => "same",
            Packets::Fresh => "fresh",
        };
        let wanted = match target {
            Target::Nothing => Action::Stack,
            Target::Hook(_) => case.action,
            Target::NothingInXdp | Target::Xdp(_) => return self.run_xdp(case, target, repeat),
        };
        let (ns, action) = run(program(&self.ebpf, name)?, case, repeat)?;
        ensure!(action == wanted, "{}: {action:?} instead of {wanted:?}", case.name);
        Ok(ns)
    }

    fn run_xdp(&self, case: &Case, target: Target<'_>, repeat: u32) -> Result<f64> {
        let context = lab::xdp_context(case.ifindex, case.packet.len());
        let options = TestRunOptions {
            data_in: Some(&case.packet),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let program = program_in_xdp(&self.ebpf, "same_xdp")?;
        let result = program.test_run(options).with_context(|| format!("running {}", case.name))?;
        let is_nothing = matches!(target, Target::NothingInXdp);
        let wanted = if is_nothing { XdpAction::Pass } else { XdpAction::Turn };
        let action = lab::xdp_action(result.return_value);
        ensure!(action == Some(wanted), "{}: {action:?} instead of {wanted:?}", case.name);
        Ok(result.duration.as_nanos() as f64)
    }

    /// Nanoseconds per packet of the program that does nothing, without wrapper.
    pub(super) fn run_nothing(&self, case: &Case, repeat: u32) -> Result<f64> {
        Ok(run(program(&self.ebpf, "nothing")?, case, repeat)?.0)
    }
}

fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a SchedClassifier> {
    ebpf.program(name).with_context(|| format!("the program {name}"))?.try_into().context("a tc program")
}

fn program_in_xdp<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    ebpf.program(name).with_context(|| format!("the program {name}"))?.try_into().context("a program of XDP")
}

fn run(program: &SchedClassifier, case: &Case, repeat: u32) -> Result<(f64, Action)> {
    let context = lab::context(case.ifindex);
    let options = TestRunOptions {
        data_in: Some(&case.packet),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).with_context(|| format!("running {}", case.name))?;
    let action = lab::action(result.return_value).with_context(|| format!("running {}", case.name))?;
    Ok((result.duration.as_nanos() as f64, action))
}
