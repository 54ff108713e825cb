//! Section `clusters.NAME.login`: who to sign in as, for which caller, by which source; and the guards without which
//! whoever reaches the socket would be that user.

mod certificate;
mod clouds;
mod oauth2;

use std::path::PathBuf;
use std::sync::Arc;

use super::{ClustersByName, SettingsBuilder};
use crate::config::mistakes::quoted;
use crate::config::raw::Section;
use crate::credentials::{
    FetchedLogin, LoginCredential, LoginSettings, LoginSource, PasswordFile, password_exposure,
};
use crate::listener;
use crate::name::ClusterName;
use crate::policy::admission::Rule;
use crate::protocol::{self, AllowedMechanisms, LoginCredentials, Protocol, SecretKind};
use crate::sys::Bind;
use crate::tls::Originator;

/// The keys of which each names a source.
const SOURCES: [&str; 9] = [
    "password",
    "oauth2",
    "aws_rds_iam",
    "aws_elasticache_iam",
    "azure",
    "gcp",
    "certificate",
    "token",
    "nkey",
];

impl SettingsBuilder<'_> {
    pub(super) fn login(
        &mut self,
        name: &str,
        cluster: &Section,
        protocol: Option<&dyn Protocol>,
        tls: Option<&Originator>,
    ) -> Option<Option<LoginSettings>> {
        if !cluster.is_given("login") {
            return Some(None);
        }
        self.require_verified_server(cluster);
        self.require_upgrade(cluster, protocol);
        let sections: Vec<&Section> = match cluster.list("login") {
            Some(items) => items.iter().map(|item| item.section()).collect::<Option<_>>()?,
            None => vec![cluster.section("login")?],
        };
        if sections.is_empty() {
            self.findings.mistake(&cluster.at("login"), "the list is empty, and would deny everybody");
        }
        let rules: Vec<_> = sections
            .iter()
            .map(|section| {
                let rule = self.caller_rule(section);
                let credential = self.credential(name, section, (cluster, tls), protocol);
                Some((rule?, credential?))
            })
            .collect();
        let rest = rules.iter().flatten().position(|(rule, _)| *rule == Rule::default());
        if let Some(after) = rest.and_then(|rest| sections.get(rest + 1)) {
            let message = "is never reached: the one before it has no condition, and is for all the rest";
            self.findings.mistake(&after.at, message);
        }
        let database = self.login_database(&sections, protocol);
        let rules: Vec<_> = rules.into_iter().collect::<Option<_>>()?;
        Some(Some(LoginSettings::new(rules, database?)))
    }

    /// One secret must not go to whoever answers at the address.
    fn require_verified_server(&mut self, cluster: &Section) {
        let at = cluster.at("login");
        if !cluster.is_given("tls") {
            let message =
                "needs `tls`: without it the secret would cross the network in plaintext, to whoever answers";
            self.findings.mistake(&at, message);
        } else if cluster.section("tls").and_then(|tls| tls.boolean("insecure_skip_verify")) == Some(true) {
            let message = "does not go with `insecure_skip_verify`: the secret would go to whoever answers; name the server's CA, \
                           or its own certificate, as `tls.ca`";
            self.findings.mistake(&at, message);
        } else if let Some(tls) = cluster.section("tls").filter(|tls| tls.text("verify") == Some("ca")) {
            let message = "with `login` the secret goes to whoever has a certificate of that CA, whatever its name: `full` asks for the \
                           name, `pin` for the server's own certificate";
            self.findings.warning(&tls.at("verify"), message);
        }
    }

    /// Where the server greets and waits, the client's answer has to be known before TLS.
    fn require_upgrade(&mut self, cluster: &Section, protocol: Option<&dyn Protocol>) {
        let is_direct = cluster.section("tls").and_then(|tls| tls.text("start")) == Some("direct");
        if let Some(protocol) = protocol.filter(|protocol| is_direct && protocol.must_finish_upgrade()) {
            let message = format!(
                "goes with protocol {}'s own upgrade to TLS, and not with `tls.start: direct`",
                protocol.label()
            );
            self.findings.mistake(&cluster.at("login"), message);
        }
    }

    fn credential(
        &mut self,
        cluster: &str,
        section: &Section,
        (around, tls): (&Section, Option<&Originator>),
        protocol: Option<&dyn Protocol>,
    ) -> Option<Arc<LoginCredential>> {
        let given: Vec<_> = SOURCES.into_iter().filter(|source| section.is_given(source)).collect();
        let mut known = None;
        let source: Option<Box<dyn LoginSource>> = match given[..] {
            ["password"] => self.password_file(section, PasswordFile::new).map(|(file, read)| {
                known = Some(FetchedLogin { credentials: read, expires: None });
                Box::new(file) as Box<dyn LoginSource>
            }),
            [service @ ("aws_rds_iam" | "aws_elasticache_iam")] => {
                self.aws(service, section, around).map(|source| Box::new(source) as Box<dyn LoginSource>)
            }
            ["gcp"] if section.section("gcp")?.is_given("service_account") => {
                self.google_account(section, protocol).map(|source| Box::new(source) as Box<dyn LoginSource>)
            }
            [cloud @ ("azure" | "gcp")] => {
                self.cloud(cloud, section, protocol).map(|source| Box::new(source) as Box<dyn LoginSource>)
            }
            [key @ ("token" | "nkey")] => self.lone_file(key, section).map(|(file, read)| {
                known = Some(read);
                file
            }),
            ["certificate"] => self.certificate_proof(section, protocol, tls).map(|source| {
                known = source.fetch().ok();
                Box::new(source) as Box<dyn LoginSource>
            }),
            ["oauth2"] => self.oauth2(section).map(|source| Box::new(source) as Box<dyn LoginSource>),
            [] => {
                let message = format!("names no source of the secret: one of {}", SOURCES.join(", "));
                self.findings.mistake(&section.at, message);
                None
            }
            [_, second, ..] => {
                let message = format!("`{second}` is a second source; only one can count");
                self.findings.mistake(&section.at(second), message);
                None
            }
            [other] => unreachable!("{other} is no source"),
        };
        let client = self.client_login(cluster, section, protocol);
        let (source, protocol) = (source?, protocol?);
        if !protocol.login_secrets().contains(&source.secret_kind()) {
            let able: Vec<_> = protocol::that_sign_in(source.secret_kind()).collect();
            let message = format!(
                "protocol {} cannot be signed in with `{}`; these can: {}",
                protocol.label(),
                source.label(),
                able.join(", ")
            );
            self.findings.mistake(&section.at(source.label()), message);
            return None;
        }
        let mechanisms = self.login_mechanisms(section, protocol, source.secret_kind())?;
        let cluster = ClusterName::from(cluster);
        let credential = LoginCredential::with_client(cluster, source, mechanisms, client?);
        known.map(|known| credential.install(known));
        Some(credential)
    }

    /// What may carry the secret: names of the protocol, and of those the ones that such a secret can go by.
    fn login_mechanisms(
        &mut self,
        section: &Section,
        protocol: &dyn Protocol,
        kind: SecretKind,
    ) -> Option<AllowedMechanisms> {
        if !section.is_given("mechanisms") {
            return Some(AllowedMechanisms::default());
        }
        let (at, label) = (section.at("mechanisms"), protocol.label());
        let known = protocol.login_mechanisms(kind);
        let choices = format!("with {} there is {}", kind.words(), known.join(", "));
        if known.is_empty() {
            let able: Vec<_> = protocol::that_choose_mechanisms().collect();
            let message =
                format!("protocol {label} has one way to sign in; `mechanisms` is for {}", able.join(", "));
            self.findings.mistake(&at, message);
            return None;
        }
        let mut allowed = Vec::new();
        for item in section.list("mechanisms")? {
            let given = item.text()?;
            if let Some(name) = known.iter().find(|name| **name == given) {
                allowed.push(*name);
                continue;
            }
            let is_of_others =
                SecretKind::ALL.iter().any(|kind| protocol.login_mechanisms(*kind).contains(&given));
            let reason = match is_of_others {
                true => format!("does not carry {}", kind.words()),
                false => format!("is no mechanism that protocol {label} can be signed in by"),
            };
            self.findings.mistake(&item.at, format!("{} {reason}; {choices}", quoted(given)));
            return None;
        }
        if allowed.is_empty() {
            let message = format!("the list is empty, and would permit no login; {choices}");
            self.findings.mistake(&at, message);
            return None;
        }
        Some(AllowedMechanisms::only(&allowed))
    }

    /// `client`: the user and password that the client is held to, if it is.
    fn client_login(
        &mut self,
        cluster: &str,
        section: &Section,
        protocol: Option<&dyn Protocol>,
    ) -> Option<Option<Arc<LoginCredential>>> {
        if !section.is_given("client") {
            return Some(None);
        }
        if let Some(protocol) = protocol.filter(|protocol| !protocol.holds_clients()) {
            let able: Vec<_> = protocol::that_hold_clients().collect();
            let message =
                format!("`client` is for protocols {}, and this is {}", able.join(", "), protocol.label());
            self.findings.mistake(&section.at("client"), message);
            return None;
        }
        let client = section.section("client")?;
        let (file, credentials) = self.password_file(client, PasswordFile::of_client)?;
        let credential =
            LoginCredential::new(ClusterName::from(cluster), Box::new(file), AllowedMechanisms::default());
        credential.install(FetchedLogin { credentials, expires: None });
        Some(Some(credential))
    }

    fn password_file(
        &mut self,
        section: &Section,
        make: fn(PathBuf, Option<String>) -> PasswordFile,
    ) -> Option<(PasswordFile, LoginCredentials)> {
        let user = section.optional_text("as")?.map(ToOwned::to_owned);
        let password = section.section("password")?;
        let at = password.at("file");
        let path = self.readable(password.text("file")?, &at)?;
        let file = make(path.clone(), user);
        let read = match file.read() {
            Ok(read) => read,
            Err(reason) => {
                self.findings.mistake(&at, reason);
                return None;
            }
        };
        if let Some(exposure) = password_exposure(&path) {
            self.findings.warning(&at, exposure);
        }
        Some((file, read))
    }

    /// The same for all rules: it is a fact about the cluster.
    fn login_database(
        &mut self,
        sections: &[&Section],
        protocol: Option<&dyn Protocol>,
    ) -> Option<Option<String>> {
        let given: Vec<_> = sections.iter().filter(|section| section.is_given("database")).collect();
        let Some(first) = given.first() else { return Some(None) };
        if let Some(protocol) = protocol.filter(|protocol| !protocol.names_database_in_login()) {
            let able: Vec<_> = protocol::that_name_databases().collect();
            let message =
                format!("`database` is for protocols {}, and this is {}", able.join(", "), protocol.label());
            self.findings.mistake(&first.at("database"), message);
        }
        let database = first.text("database")?;
        if let Some(other) = sections.iter().find(|section| section.text("database") != Some(database)) {
            let message = format!("`database` has to be the same in all of `login`: {}", quoted(database));
            self.findings.mistake(&other.at("database"), message);
        }
        Some(Some(database.to_owned()))
    }

    /// Whoever reaches a listener of a cluster with `login` is its user at the server, so it must be said who may.
    pub(super) fn require_login_guards(
        &mut self,
        root: &Section,
        listeners: &[Option<listener::Settings>],
        clusters: &ClustersByName<'_>,
    ) {
        for (listener, (_, section)) in listeners.iter().zip(root.names("listeners")) {
            let Some(listener) = listener else { continue };
            let signs_in =
                |name: &ClusterName| clusters.get(name).is_some_and(|cluster| cluster.login.is_some());
            let Some(cluster) = listener.clusters.iter().find(|name| signs_in(name)) else { continue };
            let asks_first = |name: &ClusterName| {
                let its = clusters.get(name);
                its.is_some_and(|its| its.login.is_some() && its.protocol.opening().is_some())
            };
            if listener.context
                && let Some(cluster) = listener.clusters.iter().find(|name| asks_first(name))
            {
                let message = format!(
                    "`connect` does not go with `login` of cluster {cluster}: a login of its protocol needs the client's first message, \
                     and behind a CONNECT request the dial comes before it"
                );
                self.findings.mistake(&section.at("context"), message);
            }
            let is_closed = |bind: &Bind| matches!(bind, Bind::Unix(unix) if unix.mode & 0o007 == 0);
            if section.is_given("allow") || listener.binds.iter().all(is_closed) {
                continue;
            }
            let message = format!(
                "cluster {cluster} signs in (`login`), so whoever connects here is its user: say who may by `allow`, bind a unix \
                 socket whose `mode` excludes others, or write `allow: anyone`"
            );
            self.findings.mistake(&section.at("bind"), message);
        }
    }
}
