//! The commands, one module each; [`run`] chooses.

mod add;
mod check;
mod remove;
mod status;

use serde_json::Value;

use crate::{
    error::Failure,
    request::{Command, Request},
    result,
};

/// Carries out a request; `Some` is what belongs on stdout.
///
/// # Errors
/// [`Failure`] of the command.
pub fn run(request: &Request) -> Result<Option<Value>, Failure> {
    let (version, network, command) = match request {
        Request::Version { asked } => return Ok(Some(result::versions(asked))),
        Request::Network { version, network, command } => (version, network, command),
    };
    match command {
        Command::Add { attachment, netns } => {
            let success = add::run(network, attachment, netns)?;
            return Ok(Some(success.to_json(*version)));
        }
        Command::Del { attachment } => remove::del(network, attachment)?,
        Command::Check { attachment, netns } => check::run(network, attachment, netns)?,
        Command::Gc { valid } => remove::gc(network, valid)?,
        Command::Status => status::run(network)?,
    }
    Ok(None)
}
