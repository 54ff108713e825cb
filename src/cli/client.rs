//! The client of a running daemon: queries over its control socket or its HTTP address, control requests
//! over the former.

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

use super::{CommandError, ConfigFile};
use crate::admin::{ConfigId, Control, MEANT, Settings};
use crate::alarm;
use crate::clock;
use crate::workers;

/// Where the daemon is asked.
#[derive(Debug, clap::Args)]
pub(super) struct AdminTarget {
    #[command(flatten)]
    socket: ControlTarget,
    /// HTTP address of the daemon, such as 127.0.0.1:9901 [default: by the configuration]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "control")]
    admin: Option<SocketAddr>,
}

/// Where the daemon takes orders.
#[derive(Debug, clap::Args)]
pub(super) struct ControlTarget {
    #[command(flatten)]
    file: ConfigFile,
    /// Control socket of the daemon, such as /run/ambassador/control.sock [default: by the configuration]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// A daemon that can be queried.
pub(super) struct Daemon {
    runtime: Runtime,
    addresses: Vec<AdminAddress>,
    /// The file whose daemon is meant; `None`: whichever daemon listens there.
    file: Option<ConfigId>,
}

/// The addresses to try, and the file whose daemon is meant.
type AdminAddresses = (Vec<AdminAddress>, Option<ConfigId>);

enum AdminAddress {
    Control(PathBuf),
    Address(SocketAddr),
}

pub(super) struct ControlResponse {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// A daemon that does not answer within this time counts as gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// For control requests, as they may make the daemon read files and look users up.
const PATIENCE_ORDER: Duration = Duration::from_secs(65);

/// The body of the response to `GET path`, from the first address that answers.
pub(super) fn get(place: &AdminTarget, path: &str) -> Result<Bytes, CommandError> {
    let daemon = Daemon::at(place)?;
    daemon.get(path).map_err(CommandError::Running)
}

/// The response to a control request, whatever it is.
pub(super) fn send_command(place: &ControlTarget, path: &str) -> Result<ControlResponse, CommandError> {
    let daemon = Daemon::control_at(place)?;
    daemon.send_command(path).map_err(CommandError::Running)
}

/// Encodes a name as a segment of a path.
pub(super) fn path_segment(name: &str) -> String {
    const KEPT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    utf8_percent_encode(name, KEPT).to_string()
}

impl Daemon {
    /// The daemon that can be queried there.
    pub(super) fn at(place: &AdminTarget) -> Result<Self, CommandError> {
        let (addresses, file) = match place.admin {
            Some(address) => (vec![AdminAddress::Address(address)], None),
            None => place.socket.doors()?,
        };
        if addresses.is_empty() {
            return Err(CommandError::Running(
                "the configuration has admin.bind and admin.control off".into(),
            ));
        }
        Self::behind(addresses, file)
    }

    /// The daemon that takes control requests there.
    pub(super) fn control_at(place: &ControlTarget) -> Result<Self, CommandError> {
        let (mut addresses, file) = place.doors()?;
        addresses.retain(AdminAddress::takes_orders);
        if addresses.is_empty() {
            return Err(CommandError::Running(
                "the configuration has admin.control off: its daemon takes no orders but signals".into(),
            ));
        }
        Self::behind(addresses, file)
    }

    fn behind(addresses: Vec<AdminAddress>, file: Option<ConfigId>) -> Result<Self, CommandError> {
        let runtime = workers::runtime().map_err(|error| CommandError::Running(error.to_string()))?;
        Ok(Self { runtime, addresses, file })
    }

    /// The body of a successful response, or why there is none.
    pub(super) fn get(&self, path: &str) -> Result<Bytes, String> {
        self.ask(&Method::GET, path, PATIENCE, self.addresses.iter())?.into_success_body()
    }

    /// The response to a control request.
    pub(super) fn send_command(&self, path: &str) -> Result<ControlResponse, String> {
        let mut addresses = self.addresses.iter().filter(|address| address.takes_orders()).peekable();
        if addresses.peek().is_none() {
            return Err("orders are taken on the control socket alone".into());
        }
        self.ask(&Method::POST, path, PATIENCE_ORDER, addresses)
    }

