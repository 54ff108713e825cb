//! One HTTP exchange: with the admin port or the control socket, with the Host header of the test's choice, or with the
//! API of another server.

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

/// A request to the API of another server.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// A header with its value.
    pub(crate) field: Option<(&'a str, &'a str)>,
    pub(crate) body: &'a str,
}

pub(crate) fn over_unix(socket: &Path, method: &str, path: &str) -> io::Result<Response> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, &bare(method, path, "localhost"))
}

pub(crate) fn over_tcp(address: &str, method: &str, path: &str, host: &str) -> io::Result<Response> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, &bare(method, path, host))
}

/// By HTTP/1.0, to which nobody answers in chunks.
pub(crate) fn call(ip: &str, port: u16, call: Call<'_>) -> io::Result<Response> {
    let Call { method, path, field, body } = call;
    let stream = TcpStream::connect((ip, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let field = field.map(|(name, value)| format!("{name}: {value}\r\n")).unwrap_or_default();
    let length = body.len();
    exchange(
        stream,
        &format!("{method} {path} HTTP/1.0\r\nHost: {ip}\r\n{field}Content-Length: {length}\r\n\r\n{body}"),
    )
}

/// A request without a body.
fn bare(method: &str, path: &str, host: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Response> {
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let (head, body) =
        reply.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(format!("no HTTP head: {reply:?}")))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no HTTP status: {head:?}")))?;
    // All our answers are made in one piece; a chunked one would need a decoder here.
    assert!(!head.to_lowercase().contains("transfer-encoding"), "the answer is chunked: {head}");
    Ok(Response { status, head: head.to_owned(), body: body.to_owned() })
}
