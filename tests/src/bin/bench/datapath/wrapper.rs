//! The programs of `ebpf/src/bench.rs`.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRunOptions},
};
use sluice_tests::lab::{self, Action};

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
}

/// The loaded wrapper.
pub(super) struct Wrapper {
    ebpf: Ebpf,
    nothing: ProgramFd,
}

impl Wrapper {
    pub(super) fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT).context("loading the wrapper")?;
        for name in ["same", "fresh", "nothing"] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context(name)?.try_into().context(name)?;
            program.load().with_context(|| format!("loading the program {name}"))?;
        }
        let nothing = program(&ebpf, "nothing")?.fd().context("a loaded program")?;
        let nothing = nothing.try_clone().context("duplicating a program's file")?;
        Ok(Self { ebpf, nothing })
    }

    /// Says what is to be called, on which packet.
    pub(super) fn prepare(&mut self, target: Target<'_>, packet: &[u8]) -> Result<()> {
        let headers = packet.first_chunk::<HEADERS_LEN>().context("a packet as long as its headers")?;
        let map = self.ebpf.map_mut("HEADERS").context("the map HEADERS")?;
        Array::<_, [u8; HEADERS_LEN]>::try_from(map)?.set(0, *headers, 0).context("setting the packet")?;
        let program = match target {
            Target::Nothing => &self.nothing,
            Target::Hook(hook) => hook.fd().context("a loaded hook")?,
        };
        let map = self.ebpf.map_mut("TARGET").context("the map TARGET")?;
        ProgramArray::try_from(map)?.set(0, program, 0).context("setting the program to call")
    }

    /// Nanoseconds per packet of the wrapper with what was prepared; checks what `target` has answered.
    pub(super) fn run(&self, case: &Case, target: Target<'_>, repeat: u32) -> Result<f64> {
        let name = match case.packets {
            Packets::Same => "same",
            Packets::Fresh => "fresh",
        };
        let (ns, action) = run(program(&self.ebpf, name)?, case, repeat)?;
        let wanted = match target {
            Target::Nothing => Action::Stack,
            Target::Hook(_) => case.action,
        };
        ensure!(action == wanted, "{}: {action:?} instead of {wanted:?}", case.name);
        Ok(ns)
    }

    /// Nanoseconds per packet of the program that does nothing, without wrapper.
    pub(super) fn run_nothing(&self, case: &Case, repeat: u32) -> Result<f64> {
        Ok(run(program(&self.ebpf, "nothing")?, case, repeat)?.0)
    }
}

fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a SchedClassifier> {
    ebpf.program(name).with_context(|| format!("the program {name}"))?.try_into().context("a tc program")
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
