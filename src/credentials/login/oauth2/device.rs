//! The device authorization grant (RFC 8628): a person consents in a browser anywhere, and we get a refresh token.

use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Form, Grant, OAuth2, RefreshTokenFile};
use crate::clock;
use crate::credentials::login::answer::{OAuth2Error, TokenAnswer, secret, shown};

/// The pace of questions where the server says none (RFC 8628 §3.2), and what `slow_down` adds (§3.5).
const INTERVAL: Duration = Duration::from_secs(5);
/// How far `slow_down` and failures slow the questions.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The longest that a person may take, whatever the server says.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// Of a server's text so many characters are shown.
const SHOWN: usize = 300;

/// What to tell the person, and what to ask the server with.
pub(crate) struct DeviceAuthorization {
    pub(crate) verification_uri: String,
    pub(crate) user_code: String,
    /// The URI with the code in it, where the server has one.
    pub(crate) complete_uri: Option<String>,
    /// How long the codes are valid.
    pub(crate) life: Duration,
    /// How long to wait before the next question.
    pub(crate) interval: Duration,
    device_code: Zeroizing<String>,
}

/// What a question has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignInProgress {
    /// The person has not answered yet.
    Pending,
    /// The refresh token is in its file.
    Done,
}

impl OAuth2 {
    /// The file that a sign-in writes, if this is a source that a person can authorise.
    #[must_use]
    pub(crate) fn sign_in_file(&self) -> Option<&RefreshTokenFile> {
        match &self.grant {
            Grant::RefreshToken { file, device_url: Some(_), .. } => Some(file),
            Grant::RefreshToken { .. } | Grant::ClientCredentials(_) | Grant::ServiceAccount(_) => None,
        }
    }

    /// Asks for codes.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn begin_sign_in(&self) -> Result<DeviceAuthorization, String> {
        #[derive(Deserialize)]
        struct Codes {
            #[serde(deserialize_with = "secret")]
            device_code: Option<Zeroizing<String>>,
            user_code: String,
            // Google's name for it came before the standard.
            #[serde(alias = "verification_url")]
            verification_uri: String,
            verification_uri_complete: Option<String>,
            expires_in: u64,
            interval: Option<u64>,
        }
        let Grant::RefreshToken { client, device_url: Some(url), .. } = &self.grant else {
            return Err("this source has no device_url".into());
        };
        let mut form = Form::default();
        client.authenticate(&mut form, self.token_url()?)?;
        self.add_scopes(&mut form);
        let answer = form.post(url, &self.roots)?;
        let secrets = form.secrets();
        if answer.status != 200 {
            return Err(format!("{url}: {}", OAuth2Error::read(&answer, &secrets)));
        }
        const WHAT: &str = "it answers with something else than codes for a device";
        let codes: Codes = serde_json::from_slice(&answer.body).map_err(|_| format!("{url}: {WHAT}"))?;
        let device_code = codes.device_code.ok_or_else(|| format!("{url}: {WHAT}"))?;
        let interval = codes.interval.map_or(INTERVAL, Duration::from_secs);
        Ok(DeviceAuthorization {
            verification_uri: shown(&codes.verification_uri, SHOWN, &secrets),
            user_code: shown(&codes.user_code, SHOWN, &secrets),
            complete_uri: codes.verification_uri_complete.map(|uri| shown(&uri, SHOWN, &secrets)),
            life: Duration::from_secs(codes.expires_in).min(LIFE_MAX),
            interval: interval.clamp(Duration::from_secs(1), INTERVAL_MAX),
            device_code,
        })
    }

    /// Asks once whether the person has answered.
    ///
    /// # Errors
    /// In words; there is no use in asking again.
    pub(crate) fn poll_sign_in(&self, sign_in: &mut DeviceAuthorization) -> Result<SignInProgress, String> {
        let Grant::RefreshToken { client, file, .. } = &self.grant else {
            return Err("this source has no device_url".into());
        };
        let url = self.token_url()?;
        let mut form = Form::default();
        form.add("grant_type", "urn:ietf:params:oauth:grant-type:device_code");
        form.add_secret("device_code", sign_in.device_code.clone());
        client.authenticate(&mut form, url)?;
        let Ok(answer) = form.post(url, &self.roots) else {
            // As §3.5 wants it of a connection that fails.
            sign_in.interval = (sign_in.interval * 2).min(INTERVAL_MAX);
            return Ok(SignInProgress::Pending);
        };
        match TokenAnswer::read(&answer, &form.secrets(), clock::wall()) {
            Ok(TokenAnswer { refresh_token: Some(token), .. }) => {
                let shown = file.path().display();
                let _lock = file.lock();
                file.save(&token).map_err(|error| format!("cannot write {shown}: {error}"))?;
                Ok(SignInProgress::Done)
            }
            Ok(_) => Err(format!(
                "{url}: it gives no refresh token; `scopes` has to ask for one (offline_access, in most places)"
            )),
            Err(error) if error.is("authorization_pending") => Ok(SignInProgress::Pending),
            Err(error) if error.is("slow_down") => {
                sign_in.interval = (sign_in.interval + INTERVAL).min(INTERVAL_MAX);
                Ok(SignInProgress::Pending)
            }
            Err(error) if error.is("expired_token") => Err("the code has expired; begin anew".into()),
            Err(error) if error.is("access_denied") => Err("the person has refused".into()),
            Err(error) => Err(format!("{url}: {error}")),
        }
    }
}
