//! The sockets of a configuration: open ones are kept where the new configuration has the same address, and new ones
//! are bound before any is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use crate::admin::{self, Control};
use crate::config::Config;
use crate::drain::ChildDrain;
use crate::listener::Settings;
use crate::name::ListenerName;
use crate::sys::{Bind, BindError, Inherited, ListeningSocket, Options, Role, UnixBind};
use crate::workers::Worker;

/// A listening socket with its configured address.
#[derive(Debug, Clone)]
pub(super) struct BoundSocket {
    pub(super) bind: Bind,
    pub(super) listening: Arc<ListeningSocket>,
}

/// A socket with the loop that accepts on it, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct OpenSocket {
    pub(super) bound: BoundSocket,
    pub(super) accepting: ChildDrain,
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.accepting.stop();
    }
}

/// Every socket of a configuration.
pub(super) struct BoundSockets {
    /// In the file's order.
    pub(super) listeners: Vec<Vec<BoundSocket>>,
    pub(super) admin: Option<BoundSocket>,
    pub(super) control: Option<BoundSocket>,
}

/// All sockets that are open.
#[derive(Default)]
pub(super) struct AvailableSockets {
    /// In the order of the configuration in force, in which most are taken.
    pub(super) listeners: VecDeque<(ListenerName, BoundSocket)>,
    pub(super) admin: Option<BoundSocket>,
    pub(super) control: Option<BoundSocket>,
}

impl BoundSockets {
    /// Binds all or nothing; the errors name every address that cannot be bound. Listeners are registered with
    /// `worker`, admin sockets with the current runtime.
    pub(super) fn bind_all(
        config: &Config,
        mut available: AvailableSockets,
        inherited: &mut Inherited,
        worker: &Worker,
    ) -> Result<Self, Vec<BindError>> {
        let mut errors = Vec::new();
        let registering = worker.handle().enter();
        let mut listeners = Vec::new();
        let options: BTreeMap<_, _> =
            config.clusters.iter().map(|cluster| (&cluster.name, cluster.socket)).collect();
        for listener in &config.listeners {
            // Of the first cluster, if there are several.
            let first = listener.clusters.first().and_then(|name| options.get(name));
            let options = first.copied().unwrap_or(Options::NONE);
            let mut bound = Vec::new();
            let role = Role::Listener(listener.name.to_string());
            for bind in &listener.binds {
                let kept = available.take(listener, bind);
                if kept.is_empty() {
                    match listen(bind, &options, &role, inherited) {
                        Ok(new) => bound.extend(new),
                        Err(error) => errors.push(error.of(format!("listeners.{}.bind", listener.name))),
                    }
                }
                bound.extend(kept);
            }
            listeners.push(bound);
        }
        drop(registering);
        let mut demand = |setting: &str, bound, bind: &Bind| {
            let admin_socket = door(bound, std::slice::from_ref(bind), inherited);
            admin_socket.map_err(|error| errors.push(error.of(setting.into()))).ok()
        };
        let admin = config.admin.bind.map(Bind::Tcp);
        let admin = admin.and_then(|bind| demand("admin.bind", available.admin.take(), &bind));
        let control = match &config.admin.control {
            Control::Off => None,
            Control::At(path) => demand("admin.control", available.control.take(), &control_at(path)),
            Control::Default(path) => control_by_default(config, path, available.control.take(), inherited),
        };
        if errors.is_empty() { Ok(Self { listeners, admin, control }) } else { Err(errors) }
    }
}

impl AvailableSockets {
    /// Takes out the sockets for that address.
    fn take(&mut self, listener: &Settings, bind: &Bind) -> Vec<BoundSocket> {
        // A port chosen by the kernel belongs to one listener only, as no other can have meant it.
        let is_any_port = matches!(bind, Bind::Tcp(address) if address.port() == 0);
        let is_for = |(owner, bound): &(ListenerName, BoundSocket)| {
            is_same(&bound.bind, bind) && (!is_any_port || *owner == listener.name)
        };
        // Only systemd passes several sockets under one name.
        let most = if matches!(bind, Bind::Systemd(_)) { usize::MAX } else { 1 };
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(position) = self.listeners.iter().position(is_for)
        {
            let Some((_, bound)) = self.listeners.remove(position) else { break };
            taken.push(BoundSocket { bind: bind.clone(), ..bound });
        }
        taken
    }
}

