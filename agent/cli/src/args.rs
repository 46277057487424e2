//! What can be typed, and who answers it.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use sluice_abi::protocol;
use sluice_maps::Maps;

use crate::{
    bpf, conntrack, drops, endpoints, ipcache, monitor, offline,
    output::{self, Format},
    policy,
    services::{self, trace::Question},
    status,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  answered
  1  no answer: the error says what could not be read (status: an answer, but no datapath is pinned)
  2  the command line is wrong";

/// Asks what Sluice's datapath on this node does, and why. Works with the agent dead; needs root, but for what reads files.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Form of the answer
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Where the bpf file system with the pinned maps is mounted
    #[arg(long, global = true, value_name = "PATH", env = "SLUICE_BPFFS", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is parsed once")]
enum Command {
    /// Whether a datapath is in place, how full its maps are, whether the agent answers
    Status {
        /// The agent's socket
        #[arg(long, value_name = "PATH", env = "SLUICE_SOCKET", default_value = "/run/sluice/agent.sock")]
        socket: PathBuf,
    },
    /// Pods of this node: addresses, interface, rule sets
    Endpoints,
    /// Service addresses and their backends
    Services {
        #[command(subcommand)]
        command: Option<Services>,
    },
    /// Policies: those in force, and those in files
    #[command(subcommand)]
    Policy(Policy),
    /// Flows: who opened them, state, age, and the rules that let them pass
    Conntrack,
    /// Which peer identity each address has
    Ipcache,
    /// Recent drops and what caused them
    Drops {
        /// Totals by reason since the maps were made, instead of records
        #[arg(long)]
        counters: bool,
    },
    /// Drops as they happen and, if asked for, new flows that are let pass, with the rule: until interrupted
    ///
    /// Drops that look alike are told of once in an eighth of a second; `sluice drops` counts them all. With `-o json` each event is a
    /// line. One process can listen at a time.
    Monitor(monitor::Monitor),
    /// What is pinned
    #[command(subcommand)]
    Bpf(Bpf),
}

#[derive(Debug, Subcommand)]
enum Services {
    /// What becomes of a flow for a Service: which frontend it meets, which backends it can get, and why
    Trace {
        /// Who opens it: a pod of this node, an address, or "node" for its own processes
        #[arg(long, value_name = "NAMESPACE/POD|ADDRESS|node")]
        from: String,
        /// What it is for
        #[arg(long, value_name = "ADDRESS:PORT")]
        to: SocketAddr,
        /// Its protocol
        #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
        protocol: Protocol,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Sctp => protocol::SCTP,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Policy {
    /// The policies in force and the pods they isolate
    List,
    /// The compiled rules, as the kernel sees them
    Dump {
        /// Only what applies to this pod
        #[arg(long, value_name = "NAMESPACE/POD")]
        pod: Option<String>,
    },
    /// What audited policies (`sluice.dev/mode: audit`) would have dropped: policy, pod, peer and port, and why
    Audit,
    /// Whether a flow passes, by policies in files: no cluster, no root
    Check(offline::Flow),
    /// Why it passes or does not: the rule that decides, else the one that comes closest
    Explain(offline::Flow),
    /// Who reaches whom on one port
    Matrix(offline::Cells),
    /// What is likely wrong with policies: selectors and ports that nobody has, DNS cut, rules that add nothing
    Lint(offline::lint::Lint),
    /// Whose verdict changes between two sets of objects
    Diff(offline::diff::Diff),
}

#[derive(Debug, Subcommand)]
enum Bpf {
    /// The maps: shape, capacity, entries in use
    Maps,
}

/// Answers the command on standard output.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let format = args.output;
    let maps = || Maps::open(&args.bpffs);
    match &args.command {
        Command::Status { socket } => {
            let answer = status::answer(&args.bpffs, socket);
            output::print(format, &answer)?;
            return Ok(if answer.has_datapath() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Endpoints => output::print(format, &endpoints::answer(&maps()?)?)?,
        Command::Services { command: None } => output::print(format, &services::answer(&maps()?)?)?,
        Command::Services { command: Some(Services::Trace { from, to, protocol }) } => {
            let question = Question { from, to: *to, protocol: protocol.number() };
            output::print(format, &services::trace::answer(&maps()?, &question)?)?;
        }
        Command::Policy(Policy::List) => output::print(format, &policy::list::answer(&maps()?)?)?,
        Command::Policy(Policy::Dump { pod }) => {
            output::print(format, &policy::dump::answer(&maps()?, pod.as_deref())?)?;
        }
        Command::Policy(Policy::Audit) => output::print(format, &policy::audit::answer(&maps()?)?)?,
        Command::Policy(Policy::Check(flow)) => return offline::check(format, flow),
        Command::Policy(Policy::Explain(flow)) => return offline::explain(format, flow),
        Command::Policy(Policy::Matrix(cells)) => return offline::cells(format, cells),
        Command::Policy(Policy::Lint(lint)) => return offline::lint::run(format, lint),
        Command::Policy(Policy::Diff(diff)) => return offline::diff::run(format, diff),
        Command::Conntrack => output::print(format, &conntrack::answer(&maps()?)?)?,
        Command::Ipcache => output::print(format, &ipcache::answer(&maps()?)?)?,
        Command::Drops { counters: false } => output::print(format, &drops::records(&maps()?)?)?,
        Command::Drops { counters: true } => output::print(format, &drops::counters(&maps()?)?)?,
        Command::Monitor(monitor) => monitor::run(format, &maps()?, monitor)?,
        Command::Bpf(Bpf::Maps) => output::print(format, &bpf::maps(&args.bpffs)?)?,
    }
    Ok(ExitCode::SUCCESS)
}
