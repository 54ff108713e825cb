//! Reads a client's opening. A client that speaks first is not dialled for before it has sent a valid message, so a
//! port scan never reaches the server.

use std::io;
use std::time::Duration;

use crate::alarm::{self, Elapsed};
use crate::clock;
use crate::protocol::{
    ClientOpening, Greeting, Opening, OpeningError, OpeningState, Protocol, TLS_HANDSHAKE, UpgradeRequest,
};
use crate::sys::Socket;

/// Why a client has no valid opening.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpeningFailure {
    #[error("the client closed the connection before it had said what it wants")]
    Gone,
    #[error("the client's connection failed before it had said what it wants: {0}")]
    Broken(io::Error),
    /// It was silent, or stopped in the middle.
    #[error("the client did not say what it wants within {0:?}")]
    Silent(Duration),
    /// It sent something else.
    #[error("{0}")]
    Malformed(OpeningError),
}

/// How long a client that speaks first may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpeningTimeouts {
    /// Until its first byte; `None`: unlimited.
    pub silent: Option<Duration>,
    /// From there to the end of its first message.
    pub within: Duration,
}

impl OpeningTimeouts {
    /// What the protocol's own servers allow: its silence, and `within` for the rest.
    #[must_use]
    pub(crate) fn of_protocol(protocol: &dyn Protocol, within: Duration) -> Self {
        Self { silent: protocol.silence_timeout(), within }
    }

    /// Silence and message may take the same time.
    #[must_use]
    pub(crate) const fn of(within: Duration) -> Self {
        Self { silent: Some(within), within }
    }
}

/// The most that is read at once; first messages have some hundred bytes.
const PORTION: usize = 1024;

/// Reads until the client's opening is complete, for a session that we sign in if `signs_in`. If the protocol does not parse it, only bytes that have arrived
/// already are taken: a client has usually sent some by now, and with them the dial takes fewer packets.
///
/// # Errors
/// See [`OpeningFailure`].
pub(crate) async fn read_opening(
    client: &Socket,
    protocol: &dyn Protocol,
    signs_in: bool,
    OpeningTimeouts { silent, within }: OpeningTimeouts,
) -> Result<ClientOpening, OpeningFailure> {
    let opening = if signs_in { protocol.opening_for_login() } else { protocol.opening() };
    let Some(opening) = opening else {
        return if protocol.server_greets() { peek_before_greeting(client) } else { read_available(client) };
    };
    // Boxed, so that it takes no space in a session that lives for hours.
    Box::pin(async move {
        let mut portion = [0; PORTION];
        let first = client.recv(&mut portion);
        let read = match silent {
            None => first.await,
            Some(silent) => match alarm::timeout_at(clock::now() + silent, first).await {
                Ok(read) => read,
                Err(Elapsed) => return Err(OpeningFailure::Silent(silent)),
            },
        };
        let rest = read_on(client, opening, &mut portion, read);
        alarm::timeout_at(clock::now() + within, rest).await.unwrap_or(Err(OpeningFailure::Silent(within)))
    })
    .await
}

/// The server speaks first: early bytes of the client stay unread, as a dialogue may need them.
fn peek_before_greeting(client: &Socket) -> Result<ClientOpening, OpeningFailure> {
    const SPEAKS_TLS: &str = "the client speaks TLS to a plaintext port; turn TLS off in the client";
    match client.peek() {
        Ok(Some(Some(TLS_HANDSHAKE))) => Err(OpeningFailure::Malformed(OpeningError::speaks_tls(SPEAKS_TLS))),
        Ok(None | Some(Some(_))) => Ok(ClientOpening::default()),
        Ok(Some(None)) | Err(_) => Err(OpeningFailure::Gone),
    }
}

