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
                    listen(bind, &options, &role, inherited, &mut errors, &mut held);
                }
                held.extend(kept);
            }
            listeners.push(held);
        }
        drop(registering);
        let admin = config.admin.bind.and_then(|address| {
            one(at_hand.admin.take(), &Bind::Tcp(address), |bind, held| {
                listen(bind, &Options::NONE, &Role::Admin, inherited, &mut errors, held);
            })
        });
        let control = control_bind(&config.admin).and_then(|(bind, is_demanded)| {
            one(at_hand.control.take(), &bind, |bind, held| {
                if is_demanded {
                    listen(bind, &Options::NONE, &Role::Admin, inherited, &mut errors, held);
                } else {
                    listen_by_default(bind, inherited, held);
                }
            })
        });
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

fn one(held: Option<Held>, bind: &Bind, listen: impl FnOnce(&Bind, &mut Vec<Held>)) -> Option<Held> {
    if let Some(held) = held.filter(|held| is_same(&held.bind, bind)) {
        return Some(held);
    }
    let mut new = Vec::new();
    listen(bind, &mut new);
    new.pop()
}

fn listen(
    bind: &Bind,
    options: &Options,
    role: &Role,
    inherited: &mut Inherited,
    errors: &mut Vec<BindError>,
    held: &mut Vec<Held>,
) {
    match inherited.listen(bind, role, options) {
        Ok(listening) => held.extend(
            listening
                .into_iter()
                .map(|listening| Held { bind: bind.clone(), listening: Arc::new(listening) }),
        ),
        Err(error) => errors.push(error),
    }
}

/// Where the control socket goes, and whether somebody asked for that place.
fn control_bind(admin: &admin::Settings) -> Option<(Bind, bool)> {
    let at = |path: &Path| Bind::Unix(UnixBind { path: path.into(), mode: 0o600, owner: None, group: None });
    match &admin.control {
        Control::Off => None,
        Control::At(path) => Some((at(path), true)),
        Control::Default(path) => Some((at(path), false)),
    }
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

/// Nobody asked for this place, so nobody is refused a start for want of it.
fn listen_by_default(bind: &Bind, inherited: &mut Inherited, held: &mut Vec<Held>) {
    if let Bind::Unix(unix) = bind {
        make_folder_of(&unix.path);
    }
    let mut errors = Vec::new();
    listen(bind, &Options::NONE, &Role::Admin, inherited, &mut errors, held);
    for error in errors {
        tracing::warn!(%error, "no control socket; set admin.control to a path or to `off`");
    }
}
