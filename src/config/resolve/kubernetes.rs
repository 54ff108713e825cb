//! `endpoints: { kubernetes: … }`: a Service of the cluster that we run in, or of another one whose API server is named.
//!
//! What Kubernetes gives each pod (API server, token, CA, namespace) is used together and for that cluster alone: a named API server
//! never gets the pod's own token.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use super::SettingsBuilder;
use super::endpoint::ClusterContext;
use super::remote_source::{accepts_empty, shown, to_target};
use crate::cluster::{ControlPlane, OriginKind, RemoteQuestion, RemoteSource};
use crate::config::mistakes::quoted;
use crate::config::raw::Section;
use crate::discovery::{EndpointChoice, KubernetesQuery, KubernetesSettings, PortChoice};
use crate::http::{HttpUrl, PlainHttp};
use crate::tls::Roots;

/// Where each pod has its service account ("Accessing the Kubernetes API from a Pod").
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The longest name of a Service or a namespace (RFC 1123).
const NAME_MAX: usize = 63;

impl SettingsBuilder<'_> {
    pub(super) fn kubernetes(&mut self, section: &Section, around: &ClusterContext) -> Option<RemoteSource> {
        let service = section.text("service").map(ToOwned::to_owned);
        let service = service.and_then(|service| self.kubernetes_name(section, "service", service));
        let (address, zone) = (section.optional_text("address")?, section.optional_text("zone")?);
        let server = match address {
            Some(address) => self.remote_server(section, &section.at("address"), address),
            None => self.own_api_server(section),
        };
        let is_own = address.is_none();
        let port = self.port_choice(section);
        // Outside a pod the rest of it would be reported as missing, too.
        let is_nowhere = is_own && server.is_none();
        let (namespace, token) = if is_nowhere {
            (None, None)
        } else {
            (self.namespace(section, is_own), self.account_token(section, is_own))
        };
        let roots = if is_nowhere { None } else { self.api_roots(section, is_own, server.as_ref()) };
        let choice =
            EndpointChoice { port: port?, zone: zone.map(ToOwned::to_owned), to_target: to_target(around) };
        let settings = KubernetesSettings { namespace: namespace?, service: service?, choice };
        Some(RemoteSource {
            kind: OriginKind::Kubernetes,
            name: name_of(&settings),
            control_plane: Arc::new(ControlPlane { servers: vec![server?], roots: roots?, token: token? }),
            accepts_empty: accepts_empty(section)?,
            server_name: shown(around),
            question: RemoteQuestion::Http(Arc::new(move || {
                Box::new(KubernetesQuery::new(settings.clone()))
            })),
        })
    }

    /// The API server of the cluster that we run in.
    fn own_api_server(&mut self, section: &Section) -> Option<HttpUrl> {
        let given = |name: &str| (self.environment)(name).filter(|value| !value.is_empty());
        let (host, port) = (given("KUBERNETES_SERVICE_HOST"), given("KUBERNETES_SERVICE_PORT"));
        let Some((host, port)) = host.zip(port) else {
            let words = "`address` is missing: outside a pod, where KUBERNETES_SERVICE_HOST and _PORT are not set, nothing says where \
                         the API server is";
            self.findings.mistake(&section.at, words);
            return None;
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let url = HttpUrl::parse(&format!("https://{host}:{port}"), PlainHttp::Never);
        let words = "KUBERNETES_SERVICE_HOST and _PORT are no host and port";
        url.map_err(|_| self.findings.mistake(&section.at, words)).ok()
    }

    fn namespace(&mut self, section: &Section, is_own: bool) -> Option<String> {
        if let Some(name) = section.optional_text("namespace")? {
            return self.kubernetes_name(section, "namespace", name.to_owned());
        }
        if !is_own {
            let words = "`namespace` is missing: only where `address` is absent it is the pod's own";
            self.findings.mistake(&section.at, words);
            return None;
        }
        let path = self.account_file(section, "namespace")?;
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(4096).read_to_string(&mut text));
        if let Err(error) = read {
            let words = format!("`namespace` is missing, and {} cannot be read: {error}", path.display());
            self.findings.mistake(&section.at, words);
            return None;
        }
        self.kubernetes_name(section, "namespace", text.trim().to_owned())
    }

    /// The pod's own token is made by the kubelet, whose choice its mode is.
    fn account_token(&mut self, section: &Section, is_own: bool) -> Option<Option<PathBuf>> {
        if section.is_given("token") || !is_own {
            return self.remote_secret(section, "token");
        }
        self.account_file(section, "token").map(Some)
    }

    fn api_roots(&mut self, section: &Section, is_own: bool, server: Option<&HttpUrl>) -> Option<Roots> {
        let roots = match section.optional_text("ca")? {
            Some(_) => self.https_roots(section)?,
            None if is_own => self.account_file(section, "ca.crt").map(Roots::File)?,
            None => Roots::System,
        };
        if let Some(server) = server {
            self.judge_transport(section, std::slice::from_ref(server), &roots);
        }
        Some(roots)
    }

    fn account_file(&mut self, section: &Section, name: &str) -> Option<PathBuf> {
        self.readable(&format!("{ACCOUNT}/{name}"), &section.at)
    }

    fn port_choice(&mut self, section: &Section) -> Option<PortChoice> {
        let Some(text) = section.optional_text("port")? else { return Some(PortChoice::Only) };
        Some(match text.parse() {
            Ok(0) => {
                self.findings.mistake(&section.at("port"), "0 is no port");
                return None;
            }
            Ok(number) => PortChoice::Number(number),
            Err(_) => PortChoice::Named(text.to_owned()),
        })
    }

    fn kubernetes_name(&mut self, section: &Section, key: &str, name: String) -> Option<String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed) {
            return Some(name);
        }
        let words =
            format!("{} is no name in Kubernetes: it has small letters, digits and `-`", quoted(&name));
        self.findings.mistake(&section.at(key), words);
        None
    }
}

/// As people call it; with the port and the zone, as endpoints that were kept are those of one port, with the priorities of one zone.
fn name_of(KubernetesSettings { namespace, service, choice }: &KubernetesSettings) -> String {
    let port = match &choice.port {
        PortChoice::Only => String::new(),
        PortChoice::Named(port) => format!(":{port}"),
        PortChoice::Number(port) => format!(":{port}"),
    };
    let zone = choice.zone.as_ref().map(|zone| format!(" (zone {zone})")).unwrap_or_default();
    format!("{namespace}/{service}{port}{zone}")
}
