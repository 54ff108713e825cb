//! Asks a running daemon, over its control socket or its HTTP address, and gives it orders over the former.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

use super::{ConfigFile, Failure};
use crate::admin::{ConfigId, Control, MEANT, Settings};
use crate::alarm;
use crate::clock;
use crate::workers;

/// Where the daemon is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Where {
    #[command(flatten)]
    socket: ControlSocket,
    /// Ask this HTTP address, whatever the configuration says
    #[arg(long, value_name = "ADDRESS", conflicts_with = "control")]
    admin: Option<SocketAddr>,
}

/// Where the daemon takes orders.
#[derive(Debug, clap::Args)]
pub(super) struct ControlSocket {
    #[command(flatten)]
    file: ConfigFile,
    /// Ask this control socket, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// A daemon that can be asked.
pub(super) struct Daemon {
    runtime: Runtime,
    doors: Vec<Door>,
    /// The file whose daemon is meant; `None`: whoever listens there.
    file: Option<ConfigId>,
}

/// Where somebody may listen, and the file whose daemon is meant.
type Doors = (Vec<Door>, Option<ConfigId>);

enum Door {
    Control(PathBuf),
    Address(SocketAddr),
}

/// What a daemon answers.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// A daemon that does not answer within this is as good as gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// An order may make it read files and look users up.
const PATIENCE_ORDER: Duration = Duration::from_secs(65);

/// The body of the answer to `GET path`, from the first door that opens.
pub(super) fn get(place: &Where, path: &str) -> Result<Bytes, Failure> {
    let daemon = Daemon::at(place)?;
    daemon.get(path).map_err(Failure::Running)
}

/// The answer to an order, whatever it is.
pub(super) fn order(place: &ControlSocket, path: &str) -> Result<Answer, Failure> {
    let daemon = Daemon::commanded_at(place)?;
    daemon.order(path).map_err(Failure::Running)
}

/// A name as a part of a path.
pub(super) fn part(name: &str) -> String {
    const KEPT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    utf8_percent_encode(name, KEPT).to_string()
}

impl Daemon {
    /// The one that may be asked there.
    pub(super) fn at(place: &Where) -> Result<Self, Failure> {
        let (doors, file) = match place.admin {
            Some(address) => (vec![Door::Address(address)], None),
            None => place.socket.doors()?,
        };
        if doors.is_empty() {
            return Err(Failure::Running("the configuration has admin.bind and admin.control off".into()));
        }
        Self::behind(doors, file)
    }

    /// The one that takes orders there.
    pub(super) fn commanded_at(place: &ControlSocket) -> Result<Self, Failure> {
        let (mut doors, file) = place.doors()?;
        doors.retain(Door::takes_orders);
        if doors.is_empty() {
            return Err(Failure::Running(
                "the configuration has admin.control off: its daemon takes no orders but signals".into(),
            ));
        }
        Self::behind(doors, file)
    }

    fn behind(doors: Vec<Door>, file: Option<ConfigId>) -> Result<Self, Failure> {
        let runtime = workers::runtime().map_err(|error| Failure::Running(error.to_string()))?;
        Ok(Self { runtime, doors, file })
    }

    /// The body of a good answer, or why there is none.
    pub(super) fn get(&self, path: &str) -> Result<Bytes, String> {
        self.ask(&Method::GET, path, PATIENCE, self.doors.iter())?.good()
    }

    /// The answer to an order.
    pub(super) fn order(&self, path: &str) -> Result<Answer, String> {
        let mut doors = self.doors.iter().filter(|door| door.takes_orders()).peekable();
        if doors.peek().is_none() {
            return Err("orders are taken on the control socket alone".into());
        }
        self.ask(&Method::POST, path, PATIENCE_ORDER, doors)
    }

