//! One HTTP/1.1 exchange with the admin port or the control socket, with the Host header of the test's
//! choice.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::PATIENCE;

pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }
}

pub(crate) fn over_unix(socket: &Path, method: &str, path: &str) -> io::Result<Response> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, method, path, "localhost")
}

pub(crate) fn over_tcp(address: &str, method: &str, path: &str, host: &str) -> io::Result<Response> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, method, path, host)
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str, host: &str) -> io::Result<Response> {
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let (head, body) =
        reply.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(format!("no HTTP head: {reply:?}")))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no HTTP status: {head:?}")))?;
    // All our answers are made in one piece; a chunked one would need a decoder here.
    assert!(!head.to_lowercase().contains("transfer-encoding"), "an admin answer is chunked: {head}");
    Ok(Response { status, head: head.to_owned(), body: body.to_owned() })
}