    /// Asks the addresses in order, until the right daemon answers.
    fn ask<'a>(
        &self,
        method: &Method,
        path: &str,
        patience: Duration,
        addresses: impl Iterator<Item = &'a AdminAddress>,
    ) -> Result<ControlResponse, String> {
        let mut reasons = Vec::new();
        for address in addresses {
            let request = request(method, path, self.file.as_ref())?;
            let asking = alarm::timeout_at(clock::now() + patience, address.ask(request));
            let asked = self.runtime.block_on(alarm::drive(asking)).map_err(|error| error.to_string())?;
            match asked.unwrap_or_else(|_| Err("no answer".into())) {
                Ok(answer) if answer.status == StatusCode::MISDIRECTED_REQUEST => {
                    reasons.push(format!("{address}: {}", answer.message()));
                }
                Ok(answer) => return Ok(answer),
                Err(reason) => reasons.push(format!("{address}: {reason}")),
            }
        }
        Err(format!("no daemon answers: {}", reasons.join("; ")))
    }
}

impl ControlResponse {
    /// The body, or the daemon's error message.
    pub(super) fn into_success_body(self) -> Result<Bytes, String> {
        if self.status.is_success() { Ok(self.body) } else { Err(self.message()) }
    }

    /// What the daemon replied, for people; the status of HTTP where that is all.
    pub(super) fn message(&self) -> String {
        let words = String::from_utf8_lossy(&self.body).trim().to_owned();
        if words.is_empty() { self.status.to_string() } else { words }
    }
}

/// Parses a JSON response.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the daemon's answer is not understood: {error}"))
}

impl ControlTarget {
    fn doors(&self) -> Result<AdminAddresses, CommandError> {
        match &self.control {
            Some(path) => Ok((vec![AdminAddress::Control(path.clone())], None)),
            None => {
                let (admin, file) = (self.file.load_admin()?, self.file.id());
                Ok((configured_addresses(&admin, file.as_ref()), file))
            }
        }
    }
}

fn configured_addresses(admin: &Settings, file: Option<&ConfigId>) -> Vec<AdminAddress> {
    let control = match &admin.control {
        Control::Off => vec![],
        Control::At(path) => vec![path.clone()],
        Control::Default(path) => {
            // A user's shell has an $XDG_RUNTIME_DIR that the system's daemon does not have.
            let mut places = vec![path.clone(), PathBuf::from("/run/ambassador/control.sock")];
            places.dedup();
            let beside = |path: &PathBuf| {
                file.into_iter().flat_map(|file| file.alternative_control_sockets(path)).collect::<Vec<_>>()
            };
            // A daemon listens beside the usual path only if that is another daemon's, so the paths beside
            // come first.
            places.iter().flat_map(|path| beside(path).into_iter().chain([path.clone()])).collect()
        }
    };
    control.into_iter().map(AdminAddress::Control).chain(admin.bind.map(AdminAddress::Address)).collect()
}

impl AdminAddress {
    const fn takes_orders(&self) -> bool {
        matches!(self, Self::Control(_))
    }

    async fn ask(&self, request: Request<Empty<Bytes>>) -> Result<ControlResponse, String> {
        match self {
            Self::Control(socket) => {
                let connected = UnixStream::connect(socket).await;
                exchange(connected.map_err(|error| connect_error(&error))?, request).await
            }
            Self::Address(address) => {
                let connected = TcpStream::connect(address).await;
                exchange(connected.map_err(|error| connect_error(&error))?, request).await
            }
        }
    }
}

/// Why an address cannot be connected to.
fn connect_error(error: &io::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the list of kinds is not closed")]
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("nobody listens there ({error})")
        }
        io::ErrorKind::PermissionDenied => format!("it is for root and the daemon's own user ({error})"),
        _ => error.to_string(),
    }
}

/// The request, with the header that names the configuration file if there is one.
fn request(method: &Method, path: &str, file: Option<&ConfigId>) -> Result<Request<Empty<Bytes>>, String> {
    let request = Request::builder().method(method.clone()).uri(path);
    let request = request.header("host", "localhost").header("connection", "close");
    let meant = file.into_iter().flat_map(ConfigId::headers);
    let request = meant.fold(request, |request, value| request.header(MEANT, value));
    request.body(Empty::new()).map_err(|error| error.to_string())
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<ControlResponse, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        Ok(ControlResponse { status: answer.status(), body: answer.into_body().collect().await?.to_bytes() })
    };
    let (answered, _) = tokio::join!(asking, connection);
    answered.map_err(|error: hyper::Error| error.to_string())
}

impl std::fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Control(path) => write!(f, "unix:{}", path.display()),
            Self::Address(address) => write!(f, "http://{address}"),
        }
    }
}
