//! Roles of an upstream, each a script for `Upstream::plain` or `Upstream::tls`.

use std::future::{self, Future};
use std::pin::Pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Conn, Pattern};

type Script = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends back what it gets; at the end of the stream ends its own side too. Notes how the client ended.
pub(crate) async fn echo(mut conn: Conn) {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match conn.read(&mut buffer).await {
            Ok(0) => {
                conn.note(format!("end after {total}"));
                drop(conn.shutdown().await);
                return;
            }
            Ok(count) => {
                total += count;
                if conn.write_all(&buffer[..count]).await.is_err() || conn.flush().await.is_err() {
                    return conn.note(format!("write failed after {total}"));
                }
            }
            Err(error) => return conn.note(format!("error after {total}: {:?}: {error}", error.kind())),
        }
    }
}

/// Speaks first, then echoes.
pub(crate) fn greet(text: &'static str) -> impl Fn(Conn) -> Script + Clone + Send + 'static {
    move |mut conn| {
        Box::pin(async move {
            if conn.write_all(text.as_bytes()).await.is_ok() && conn.flush().await.is_ok() {
                echo(conn).await;
            }
        })
    }
}

/// Reports the address that the client seems to come from.
pub(crate) async fn send_peer_address(mut conn: Conn) {
    let peer = conn.peer().ip().to_string();
    drop(conn.write_all(peer.as_bytes()).await);
    drop(conn.shutdown().await);
}

/// Accepts and sends nothing: neither a handshake nor an answer. Notes when the client has left.
pub(crate) async fn silent(mut conn: Conn) {
    let mut buffer = [0; 4096];
    loop {
        match conn.read(&mut buffer).await {
            Ok(0) => return conn.note("client ended"),
            Ok(count) => conn.note(format!("ignored {count}")),
            Err(error) => return conn.note(format!("client failed: {:?}", error.kind())),
        }
    }
}

/// Reads nothing and keeps the connection open.
pub(crate) async fn deaf(conn: Conn) {
    future::pending::<()>().await;
    drop(conn);
}

/// Sends `count` bytes of the pattern and, at the same time, checks `count` bytes of it. Notes `identical N`
/// or the first difference.
pub(crate) fn exchange(count: usize) -> impl Fn(Conn) -> Script + Clone + Send + 'static {
    move |conn| Box::pin(run_exchange(conn, count))
}

async fn run_exchange(conn: Conn, count: usize) {
    let (mut reader, mut writer) = tokio::io::split(conn);
    let sending = async {
        let mut pattern = Pattern::default();
        while pattern.offset() < count {
            let chunk = pattern.upcoming((count - pattern.offset()).min(256 * 1024));
            writer.write_all(chunk).await?;
            pattern.advance(chunk.len());
        }
        writer.shutdown().await
    };
    let checking = async {
        let mut pattern = Pattern::default();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let got = reader.read(&mut buffer).await.map_err(|error| error.to_string())?;
            if got == 0 {
                return Ok(pattern.offset());
            }
            pattern.check(&buffer[..got]).map_err(|at| format!("differs at {at}"))?;
        }
    };
    let (sent, checked): (Result<(), std::io::Error>, Result<usize, String>) =
        tokio::join!(sending, checking);
    let conn = reader.unsplit(writer);
    match (sent, checked) {
        (Ok(()), Ok(total)) => conn.note(format!("identical {total}")),
        (sent, checked) => conn.note(format!("exchange failed: sent {sent:?}, checked {checked:?}")),
    }
}

/// Reads `count` bytes, then closes with a reset.
pub(crate) fn reset_after(count: usize) -> impl Fn(Conn) -> Script + Clone + Send + 'static {
    move |mut conn| {
        Box::pin(async move {
            let mut buffer = vec![0; count];
            drop(conn.read_exact(&mut buffer).await);
            conn.note("resets");
            conn.reset();
        })
    }
}

/// Reads to the end of the client's side, then answers `text` and ends.
pub(crate) fn answer_after_end(text: &'static str) -> impl Fn(Conn) -> Script + Clone + Send + 'static {
    move |mut conn| {
        Box::pin(async move {
            let mut all = Vec::new();
            match conn.read_to_end(&mut all).await {
                Ok(_) => conn.note(format!("all: {}", String::from_utf8_lossy(&all))),
                Err(error) => return conn.note(format!("read failed: {:?}", error.kind())),
            }
            drop(conn.write_all(text.as_bytes()).await);
            drop(conn.shutdown().await);
        })
    }
}

/// Sends `text`, ends its own side at once, then reads to the end of the client's.
pub(crate) fn end_then_listen(text: &'static str) -> impl Fn(Conn) -> Script + Clone + Send + 'static {
    move |mut conn| {
        Box::pin(async move {
            drop(conn.write_all(text.as_bytes()).await);
            drop(conn.shutdown().await);
            let mut all = Vec::new();
            match conn.read_to_end(&mut all).await {
                Ok(_) => conn.note(format!("all: {}", String::from_utf8_lossy(&all))),
                Err(error) => conn.note(format!("read failed: {:?}", error.kind())),
            }
        })
    }
}
