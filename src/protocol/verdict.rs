//! A server's words about a login, without a secret that they repeat.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::TurnedAway;
use super::login::{LoginCredentials, secret_message};
use super::sasl::{base64, oauthbearer, plain, xoauth2};

/// What a URL has as it is (RFC 3986 §2.3).
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl LoginCredentials {
    /// What the server says about a login with them; `said` is its whole message. Some servers repeat the command that they
    /// reject: words with the secret, as it is or as a mechanism sends it, are left out.
    pub(super) fn verdict(&self, by: TurnedAway, said: &[u8]) -> TurnedAway {
        let secret = secret_message(&[self.secret.expose().as_bytes()]);
        let mut in_url = Zeroizing::new(String::with_capacity(3 * secret.len()));
        in_url.extend(utf8_percent_encode(self.secret.expose(), IN_URL));
        let in_url = secret_message(&[in_url.as_bytes()]);
        let sent = [plain(self), xoauth2(self), oauthbearer(self), in_url, secret];
        let repeats = |sent: &[u8]| !sent.is_empty() && said.windows(sent.len()).any(|part| part == sent);
        let shows = sent.iter().any(|message| repeats(message) || repeats(&base64(message)));
        let by = by.through_tls();
        if shows { TurnedAway { words: "its words repeat the secret".into(), ..by } } else { by }
    }
}
