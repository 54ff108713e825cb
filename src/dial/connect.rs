//! TCP connect to an endpoint's address, or to the one of its two addresses that answers first (RFC 8305, "happy
//! eyeballs"). No deadline here: the caller has one.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use crate::alarm;
use crate::clock;
use crate::sys::Socket;

/// How long the preferred address is tried alone (RFC 8305 section 8, "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

/// The socket and its address, or the address tried last and its error.
pub(super) type Connected = Result<(Socket, SocketAddr), (SocketAddr, io::Error)>;

/// Tries the first address, and the second when the first has failed or was silent for [`HEAD_START`]. The first to
/// connect wins; the other is dropped.
pub(super) async fn connect(
    (first, second): (SocketAddr, Option<SocketAddr>),
    begin: impl Fn(SocketAddr) -> io::Result<Socket> + Copy,
) -> Connected {
    match second {
        None => reach(first, begin).await,
        // Boxed: few endpoints have two addresses, and this would enlarge every dial.
        Some(second) => Box::pin(race(first, second, begin)).await,
    }
}

async fn reach(address: SocketAddr, begin: impl Fn(SocketAddr) -> io::Result<Socket>) -> Connected {
    let connecting = begin(address).map_err(|error| (address, error))?;
    connecting.connected().await.map_err(|error| (address, error))?;
    Ok((connecting, address))
}

async fn race(
    first: SocketAddr,
    second: SocketAddr,
    begin: impl Fn(SocketAddr) -> io::Result<Socket> + Copy,
) -> Connected {
    let mut leading = pin!(reach(first, begin));
    match alarm::timeout_at(clock::now() + HEAD_START, leading.as_mut()).await {
        Ok(Ok(connected)) => return Ok(connected),
        Ok(Err(_)) => return reach(second, begin).await,
        Err(alarm::Elapsed) => {}
    }
    let mut following = pin!(reach(second, begin));
    tokio::select! {
        biased;
        led = leading.as_mut() => match led {
            Ok(connected) => Ok(connected),
            Err(_) => following.await,
        },
        followed = following.as_mut() => match followed {
            Ok(connected) => Ok(connected),
            Err(_) => leading.await,
        },
    }
}
