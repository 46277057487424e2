//! `sluice policy check`, `explain`, `matrix`, `lint` and `diff`: policies tried before they bite.
//!
//! They read objects from files and ask [`sluice_core`]; no cluster, no kernel, no root. Each command has a file with its
//! words; the answers' structs are the core's, and their JSON keys are API.
//!
//! **Invariant: three exit codes**, as those of `diff(1)`: 0 for yes, 1 for no, 2 for no answer.

mod explain;
mod input;
mod matrix;

pub(crate) mod diff;
pub(crate) mod lint;

use std::{net::IpAddr, path::PathBuf, process::ExitCode, str::FromStr};

use anyhow::bail;
use clap::{Args, ValueEnum};
use sluice_core::{
    explain::{Party, Port, Protocol, Question, Word},
    matrix::matrix,
    object::NamespacedName,
};

use self::input::{Reading, warn_of_doubts};
use crate::output::{self, Format};

const CHECK_EXIT_CODES: &str = "\
Exit codes:
  0  the flow is allowed
  1  it is denied
  2  no answer: the command line or a file is wrong, or there is no such pod, port or Service";

const MATRIX_EXIT_CODES: &str = "\
Exit codes:
  0  answered
  2  no answer: the command line or a file is wrong";

/// What all commands but `diff` read.
#[derive(Clone, Debug, Args)]
pub(crate) struct Input {
    /// A file, a folder or - for standard input: YAML or JSON of Kubernetes, any number of documents, Lists too
    #[arg(short, long, required = true, value_name = "PATH")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
}

/// A flow to ask about.
#[derive(Clone, Debug, Args)]
#[command(after_help = CHECK_EXIT_CODES)]
pub(crate) struct Flow {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    target: Target,
}

/// Who opens a flow.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The pod that opens it
    #[arg(long, value_name = "NAMESPACE/POD", value_parser = named)]
    from: Option<NamespacedName>,
    /// The address that opens it, instead of a pod
    #[arg(long, value_name = "ADDRESS")]
    from_ip: Option<IpAddr>,
}

/// Whom a flow is for.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Destination {
    /// The pod it is for
    #[arg(long, value_name = "NAMESPACE/POD", value_parser = named)]
    to: Option<NamespacedName>,
    /// The address it is for, instead of a pod
    #[arg(long, value_name = "ADDRESS")]
    to_ip: Option<IpAddr>,
    /// The Service it is for; --port is one of the Service's own, and every pod behind it has to be reached
    #[arg(long, value_name = "NAMESPACE/SERVICE", value_parser = named)]
    to_service: Option<NamespacedName>,
}

/// Protocol and port to ask about.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// The destination port: a number, or a name that the destination gives to one; needed for all but ICMP
    #[arg(long, value_name = "PORT", value_parser = port)]
    port: Option<Port>,
    /// The protocol
    #[arg(long, value_enum, ignore_case = true, default_value_t = Spelled::Tcp)]
    protocol: Spelled,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Spelled {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// What to put into a matrix.
#[derive(Clone, Debug, Args)]
#[command(after_help = MATRIX_EXIT_CODES)]
pub(crate) struct Cells {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    target: Target,
}

/// Answers, or says why not; the code of no answer is 2.
fn answered(answer: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    answer.or_else(|error| {
        if output::is_broken_pipe(&error) {
            return Err(error);
        }
        eprintln!("sluice: {error:#}");
        Ok(ExitCode::from(2))
    })
}

/// `sluice policy check`: whether a flow passes.
pub(crate) fn check(format: Format, flow: &Flow) -> anyhow::Result<ExitCode> {
    answered(flow.answer().and_then(|answer| {
        output::print(format, &explain::Short(&answer))?;
        Ok(code(answer.verdict == Word::Allow))
    }))
}

/// `sluice policy explain`: why.
pub(crate) fn explain(format: Format, flow: &Flow) -> anyhow::Result<ExitCode> {
    answered(flow.answer().and_then(|answer| {
        output::print(format, &explain::Long(&answer))?;
        Ok(code(answer.verdict == Word::Allow))
    }))
}

/// `sluice policy matrix`: who reaches whom.
pub(crate) fn cells(format: Format, cells: &Cells) -> anyhow::Result<ExitCode> {
    let answer = || {
        let world = cells.input.reading.world(&cells.input.filename, &mut cells.input.reading.assumed())?;
        warn_of_doubts(&world);
        let (protocol, port) = cells.target.read()?;
        let matrix = matrix(&world, protocol, &port);
        output::print(format, &matrix::Shown::new(&matrix, protocol, &port))?;
        Ok(ExitCode::SUCCESS)
    };
    answered(answer())
}

fn code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

impl Flow {
    fn answer(&self) -> anyhow::Result<sluice_core::explain::Explanation> {
        let reading = &self.input.reading;
        let world = reading.world(&self.input.filename, &mut reading.assumed())?;
        warn_of_doubts(&world);
        let party = |pod: &Option<NamespacedName>, address: Option<IpAddr>| {
            pod.clone().map(Party::Pod).or(address.map(Party::Address))
        };
        let (source, destination) = (&self.source, &self.destination);
        let to = party(&destination.to, destination.to_ip)
            .or_else(|| destination.to_service.clone().map(Party::Service));
        let (protocol, port) = self.target.read()?;
        let question = Question {
            from: party(&source.from, source.from_ip).expect("one of the group is required"),
            to: to.expect("one of the group is required"),
            protocol,
            port,
        };
        Ok(sluice_core::explain::explain(&world, &question)?)
    }
}

impl Target {
    fn read(&self) -> anyhow::Result<(Protocol, Port)> {
        let protocol = match self.protocol {
            Spelled::Tcp => Protocol::Tcp,
            Spelled::Udp => Protocol::Udp,
            Spelled::Sctp => Protocol::Sctp,
            Spelled::Icmp => Protocol::Icmp,
        };
        match &self.port {
            Some(port) if protocol.has_ports() => Ok((protocol, port.clone())),
            Some(_) => bail!("{} has no ports: --port makes no sense", protocol.name()),
            None if protocol.has_ports() => bail!("--port is needed with {}", protocol.name()),
            None => Ok((protocol, Port::Number(0))),
        }
    }
}

fn named(text: &str) -> Result<NamespacedName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(NamespacedName::new(namespace, name))
        }
        _ => Err("a namespace and a name are wanted, with a slash between them".to_owned()),
    }
}

fn port(text: &str) -> Result<Port, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = u16::from_str(text).ok().filter(|number| *number != 0);
        return number.map(Port::Number).ok_or_else(|| "ports are 1 to 65535".to_owned());
    }
    Ok(Port::Named(text.to_owned()))
}
