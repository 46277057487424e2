//! Traffic that goes on while something changes: each client is a thread that asks, and asks again, until it is stopped.
//!
//! **Invariant: nothing is asked twice.** What gets no answer is a failure and is told as one. Two answers are none, and
//! lead to a new socket: a server that drains says [`BYE`], and a connected UDP socket of a node's own process whose
//! backend has gone is told so by its kernel (`docs/sockets.md`, "When backends change").

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, ErrorKind, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    PATIENCE, eventually,
    namespace::Netns,
    server::BYE,
    traffic::{any, read_line},
};

/// What a client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Habit {
    /// TCP: a new connection for each question.
    Connect,
    /// TCP: one connection for all questions.
    Keep,
    /// UDP: a new socket for each question.
    Ask,
    /// UDP: one socket for all questions, not connected.
    AskUnconnected,
    /// UDP: one connected socket for all questions.
    AskConnected,
}

/// Clients at work.
#[derive(Debug, Default)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<(Arc<Mutex<Tally>>, JoinHandle<()>)>,
}

/// What one client has seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Who it is.
    pub name: String,
    /// Questions.
    pub attempts: u64,
    /// Answers, by who gave them.
    pub answers: BTreeMap<String, u64>,
    /// Who gave the last answer.
    pub last: String,
    /// How often it was asked to go, by a server or by its kernel.
    pub told: u64,
    /// Questions without an answer, in words.
    pub failures: Vec<String>,
}

/// Pace of each client: they share the CPU with the agents and the plugin that they watch.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a client waits for an answer: less than it is waited for clients.
const LIMIT: Duration = Duration::from_secs(PATIENCE.as_secs() / 2);

/// A client that fails so often need not go on.
const FAILURES: usize = 20;

impl Load {
    /// Starts a client.
    ///
    /// # Errors
    /// When its namespace cannot be held.
    pub fn add(&mut self, name: &str, habit: Habit, from: &Netns, to: SocketAddr) -> Result<()> {
        let netns = from.try_clone()?;
        let name = format!("{name} {habit:?} {to}");
        let tally = Arc::new(Mutex::new(Tally { name, ..Tally::default() }));
        let mut client = Client { habit, to, tally: Arc::clone(&tally), stream: None, socket: None };
        let stop = Arc::clone(&self.stop);
        let work = move || {
            netns.enter(|| {
                while !stop.load(Ordering::Relaxed) && lock(&client.tally).failures.len() < FAILURES {
                    client.ask();
                    thread::sleep(PAUSE);
                }
            });
        };
        self.clients.push((tally, thread::spawn(work)));
        Ok(())
    }

    /// Waits until each client has asked so many times more, whatever came of it.
    ///
    /// # Errors
    /// When one stands still.
    pub fn rounds(&self, count: u64) -> Result<()> {
        let wanted: Vec<_> =
            self.clients.iter().map(|(tally, _)| lock(tally).done().saturating_add(count)).collect();
        for ((tally, thread), wanted) in self.clients.iter().zip(wanted) {
            let done = || Ok(lock(tally).done() >= wanted || thread.is_finished());
            eventually("a client goes on", done).with_context(|| format!("{:?}", lock(tally)))?;
        }
        Ok(())
    }

    /// Waits until each client has had its last answer from somebody else.
    ///
    /// # Errors
    /// When one stays.
    pub fn leaves(&self, server: &str) -> Result<()> {
        for (tally, thread) in &self.clients {
            let gone = || Ok(lock(tally).last != server || thread.is_finished());
            eventually("a client leaves a server", gone).with_context(|| format!("{:?}", lock(tally)))?;
        }
        Ok(())
    }

    /// Stops all clients.
    ///
    /// # Errors
    /// When one has panicked.
    pub fn stop(self) -> Result<Tallies> {
        self.stop.store(true, Ordering::Relaxed);
        let end = |(tally, thread): (Arc<Mutex<Tally>>, JoinHandle<()>)| {
            ensure!(thread.join().is_ok(), "a client has panicked");
            Ok(lock(&tally).clone())
        };
        self.clients.into_iter().map(end).collect::<Result<_>>().map(Tallies)
    }
}

/// What all clients have seen.
#[derive(Clone, Debug)]
pub struct Tallies(pub Vec<Tally>);

impl Tallies {
    /// Fails when any question had no answer.
    ///
    /// # Errors
    /// With all failures, in words.
    pub fn check(&self) -> Result<()> {
        let failed = self
            .0
            .iter()
            .flat_map(|tally| tally.failures.iter().map(move |failure| format!("{}: {failure}", tally.name)));
        let failed: Vec<_> = failed.collect();
        ensure!(failed.is_empty(), "{} questions without an answer:\n{}", failed.len(), failed.join("\n"));
        Ok(())
    }
}

