//! A stand-in for the agent on a unix socket, for what only the plugin's side can show: order and patience.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

/// Status and body of an answer.
pub type Reply = (u16, &'static str);

/// What was asked: `METHOD path`, and what `watch` saw at that moment.
pub type Calls = Arc<Mutex<Vec<(String, String)>>>;

/// Listens at `socket`; `reply` answers `METHOD path`, `watch` looks at the world while the plugin waits.
pub fn serve(
    socket: &Path,
    reply: impl Fn(&str) -> Reply + Send + Sync + 'static,
    watch: impl Fn() -> String + Send + Sync + 'static,
) -> Calls {
    let listener = UnixListener::bind(socket).expect("a socket");
    let calls = Calls::default();
    let (log, shared) = (Arc::clone(&calls), Arc::new((reply, watch)));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (log, shared) = (Arc::clone(&log), Arc::clone(&shared));
            thread::spawn(move || {
                converse(&stream, |call| {
                    let seen = shared.1();
                    log.lock().expect("the log").push((call.to_owned(), seen));
                    shared.0(call)
                })
            });
        }
    });
    calls
}

fn converse(stream: &UnixStream, answer: impl Fn(&str) -> Reply) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        reader.read_line(&mut request).ok().filter(|read| *read > 0)?;
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let call = request.rsplit_once(' ')?.0;
        let (status, text) = answer(call);
        let mut stream = stream;
        write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}", text.len()).ok()?;
    }
}

/// The answers of an agent that is well.
pub fn well(call: &str) -> Reply {
    match call.split(' ').next() {
        Some("PUT") => (200, r#"{"endpoint":1}"#),
        Some("DELETE") => (204, ""),
        _ => (200, ""),
    }
}

/// The socket of a node's agent.
pub fn socket(folder: &Path) -> PathBuf {
    folder.join("agent.sock")
}
