//! The CNI binary: environment and stdin in, JSON out; for an error also one line of words on stderr.

use std::{
    env,
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use serde_json::Value;
use sluice_cni::{
    command,
    error::Failure,
    request::{Environment, Request, Version},
    result,
};

fn main() -> ExitCode {
    let env: Environment =
        env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
    let (answer, failed) = match call(&env) {
        Ok(answer) => (answer, false),
        Err((version, failure)) => {
            let causes = result::causes(&failure);
            let separator = if causes.is_empty() { "" } else { ": " };
            eprintln!("{}: {failure}{separator}{causes}", subject(&env));
            (Some(result::failure(version, failure.code(), &failure)), true)
        }
    };
    let written = answer.map_or(Ok(()), |json| writeln!(io::stdout(), "{json}"));
    if failed || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn call(env: &Environment) -> Result<Option<Value>, (Version, Failure)> {
    let mut stdin = Vec::new();
    let read = io::stdin().read_to_end(&mut stdin).map_err(|source| Failure::Stdin { source });
    let request = read.and_then(|_| Ok(Request::parse(env, &stdin)?));
    let request = request.map_err(|failure| (Version::LATEST, failure))?;
    command::run(&request).map_err(|failure| (request.version(), failure))
}

/// `ADD 5f3c…/eth0`, as far as the runtime said it.
fn subject(env: &Environment) -> String {
    let value = |name: &str| env.get(name).map(|value| value.to_string_lossy().into_owned());
    let names = [value("CNI_CONTAINERID"), value("CNI_IFNAME")].into_iter().flatten().collect::<Vec<_>>();
    format!("{} {}", value("CNI_COMMAND").unwrap_or_default(), names.join("/")).trim().to_owned()
}
