//! Section `clusters.NAME.login.oauth2`: which grant it is, by the keys that are given, and that the others go with it.

use super::SettingsBuilder;
use crate::config::mistakes::SourceLocation;
use crate::config::raw::Section;
use crate::credentials::{
    AssertionSettings, ClientProof, Grant, JwtAlgorithm, OAuth2, OAuth2Client, RefreshTokenFile,
    ServiceAccount, TokenUser, password_exposure,
};
use crate::http::{HttpUrl, PlainHttp};
use crate::protocol::SecretKind;

impl SettingsBuilder<'_> {
    pub(super) fn oauth2(&mut self, login: &Section) -> Option<OAuth2> {
        let oauth2 = login.section("oauth2")?;
        let user = login.optional_text("as")?;
        if user.is_none_or(str::is_empty) {
            self.findings.mistake(&login.at, "`oauth2` needs `as`: a token does not tell whose it is");
        }
        let token_url = self.endpoint_url(oauth2, "token_url");
        let scopes = self.scopes(oauth2);
        let grant = if oauth2.is_given("service_account") {
            self.service_account(oauth2)
        } else {
            if !oauth2.is_given("token_url") {
                self.findings.mistake(&oauth2.at, "needs `token_url`, the token endpoint");
            }
            self.client_grant(oauth2)
        };
        let roots = self.https_roots(oauth2)?;
        self.require_https_roots(oauth2, &roots);
        let (token_url, grant, scopes) = (token_url?, grant?, scopes?);
        if token_url.is_none() && !matches!(grant, Grant::ServiceAccount(_)) {
            return None;
        }
        let user = TokenUser::Named(user.filter(|user| !user.is_empty())?.to_owned());
        let (label, kind, seen) = ("oauth2", SecretKind::BearerToken, Default::default());
        self.examined(OAuth2 { user, label, kind, token_url, roots, grant, scopes, seen }, oauth2)
    }

    /// The source, if it can do all that needs no request.
    pub(super) fn examined(&mut self, source: OAuth2, at: &Section) -> Option<OAuth2> {
        if let Err(reason) = source.examine() {
            self.findings.mistake(&secret_place(at), reason);
            return None;
        }
        Some(source)
    }

    fn endpoint_url(&mut self, oauth2: &Section, key: &str) -> Option<Option<HttpUrl>> {
        let Some(text) = oauth2.optional_text(key)? else { return Some(None) };
        HttpUrl::parse(text, PlainHttp::Never)
            .map_err(|reason| self.findings.mistake(&oauth2.at(key), format!("`{key}` {reason}")))
            .ok()
            .map(Some)
    }

    pub(super) fn scopes(&mut self, oauth2: &Section) -> Option<Vec<String>> {
        if !oauth2.is_given("scopes") {
            return Some(Vec::new());
        }
        let mut scopes = Vec::new();
        for item in oauth2.list("scopes")? {
            let scope = item.text()?;
            // RFC 6749 §3.3.
            if scope.is_empty()
                || !scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
            {
                let message =
                    "is no scope: printable ASCII without spaces, quotes and backslashes, one an item";
                self.findings.mistake(&item.at, message);
                return None;
            }
            scopes.push(scope.to_owned());
        }
        Some(scopes)
    }

    fn service_account(&mut self, oauth2: &Section) -> Option<Grant> {
        let others =
            ["client_id", "client_secret", "client_auth", "client_assertion", "refresh_token", "device_url"];
        for key in others.into_iter().filter(|key| oauth2.is_given(key)) {
            let message = format!("`{key}` does not go with `service_account`, whose key is all the proof");
            self.findings.mistake(&oauth2.at(key), message);
        }
        self.account_grant(oauth2)
    }

    pub(super) fn account_grant(&mut self, source: &Section) -> Option<Grant> {
        let section = source.section("service_account")?;
        let subject = section.optional_text("subject")?.map(ToOwned::to_owned);
        Some(Grant::ServiceAccount(ServiceAccount { file: self.secret_file(section)?, subject }))
    }

    fn client_grant(&mut self, oauth2: &Section) -> Option<Grant> {
        let client = self.client(oauth2);
        let device_url = self.endpoint_url(oauth2, "device_url");
        if !oauth2.is_given("refresh_token") {
            if oauth2.is_given("device_url") {
                let message = "`device_url` is for `refresh_token`, which it gets";
                self.findings.mistake(&oauth2.at("device_url"), message);
            }
            if !oauth2.is_given("client_secret") && !oauth2.is_given("client_assertion") {
                let message = "has no proof of who asks: one of client_secret, client_assertion, refresh_token or \
                               service_account";
                self.findings.mistake(&oauth2.at, message);
            }
            return Some(Grant::ClientCredentials(client?));
        }
        let section = oauth2.section("refresh_token")?;
        let at = section.at("file");
        let path = self.readable(section.text("file")?, &at)?;
        self.require_replaceable(&path, &at)?;
        if !path.exists() {
            let message = format!("{} is not there yet: `ambassador sign-in` makes it", path.display());
            self.findings.warning(&at, message);
        } else if let Some(exposure) = password_exposure(&path) {
            self.findings.warning(&at, exposure);
        }
        Some(Grant::RefreshToken {
            client: client?,
            file: RefreshTokenFile::new(path),
            device_url: device_url?,
        })
    }

    fn client(&mut self, oauth2: &Section) -> Option<OAuth2Client> {
        let id = oauth2.optional_text("client_id");
        if !oauth2.is_given("client_id") {
            self.findings.mistake(&oauth2.at, "needs `client_id`");
        }
        if oauth2.is_given("client_auth") && !oauth2.is_given("client_secret") {
            let message = "`client_auth` says how `client_secret` is sent, and there is none";
            self.findings.mistake(&oauth2.at("client_auth"), message);
        }
        let proof = match (oauth2.is_given("client_secret"), oauth2.is_given("client_assertion")) {
            (true, true) => {
                let message = "`client_assertion` takes the place of `client_secret`; only one can count";
                self.findings.mistake(&oauth2.at("client_assertion"), message);
                None
            }
            (true, false) => self.client_secret(oauth2),
            (false, true) => self.client_assertion(oauth2.section("client_assertion")?),
            (false, false) => Some(ClientProof::None),
        };
        Some(OAuth2Client { id: id??.to_owned(), proof: proof? })
    }

    fn client_secret(&mut self, oauth2: &Section) -> Option<ClientProof> {
        let file = self.secret_file(oauth2.section("client_secret")?)?;
        let is_basic = oauth2.choice("client_auth", &[("basic", true), ("post", false)])?;
        Some(ClientProof::Secret { file, is_basic })
    }

    fn client_assertion(&mut self, section: &Section) -> Option<ClientProof> {
        let key_at = section.at("key");
        let key = self.readable(section.text("key")?, &key_at)?;
        if let Some(exposure) = password_exposure(&key) {
            self.findings.warning(&key_at, exposure);
        }
        let cert = match section.optional_text("cert")? {
            Some(path) => Some(self.readable(path, &section.at("cert"))?),
            None => None,
        };
        let words =
            [("RS256", JwtAlgorithm::Rs256), ("PS256", JwtAlgorithm::Ps256), ("ES256", JwtAlgorithm::Es256)];
        let algorithm = match section.is_given("algorithm") {
            true => Some(section.choice("algorithm", &words)?),
            false => None,
        };
        let key_id = section.optional_text("key_id")?.map(ToOwned::to_owned);
        Some(ClientProof::Assertion(AssertionSettings { key, cert, key_id, algorithm }))
    }
}

/// Where the files are named that a request needs.
fn secret_place(oauth2: &Section) -> SourceLocation {
    for (key, file) in [("service_account", "file"), ("client_assertion", "key"), ("client_secret", "file")] {
        if let Some(section) = oauth2.section(key).filter(|_| oauth2.is_given(key)) {
            return section.at(file);
        }
    }
    oauth2.at.clone()
}
