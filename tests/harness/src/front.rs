//! An HTTP server before another, such as KMS, that can be told to be in trouble.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It is passed on.
    Passes,
    /// It is answered that there are too many (KMS API reference, `ThrottlingException`).
    Throttles,
    /// It is answered that it is not allowed (`AccessDeniedException`).
    Denies,
    /// The connection breaks off.
    Away,
}

/// Passes requests on to a server, one a connection, as long as its mood is [`Mood::Passes`].
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    mood: Mutex<Mood>,
    refused: AtomicU64,
    upstream: String,
}

impl Front {
    /// Before the server at `endpoint`, `http://host:port`.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn before(endpoint: &str) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            mood: Mutex::new(Mood::Passes),
            refused: AtomicU64::new(0),
            upstream: endpoint.trim_start_matches("http://").to_owned(),
        });
        let shared = state.clone();
        // It ends with the process of the test.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || state.serve(&client));
            }
        });
        Front { address, state }
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn set(&self, mood: Mood) {
        *self
            .state
            .mood
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// How many requests it did not pass on.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::Relaxed)
    }
}

impl State {
    fn serve(&self, client: &TcpStream) -> Option<()> {
        let (head, body) = read_request(client)?;
        let mood = *self.mood.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match mood {
            Mood::Passes => return self.pass(client, &head, &body),
            Mood::Throttles => Some("ThrottlingException"),
            Mood::Denies => Some("AccessDeniedException"),
            Mood::Away => None,
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        let body = format!("{{\"__type\":\"{}\",\"message\":\"not now\"}}", error?);
        let length = body.len();
        let mut to = client;
        to.write_all(
            format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.1\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
            .as_bytes(),
        )
        .ok()
    }

    fn pass(&self, mut client: &TcpStream, head: &str, body: &[u8]) -> Option<()> {
        let mut server = TcpStream::connect(&self.upstream).ok()?;
        let kept: Vec<&str> = head
            .lines()
            .filter(|line| !line.to_lowercase().starts_with("connection:"))
            .collect();
        let head = format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
        server.write_all(head.as_bytes()).ok()?;
        server.write_all(body).ok()?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).ok()?;
        client.write_all(&answer).ok()
    }
}

/// The head without its empty line, and the body by its `Content-Length`.
fn read_request(client: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? <= 2 {
            break;
        }
        head += &line;
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some((head.trim_end().to_owned(), body))
}