impl BoundSocket {
    /// Gives the file of a unix socket the mode and owner that are configured now.
    pub(super) fn apply_permissions(&self) {
        if let Bind::Unix(unix) = &self.bind
            && let Err(error) = unix.apply_permissions()
        {
            tracing::warn!(address = %self.listening.local(), %error, "cannot change the socket file");
        }
    }

    /// The role by which another process recognizes it.
    pub(super) fn role(&self, otherwise: Role) -> Role {
        match &self.bind {
            Bind::Systemd(systemd) => Role::Systemd(systemd.name.clone()),
            Bind::Tcp(_) | Bind::Unix(_) => otherwise,
        }
    }
}

/// Whether both are one address; the mode of a socket's file can be changed in place.
fn is_same(bound: &Bind, wanted: &Bind) -> bool {
    match (bound, wanted) {
        (Bind::Unix(bound), Bind::Unix(wanted)) => bound.path == wanted.path,
        (Bind::Systemd(bound), Bind::Systemd(wanted)) => bound == wanted,
        (Bind::Tcp(bound), Bind::Tcp(wanted)) => bound == wanted,
        (Bind::Tcp(_) | Bind::Unix(_) | Bind::Systemd(_), _) => false,
    }
}

/// An admin socket at one of those addresses: the one that is open already, one that was passed to us, or else the
/// first that can be bound.
///
/// # Errors
/// Why the first cannot be bound.
/// Why the first cannot be had.
fn door(
    bound: Option<BoundSocket>,
    places: &[Bind],
    inherited: &mut Inherited,
) -> Result<BoundSocket, BindError> {
    if let Some(bound) = bound.filter(|bound| places.iter().any(|bind| is_same(&bound.bind, bind))) {
        return Ok(bound);
    }
    let mut refused = None;
    // A socket that was passed to us may have any of the addresses, so those with one come first.
    let (passed, others): (Vec<_>, Vec<_>) =
        places.iter().partition(|bind| inherited.has(bind, &Role::Admin));
    for bind in passed.into_iter().chain(others) {
        match listen(bind, &Options::NONE, &Role::Admin, inherited) {
            Ok(mut new) => {
                if let Some(bound) = new.pop() {
                    return Ok(bound);
                }
            }
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    Err(refused.expect("there is a place, and a socket or a reason for each"))
}

fn listen(
    bind: &Bind,
    options: &Options,
    role: &Role,
    inherited: &mut Inherited,
) -> Result<Vec<BoundSocket>, BindError> {
    let bound = |listening| BoundSocket { bind: bind.clone(), listening: Arc::new(listening) };
    Ok(inherited.listen(bind, role, options)?.into_iter().map(bound).collect())
}

fn control_at(path: &Path) -> Bind {
    Bind::Unix(UnixBind { path: path.into(), mode: 0o600, owner: None, group: None })
}

/// Creates the folder of the control socket's default path, while confinement still permits it.
pub(crate) fn make_folders(admin: &admin::Settings) {
    if let Control::Default(path) = &admin.control {
        make_folder_of(path);
    }
}

fn make_folder_of(socket: &Path) {
    if let Some(folder) = socket.parent() {
        // An error is reported by binding.
        let _ = std::fs::create_dir_all(folder);
    }
}

/// The default path was not configured, so an error does not prevent the start. Where another daemon has it, ours is
/// beside it, under a name derived from the configuration file's path: commands look there for the daemon of that file.
fn control_by_default(
    config: &Config,
    path: &Path,
    bound: Option<BoundSocket>,
    inherited: &mut Inherited,
) -> Option<BoundSocket> {
    make_folder_of(path);
    let beside = config.id.alternative_control_sockets(path).take(1);
    let places: Vec<_> =
        std::iter::once(path.to_owned()).chain(beside).map(|path| control_at(&path)).collect();
    let is_kept = bound.is_some();
    match door(bound, &places, inherited) {
        Ok(bound) => {
            if !is_kept && !is_same(&bound.bind, &places[0]) {
                let (usual, own) = (path.display(), bound.listening.local());
                tracing::warn!(
                    %usual, %own,
                    "another daemon has the control socket's default path; ours is beside it, and commands find it by --config"
                );
            }
            Some(bound)
        }
        Err(error) => {
            tracing::warn!(%error, "no control socket; set admin.control to a path or to `off`");
            None
        }
    }
}
