//! `sluice monitor`: what the datapath reports, as it happens.
//!
//! The ring of events has one reader, so there is one monitor at a time. What was reported before it started is passed
//! over. New flows are reported while a deadline in `FLOW_EVENTS` lies ahead, which is moved as long as somebody asks: a monitor
//! that is killed leaves nothing behind.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use sluice_abi::{Addr, DropReason, EndpointId, Event, EventKind, Hook, Tuple};
use sluice_maps::{Maps, MapsError};

use crate::{
    clock, drops,
    names::{self, Isolation, Names, RuleName},
    output::Format,
};

/// How long new flows are reported after the last time somebody asked.
const WATCH: Duration = Duration::from_secs(3);
/// How long to wait for events before the deadline is moved.
const TURN: Duration = Duration::from_secs(1);
/// The programs' clock may be that much behind: a tick.
const TICK: Duration = Duration::from_millis(10);

/// What to tell.
#[derive(Debug, Args)]
pub(crate) struct Monitor {
    /// New flows that are let pass, too
    #[arg(long)]
    flows: bool,
    /// Only what is from or to this pod
    #[arg(long, value_name = "NAMESPACE/POD")]
    pod: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    time: Timestamp,
    /// `drop`, `would_drop` or `allowed`.
    kind: &'static str,
    /// Where the packet was seen.
    hook: Option<&'static str>,
    /// Why it was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip)]
    help: &'static str,
    /// Number of the endpoint whose policy or interface it was; 0 when none is known.
    endpoint: u32,
    /// Its namespace and name; none when unknown.
    pod: Option<String>,
    direction: &'static str,
    source: End,
    destination: End,
    protocol: String,
    len_bytes: u32,
    /// The rule that decided; none when none matched or policy did not decide.
    rule: Option<RuleName>,
    /// The policies that isolate the pod in this direction; none when policy did not decide.
    isolated_by: Isolation,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct End {
    address: IpAddr,
    /// Of an ICMP echo, its identifier.
    port: u16,
    /// Namespace and name when it is a pod of this node; `node` when it is the node itself.
    local: Option<String>,
}

/// Tells until it is interrupted, the reader goes away, or there were enough.
pub(crate) fn run(format: Format, maps: &Maps, monitor: &Monitor) -> anyhow::Result<()> {
    let mut events = maps.events()?;
    let started = clock::now().saturating_sub(TICK);
    let mut left = monitor.count.unwrap_or(u64::MAX);
    let mut out = io::stdout().lock();
    if monitor.flows {
        watch_flows(maps)?;
    }
    eprintln!("listening to this node's {}", if monitor.flows { "drops and new flows" } else { "drops" });
    while left > 0 {
        await_readable(events.as_raw_fd(), TURN).context("waiting for events")?;
        if monitor.flows {
            watch_flows(maps)?;
        }
        while left > 0
            && let Some(event) = events.next()
        {
            if Duration::from_nanos(event.at_ns) < started {
                continue;
            }
            let row = row(maps, &event)?;
            if monitor.pod.as_ref().is_none_or(|pod| row.is_about(pod)) {
                print(&mut out, format, &row)?;
                left -= 1;
            }
        }
        out.flush()?;
    }
    Ok(())
}

/// Has new flows reported for a while.
fn watch_flows(maps: &Maps) -> anyhow::Result<()> {
    let until = clock::now() + WATCH;
    Ok(maps.flow_events.put(0, &u64::try_from(until.as_nanos()).context("a time")?)?)
}

/// Waits until the descriptor is readable, or for so long.
fn await_readable(fd: RawFd, limit: Duration) -> io::Result<()> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one descriptor, as said.
    let result = unsafe { libc::poll(&raw mut poll, 1, limit) };
    let error = io::Error::last_os_error();
    if result >= 0 || error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

fn row(maps: &Maps, event: &Event) -> Result<Row, MapsError> {
    let (names, reason) = (Names(maps), DropReason::from_number(event.reason));
    let Tuple { src, src_port, dst, dst_port, protocol, .. } = event.tuple;
    let end = |addr: Addr, port| {
        Ok::<_, MapsError>(End {
            address: addr.into(),
            port: u16::from_be_bytes(port),
            local: names.local(&addr)?,
        })
    };
    let ago = clock::now().saturating_sub(Duration::from_nanos(event.at_ns));
    Ok(Row {
        time: Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN),
        kind: match EventKind::from_number(event.kind) {
            Some(EventKind::Drop) => "drop",
            Some(EventKind::WouldDrop) => "would_drop",
            Some(EventKind::Allowed) => "allowed",
            None => "unknown",
        },
        hook: Hook::from_number(event.hook).map(Hook::name),
        reason: reason.map(DropReason::name),
        help: reason.map_or("policy is not asked", DropReason::help),
        endpoint: event.endpoint.0,
        pod: if event.endpoint == EndpointId::HOST { None } else { names.pod(event.endpoint)? },
        direction: names::direction(event.direction),
        source: end(src, src_port)?,
        destination: end(dst, dst_port)?,
        protocol: names::protocol(protocol),
        len_bytes: event.len_bytes,
        rule: names.rule(event.rule)?,
        isolated_by: names.isolation(event.rule_set)?,
    })
}

impl Row {
    fn is_about(&self, pod: &str) -> bool {
        [&self.pod, &self.source.local, &self.destination.local].into_iter().flatten().any(|name| name == pod)
    }
}

fn print(out: &mut impl Write, format: Format, row: &Row) -> io::Result<()> {
    match format {
        Format::Json => {
            serde_json::to_writer(&mut *out, row)?;
            writeln!(out)
        }
        Format::Table => {
            let because = drops::because(row.rule.as_ref(), &row.isolated_by, row.help);
            writeln!(
                out,
                "{:.3} {:<10} {} -> {} {:<6} {} of {}: {}{because}",
                row.time,
                row.kind,
                text(&row.source),
                text(&row.destination),
                row.protocol,
                row.direction,
                row.pod.as_deref().unwrap_or("the node"),
                row.reason.map(|reason| format!("{reason}: ")).unwrap_or_default(),
            )
        }
    }
}

fn text(end: &End) -> String {
    let at = SocketAddr::new(end.address, end.port);
    end.local.as_ref().map_or_else(|| at.to_string(), |local| format!("{at} ({local})"))
}
