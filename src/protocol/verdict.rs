//! A server's words about a login, without a secret that they repeat.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::TurnedAway;
use super::login::{AllowedMechanisms, LoginCredentials, LoginError, secret_message};
use super::sasl::{base64, oauthbearer, plain, xoauth2};

/// What a URL has as it is (RFC 3986 §2.3).
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// In place of a server's words that repeat the secret.
pub(super) const REPEATS: &str = "its words repeat the secret";

impl LoginCredentials {
    /// Whether a server's message has the secret in it, as it is or as a mechanism sends it. A certificate has none, and what a
    /// mechanism would send is then the user's name alone.
    pub(super) fn is_repeated_in(&self, said: &[u8]) -> bool {
        if self.secret.expose().is_empty() {
            return false;
        }
        let secret = secret_message(&[self.secret.expose().as_bytes()]);
        let mut in_url = Zeroizing::new(String::with_capacity(3 * secret.len()));
        in_url.extend(utf8_percent_encode(self.secret.expose(), IN_URL));
        let in_url = secret_message(&[in_url.as_bytes()]);
        let sent = [plain(self), xoauth2(self), oauthbearer(self), in_url, secret];
        let repeats = |sent: &[u8]| !sent.is_empty() && said.windows(sent.len()).any(|part| part == sent);
        sent.iter().any(|message| repeats(message) || repeats(&base64(message)))
    }

    /// What the server says about a login with them; `said` is its whole message. Some servers repeat the command that they
    /// reject: words with the secret are left out.
    pub(super) fn verdict(&self, by: TurnedAway, said: &[u8]) -> TurnedAway {
        let by = by.through_tls();
        if self.is_repeated_in(said) { TurnedAway { words: REPEATS.into(), ..by } } else { by }
    }

    /// The server has nothing that may carry the secret; `offered` is what it has, in its words.
    pub(super) fn no_mechanism(&self, allowed: &AllowedMechanisms, offered: &[&str]) -> LoginError {
        let offered = offered.join(", ");
        let by = self.verdict(TurnedAway::new("", None, offered.as_bytes()), offered.as_bytes());
        LoginError::NoMechanism {
            kind: self.secret.kind(),
            allowed: allowed.clone(),
            offered: if by.words.is_empty() { "none".into() } else { by.words },
            is_counted: false,
        }
    }
}
