//! Real traffic: probes that say what came back from a [`Server`].

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    panic, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

pub use super::server::{Listen, Server};
use super::{PATIENCE, namespace::Netns};

/// How long a probe waits for what should not come.
pub const SILENCE: Duration = Duration::from_millis(300);

/// What came back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// An answer; of a server, its name.
    Answer(String),
    /// A reset or an ICMP error.
    Refused,
    /// Nothing.
    Silence,
}

/// What a probe sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probe {
    /// A TCP connection that waits for the server's name.
    Tcp(SocketAddr),
    /// A UDP datagram.
    Udp(SocketAddr),
    /// An ICMP or ICMPv6 echo request.
    Ping(IpAddr),
}

impl Probe {
    /// Sends it from the namespace and waits up to `limit` for what comes back.
    ///
    /// # Errors
    /// When it cannot be sent at all.
    pub fn send(self, from: &Netns, limit: Duration) -> Result<Outcome> {
        let sent = from.enter(|| match self {
            Self::Tcp(to) => tcp(to, limit),
            Self::Udp(to) => udp(to, limit),
            Self::Ping(to) => ping(to, limit),
        });
        match sent {
            Ok(answer) => Ok(Outcome::Answer(answer)),
            Err(error) if is_silence(&error) => Ok(Outcome::Silence),
            Err(error) if is_refusal(&error) => Ok(Outcome::Refused),
            Err(error) => Err(error).with_context(|| format!("sending {self:?}")),
        }
    }

    /// The answer, waited for patiently; none when there is none.
    ///
    /// # Errors
    /// As [`Probe::send`].
    pub fn answer(self, from: &Netns) -> Result<Option<String>> {
        Ok(match self.send(from, PATIENCE)? {
            Outcome::Answer(name) => Some(name),
            Outcome::Refused | Outcome::Silence => None,
        })
    }
}

/// A probe and what should come back.
#[derive(Clone, Debug)]
pub struct Expectation<'a> {
    /// Who sends.
    pub from: &'a Netns,
    /// What.
    pub probe: Probe,
    /// What should come back.
    pub want: Want,
}

/// What should come back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Want {
    /// An answer.
    Answer,
    /// A reset or an ICMP error.
    Refusal,
    /// Nothing.
    Silence,
}

impl Want {
    /// How long it is waited: what should come is waited for patiently.
    fn limit(self) -> Duration {
        match self {
            Self::Answer | Self::Refusal => PATIENCE,
            Self::Silence => SILENCE,
        }
    }

    /// Whether that is what came back.
    pub fn is(self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Answer(_) => self == Self::Answer,
            Outcome::Refused => self == Self::Refusal,
            Outcome::Silence => self == Self::Silence,
        }
    }
}

/// Sends all probes at once; what came back, in their order.
///
/// # Errors
/// When one cannot be sent.
pub fn send_all(expectations: &[Expectation<'_>]) -> Result<Vec<Outcome>> {
    thread::scope(|scope| {
        let send = |one: &Expectation<'_>| one.probe.send(one.from, one.want.limit());
        let threads: Vec<_> = expectations.iter().map(|one| scope.spawn(move || send(one))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
            .collect()
    })
}

/// A connection to an echoing server, whose name it has read.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// The server's name.
    pub server: String,
}

impl Connection {
    /// Connects from the namespace.
    ///
    /// # Errors
    /// When nobody answers within [`PATIENCE`].
    pub fn open(from: &Netns, to: SocketAddr) -> Result<Self> {
        let open = || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let server = read_line(&mut stream)?;
            Ok::<_, io::Error>(Self { stream, server })
        };
        from.enter(open).with_context(|| format!("connecting to {to}"))
    }

    /// Whether a line comes back within `limit`.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn echoes(&mut self, limit: Duration) -> Result<bool> {
        self.stream.set_read_timeout(Some(limit)).context("limiting a read")?;
        self.stream.write_all(b"still there?\n").context("writing to a connection")?;
        match read_line(&mut self.stream) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).context("reading from a connection"),
        }
    }
}

