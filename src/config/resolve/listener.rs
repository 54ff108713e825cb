//! Section `listeners`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};

use super::claimed_addresses::ClaimedAddresses;
use super::{ClustersByName, SettingsBuilder, address};
use crate::config::mistakes::{SourceLocation, quoted};
use crate::config::raw::Section;
use crate::discovery::{DialLoop, LoopGraph};
use crate::listener::{Settings, listener_edges};
use crate::name::{ClusterName, ListenerName};
use crate::sys::{self, Bind, SystemdBind, UnixBind};

/// The owner and mode of a listener's unix sockets.
#[derive(Clone, Copy)]
struct UnixSocketAccess {
    mode: u32,
    owner: Option<u32>,
    group: Option<u32>,
}

impl SettingsBuilder<'_> {
    pub(super) fn listener(
        &mut self,
        name: &str,
        listener: &Section,
        root: &Section,
        cluster_names: &BTreeSet<&str>,
        claimed: &mut ClaimedAddresses,
    ) -> Option<Settings> {
        let context = listener.choice("context", &[("none", false), ("connect", true)]);
        let clusters = self.leads_to(listener, cluster_names, context);
        let access = self.access(listener);
        let binds = self.binds(listener, access, claimed);
        let admission = self.admission(listener);
        let records = self.records(root, listener);
        Some(Settings {
            name: ListenerName::from(name),
            clusters: clusters?,
            context: context?,
            binds: binds?,
            max_connections: listener.integer("max_connections")?,
            admission: admission?,
            accept_proxy: listener.boolean("accept_proxy")?,
            records: records?,
        })
    }

    /// One cluster, or those that a client may name in its CONNECT request.
    fn leads_to(
        &mut self,
        listener: &Section,
        clusters: &BTreeSet<&str>,
        context: Option<bool>,
    ) -> Option<Vec<ClusterName>> {
        let at = listener.at("cluster");
        let said = said(listener, "cluster")?;
        if listener.list("cluster").is_some() && context == Some(false) {
            let message = "a list of clusters is for `context: connect`, where the client names one of them";
            self.findings.mistake(&at, message);
        }
        if said.is_empty() {
            self.findings.mistake(&at, "the list is empty; a listener needs a cluster");
        }
        let mut names: Vec<ClusterName> = Vec::new();
        let mut is_right = !said.is_empty();
        for (at, name) in said {
            let is_known = |builder: &mut Self, name: &str| {
                clusters.contains(name)
                    || builder.require_known("cluster", name, clusters.iter().copied(), &at).is_some()
            };
            let Some(name) = name.filter(|name| is_known(self, name)) else {
                is_right = false;
                continue;
            };
            if names.iter().any(|before| before.as_str() == name) {
                self.findings.mistake(&at, format!("{} is in the list already", quoted(name)));
            }
            names.push(name.into());
        }
        is_right.then_some(names)
    }

    fn access(&mut self, listener: &Section) -> Option<UnixSocketAccess> {
        let owner = self.account(listener, "owner", |name| {
            User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()))
        });
        let group = self.account(listener, "group", |name| {
            Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()))
        });
        Some(UnixSocketAccess { mode: listener.integer("mode")?, owner: owner?, group: group? })
    }

    /// A user or group by number, or by a name that `look_up` knows.
    pub(super) fn account(
        &mut self,
        listener: &Section,
        key: &str,
        look_up: impl Fn(&str) -> nix::Result<Option<u32>>,
    ) -> Option<Option<u32>> {
        let Some(text) = listener.optional_text(key)? else { return Some(None) };
        // All ones means "leave it as it is" to chown(2).
        if let Some(id) = text.parse::<u32>().ok().filter(|id| *id != u32::MAX) {
            return Some(Some(id));
        }
        let shown = quoted(text);
        let reason = match look_up(text) {
            Ok(Some(id)) => return Some(Some(id)),
            Ok(None) => format!("this host knows no {} {shown}", if key == "owner" { "user" } else { key }),
            Err(error) => format!("{shown} cannot be looked up: {error}"),
        };
        self.findings.mistake(&listener.at(key), reason);
        None
    }

    fn binds(
        &mut self,
        listener: &Section,
        access: Option<UnixSocketAccess>,
        claimed: &mut ClaimedAddresses,
    ) -> Option<Vec<Bind>> {
        let said = said(listener, "bind")?;
        if said.is_empty() {
            self.findings.mistake(&listener.at("bind"), "the list is empty; a listener needs an address");
        }
        let binds: Vec<_> = said
            .iter()
            .map(|(at, text)| {
                self.bind(listener, (*text)?, at, access).filter(|bind| self.claim(bind, at, claimed))
            })
            .collect();
        let any_unix = said.iter().any(|(_, text)| text.is_none_or(|text| text.starts_with("unix:")));
        for key in ["mode", "owner", "group"] {
            if listener.is_given(key) && !any_unix {
                let message = format!("`{key}` is for unix sockets, and this listener has none");
                self.findings.mistake(&listener.at(key), message);
            }
        }
        binds.into_iter().collect()
    }

    fn bind(
        &mut self,
        listener: &Section,
        text: &str,
        at: &SourceLocation,
        access: Option<UnixSocketAccess>,
    ) -> Option<Bind> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = unix_path(&self.path(path), path);
            let path = path.map_err(|reason| self.findings.mistake(at, reason)).ok()?;
            self.require_bindable(&path, at)?;
            let UnixSocketAccess { mode, owner, group } = access?;
            return Some(Bind::Unix(UnixBind { path, mode, owner, group }));
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            descriptor_name(name).map_err(|reason| self.findings.mistake(at, reason)).ok()?;
            // Its address is known when the socket is passed.
            return Some(Bind::Systemd(SystemdBind {
                name: name.into(),
                expose: listener.boolean("expose")?,
            }));
        }
        let address = address::local(text).map_err(|reason| self.findings.mistake(at, reason)).ok()?;
        if !address.ip().is_loopback() && listener.boolean("expose") == Some(false) {
            self.findings.mistake(at, unexposed(address));
        } else if !address.ip().is_loopback() && listener.boolean("accept_proxy") == Some(true) {
            let message = format!(
                "{address} is not loopback: other hosts could claim to be anybody in a PROXY header, which \
                 `accept_proxy` believes; bind to loopback or to a unix socket"
            );
            self.findings.mistake(at, message);
        }
        Some(Bind::Tcp(address))
    }

    fn claim(&mut self, bind: &Bind, at: &SourceLocation, claimed: &mut ClaimedAddresses) -> bool {
        let claimed = match bind {
            Bind::Tcp(address) => claimed.tcp(*address, at),
            Bind::Unix(unix) => claimed.unix(&unix.path, at),
            Bind::Systemd(systemd) => claimed.systemd(&systemd.name, at),
        };
        claimed.map_err(|reason| self.findings.mistake(at, reason)).is_ok()
    }

    /// Refuses a listener whose address is an endpoint of its own cluster, because it would dial itself until a limit
    /// stops it, and listeners whose clusters lead to each other.
    pub(super) fn refuse_loops(
        &mut self,
        root: &Section,
        listeners: &[Option<Settings>],
        clusters: &ClustersByName<'_>,
    ) {
        let known = clusters.values().map(|cluster| (cluster.name.clone(), cluster.addresses()));
        let graph = LoopGraph::new(listener_edges(listeners.iter().flatten()), known.collect());
        for (listener, (_, section)) in listeners.iter().zip(root.names("listeners")) {
            let Some(listener) = listener else { continue };
            let is_of = |listener: &Settings, own| listener.binds.contains(&Bind::Tcp(own));
            let at = |own| {
                let all = listeners.iter().flatten();
                all.filter(|other| is_of(other, own)).map(|other| other.name.to_string()).collect::<String>()
            };
            for cluster in listener.clusters.iter().filter_map(|name| clusters.get(name)) {
                for address in cluster.addresses() {
                    let message = match graph.find_loop(&cluster.name, address, sys::is_own) {
                        Some(DialLoop::At(own)) if is_of(listener, own) => {
                            format!("{address} is an endpoint of its own cluster: it would dial itself")
                        }
                        Some(DialLoop::Over(own)) => {
                            let other = at(own);
                            format!(
                                "its cluster leads to `listeners.{other}`, and that leads back here: it would dial itself"
                            )
                        }
                        Some(DialLoop::At(_)) | None => continue,
                    };
                    self.findings.mistake(&section.at("bind"), message);
                }
            }
        }
    }
}

