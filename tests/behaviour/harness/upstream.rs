//! A reference server in the test process: a script that runs for every connection, and notes of what it saw.
//!
//! Each upstream has a thread and a runtime of its own, so a slow neighbour cannot slow it, and dropping it cuts its
//! connections like the death of a process. The scripts are in `roles`; a test with a special need passes a closure.

use std::fmt::{self, Display, Formatter};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, net};

use rustls::ServerConfig;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::until;

pub(crate) struct Upstream {
    address: SocketAddr,
    diary: Diary,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The notes of an upstream, written by its scripts and read by the test.
#[derive(Clone, Default)]
struct Diary {
    notes: Arc<Mutex<Vec<String>>>,
    accepted: Arc<AtomicUsize>,
    active: Arc<AtomicUsize>,
}

/// One accepted connection, plain or TLS, with the notes.
pub(crate) struct Conn {
    io: Io,
    diary: Diary,
    // Dropped with the connection, however the script ended.
    _active: Active,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Upstream {
    /// Runs `script` for each plaintext connection to 127.0.0.1 and a port of the OS's choice.
    pub(crate) fn plain<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::plain_at("127.0.0.1:0", script)
    }

    /// The same on an address of the test's choice, which an earlier upstream may have had.
    pub(crate) fn plain_at<F, Fut>(address: &str, script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let address: SocketAddr = address.parse().expect("an address");
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.bind(&address.into()).expect("a port");
        // Deep enough for the thousands of connections of one test: a dropped SYN would cost a second.
        socket.listen(4096).expect("a listening socket");
        socket.set_nonblocking(true).expect("a non-blocking socket");
        let listener: net::TcpListener = socket.into();
        let address = listener.local_addr().expect("an address");
        let diary = Diary::default();
        let (stop, stopped) = oneshot::channel();
        let serving = serve(listener, script, diary.clone(), stopped);
        let thread = thread::Builder::new().name("upstream".into()).spawn(serving).expect("a thread");
        Self { address, diary, stop: Some(stop), thread: Some(thread) }
    }

    /// The same behind a TLS handshake; a connection whose handshake fails leaves a note `handshake failed:
    /// …`.
    pub(crate) fn tls<F, Fut>(config: Arc<ServerConfig>, script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::plain(move |conn| {
            let (config, script) = (config.clone(), script.clone());
            async move {
                if let Some(conn) = conn.start_tls(config).await {
                    script(conn).await;
                }
            }
        })
    }

    /// `127.0.0.1:PORT`, for `endpoints:`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections accepted since the start.
    pub(crate) fn accepted(&self) -> usize {
        self.diary.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn active(&self) -> usize {
        self.diary.active.load(Ordering::SeqCst)
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.diary.notes.lock().expect("a diary nobody poisoned").clone()
    }

    /// Waits for a note that contains `part`.
    #[track_caller]
    pub(crate) fn wait_note(&self, part: &str) -> String {
        let wanted = Wanted { upstream: self, part };
        until(wanted, || self.notes().into_iter().find(|note| note.contains(part)))
    }

    /// Waits until at least `count` connections were accepted: the kernel completes them before this process accepts
    /// them.
    #[track_caller]
    pub(crate) fn wait_accepted(&self, count: usize) {
        until(format!("the upstream accepted {count}"), || (self.accepted() >= count).then_some(()));
    }

    #[track_caller]
    pub(crate) fn wait_active(&self, count: usize) {
        until(format!("the upstream had {count} connections"), || (self.active() == count).then_some(()));
    }

    /// Dies: the kernel closes the listening socket and every connection.
    pub(crate) fn stop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A script that panicked has reported that on stderr already.
            drop(thread.join());
        }
    }
}

/// A note to wait for. Shown, with all notes at that time, if it never came.
struct Wanted<'a> {
    upstream: &'a Upstream,
    part: &'a str,
}

