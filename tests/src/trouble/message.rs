//! As much of HTTP/1.1 (RFC 9112) as an S3 client and its server speak.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;

/// A request, whole.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Without the empty line, each line with its end.
    head: String,
    body: Vec<u8>,
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// `None` when there is no more. `client` is told to go on where it waits for that.
    pub(super) fn read(reader: &mut impl BufRead, mut client: &TcpStream) -> Option<Request> {
        let head = read_head(reader)?;
        if header(&head, "expect").is_some() {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        let length = header(&head, "content-length").and_then(|value| value.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        Some(Request { head, body })
    }

    /// `None` when the server does not answer, or ends in the middle.
    pub(super) fn pass_on(&self, upstream: &str) -> Option<Answer> {
        let mut server = TcpStream::connect(upstream).ok()?;
        let head = without(&self.head, &["connection", "expect"]);
        write!(server, "{head}Connection: close\r\n\r\n").ok()?;
        server.write_all(&self.body).ok()?;
        let mut reader = std::io::BufReader::new(server);
        let head = read_head(&mut reader)?;
        let mut body = Vec::new();
        reader.read_to_end(&mut body).ok()?;
        let announced = header(&head, "content-length").and_then(|value| value.parse().ok());
        if self.method() != "HEAD" && announced.is_some_and(|length: usize| length != body.len()) {
            return None;
        }
        Some(Answer {
            head: without(&head, &["connection"]),
            body,
        })
    }

    pub(super) fn is_get(&self) -> bool {
        self.method() == "GET"
    }

    pub(super) fn is_get_of_object(&self) -> bool {
        self.is_get() && !self.target().contains('?') || self.target().contains("x-id=GetObject")
    }

    /// Whether its answer could be taken for the other's, which asks for something else.
    pub(super) fn is_like(&self, other: &Request) -> bool {
        self.target() != other.target() && self.is_get_of_object() == other.is_get_of_object()
    }

    pub(super) fn without_body(&self) -> Request {
        Request {
            head: self.head.clone(),
            body: Vec::new(),
        }
    }

    fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

impl Answer {
    /// One of S3's errors.
    pub(super) fn error(status: &str, code: &str, headers: &[&str]) -> Answer {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <Error><Code>{code}</Code><Message>Not now.</Message></Error>"
        );
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        Answer {
            head: format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n\
                 Content-Length: {length}\r\n{headers}"
            ),
            body: body.into_bytes(),
        }
    }

    pub(super) fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub(super) fn is_success(&self) -> bool {
        self.status().starts_with('2')
    }

    /// Drops what comes after `length` bytes of the body, as if that were all.
    pub(super) fn shorten(&mut self, length: usize) {
        self.body.truncate(length);
        let head = without(&self.head, &["content-length", "transfer-encoding"]);
        self.head = format!("{head}Content-Length: {length}\r\n");
    }

    /// `None` when the connection is over with it.
    pub(super) fn write(&self, client: &TcpStream) -> Option<()> {
        self.write_part(client, self.body.len());
        let delimited = header(&self.head, "content-length").is_some()
            || header(&self.head, "transfer-encoding").is_some()
            || self.status() == "204";
        delimited.then_some(())
    }

    /// Writes the head, and the body up to `end`.
    pub(super) fn write_part(&self, mut client: &TcpStream, end: usize) {
        // Whoever has gone does not want it.
        let _ = write!(client, "{}\r\n", self.head);
        let _ = client.write_all(&self.body[..end]);
    }
}

fn read_head(reader: &mut impl BufRead) -> Option<String> {
    loop {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line).ok()? {
                0 => return None,
                1 | 2 => break,
                _ => head += &line,
            }
        }
        // What comes before the answer, such as 100 Continue, is not the answer.
        if !head.starts_with("HTTP/1.1 1") {
            return Some(head);
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn without(head: &str, names: &[&str]) -> String {
    head.split_inclusive('\n')
        .filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            !names.iter().any(|left| name.eq_ignore_ascii_case(left))
        })
        .collect()
}
