//! The sources `certificate`, `token` and `nkey` of `clusters.NAME.login`.

use super::SettingsBuilder;
use crate::config::raw::Section;
use crate::credentials::{
    CertificateProof, FetchedLogin, LoginSource, NkeyFile, TokenFile, password_exposure,
};
use crate::protocol::Protocol;
use crate::tls::Originator;

impl SettingsBuilder<'_> {
    /// `tls`: how the cluster originates TLS; `None`: its mistakes are told, or that there is none.
    pub(super) fn certificate_proof(
        &mut self,
        section: &Section,
        protocol: Option<&dyn Protocol>,
        tls: Option<&Originator>,
    ) -> Option<CertificateProof> {
        let at = section.at("certificate");
        if !section.boolean("certificate")? {
            self.findings.mistake(&at, "is `true`, or absent");
            return None;
        }
        let identities = tls.map(|tls| tls.identities().all().to_vec());
        if identities.as_ref().is_some_and(Vec::is_empty) {
            let message = "needs a client certificate in `tls`: `cert` and `key`, or `identity`";
            self.findings.mistake(&at, message);
            return None;
        }
        let user = section.optional_text("as")?;
        if user.is_none() && protocol.is_some_and(|protocol| !protocol.certificate_names_user()) {
            let able: Vec<_> = crate::protocol::that_read_certificates().collect();
            let message = format!(
                "`as` is missing: only with protocols {} the server takes the user from the certificate",
                able.join(", ")
            );
            self.findings.mistake(&section.at, message);
            return None;
        }
        Some(CertificateProof { user: user.unwrap_or_default().to_owned(), identities: identities? })
    }

    /// A file that is a login by itself.
    pub(super) fn lone_file(
        &mut self,
        key: &str,
        section: &Section,
    ) -> Option<(Box<dyn LoginSource>, FetchedLogin)> {
        if section.is_given("as") {
            let message = format!("does not go with `{key}`, which says itself who is signed in");
            self.findings.mistake(&section.at("as"), message);
        }
        let source = section.section(key)?;
        let at = source.at("file");
        let path = self.readable(source.text("file")?, &at)?;
        if let Some(exposure) = password_exposure(&path) {
            self.findings.warning(&at, exposure);
        }
        let file: Box<dyn LoginSource> = match key {
            "token" => Box::new(TokenFile(path)),
            _ => Box::new(NkeyFile(path)),
        };
        match file.fetch() {
            Ok(read) => Some((file, read)),
            Err(error) => {
                self.findings.mistake(&at, error.reason);
                None
            }
        }
    }
}