impl Display for Wanted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "the upstream noted {:?}; it noted {:?}", self.part, self.upstream.notes())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve<F, Fut>(
    listener: net::TcpListener,
    script: F,
    diary: Diary,
    stopped: oneshot::Receiver<()>,
) -> impl FnOnce() + Send
where
    F: Fn(Conn) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a registered listener");
            let accepting = async {
                loop {
                    // EMFILE and the like: the test process opens thousands of sockets, so an accept may fail; the
                    // next one is tried.
                    let Ok((stream, _)) = listener.accept().await else {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    // Bytes of a script are sent at once, also if it resets right after.
                    drop(stream.set_nodelay(true));
                    diary.accepted.fetch_add(1, Ordering::SeqCst);
                    diary.active.fetch_add(1, Ordering::SeqCst);
                    let active = Active(diary.active.clone());
                    tokio::spawn(script(Conn {
                        io: Io::Plain(stream),
                        diary: diary.clone(),
                        _active: active,
                    }));
                }
            };
            tokio::select! {
                () = accepting => {}
                _ = stopped => {}
            }
        });
    }
}

impl Conn {
    pub(crate) fn note(&self, note: impl Into<String>) {
        self.diary.notes.lock().expect("a diary nobody poisoned").push(note.into());
    }

    /// The server half of a handshake; its result is noted.
    pub(crate) async fn start_tls(self, config: Arc<ServerConfig>) -> Option<Self> {
        let Self { io, diary, _active } = self;
        let Io::Plain(stream) = io else { panic!("TLS inside TLS is not what these tests do") };
        match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => {
                let conn = Self { io: Io::Tls(Box::new(stream)), diary, _active };
                conn.note(conn.handshake());
                Some(conn)
            }
            Err(error) => {
                diary
                    .notes
                    .lock()
                    .expect("a diary nobody poisoned")
                    .push(format!("handshake failed: {error}"));
                None
            }
        }
    }

    /// The negotiated parameters, as one line: `handshake TLSv1_3 sni=Some("db.test") alpn=None client=true
    /// kind=Some(Full) group=… cn=billing`. A resumed session has the client of the one before.
    fn handshake(&self) -> String {
        let Io::Tls(stream) = &self.io else { return String::new() };
        let (_, tls) = stream.get_ref();
        format!(
            "handshake {:?} sni={:?} alpn={:?} client={} kind={:?} group={:?} cn={}",
            tls.protocol_version().expect("a finished handshake"),
            tls.server_name(),
            tls.alpn_protocol().map(String::from_utf8_lossy),
            tls.peer_certificates().is_some(),
            tls.handshake_kind(),
            tls.negotiated_key_exchange_group().map(|group| group.name()),
            tls.peer_certificates().map(|chain| common_name(&chain[0])).unwrap_or_default(),
        )
    }

    fn tcp(&self) -> &TcpStream {
        match &self.io {
            Io::Plain(stream) => stream,
            Io::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.tcp().peer_addr().expect("a connected socket")
    }

    /// Waits for the client's first bytes and leaves them where they are.
    pub(crate) async fn wait_readable(&self) {
        // A connection that failed is noted by the next read.
        drop(self.tcp().peek(&mut [0]).await);
    }

    /// Sends one byte as TCP urgent data (`MSG_OOB`).
    pub(crate) fn send_urgent(&self, byte: u8) {
        SockRef::from(self.tcp()).send_out_of_band(&[byte]).expect("the connection takes an urgent byte");
    }

    /// Closes with a TCP reset.
    pub(crate) fn reset(self) {
        SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// The TCP stream under a TLS connection, for a server that dies without a close_notify.
    pub(crate) fn shutdown_tcp(&self) {
        SockRef::from(self.tcp()).shutdown(net::Shutdown::Write).expect("a shutdown");
    }
}

fn common_name(certificate: &[u8]) -> String {
    let (_, parsed) = X509Certificate::from_der(certificate).expect("rustls has read it");
    let name = parsed.subject().iter_common_name().next();
    name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned()
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
