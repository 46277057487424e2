//! The node agent: parse, start logging, run.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;
use sluice_agent::{
    causes::Causes,
    cleanup::cleanup,
    config::Task,
    install::install,
    options::{Args, LogFormat},
    run::{pause, run},
};
use tracing::error;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<ExitCode> {
    forget_empty_variables();
    let args = Args::parse();
    start_log(args.options.log_format, &args.options.log_level)?;
    let task = Task::try_from(args)?;
    // One thread is enough for what an idle node asks, and small.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    match task {
        Task::Install(installation) => {
            install(&installation)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Run(config) => runtime.block_on(run(*config)).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Task::Pause => runtime.block_on(pause()).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Task::Cleanup(paths) => {
            let left = runtime.block_on(cleanup(&paths));
            for cause in &left {
                error!(error = %Causes(cause), "not removed");
            }
            Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// An empty `SLUICE_…` variable, which templates like to leave, is none.
fn forget_empty_variables() {
    let is_empty = |(name, value): &(OsString, OsString)| {
        value.is_empty() && name.as_encoded_bytes().starts_with(b"SLUICE_")
    };
    for (name, _) in env::vars_os().filter(is_empty).collect::<Vec<_>>() {
        // SAFETY: there is no other thread yet that could read the environment.
        unsafe { env::remove_var(name) };
    }
}

/// Logs go to standard error: standard output is for data.
fn start_log(format: LogFormat, level: &str) -> Result<()> {
    // What the client's library says, the agent says in its own words, once; a filter that names it has the last word.
    let filter = EnvFilter::try_new(format!("kube_client=off,kube_runtime=off,{level}"))
        .with_context(|| format!("--log-level {level:?}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
