//! Which socket is whose: those that are there are kept where the new configuration wants the same address, and new
//! ones are bound before any is given up.

use std::path::Path;
use std::sync::Arc;

use crate::admin::{self, Control};
use crate::config::Config;
use crate::listener::Settings;
use crate::name::ListenerName;
use crate::sys::{Bind, BindError, Inherited, Listening, Options, Role, UnixBind};
use crate::workers::Worker;

/// A listening socket with the address that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) bind: Bind,
    pub(super) listening: Arc<Listening>,
}

/// Every socket of a configuration.
pub(super) struct Gathered {
    /// In the file's order.
    pub(super) listeners: Vec<Vec<Held>>,
    pub(super) admin: Option<Held>,
    pub(super) control: Option<Held>,
}

/// Every socket there is.
#[derive(Default)]
pub(super) struct AtHand {
    pub(super) listeners: Vec<(ListenerName, Held)>,
    pub(super) admin: Option<Held>,
    pub(super) control: Option<Held>,
}

impl Gathered {
    /// All or nothing; every address that cannot be had is named in one go. Listeners belong to `worker`, what
    /// answers about the daemon to the current runtime.
    pub(super) fn gather(
        config: &Config,
        mut at_hand: AtHand,
        inherited: &mut Inherited,
        worker: &Worker,
    ) -> Result<Self, Vec<BindError>> {
        let mut errors = Vec::new();
        let registering = worker.handle().enter();
        let mut listeners = Vec::new();
        for listener in &config.listeners {
            let options = config.cluster_of(listener).map_or(Options::NONE, |cluster| cluster.socket);
            let mut held = Vec::new();
            let role = Role::Listener(listener.name.to_string());
            for bind in &listener.binds {
                let kept = at_hand.take(listener, bind);
                if kept.is_empty() {
                    match listen(bind, &options, &role, inherited) {
                        Ok(new) => held.extend(new),
                        Err(error) => errors.push(error.of(format!("listeners.{}.bind", listener.name))),
                    }
                }
                held.extend(kept);
            }
            listeners.push(held);
        }
        drop(registering);
        let mut demand = |setting: &str, held, bind: &Bind| {
            let door = door(held, std::slice::from_ref(bind), inherited);
            door.map_err(|error| errors.push(error.of(setting.into()))).ok()
        };
        let admin = config.admin.bind.map(Bind::Tcp);
        let admin = admin.and_then(|bind| demand("admin.bind", at_hand.admin.take(), &bind));
        let control = match &config.admin.control {
            Control::Off => None,
            Control::At(path) => demand("admin.control", at_hand.control.take(), &control_at(path)),
            Control::Default(path) => control_by_default(config, path, at_hand.control.take(), inherited),
        };
        if errors.is_empty() { Ok(Self { listeners, admin, control }) } else { Err(errors) }
    }
}

impl AtHand {
    /// Those that are for that address, taken out.
    fn take(&mut self, listener: &Settings, bind: &Bind) -> Vec<Held> {
        // A port of the kernel's choice is one listener's own, and no address that another could mean.
        let is_any_port = matches!(bind, Bind::Tcp(address) if address.port() == 0);
        let is_for = |(owner, held): &(ListenerName, Held)| {
            is_same(&held.bind, bind) && (!is_any_port || *owner == listener.name)
        };
        // Only systemd passes several under one name.
        let most = if matches!(bind, Bind::Systemd(_)) { usize::MAX } else { 1 };
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(position) = self.listeners.iter().position(is_for)
        {
            let (_, held) = self.listeners.remove(position);
            taken.push(Held { bind: bind.clone(), ..held });
        }
        taken
    }
}

impl Held {
    /// Gives the file of a unix socket that stays the mode and owner that are wanted now.
    pub(super) fn redress(&self) {
        if let Bind::Unix(unix) = &self.bind
            && let Err(error) = unix.dress()
        {
            tracing::warn!(address = %self.listening.local(), %error, "cannot change the socket file");
        }
    }

    /// What it is for, as another process is told.
    pub(super) fn role(&self, otherwise: Role) -> Role {
        match &self.bind {
            Bind::Systemd(systemd) => Role::Systemd(systemd.name.clone()),
            Bind::Tcp(_) | Bind::Unix(_) => otherwise,
        }
    }
}

/// Whether both mean one socket; the mode of its file may change in place.
fn is_same(held: &Bind, wanted: &Bind) -> bool {
    match (held, wanted) {
        (Bind::Unix(held), Bind::Unix(wanted)) => held.path == wanted.path,
        (Bind::Systemd(held), Bind::Systemd(wanted)) => held == wanted,
        (Bind::Tcp(held), Bind::Tcp(wanted)) => held == wanted,
        (Bind::Tcp(_) | Bind::Unix(_) | Bind::Systemd(_), _) => false,
    }
}

/// The socket of a door at one of those addresses: the one that there is already, one that was passed to us, or else the first
/// that can be bound.
///
/// # Errors
/// Why the first cannot be had.
fn door(held: Option<Held>, places: &[Bind], inherited: &mut Inherited) -> Result<Held, BindError> {
    if let Some(held) = held.filter(|held| places.iter().any(|bind| is_same(&held.bind, bind))) {
        return Ok(held);
    }
    let mut refused = None;
    // One that was passed to us lies at any of them: those come first that somebody listens on already for us.
    let (passed, others): (Vec<_>, Vec<_>) =
        places.iter().partition(|bind| inherited.has(bind, &Role::Admin));
    for bind in passed.into_iter().chain(others) {
        match listen(bind, &Options::NONE, &Role::Admin, inherited) {
            Ok(mut new) => {
                if let Some(held) = new.pop() {
                    return Ok(held);
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
) -> Result<Vec<Held>, BindError> {
    let held = |listening| Held { bind: bind.clone(), listening: Arc::new(listening) };
    Ok(inherited.listen(bind, role, options)?.into_iter().map(held).collect())
}

fn control_at(path: &Path) -> Bind {
    Bind::Unix(UnixBind { path: path.into(), mode: 0o600, owner: None, group: None })
}

/// Makes the folder of the control socket's default place, while folders may be made.
pub fn make_folders(admin: &admin::Settings) {
    if let Control::Default(path) = &admin.control {
        make_folder_of(path);
    }
}

fn make_folder_of(socket: &Path) {
    if let Some(folder) = socket.parent() {
        // Binding says what is wrong with it.
        let _ = std::fs::create_dir_all(folder);
    }
}

/// Nobody asked for this place, so nobody is refused a start for want of it. Where it is another daemon's, ours is beside it,
/// under a name that is made of the configuration file's: commands look there for whoever serves that file.
fn control_by_default(
    config: &Config,
    path: &Path,
    held: Option<Held>,
    inherited: &mut Inherited,
) -> Option<Held> {
    make_folder_of(path);
    let beside = config.id.controls_beside(path).take(1);
    let places: Vec<_> =
        std::iter::once(path.to_owned()).chain(beside).map(|path| control_at(&path)).collect();
    let is_kept = held.is_some();
    match door(held, &places, inherited) {
        Ok(held) => {
            if !is_kept && !is_same(&held.bind, &places[0]) {
                let (usual, own) = (path.display(), held.listening.local());
                tracing::warn!(
                    %usual, %own,
                    "the control socket's usual place is another daemon's, so ours is beside it; commands find it by --config"
                );
            }
            Some(held)
        }
        Err(error) => {
            tracing::warn!(%error, "no control socket; set admin.control to a path or to `off`");
            None
        }
    }
}
