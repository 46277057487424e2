//! Servers that answer with their own name, one thread each.
//!
//! [`Server::drain`] ends one as a careful process ends: it answers everybody, asks them to go, and goes last.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::namespace::Netns;

/// What a server listens to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listen {
    /// TCP: says its name and a line feed, then sends back what it gets.
    Echo(u16),
    /// TCP: says its name and a line feed, takes everything, and at its end says how many bytes that were.
    Sink(u16),
    /// TCP: says from which address the client comes, and a line feed.
    Client(u16),
    /// UDP: answers each datagram with its name.
    Udp(u16),
    /// UDP: sends each datagram back.
    UdpEcho(u16),
}

/// What a draining server answers in place of an echo.
pub const BYE: &str = "bye";

/// Asks a server to drain.
const DRAIN: u8 = b'd';

/// More than can have waited for a server when it was asked to drain.
const QUEUED: usize = 1000;

/// A thread in a namespace that serves until this is dropped.
#[derive(Debug)]
pub struct Server {
    /// Closed, it ends the thread.
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<Strangers>>,
}

/// Connections and datagrams that came while a server drained.
pub type Strangers = usize;

impl Server {
    /// Starts to serve on every address in the namespace.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start(netns: &Netns, name: &str, listen: &[Listen]) -> Result<Self> {
        let (stopped, stop) = io::pipe().context("making a pipe")?;
        let sockets =
            netns.enter(|| listen.iter().map(|listen| Socket::bind(*listen)).collect::<io::Result<Vec<_>>>());
        let sockets = sockets.with_context(|| format!("listening to {listen:?}"))?;
        let name = name.to_owned();
        let thread = thread::spawn(move || serve(&name, sockets, &stopped));
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Takes what has come, answers the next question on every connection with [`BYE`], and ends with the last of them.
    ///
    /// # Errors
    /// When the server has ended before.
    pub fn drain(mut self) -> Result<Strangers> {
        let mut stop = self.stop.take().context("a running server")?;
        stop.write_all(&[DRAIN]).context("asking a server to drain")?;
        let thread = self.thread.take().context("a running server")?;
        // The pipe stays open: closed, it would end the server at once.
        let strangers = thread.join().map_err(|_| anyhow!("a server has panicked"));
        drop(stop);
        strangers
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // Its panic was printed.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
enum Socket {
    Listener(TcpListener, Listen),
    Udp(UdpSocket, Listen),
    Echo(TcpStream),
    Sink(TcpStream, usize),
}

/// What came of one reading.
enum Work {
    /// Nothing was there.
    Nothing,
    /// A datagram was answered, or a stream read.
    Done,
    /// A connection.
    Accepted(Option<Socket>),
}

impl Socket {
    fn bind(listen: Listen) -> io::Result<Self> {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        Ok(match listen {
            Listen::Echo(port) | Listen::Sink(port) | Listen::Client(port) => {
                let listener = TcpListener::bind(any(port))?;
                listener.set_nonblocking(true)?;
                Self::Listener(listener, listen)
            }
            Listen::Udp(port) | Listen::UdpEcho(port) => {
                let socket = UdpSocket::bind(any(port))?;
                socket.set_nonblocking(true)?;
                Self::Udp(socket, listen)
            }
        })
    }

    fn is_connection(&self) -> bool {
        matches!(self, Self::Echo(_) | Self::Sink(..))
    }

    fn poll_fd(&self) -> PollFd<'_> {
        let fd = match self {
            Self::Listener(listener, _) => listener.as_fd(),
            Self::Udp(socket, _) => socket.as_fd(),
            Self::Echo(stream) | Self::Sink(stream, _) => stream.as_fd(),
        };
        PollFd::new(fd, PollFlags::POLLIN)
    }

    /// Does what it is there for, once; `Err` when this connection is over.
    fn work(&mut self, name: &str, buffer: &mut [u8], is_draining: bool) -> io::Result<Work> {
        match self {
            Self::Listener(listener, listen) => {
                let Ok((stream, client)) = listener.accept() else { return Ok(Work::Nothing) };
                return Ok(Work::Accepted(greet(stream, client, name, *listen)));
            }
            Self::Udp(socket, listen) => {
                let Ok((len, from)) = socket.recv_from(buffer) else { return Ok(Work::Nothing) };
                let echo = matches!(listen, Listen::UdpEcho(_));
                // Who has gone already needs no answer.
                let _ = socket.send_to(if echo { &buffer[..len] } else { name.as_bytes() }, from);
            }
            Self::Echo(stream) => match stream.read(buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ if is_draining => stream.write_all(format!("{BYE}\n").as_bytes())?,
                len => stream.write_all(&buffer[..len])?,
            },
            Self::Sink(stream, count) => match stream.read(buffer)? {
                0 => {
                    stream.write_all(format!("{count}\n").as_bytes())?;
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                len => *count += len,
            },
        }
        Ok(Work::Done)
    }
}

/// Says what a new connection is told first; what goes on with it.
fn greet(mut stream: TcpStream, client: SocketAddr, name: &str, listen: Listen) -> Option<Socket> {
    stream.set_nonblocking(false).ok()?;
    let line = match listen {
        Listen::Client(_) => client.ip().to_canonical().to_string(),
        Listen::Echo(_) | Listen::Sink(_) | Listen::Udp(_) | Listen::UdpEcho(_) => name.to_owned(),
    };
    // Who has gone already needs no name.
    let _ = stream.write_all(format!("{line}\n").as_bytes());
    match listen {
        Listen::Echo(_) => Some(Socket::Echo(stream)),
        Listen::Sink(_) => Some(Socket::Sink(stream, 0)),
        Listen::Client(_) | Listen::Udp(_) | Listen::UdpEcho(_) => None,
    }
}

fn serve(name: &str, mut sockets: Vec<Socket>, stopped: &io::PipeReader) -> Strangers {
    let mut buffer = vec![0; 64 << 10];
    let mut strangers = None;
    loop {
        let mut fds: Vec<_> = sockets.iter().map(Socket::poll_fd).collect();
        fds.push(PollFd::new(stopped.as_fd(), PollFlags::POLLIN));
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue; // a signal
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready.pop() == Some(true) {
            let mut pipe = stopped;
            if strangers.is_some() || pipe.read(&mut [0]).unwrap_or(0) == 0 {
                return strangers.unwrap_or_default();
            }
            // What has come until now are no strangers.
            let queued = (0..QUEUED).find(|_| take(name, &mut sockets, &mut buffer) == 0);
            strangers = Some(if queued.is_some() { 0 } else { QUEUED });
        } else {
            let is_draining = strangers.is_some();
            let came = work(name, &mut sockets, &ready, &mut buffer, is_draining);
            strangers = strangers.map(|count| count + came);
        }
        if strangers.is_some() && !sockets.iter().any(Socket::is_connection) {
            return strangers.unwrap_or_default();
        }
    }
}

/// Works on listeners and datagrams as if all were ready; how many new ones came.
fn take(name: &str, sockets: &mut Vec<Socket>, buffer: &mut [u8]) -> usize {
    let ready: Vec<_> = sockets.iter().map(|socket| !socket.is_connection()).collect();
    work(name, sockets, &ready, buffer, false)
}

/// Works on those that are ready and forgets what is over; how many connections and datagrams came.
fn work(
    name: &str,
    sockets: &mut Vec<Socket>,
    ready: &[bool],
    buffer: &mut [u8],
    is_draining: bool,
) -> usize {
    let mut came = 0;
    let mut next = Vec::with_capacity(sockets.len());
    for (mut socket, ready) in sockets.drain(..).zip(ready) {
        let done = if *ready { socket.work(name, buffer, is_draining) } else { Ok(Work::Nothing) };
        match done {
            Ok(Work::Nothing) => next.push(socket),
            Ok(Work::Done) => {
                came += usize::from(!socket.is_connection());
                next.push(socket);
            }
            Ok(Work::Accepted(new)) => {
                came += 1;
                next.push(socket);
                next.extend(new);
            }
            Err(_) => drop(socket),
        }
    }
    *sockets = next;
    came
}
