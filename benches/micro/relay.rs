//! One message from a client to its endpoint through a real relay, on a worker's runtime.
//!
//! Both ends of both connections are on that one thread, so a step includes the cost of the client's send and of the
//! endpoint's receive, alike at every commit.

use std::io;

use ambassador::internals::Drain;
use ambassador::internals::clock;
use ambassador::internals::relay::{self, LiveSession, RelayInput, UpstreamStream, relay};
use ambassador::internals::sys::{Bind, ConnectTarget, ListeningSocket, LocalAddress, Options, Socket};
use ambassador::internals::workers;
use criterion::{Criterion, Throughput};

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    // The second fills a read, so it uses splice.
    for (name, bytes) in [("64_b", 64), ("16_kib", 16 * 1024)] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| {
            let runtime = workers::runtime().expect("a runtime can be made");
            let session = runtime.block_on(Session::begin()).expect("loopback connects");
            let mut message = vec![7; bytes];
            bencher.iter_custom(|steps| {
                runtime.block_on(async {
                    let begun = clock::now();
                    for _ in 0..steps {
                        session.step(&mut message).await.expect("the relay moves it");
                    }
                    begun.elapsed()
                })
            });
        });
    }
    group.finish();
}

/// A relay with a peer of ours at either end; it ends with the runtime.
struct Session {
    client: Socket,
    endpoint: Socket,
}

impl Session {
    async fn begin() -> io::Result<Self> {
        let (client, downstream) = pair().await?;
        let (upstream, endpoint) = pair().await?;
        let start = RelayInput {
            downstream,
            upstream: UpstreamStream::Socket(upstream),
            opening: Vec::new(),
            dialogue: None,
            verdict_until: None,
        };
        Drain::default().spawn(async move {
            let settings =
                relay::Settings { idle_timeout: None, half_close_timeout: None, max_lifetime: None };
            relay(start, &settings, &LiveSession::default()).await;
        });
        Ok(Self { client, endpoint })
    }

    /// Sends the message and waits until all of it has arrived.
    async fn step(&self, message: &mut [u8]) -> io::Result<()> {
        self.client.send_all(message).await?;
        let mut arrived = 0;
        while arrived < message.len() {
            match self.endpoint.recv(&mut message[arrived..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => arrived += more,
            }
        }
        Ok(())
    }
}

/// Both ends of a TCP connection on loopback.
async fn pair() -> io::Result<(Socket, Socket)> {
    let any = Bind::Tcp(([127, 0, 0, 1], 0).into());
    let listening = ListeningSocket::bind(&any, &OPTIONS).map_err(io::Error::other)?;
    let LocalAddress::Tcp(address) = *listening.local() else { unreachable!("it was told to bind TCP") };
    let connecting = Socket::connect(
        ConnectTarget { address, from: None, speaks_first: false, is_upkeep: false },
        &OPTIONS,
    )?;
    let ((), accepted) = tokio::try_join!(connecting.connected(), listening.accept())?;
    Ok((connecting, Socket::adopt(accepted.0)?))
}

const OPTIONS: Options = Options { keepalive: None, user_timeout: None };
