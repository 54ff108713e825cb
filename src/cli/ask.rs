//! Asks a running daemon, over its control socket or its HTTP address.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{ConfigFile, Failure};
use crate::admin::{Control, Settings};
use crate::alarm;
use crate::clock;
use crate::workers;

/// Where the daemon is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Where {
    #[command(flatten)]
    file: ConfigFile,
    /// Ask this control socket, whatever the configuration says
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    control: Option<PathBuf>,
    /// Ask this HTTP address, whatever the configuration says
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

enum Door {
    Control(PathBuf),
    Address(SocketAddr),
}

/// A daemon that does not answer within this is as good as gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of the answer to `GET path`, from the first door that opens.
pub(super) fn get(place: &Where, path: &str) -> Result<Bytes, Failure> {
    let doors = place.doors()?;
    let runtime = workers::runtime().map_err(|error| Failure::Running(error.to_string()))?;
    let mut reasons = Vec::new();
    for door in &doors {
        let asked = alarm::attend(alarm::before(clock::now() + PATIENCE, door.get(path)));
        let asked = runtime.block_on(asked).map_err(|error| Failure::Running(error.to_string()))?;
        match asked.unwrap_or_else(|_| Err("no answer".into())) {
            Ok(body) => return Ok(body),
            Err(reason) => reasons.push(format!("{door}: {reason}")),
        }
    }
    Err(Failure::Running(format!("no daemon answers: {}", reasons.join("; "))))
}

impl Where {
    fn doors(&self) -> Result<Vec<Door>, Failure> {
        match (&self.control, self.admin) {
            (Some(path), _) => return Ok(vec![Door::Control(path.clone())]),
            (None, Some(address)) => return Ok(vec![Door::Address(address)]),
            (None, None) => {}
        }
        let doors = configured(&self.file.load_admin()?);
        if doors.is_empty() {
            return Err(Failure::Running("the configuration has admin.bind and admin.control off".into()));
        }
        Ok(doors)
    }
}

fn configured(admin: &Settings) -> Vec<Door> {
    let control = match &admin.control {
        Control::Off => vec![],
        Control::At(path) => vec![path.clone()],
        // A user's shell has an $XDG_RUNTIME_DIR that the system's daemon has not.
        Control::Default(path) => vec![path.clone(), "/run/ambassador/control.sock".into()],
    };
    control.into_iter().map(Door::Control).chain(admin.bind.map(Door::Address)).collect()
}

impl Door {
    async fn get(&self, path: &str) -> Result<Bytes, String> {
        match self {
            Self::Control(socket) => {
                exchange(UnixStream::connect(socket).await.map_err(|error| error.to_string())?, path).await
            }
            Self::Address(address) => {
                exchange(TcpStream::connect(address).await.map_err(|error| error.to_string())?, path).await
            }
        }
    }
}

async fn exchange<S>(stream: S, path: &str) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let request = Request::get(path)
        .header("host", "localhost")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    };
    let (answered, _) = tokio::join!(asking, connection);
    let (status, body) = answered.map_err(|error: hyper::Error| error.to_string())?;
    if status.is_success() {
        Ok(body)
    } else {
        Err(format!("{status}: {}", String::from_utf8_lossy(&body).trim()))
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Control(path) => write!(f, "unix:{}", path.display()),
            Self::Address(address) => write!(f, "http://{address}"),
        }
    }
}
