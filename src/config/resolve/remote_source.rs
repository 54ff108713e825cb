//! Sources of endpoints that are asked by HTTP: `endpoints: { consul: … }`, `{ etcd: … }`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::endpoint::{ClusterContext, parse, target};
use super::listener::{said, unix_path};
use super::{SettingsBuilder, address};
use crate::cluster::{ControlPlane, OriginKind, RemoteQuery, RemoteQuestion, RemoteSource, ToTarget};
use crate::config::mistakes::SourceLocation;
use crate::config::raw::Section;
use crate::credentials::secret_of;
use crate::discovery::{ConsulQuery, ConsulSettings, EtcdQuery, EtcdSettings, ParseValue};
use crate::http::{HttpUrl, PlainHttp};
use crate::tls::Roots;

impl SettingsBuilder<'_> {
    pub(super) fn consul(&mut self, consul: &Section, around: &ClusterContext) -> Option<RemoteSource> {
        let service = consul.text("service");
        if service.is_some_and(str::is_empty) {
            self.findings.mistake(&consul.at("service"), "is empty");
        }
        let server =
            consul.text("address").and_then(|text| self.remote_server(consul, &consul.at("address"), text));
        let servers = server.map(|server| vec![server]);
        let token = self.remote_secret(consul, "token");
        let roots = self.remote_roots(consul, servers.as_deref());
        let settings = ConsulSettings {
            service: service?.to_owned(),
            tags: texts(consul, "tags")?,
            datacenter: owned(consul, "datacenter")?,
            namespace: owned(consul, "namespace")?,
            partition: owned(consul, "partition")?,
            includes_warning: consul.choice("health", &[("passing", false), ("warning", true)])?,
            is_stale: consul.boolean("stale")?,
            to_target: to_target(around),
        };
        let name = settings.describe();
        let query = Arc::new(move || Box::new(ConsulQuery::new(settings.clone())) as Box<dyn RemoteQuery>);
        Some(RemoteSource {
            kind: OriginKind::Consul,
            name,
            control_plane: Arc::new(ControlPlane { servers: servers?, roots: roots?, token: token? }),
            accepts_empty: accepts_empty(consul)?,
            server_name: shown(around),
            question: RemoteQuestion::Http(query),
        })
    }

    pub(super) fn etcd(&mut self, etcd: &Section, around: &ClusterContext) -> Option<RemoteSource> {
        let (prefix, user) = (etcd.text("prefix"), owned(etcd, "user")?);
        if prefix.is_some_and(str::is_empty) {
            self.findings.mistake(&etcd.at("prefix"), "is empty, and all keys of the store begin with that");
        }
        if user.is_some() != etcd.is_given("password") {
            let (one, other) = if user.is_some() { ("user", "password") } else { ("password", "user") };
            self.findings.mistake(&etcd.at(one), format!("needs `{other}` beside it"));
        }
        let servers = self.remote_servers(etcd, "address");
        let token = self.remote_secret(etcd, "password");
        let roots = self.remote_roots(etcd, servers.as_deref());
        let prefix = prefix?.to_owned();
        let settings = EtcdSettings { prefix: prefix.clone(), user, parse: parse_value(around) };
        let query = Arc::new(move || Box::new(EtcdQuery::new(settings.clone())) as Box<dyn RemoteQuery>);
        Some(RemoteSource {
            kind: OriginKind::Etcd,
            name: prefix,
            control_plane: Arc::new(ControlPlane { servers: servers?, roots: roots?, token: token? }),
            accepts_empty: accepts_empty(etcd)?,
            server_name: shown(around),
            question: RemoteQuestion::Http(query),
        })
    }

    /// The URLs of several servers, under a key that has one or a list.
    pub(super) fn remote_servers(&mut self, section: &Section, key: &str) -> Option<Vec<HttpUrl>> {
        let written = said(section, key)?;
        if written.is_empty() {
            self.findings.mistake(&section.at(key), "the list is empty; at least one member is needed");
        }
        let mut servers: Vec<Option<HttpUrl>> = Vec::with_capacity(written.len());
        for (at, text) in written {
            let server = text.and_then(|text| self.remote_server(section, &at, text));
            if let Some(server) =
                server.as_ref().filter(|server| servers.iter().flatten().any(|one| one == *server))
            {
                self.findings.mistake(&at, format!("{server} is in the list twice"));
            }
            servers.push(server);
        }
        servers.into_iter().collect()
    }

    /// The URL of a server.
    pub(super) fn remote_server(
        &mut self,
        section: &Section,
        at: &SourceLocation,
        text: &str,
    ) -> Option<HttpUrl> {
        if let Some(path) = text.strip_prefix("unix:") {
            let checked = unix_path(&self.path(path), path);
            let path = checked.map_err(|reason| self.findings.mistake(at, reason)).ok()?;
            return Some(HttpUrl::at_socket(path));
        }
        let plain = if section.boolean("allow_plaintext")? { PlainHttp::Anywhere } else { PlainHttp::Local };
        let is_only_plain = || plain == PlainHttp::Local && HttpUrl::parse(text, PlainHttp::Anywhere).is_ok();
        let url = HttpUrl::parse(text, plain).map_err(|reason| {
            let way = if is_only_plain() { "; `allow_plaintext: true` allows it" } else { "" };
            self.findings.mistake(at, format!("{} {reason}{way}", text.escape_default()));
        });
        url.ok()
    }

    /// The file of the secret under that key, if it is given.
    pub(super) fn remote_secret(&mut self, section: &Section, key: &str) -> Option<Option<PathBuf>> {
        if !section.is_given(key) {
            return Some(None);
        }
        let section = section.section(key)?;
        let path = self.secret_file(section)?;
        if let Err(reason) = secret_of(&path) {
            // Whoever writes it may do so later.
            self.findings
                .warning(&section.at("file"), format!("{reason}; it is read again for each request"));
        }
        Some(Some(path))
    }

    /// The CAs of these servers; `None` where they are not known.
    pub(super) fn remote_roots(&mut self, section: &Section, servers: Option<&[HttpUrl]>) -> Option<Roots> {
        let roots = self.https_roots(section)?;
        if let Some(servers) = servers {
            self.judge_transport(section, servers, &roots);
        }
        Some(roots)
    }

    /// Reports CAs that cannot be used, and keys that would change nothing for these servers.
    pub(super) fn judge_transport(&mut self, section: &Section, servers: &[HttpUrl], roots: &Roots) {
        if servers.iter().any(HttpUrl::is_tls) {
            self.require_https_roots(section, roots);
        } else if section.is_given("ca") {
            self.findings.mistake(&section.at("ca"), "has no effect: no server of these is asked by https");
        }
        let is_plain = |server: &HttpUrl| !server.is_tls() && server.socket().is_none();
        if section.is_given("allow_plaintext") && !servers.iter().any(is_plain) {
            let words = "has no effect: no server of these is asked by http";
            self.findings.mistake(&section.at("allow_plaintext"), words);
        }
    }
}

