//! An OAuth 2.0 server in the test process: HTTPS, scripted answers, and every request that it got.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::{Conn, Pki, ServerTls, Upstream, until};

/// A request: the parameters of its body, and its head.
#[derive(Debug, Clone)]
pub(crate) struct TokenRequest {
    pub(crate) head: String,
    pub(crate) form: BTreeMap<String, String>,
}

/// What it answers.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A status and a JSON body.
    Json(u16, String),
    /// A redirect to that URL.
    Redirect(String),
    /// Nothing, and the connection is closed.
    Close,
    /// Nothing until [`TokenServer::release`], then a token.
    Held(String),
    /// A token after that time.
    Slow(Duration, String),
    /// An error with that status, and a Retry-After.
    Again(u16, &'static str),
    /// A body without an end, as fast as it is read, or a byte at a time.
    Endless { is_fast: bool },
}

type Script = Box<dyn Fn(usize, &TokenRequest) -> Reply + Send>;

pub(crate) struct TokenServer {
    upstream: Upstream,
    pki: Pki,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<TokenRequest>>>,
    released: watch::Sender<bool>,
}

impl TokenServer {
    /// `script` gets the number of the request, from 0, and the request.
    pub(crate) fn start(script: impl Fn(usize, &TokenRequest) -> Reply + Send + 'static) -> Self {
        let pki = Pki::new();
        let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).build();
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let (released, held) = watch::channel(false);
        let state = (Arc::clone(&script), Arc::clone(&asked), held);
        let upstream = Upstream::tls(tls, move |conn| {
            let (script, asked, held) = state.clone();
            async move {
                let _ = serve(conn, &script, &asked, held).await;
            }
        });
        Self { upstream, pki, script, asked, released }
    }

    /// From now on it answers by this script.
    pub(crate) fn answer(&self, script: impl Fn(usize, &TokenRequest) -> Reply + Send + 'static) {
        *self.script.lock().expect("a script nobody poisoned") = Box::new(script);
    }

    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<TokenRequest> {
        self.asked.lock().expect("requests nobody poisoned").clone()
    }

    #[track_caller]
    pub(crate) fn wait_asked(&self, count: usize) -> Vec<TokenRequest> {
        until(format!("the token server was asked {count} times"), || {
            Some(self.asked()).filter(|asked| asked.len() >= count)
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.upstream.address())
    }

    pub(crate) fn ca(&self) -> String {
        self.pki.ca().display().to_string()
    }

    pub(crate) fn pki(&self) -> &Pki {
        &self.pki
    }
}

/// A successful answer with that token.
pub(crate) fn token(access_token: &str, expires_in: u32) -> String {
    format!(r#"{{"token_type":"Bearer","expires_in":{expires_in},"access_token":"{access_token}"}}"#)
}

async fn serve(
    mut conn: Conn,
    script: &Mutex<Script>,
    asked: &Mutex<Vec<TokenRequest>>,
    mut held: watch::Receiver<bool>,
) -> Option<()> {
    let request = read(&mut conn).await?;
    let number = {
        let mut asked = asked.lock().expect("requests nobody poisoned");
        asked.push(request.clone());
        asked.len() - 1
    };
    let reply = script.lock().expect("a script nobody poisoned")(number, &request);
    let (status, extra, body) = match reply {
        Reply::Json(status, body) => (status, String::new(), body),
        Reply::Redirect(to) => (302, format!("Location: {to}\r\n"), String::new()),
        Reply::Close => return None,
        Reply::Held(body) => {
            held.wait_for(|released| *released).await.ok()?;
            (200, String::new(), body)
        }
        Reply::Slow(after, body) => {
            tokio::time::sleep(after).await;
            (200, String::new(), body)
        }
        Reply::Again(status, after) => {
            (status, format!("Retry-After: {after}\r\n"), r#"{"error":"temporarily_unavailable"}"#.into())
        }
        Reply::Endless { is_fast } => return endless(conn, is_fast).await,
    };
    let head = format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\n{extra}Content-Length: {}\r\n\r\n",
        body.len()
    );
    conn.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
    conn.flush().await.ok()
}

/// Goes on until the client has had enough.
async fn endless(mut conn: Conn, is_fast: bool) -> Option<()> {
    conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
    loop {
        conn.write_all(if is_fast { b"10\r\n                \r\n" } else { b"1\r\n \r\n" }).await.ok()?;
        conn.flush().await.ok()?;
        if !is_fast {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn read(conn: &mut Conn) -> Option<TokenRequest> {
    let mut bytes = Vec::new();
    loop {
        let mut portion = [0; 4096];
        let count = conn.read(&mut portion).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&portion[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().filter_map(|line| line.split_once(": ")).find_map(|(name, value)| {
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        })?;
        if body.len() >= length {
            let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
            let form = pairs.map(|(name, value)| (decoded(name), decoded(value))).collect();
            return Some(TokenRequest { head: head.to_owned(), form });
        }
    }
}

fn decoded(text: &str) -> String {
    let bytes: Vec<u8> = text.replace('+', " ").into_bytes();
    percent_encoding::percent_decode(&bytes).decode_utf8_lossy().into_owned()
}