/// Sends `len_bytes` to a sink within `limit`; how many of them it got, if all was done in time.
///
/// # Errors
/// When the connection cannot be made or breaks.
pub fn transfer(from: &Netns, to: SocketAddr, len_bytes: usize, limit: Duration) -> Result<Option<usize>> {
    let deadline = Instant::now() + limit;
    let send = || {
        let mut stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(limit))?;
        read_line(&mut stream)?;
        let chunk = vec![b'x'; 64 << 10];
        let mut left = len_bytes;
        while left > 0 {
            let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            stream.set_write_timeout(Some(rest))?;
            left -= stream.write(&chunk[..left.min(chunk.len())])?;
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(rest))?;
        let mut count = String::new();
        stream.read_to_string(&mut count)?;
        count.trim().parse().map_err(|_| io::Error::from(ErrorKind::InvalidData))
    };
    match from.enter(send) {
        Ok(count) => Ok(Some(count)),
        Err(error) if is_silence(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("sending {len_bytes} bytes to {to}")),
    }
}

/// Sends `len_bytes` to an echoing server and reads them back, both at once: large packets go both ways.
///
/// # Errors
/// When the connection cannot be made, breaks, stands still for [`PATIENCE`], or gives back something else.
pub fn there_and_back(from: &Netns, to: SocketAddr, len_bytes: usize) -> Result<()> {
    let run = || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        read_line(&mut stream)?;
        let sent: Vec<u8> = (0..len_bytes).map(|at| (at % 251) as u8).collect();
        let mut got = vec![0; len_bytes];
        let mut writer = stream.try_clone()?;
        thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write_all(&sent));
            stream.read_exact(&mut got)?;
            writing.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })?;
        Ok::<_, io::Error>(got == sent)
    };
    let same = from.enter(run).with_context(|| format!("exchanging {len_bytes} bytes with {to}"))?;
    ensure!(same, "{to} gave back something else");
    Ok(())
}

/// Sends one datagram of this size and waits for the same to come back, again for as long as [`PATIENCE`] lasts: the
/// first ones may only teach their senders how large a packet may be.
///
/// # Errors
/// When none comes back.
pub fn large_datagram(from: &Netns, to: SocketAddr, len_bytes: usize) -> Result<()> {
    let run = || {
        let socket = UdpSocket::bind((any(to), 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let sent: Vec<u8> = (0..len_bytes).map(|at| (at % 251) as u8).collect();
        let mut got = vec![0; len_bytes + 1];
        let deadline = Instant::now() + PATIENCE;
        loop {
            socket.send(&sent)?;
            match socket.recv(&mut got) {
                Ok(len) => return Ok(got[..len] == *sent),
                Err(error) if is_silence(&error) && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    };
    let same = from.enter(run).with_context(|| format!("sending a datagram of {len_bytes} bytes to {to}"))?;
    ensure!(same, "{to} gave back something else");
    Ok(())
}

pub(super) fn any(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { IpAddr::from([0; 4]) } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}

fn tcp(to: SocketAddr, limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    read_line(&mut stream)
}

fn udp(to: SocketAddr, limit: Duration) -> io::Result<String> {
    let socket = UdpSocket::bind((any(to), 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(limit))?;
    socket.send(b"who are you?")?;
    let mut answer = [0; 256];
    let len = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
}

/// One echo request by `ping`, which knows both families' checksums and raw sockets.
fn ping(to: IpAddr, limit: Duration) -> io::Result<String> {
    let seconds = format!("{:.3}", limit.as_secs_f64());
    let output = std::process::Command::new("ping")
        .args(["-n", "-q", "-c1", "-W", &seconds, &to.to_string()])
        .output()?;
    match output.status.code() {
        Some(0) => Ok("echo reply".to_owned()),
        Some(1) if String::from_utf8_lossy(&output.stdout).contains("errors") => {
            Err(ErrorKind::HostUnreachable.into())
        }
        Some(1) => Err(ErrorKind::TimedOut.into()),
        _ => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// A line without its end. Byte by byte: what follows is for the next reader.
pub(super) fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte)? {
            0 => return Err(ErrorKind::ConnectionReset.into()),
            _ if byte == *b"\n" => return Ok(String::from_utf8_lossy(&line).into_owned()),
            _ => line.extend(byte),
        }
    }
}
