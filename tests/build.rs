//! Tells the benchmarks where the object is that `agent/build.rs` has built for them.

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=build.rs");
    let Some(objects) = env::var_os("DEP_SLUICE_EBPF_OBJECTS") else {
        eprintln!("error: the build script of sluice-agent has not said where its objects are");
        return ExitCode::FAILURE;
    };
    println!("cargo:rustc-env=SLUICE_BENCH_OBJECT={}", Path::new(&objects).join("sluice-bench").display());
    ExitCode::SUCCESS
}
