//! Section `admin`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::claimed_addresses::ClaimedAddresses;
use super::listener::unix_path;
use super::{SettingsBuilder, address};
use crate::admin::{Control, Settings};
use crate::config::mistakes::SourceLocation;
use crate::config::raw::Section;

const OFF: &str = "off";

impl SettingsBuilder<'_> {
    pub(super) fn admin(&mut self, root: &Section, claimed: &mut ClaimedAddresses) -> Option<Settings> {
        let admin = root.section("admin")?;
        let bind = admin.text("bind").and_then(|text| match text {
            OFF => Some(None),
            text => self.admin_bind(text, &admin.at("bind"), claimed).map(Some),
        });
        let control = self.control(admin, claimed);
        Some(Settings { bind: bind?, control: control? })
    }

    /// Only this section, whether or not the rest of the file is right.
    pub(in crate::config) fn admin_alone(&mut self, root: &Section) -> Option<Settings> {
        self.admin(root, &mut ClaimedAddresses::default())
    }

    fn admin_bind(
        &mut self,
        text: &str,
        at: &SourceLocation,
        claimed: &mut ClaimedAddresses,
    ) -> Option<SocketAddr> {
        if text.starts_with("unix:") {
            self.findings.mistake(at, "takes IP:PORT or `off`; the unix socket is `admin.control`");
            return None;
        }
        let claimed = address::local(text).and_then(|address| claimed.tcp(address, at).map(|()| address));
        let address = claimed.map_err(|reason| self.findings.mistake(at, reason)).ok()?;
        if !address.ip().is_loopback() {
            let message = format!("{address} is not loopback: whoever reaches it reads metrics and sessions");
            self.findings.warning(at, message);
        }
        Some(address)
    }

    fn control(&mut self, admin: &Section, claimed: &mut ClaimedAddresses) -> Option<Control> {
        let at = admin.at("control");
        let control = match admin.optional_text("control")? {
            None => Ok(Control::Default(self.default_control())),
            Some(OFF) => Ok(Control::Off),
            Some(text) => match text.strip_prefix("unix:") {
                Some(path) => unix_path(&self.path(path), path).map(Control::At),
                None => Err(format!("write `unix:{}`, or `off`", text.escape_default())),
            },
        };
        let claimed = control.and_then(|control| match &control {
            Control::Off => Ok(control),
            Control::At(path) | Control::Default(path) => claimed.unix(path, &at).map(|()| control),
        });
        let control = claimed.map_err(|reason| self.findings.mistake(&at, reason)).ok()?;
        match &control {
            Control::At(path) => self.require_bindable(path, &at)?,
            Control::Default(path) => self.warn_of_open_folder(path, &at),
            Control::Off => {}
        }
        Some(control)
    }

    /// In the folder from systemd if there is one; else in the user's; else in the system's.
    fn default_control(&self) -> PathBuf {
        let folder = |name: &str| (self.environment)(name).filter(|value| !value.is_empty());
        // systemd.exec(5): several directories are separated by colons.
        let runtime = folder("RUNTIME_DIRECTORY");
        let runtime = runtime.as_deref().and_then(|list| list.split(':').find(|first| !first.is_empty()));
        let folder = match (runtime, folder("XDG_RUNTIME_DIR")) {
            (Some(runtime), _) => PathBuf::from(runtime),
            (None, Some(user)) => PathBuf::from(user).join("ambassador"),
            (None, None) => PathBuf::from("/run/ambassador"),
        };
        folder.join("control.sock")
    }
}