pub(super) fn accepts_empty(section: &Section) -> Option<bool> {
    section.choice("empty", &[("keep", false), ("accept", true)])
}

pub(super) fn owned(section: &Section, key: &str) -> Option<Option<String>> {
    Some(section.optional_text(key)?.map(ToOwned::to_owned))
}

pub(super) fn texts(section: &Section, key: &str) -> Option<Vec<String>> {
    if !section.is_given(key) {
        return Some(Vec::new());
    }
    section.list(key)?.iter().map(|item| item.text().map(ToOwned::to_owned)).collect()
}

pub(super) fn shown(around: &ClusterContext) -> String {
    around.server_name.as_ref().map_or_else(String::new, |name| name.to_str().into_owned())
}

/// Makes a target of what a catalog says: an address or a name, a port, and a weight.
pub(super) fn to_target(around: &ClusterContext) -> ToTarget {
    let server_name: Option<ServerName<'static>> = around.server_name.clone();
    Arc::new(move |host, port, weight| {
        let text = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let address = address::upstream(&text)?;
        target(address, (weight, 0), server_name.clone())
            .ok_or_else(|| format!("{} is no name that TLS could verify", host.escape_default()))
    })
}

/// Reads a value that is written as an endpoints file.
fn parse_value(around: &ClusterContext) -> ParseValue {
    let around = around.clone();
    Arc::new(move |key, value| parse(value, Path::new(key), &around))
}