    /// From the first door that opens and is the daemon's who is meant.
    fn ask<'a>(
        &self,
        method: &Method,
        path: &str,
        patience: Duration,
        doors: impl Iterator<Item = &'a Door>,
    ) -> Result<Answer, String> {
        let mut reasons = Vec::new();
        for door in doors {
            let request = request(method, path, self.file.as_ref())?;
            let asking = alarm::before(clock::now() + patience, door.ask(request));
            let asked = self.runtime.block_on(alarm::attend(asking)).map_err(|error| error.to_string())?;
            match asked.unwrap_or_else(|_| Err("no answer".into())) {
                Ok(answer) if answer.status == StatusCode::MISDIRECTED_REQUEST => {
                    reasons.push(format!("{door}: {}", answer.words()));
                }
                Ok(answer) => return Ok(answer),
                Err(reason) => reasons.push(format!("{door}: {reason}")),
            }
        }
        Err(format!("no daemon answers: {}", reasons.join("; ")))
    }
}

impl Answer {
    /// The body, or the daemon's words.
    pub(super) fn good(self) -> Result<Bytes, String> {
        if self.status.is_success() { Ok(self.body) } else { Err(self.words()) }
    }

    /// What the daemon says.
    pub(super) fn words(&self) -> String {
        let words = String::from_utf8_lossy(&self.body).trim().to_owned();
        if words.is_empty() { self.status.to_string() } else { words }
    }
}

/// An answer in JSON.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the daemon's answer is not understood: {error}"))
}

impl ControlSocket {
    fn doors(&self) -> Result<Doors, Failure> {
        match &self.control {
            Some(path) => Ok((vec![Door::Control(path.clone())], None)),
            None => {
                let (admin, file) = (self.file.load_admin()?, self.file.id());
                Ok((configured(&admin, file.as_ref()), file))
            }
        }
    }
}

fn configured(admin: &Settings, file: Option<&ConfigId>) -> Vec<Door> {
    let control = match &admin.control {
        Control::Off => vec![],
        Control::At(path) => vec![path.clone()],
        Control::Default(path) => {
            // A user's shell has an $XDG_RUNTIME_DIR that the system's daemon has not.
            let mut places = vec![path.clone(), PathBuf::from("/run/ambassador/control.sock")];
            places.dedup();
            let beside = |path: &PathBuf| {
                file.into_iter().flat_map(|file| file.controls_beside(path)).collect::<Vec<_>>()
            };
            // Where it is beside the usual place, that one is another daemon's.
            places.iter().flat_map(|path| beside(path).into_iter().chain([path.clone()])).collect()
        }
    };
    control.into_iter().map(Door::Control).chain(admin.bind.map(Door::Address)).collect()
}

impl Door {
    const fn takes_orders(&self) -> bool {
        matches!(self, Self::Control(_))
    }

    async fn ask(&self, request: Request<Empty<Bytes>>) -> Result<Answer, String> {
        match self {
            Self::Control(socket) => {
                let connected = UnixStream::connect(socket).await;
                exchange(connected.map_err(|error| closed(&error))?, request).await
            }
            Self::Address(address) => {
                let connected = TcpStream::connect(address).await;
                exchange(connected.map_err(|error| closed(&error))?, request).await
            }
        }
    }
}

/// Why a door does not open.
fn closed(error: &io::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the list of kinds is not closed")]
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("nobody listens there ({error})")
        }
        io::ErrorKind::PermissionDenied => format!("it is for root and the daemon's own user ({error})"),
        _ => error.to_string(),
    }
}

/// What is asked, of the daemon of that file where there is one.
fn request(method: &Method, path: &str, file: Option<&ConfigId>) -> Result<Request<Empty<Bytes>>, String> {
    let request = Request::builder().method(method.clone()).uri(path);
    let request = request.header("host", "localhost").header("connection", "close");
    let meant = file.into_iter().flat_map(ConfigId::headers);
    let request = meant.fold(request, |request, value| request.header(MEANT, value));
    request.body(Empty::new()).map_err(|error| error.to_string())
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        Ok(Answer { status: answer.status(), body: answer.into_body().collect().await?.to_bytes() })
    };
    let (answered, _) = tokio::join!(asking, connection);
    answered.map_err(|error: hyper::Error| error.to_string())
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Control(path) => write!(f, "unix:{}", path.display()),
            Self::Address(address) => write!(f, "http://{address}"),
        }
    }
}