/// The clusters that it names, whether or not they exist.
pub(super) fn clusters(listener: &Section) -> Vec<&str> {
    said(listener, "cluster").unwrap_or_default().into_iter().filter_map(|(_, name)| name).collect()
}

/// The values of a key that takes one or several, each with its place; `None` for an item that is a mistake.
pub(super) fn said<'a>(listener: &'a Section, key: &str) -> Option<Vec<(SourceLocation, Option<&'a str>)>> {
    if let Some(one) = listener.text(key) {
        return Some(vec![(listener.at(key), Some(one))]);
    }
    let several = listener.list(key)?.iter().map(|item| (item.at.clone(), item.text()));
    Some(several.collect())
}

/// A name that systemd can pass: fdname_is_valid() of its sources, and not empty.
fn descriptor_name(name: &str) -> Result<(), String> {
    const LONGEST: usize = 255;
    // A comma separates names where they are passed to a successor.
    let allowed = |byte: u8| (b' '..=b'~').contains(&byte) && !matches!(byte, b':' | b',');
    match name {
        "" => {
            Err("the name of the socket is missing: write systemd:NAME, with FileDescriptorName=NAME in the \
                   .socket unit"
                .into())
        }
        name if name.len() > LONGEST || !name.bytes().all(allowed) => Err(format!(
            "{} is no descriptor name: 1 to {LONGEST} printable ASCII characters without `:` and `,`",
            quoted(name)
        )),
        _ => Ok(()),
    }
}

fn unexposed(address: SocketAddr) -> String {
    format!(
        "{address} is not loopback: other hosts could connect in plaintext; `expose: true` says you mean it"
    )
}

/// A valid path of a unix socket. `written`: the text of the file, which may be empty.
pub(super) fn unix_path(path: &Path, written: &str) -> Result<PathBuf, String> {
    /// `sun_path` of unix(7), without its final NUL.
    const LONGEST: usize = 107;
    let bytes = path.as_os_str().as_bytes().len();
    if written.is_empty() || path.file_name().is_none() {
        return Err("the path of the socket is missing: write unix:PATH".into());
    }
    if bytes > LONGEST {
        return Err(format!("the path has {bytes} bytes, and that of a unix socket at most {LONGEST}"));
    }
    Ok(path.to_owned())
}