impl fmt::Display for Tallies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>8} {:>8} {:>8} {:>5}", "asked", "answered", "failed", "told")?;
        for Tally { name, attempts, answers, told, failures, .. } in &self.0 {
            let answered: u64 = answers.values().sum();
            writeln!(f, "{attempts:>8} {answered:>8} {:>8} {told:>5}  {name}", failures.len())?;
        }
        let sum = |of: fn(&Tally) -> u64| self.0.iter().map(of).sum::<u64>();
        write!(
            f,
            "{:>8} {:>8} {:>8} {:>5}  all",
            sum(|tally| tally.attempts),
            sum(|tally| tally.answers.values().sum()),
            sum(|tally| tally.failures.len() as u64),
            sum(|tally| tally.told)
        )
    }
}

impl Tally {
    /// Questions that are over.
    fn done(&self) -> u64 {
        self.answers.values().sum::<u64>() + self.failures.len() as u64
    }
}

struct Client {
    habit: Habit,
    to: SocketAddr,
    tally: Arc<Mutex<Tally>>,
    /// The kept connection, and who is at its end.
    stream: Option<(TcpStream, String)>,
    socket: Option<UdpSocket>,
}

/// Who answered, and whether the socket is of use no more.
type Answer = (String, bool);

impl Client {
    fn ask(&mut self) {
        lock(&self.tally).attempts += 1;
        let answer = match self.habit {
            Habit::Connect => self.connect().and_then(|(stream, name)| say(stream, name).map(|(_, a)| a)),
            Habit::Keep => self.keep(),
            Habit::Ask => datagram(self.to, true).and_then(|socket| exchange(&socket, None)),
            Habit::AskUnconnected | Habit::AskConnected => self.ask_by_kept(),
        };
        let mut tally = lock(&self.tally);
        match answer {
            Ok((name, is_told)) => {
                tally.last.clone_from(&name);
                *tally.answers.entry(name).or_default() += 1;
                tally.told += u64::from(is_told);
            }
            Err(error) => {
                let number = tally.attempts;
                tally.failures.push(format!("question {number}: {error}"));
            }
        }
    }

    fn connect(&self) -> io::Result<(TcpStream, String)> {
        let mut stream = TcpStream::connect_timeout(&self.to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let name = read_line(&mut stream)?;
        Ok((stream, name))
    }

    fn keep(&mut self) -> io::Result<Answer> {
        let (stream, name) = match self.stream.take() {
            Some(kept) => kept,
            None => self.connect()?,
        };
        let (stream, (name, is_told)) = say(stream, name)?;
        self.stream = (!is_told).then(|| (stream, name.clone()));
        Ok((name, is_told))
    }

    fn ask_by_kept(&mut self) -> io::Result<Answer> {
        let is_connected = self.habit == Habit::AskConnected;
        let server = (!is_connected).then_some(self.to);
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => datagram(self.to, is_connected)?,
        };
        match exchange(&socket, server) {
            Ok(answer) => {
                self.socket = Some(socket);
                Ok(answer)
            }
            // The backend is gone: the kernel says so, and another socket is for another backend.
            Err(error) if is_connected && is_ended(&error) => {
                let socket = datagram(self.to, true)?;
                let (name, _) = exchange(&socket, None)?;
                self.socket = Some(socket);
                Ok((name, true))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the kernel has ended the connection: who waits gets the first, who sends the second.
fn is_ended(error: &io::Error) -> bool {
    error.kind() == ErrorKind::ConnectionAborted || error.raw_os_error() == Some(libc::EDESTADDRREQ)
}

/// Says a line on an open connection.
fn say(mut stream: TcpStream, name: String) -> io::Result<(TcpStream, Answer)> {
    stream.write_all(b"still there?\n").map_err(|error| at(&name, &error))?;
    let line = read_line(&mut stream).map_err(|error| at(&name, &error))?;
    Ok((stream, (name, line == BYE)))
}

fn at(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("talking to {name}: {error}"))
}

fn datagram(to: SocketAddr, is_connected: bool) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((any(to), 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    if is_connected {
        socket.connect(to)?;
    }
    Ok(socket)
}

/// A question and its answer; `to` where the socket is not connected.
fn exchange(socket: &UdpSocket, to: Option<SocketAddr>) -> io::Result<Answer> {
    let mut answer = [0; 256];
    let len = match to {
        None => {
            socket.send(b"who are you?")?;
            socket.recv(&mut answer)?
        }
        Some(to) => {
            socket.send_to(b"who are you?", to)?;
            let (len, from) = socket.recv_from(&mut answer)?;
            if from != to {
                return Err(io::Error::other(format!("{from} answers in place of {to}")));
            }
            len
        }
    };
    Ok((String::from_utf8_lossy(&answer[..len]).into_owned(), false))
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    // Counts are whole whatever panicked beside them.
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
