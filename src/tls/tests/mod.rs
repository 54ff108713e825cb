//! A stream and its server over loopback, in one task, with keys as short-lived as a test needs.

mod certificates;
pub(crate) mod steps;
pub(crate) mod wire;
pub(in crate::tls) mod workshop;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{
    CipherSuiteCommon, ClientConfig, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    Tls12CipherSuite, Tls13CipherSuite,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::verifier::{AcceptAny, Verifier};
use super::{CIPHER_SUITES, KeyLimit, LastFlight, Stream};
use crate::alarm;
use crate::clock;
use crate::sys::{ConnectTarget, Options, Socket};

pub(crate) type Server = tokio_rustls::server::TlsStream<TcpStream>;

pub(crate) const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
pub(crate) const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// AES-GCM with keys for that many records.
fn suite(version: &SupportedProtocolVersion, records: u64) -> SupportedCipherSuite {
    let wanted = if version == TLS12 {
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    } else {
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
    };
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: records,
    };
    match wanted {
        SupportedCipherSuite::Tls12(suite) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&suite.common),
                prf_provider: suite.prf_provider,
                kx: suite.kx,
                sign: suite.sign,
                aead_alg: suite.aead_alg,
            })))
        }
        SupportedCipherSuite::Tls13(suite) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&suite.common),
                hkdf_provider: suite.hkdf_provider,
                aead_alg: suite.aead_alg,
                quic: None,
            })))
        }
    }
}

/// Both ends of a TCP connection on loopback.
pub(crate) async fn tcp() -> (Socket, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = ConnectTarget { address, from: None, speaks_first: false, is_upkeep: false };
    let socket = Socket::connect(target, &Options::NONE).unwrap();
    socket.connected().await.unwrap();
    let (peer, _) = listener.accept().await.unwrap();
    peer.set_nodelay(true).unwrap();
    (socket, peer)
}

/// Configurations of client and server; the client may send that many records with one key. Nothing is resumed.
pub(crate) fn configs(
    version: &'static SupportedProtocolVersion,
    records: u64,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let server = workshop::server(&workshop::self_signed(), version);
    let provider =
        CryptoProvider { cipher_suites: vec![suite(version, records)], ..aws_lc_rs::default_provider() };
    let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(
            Arc::new(AcceptAny),
            &aws_lc_rs::default_provider(),
        )))
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    (Arc::new(client), server)
}

/// Both ends of a TLS connection on loopback; the client may send that many records with one key.
pub(crate) async fn secured(version: &'static SupportedProtocolVersion, records: u64) -> (Stream, Server) {
    let (client, server) = configs(version, records);
    let (socket, peer) = tcp().await;
    let name = ServerName::try_from("localhost").unwrap();
    let (stream, server) = tokio::join!(
        Stream::handshake(socket, Stream::hello(client, name).expect("a hello"), None, LastFlight::AtOnce),
        TlsAcceptor::from(server).accept(peer)
    );
    (stream.unwrap(), server.unwrap())
}

/// Runs a test with a time limit.
pub(crate) fn within_a_minute(claim: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let claimed = runtime.block_on(alarm::drive(async {
        alarm::timeout_at(clock::now() + Duration::from_secs(60), claim).await.expect("it hangs");
    }));
    claimed.unwrap();
}

async fn write(stream: &mut Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[poll_fn(|cx| stream.poll_write(cx, bytes)).await?..];
    }
    poll_fn(|cx| stream.poll_flush(cx)).await
}

