//! What our own HTTPS requests need, to token endpoints and to what endpoints are discovered from: CAs, and secrets in files.

use std::path::PathBuf;

use super::SettingsBuilder;
use crate::config::raw::Section;
use crate::credentials::password_exposure;
use crate::tls::{HttpVersion, Roots, https_config};

impl SettingsBuilder<'_> {
    /// `ca`: a PEM file, `system` or `webpki`.
    pub(super) fn https_roots(&mut self, section: &Section) -> Option<Roots> {
        Some(match section.text("ca")? {
            "system" => Roots::System,
            "webpki" => Roots::WebPki,
            path => Roots::File(self.readable(path, &section.at("ca"))?),
        })
    }

    /// Reports a mistake if nothing can be verified by these CAs. For requests over TLS alone: the host's own are read for it.
    pub(super) fn require_https_roots(&mut self, section: &Section, roots: &Roots) {
        if let Err(error) = https_config(roots.clone(), HttpVersion::Http1, &self.host.credential_files) {
            self.findings.mistake(&section.at("ca"), error.to_string());
        }
    }

    /// The `file` of a section that stands for a secret, with a warning if everybody may read it.
    pub(super) fn secret_file(&mut self, section: &Section) -> Option<PathBuf> {
        let at = section.at("file");
        let path = self.readable(section.text("file")?, &at)?;
        if let Some(exposure) = password_exposure(&path) {
            self.findings.warning(&at, exposure);
        }
        Some(path)
    }
}
