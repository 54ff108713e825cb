//! Plaintext clients without TLS, and what they measure.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::alarm;
use crate::clock;

/// Clients with a session each.
pub(super) struct Traffic {
    clients: Vec<TcpStream>,
    connects: Vec<Duration>,
}

pub(super) struct Measured {
    /// Median from connect to the first echo.
    pub(super) connect: Duration,
    /// Median of an echo.
    pub(super) echo: Duration,
    /// The 99th percentile of an echo.
    pub(super) echo_99: Duration,
    /// Clients whose session ended.
    pub(super) broken: usize,
}

/// An echo that takes longer counts as broken.
const PATIENCE: Duration = Duration::from_secs(5);
const WORD: &[u8; 64] = b"ambassador demo: sixty-four bytes of plaintext from a client ...";

impl Traffic {
    /// Connects them all; each has exchanged one message when this returns.
    pub(super) async fn open(to: SocketAddr, clients: usize) -> io::Result<Self> {
        let mut traffic = Self { clients: Vec::new(), connects: Vec::new() };
        for _ in 0..clients {
            let begun = clock::now();
            let mut client = TcpStream::connect(to).await?;
            client.set_nodelay(true)?;
            traffic.connects.push(echo(&mut client, begun).await?);
            traffic.clients.push(client);
        }
        Ok(traffic)
    }

    /// Each client in turn, `rounds` times; one that fails is dropped.
    pub(super) async fn echo(&mut self, rounds: usize) -> Measured {
        let mut echoes = Vec::new();
        let before = self.clients.len();
        let mut kept = Vec::new();
        for mut client in self.clients.drain(..) {
            let mut lives = true;
            for _ in 0..rounds {
                match echo(&mut client, clock::now()).await {
                    Ok(took) => echoes.push(took),
                    Err(_) => {
                        lives = false;
                        break;
                    }
                }
            }
            if lives {
                kept.push(client);
            }
        }
        self.clients = kept;
        Measured {
            connect: quantile(&mut self.connects, 0.5),
            echo: quantile(&mut echoes, 0.5),
            echo_99: quantile(&mut echoes, 0.99),
            broken: before - self.clients.len(),
        }
    }
}

async fn echo(client: &mut TcpStream, begun: Instant) -> io::Result<Duration> {
    let exchange = async {
        client.write_all(WORD).await?;
        let mut answer = [0; WORD.len()];
        client.read_exact(&mut answer).await?;
        if answer == *WORD { Ok(()) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
    };
    alarm::timeout_at(begun + PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok(clock::now() - begun)
}

fn quantile(sorted: &mut [Duration], share: f64) -> Duration {
    sorted.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share) as usize;
    sorted.get(index).copied().unwrap_or_default()
}
