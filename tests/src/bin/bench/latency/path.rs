//! A client and a server thread, and what one round between them took.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use sluice_tests::topology::namespace::Netns;

use super::Budgets;
use crate::{pin, spread::quantile};

/// Round trips in a round.
const RR: usize = 2000;
const CRR: usize = 250;
/// Longer than any round trip.
const LIMIT: Duration = Duration::from_secs(20);

/// Threads that answer bytes until this process ends: one connection after the other on each port but the first, which
/// takes any number.
#[derive(Debug)]
pub(super) struct Servers;

impl Servers {
    pub(super) fn start(netns: &Netns, [rr, crr]: [u16; 2]) -> Result<Self> {
        let listen = |port| netns.enter(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let (rr, crr) = (listen(rr).context("listening")?, listen(crr).context("listening")?);
        thread::spawn(move || {
            for stream in rr.incoming().flatten() {
                thread::spawn(move || echo(stream));
            }
        });
        thread::spawn(move || {
            pin::to_one_cpu().expect("a CPU for the server");
            for stream in crr.incoming().flatten() {
                // A client that is gone ends its own connection only.
                let _ = echo_all(stream);
            }
        });
        Ok(Self)
    }
}

fn echo(stream: TcpStream) {
    pin::to_one_cpu().expect("a CPU for the server");
    // The client sees what went wrong.
    let _ = echo_all(stream);
}

fn echo_all(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// Quantiles of one round, microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// From a client to a server.
#[derive(Debug)]
pub(super) struct Path<'a> {
    pub(super) budgets: Budgets,
    from: &'a Netns,
    /// Where TCP_CRR connects.
    to: SocketAddr,
    /// The open connection of TCP_RR.
    stream: TcpStream,
}

impl<'a> Path<'a> {
    pub(super) fn open(budgets: Budgets, from: &'a Netns, [rr, crr]: [SocketAddr; 2]) -> Result<Self> {
        let stream = from.enter(|| connect(rr)).with_context(|| format!("connecting to {rr}"))?;
        Ok(Self { budgets, from, to: crr, stream })
    }

    /// One round of TCP_RR or TCP_CRR.
    pub(super) fn round(&mut self, connects: bool) -> Result<Round> {
        let Self { from, to, stream, .. } = self;
        let times = from.enter(|| {
            pin::to_one_cpu()?;
            if connects {
                repeat(CRR, || exchange(&mut connect(*to)?))
            } else {
                repeat(RR, || exchange(stream))
            }
        });
        let mut times = times.with_context(|| format!("exchanging bytes with {to}"))?;
        Ok(Round { p50: quantile(&mut times, 0.5), p99: quantile(&mut times, 0.99) })
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// Microseconds that each call took.
fn repeat(count: usize, mut call: impl FnMut() -> io::Result<()>) -> Result<Vec<f64>> {
    let time = || {
        let start = Instant::now();
        call()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    std::iter::repeat_with(time).take(count).collect()
}