fn read_available(client: &Socket) -> Result<ClientOpening, OpeningFailure> {
    let mut portion = [0; PORTION];
    match client.recv_arrived(&mut portion) {
        Ok(None) => Ok(ClientOpening::default()),
        Ok(Some(received @ 1..)) => Ok(ClientOpening {
            bytes: portion[..received].to_vec(),
            may_half_close: true,
            ..ClientOpening::default()
        }),
        Ok(Some(0)) | Err(_) => Err(OpeningFailure::Gone),
    }
}

async fn read_on(
    client: &Socket,
    mut opening: Box<dyn Opening>,
    portion: &mut [u8],
    mut received: io::Result<usize>,
) -> Result<ClientOpening, OpeningFailure> {
    loop {
        let read = received.map_err(OpeningFailure::Broken)?;
        if read == 0 {
            return Err(OpeningFailure::Gone);
        }
        match opening.receive(&portion[..read]).map_err(OpeningFailure::Malformed)? {
            OpeningState::Incomplete => {}
            OpeningState::Answer(answer) => client.send_all(&answer).await.map_err(OpeningFailure::Broken)?,
            OpeningState::Opened(opened) => return Ok(opened),
        }
        received = client.recv(portion).await;
    }
}

/// Sends the client the server's greeting, and reads until its reply is complete.
///
/// # Errors
/// See [`OpeningFailure`]. The server still waits for a reply then.
pub(crate) async fn exchange_greeting(
    client: &Socket,
    greeting: &mut Greeting,
    within: Duration,
) -> Result<UpgradeRequest, OpeningFailure> {
    let introduced = Box::pin(async {
        client.send_all(&greeting.words).await.map_err(OpeningFailure::Broken)?;
        let mut portion = [0; PORTION];
        loop {
            let read = client.recv(&mut portion).await.map_err(OpeningFailure::Broken)?;
            if read == 0 {
                return Err(OpeningFailure::Gone);
            }
            if let Some(introduced) =
                greeting.client_reply.receive(&portion[..read]).map_err(OpeningFailure::Malformed)?
            {
                return Ok(introduced);
            }
        }
    });
    alarm::timeout_at(clock::now() + within, introduced).await.unwrap_or(Err(OpeningFailure::Silent(within)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::protocol;
    use crate::sys::{Bind, ListeningSocket, Options, UnixBind};

    fn redis() -> Arc<dyn Protocol> {
        protocol::named("redis", &protocol::Options::default()).expect("a protocol")
    }

    async fn client() -> (Socket, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let bind = Bind::Unix(UnixBind { path: path.clone(), mode: 0o600, owner: None, group: None });
        let listening = ListeningSocket::bind(&bind, &Options::NONE).unwrap();
        let peer = UnixStream::connect(path).unwrap();
        (Socket::adopt(listening.accept().await.unwrap().0).unwrap(), peer)
    }

    /// A pool that opened its connections early lost them after the minute that a whole opening may take.
    #[tokio::test]
    async fn silence_is_limited_by_what_the_protocols_servers_allow_and_by_nothing_else() {
        let redis = redis();
        let patience = OpeningTimeouts::of_protocol(&*redis, Duration::from_secs(60));
        assert_eq!((patience.silent, patience.within), (None, Duration::from_secs(60)));
        let (socket, mut peer) = client().await;
        // Whatever is over by now ends a limited silence at once.
        let limited = OpeningTimeouts { silent: Some(Duration::ZERO), ..patience };
        let ended = read_opening(&socket, &*redis, false, limited).await;
        assert!(matches!(ended, Err(OpeningFailure::Silent(_))), "{ended:?}");
        let mut reading = pin!(read_opening(
            &socket,
            &*redis,
            false,
            OpeningTimeouts { within: Duration::ZERO, ..patience }
        ));
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(matches!(reading.as_mut().poll(&mut nobody), Poll::Pending), "it may be silent for ever");
        peer.write_all(b"PING\r\n").unwrap();
        assert_eq!(reading.await.unwrap().bytes, b"PING\r\n");
    }
}