/// A Redis client at 10,000 commands a second had sent 2^24 records to a server without TLS 1.3 after half an hour.
/// rustls then encrypts no more and has a close_notify ready; it was never sent, so the server waited for the next
/// command, and the client for its response.
#[test]
fn keys_that_are_used_up_end_a_tls_1_2_stream_with_a_close_notify() {
    within_a_minute(async {
        let (mut stream, mut server) = secured(TLS12, 64).await;
        let mut sent = 0_u64;
        let error = loop {
            match write(&mut stream, b"x").await {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(error.get_ref().unwrap().is::<KeyLimit>(), "{error}");
        // The first record is the end of the handshake.
        assert_eq!(sent, 63);
        let again = write(&mut stream, b"x").await.unwrap_err();
        assert!(again.get_ref().unwrap().is::<KeyLimit>(), "{again}");
        poll_fn(|cx| stream.poll_finish(cx)).await.unwrap();
        let mut received = Vec::new();
        assert_eq!(
            server.read_to_end(&mut received).await.unwrap(),
            63,
            "an end without close_notify is an error"
        );
    });
}

/// The keys may not suffice for a write of many records: what was encrypted before counts as written, and nothing is
/// sent in part.
#[test]
fn a_write_that_the_keys_do_not_suffice_for_is_not_sent_in_part() {
    within_a_minute(async {
        let (mut stream, mut server) = secured(TLS12, 16).await;
        let bytes = vec![7; 512 * 1024];
        let taken = poll_fn(|cx| stream.poll_write(cx, &bytes)).await.unwrap();
        assert_eq!(taken, 128 * 1024, "eight records, and eight more would be one too many");
        let error = poll_fn(|cx| stream.poll_write(cx, &bytes)).await.unwrap_err();
        assert!(error.get_ref().unwrap().is::<KeyLimit>(), "{error}");
        let mut received = Vec::new();
        let (finished, read) =
            tokio::join!(poll_fn(|cx| stream.poll_finish(cx)), server.read_to_end(&mut received));
        finished.unwrap();
        assert_eq!(read.unwrap(), taken);
    });
}

/// TLS 1.3 updates its keys where TLS 1.2 has to end, for small records as for full ones, and in both directions.
#[test]
fn keys_that_are_used_up_are_renewed_with_tls_1_3() {
    within_a_minute(async {
        let (mut stream, mut server) = secured(TLS13, 64).await;
        for size in [1, 100, 300 * 1024] {
            let (bytes, mut received) = (vec![size as u8; size], vec![0; size]);
            for _ in 0..200 {
                let (written, read) =
                    tokio::join!(write(&mut stream, &bytes), server.read_exact(&mut received));
                written.unwrap();
                read.unwrap();
                assert_eq!(received, bytes);
                assert_eq!(stream.key_limit_due(), None);
                server.write_all(b"!").await.unwrap();
                server.flush().await.unwrap();
                let mut answer = vec![0; Stream::PORTION];
                assert_eq!(poll_fn(|cx| stream.poll_read(cx, &mut answer)).await.unwrap(), 1);
            }
        }
    });
}

/// A server that sends much ciphertext with little plaintext (tickets, or a byte in each record) is not limited by a
/// budget of bytes read: it blocked its worker for a hundred megabytes at a time.
#[test]
fn a_server_whose_records_are_almost_empty_has_one_turn_at_a_time() {
    within_a_minute(async {
        let (mut stream, mut server) = secured(TLS13, u64::MAX).await;
        for _ in 0..20_000 {
            server.write_all(b"x").await.unwrap();
        }
        server.flush().await.unwrap();
        let (mut buffer, mut read, mut longest) = (vec![0; 64 * 1024], 0, 0);
        while read < 20_000 {
            let turn = poll_fn(|cx| {
                let mut turn = 0;
                while let Poll::Ready(got) = stream.poll_read(cx, &mut buffer) {
                    read += got.unwrap();
                    turn += 1;
                }
                if turn == 0 { Poll::Pending } else { Poll::Ready(turn) }
            });
            longest = longest.max(turn.await);
        }
        assert!(longest <= 2, "{longest} reads of 64 KiB in one turn");
    });
}

#[test]
fn what_is_offered_has_every_suite_and_aes_128_first() {
    let offered: Vec<_> = CIPHER_SUITES.iter().map(|suite| suite.suite()).collect();
    let known: Vec<_> = aws_lc_rs::ALL_CIPHER_SUITES.iter().map(|suite| suite.suite()).collect();
    let sorted = |suites: &[rustls::CipherSuite]| {
        let mut numbers: Vec<u16> = suites.iter().map(|suite| u16::from(*suite)).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(sorted(&offered), sorted(&known), "a new suite of rustls has no place yet");
    assert_eq!(offered[0], rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
}
