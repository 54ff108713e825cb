//! Sources of endpoints that are asked by HTTP: `endpoints: { consul: … }`, `{ etcd: … }`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::endpoint::{ClusterContext, parse, target};
use super::listener::{said, unix_path};
use super::{SettingsBuilder, address};
use crate::cluster::{OriginKind, RemoteQuery, RemoteSource, ToTarget};
use crate::config::mistakes::SourceLocation;
use crate::config::raw::Section;
use crate::discovery::{ConsulQuery, ConsulSettings, EtcdQuery, EtcdSettings, ParseValue};
use crate::http::{HttpUrl, PlainHttp};
use crate::tls::Roots;

impl SettingsBuilder<'_> {
    pub(super) fn consul(&mut self, consul: &Section, around: &ClusterContext) -> Option<RemoteSource> {
        let settings = ConsulSettings {
            service: consul.text("service")?.to_owned(),
            tags: texts(consul, "tags")?,
            datacenter: owned(consul, "datacenter")?,
            namespace: owned(consul, "namespace")?,
            partition: owned(consul, "partition")?,
            includes_warning: consul.choice("health", &[("passing", false), ("warning", true)])?,
            is_stale: consul.boolean("stale")?,
            to_target: to_target(around),
        };
        if settings.service.is_empty() {
            self.findings.mistake(&consul.at("service"), "is empty");
        }
        let name = settings.describe();
        let query = Arc::new(move || Box::new(ConsulQuery::new(settings.clone())) as Box<dyn RemoteQuery>);
        let servers = vec![self.remote_server(consul, &consul.at("address"), consul.text("address")?)?];
        let (token, roots) = (self.remote_secret(consul, "token"), self.remote_roots(consul, &servers));
        Some(RemoteSource {
            kind: OriginKind::Consul,
            name,
            servers,
            roots: roots?,
            token: token?,
            accepts_empty: accepts_empty(consul)?,
            server_name: shown(around),
            query,
        })
    }

    pub(super) fn etcd(&mut self, etcd: &Section, around: &ClusterContext) -> Option<RemoteSource> {
        let (prefix, user) = (etcd.text("prefix")?.to_owned(), owned(etcd, "user")?);
        if prefix.is_empty() {
            self.findings.mistake(&etcd.at("prefix"), "is empty, and all keys of the store begin with that");
        }
        if user.is_some() != etcd.is_given("password") {
            let (one, other) = if user.is_some() { ("user", "password") } else { ("password", "user") };
            self.findings.mistake(&etcd.at(one), format!("needs `{other}` beside it"));
        }
        let written = said(etcd, "address")?;
        if written.is_empty() {
            self.findings.mistake(&etcd.at("address"), "the list is empty; at least one member is needed");
        }
        let servers: Vec<_> =
            written.iter().map(|(at, text)| self.remote_server(etcd, at, (*text)?)).collect();
        let servers: Vec<_> = servers.into_iter().collect::<Option<_>>()?;
        let (token, roots) = (self.remote_secret(etcd, "password"), self.remote_roots(etcd, &servers));
        let settings = EtcdSettings { prefix: prefix.clone(), user, parse: parse_value(around) };
        let query = Arc::new(move || Box::new(EtcdQuery::new(settings.clone())) as Box<dyn RemoteQuery>);
        Some(RemoteSource {
            kind: OriginKind::Etcd,
            name: prefix,
            servers,
            roots: roots?,
            token: token?,
            accepts_empty: accepts_empty(etcd)?,
            server_name: shown(around),
            query,
        })
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
        let url = HttpUrl::parse(text, plain);
        url.map_err(|reason| self.findings.mistake(at, format!("{} {reason}", text.escape_default()))).ok()
    }

    /// The file of the secret under that key, if it is given.
    pub(super) fn remote_secret(&mut self, section: &Section, key: &str) -> Option<Option<PathBuf>> {
        if !section.is_given(key) {
            return Some(None);
        }
        self.secret_file(section.section(key)?).map(Some)
    }

    /// The CAs of these servers.
    fn remote_roots(&mut self, section: &Section, servers: &[HttpUrl]) -> Option<Roots> {
        let roots = self.https_roots(section)?;
        if servers.iter().any(HttpUrl::is_tls) {
            self.require_https_roots(section, &roots);
        }
        Some(roots)
    }
}

pub(super) fn accepts_empty(section: &Section) -> Option<bool> {
    section.choice("empty", &[("keep", false), ("accept", true)])
}

fn owned(section: &Section, key: &str) -> Option<Option<String>> {
    Some(section.optional_text(key)?.map(ToOwned::to_owned))
}

fn texts(section: &Section, key: &str) -> Option<Vec<String>> {
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
