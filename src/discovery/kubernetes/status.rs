//! What a Kubernetes API server says when it refuses, in words. Pure.

use std::fmt;

use serde::Deserialize;

use crate::escape::escaped;

/// Of the server's text so many characters are shown: a refusal by RBAC has some 200.
const SHOWN: usize = 300;

/// An error, as the API has it.
#[derive(Deserialize, Default)]
pub(super) struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    code: i64,
}

impl Status {
    /// Whether it has forgotten the version or the page that was asked for.
    pub(super) const fn is_gone(&self) -> bool {
        self.code == 410
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.message.is_empty() { &self.reason } else { &self.message };
        let shown: String = text.chars().take(SHOWN).collect();
        f.write_str(&escaped(&shown))
    }
}

/// Why an answer with that HTTP status is of no use. `what`: the verb, and what for.
pub(super) fn refusal(code: u16, body: &[u8], what: &str, has_token: bool) -> String {
    let said = serde_json::from_slice::<Status>(body).unwrap_or_else(|_| Status {
        message: String::from_utf8_lossy(body).trim().to_owned(),
        ..Status::default()
    });
    let said = match said.to_string() {
        text if text.is_empty() => text,
        text => format!(": {text}"),
    };
    match code {
        401 if has_token => format!("the token is not accepted (HTTP 401{said})"),
        401 | 403 if !has_token => format!("it wants a token (HTTP {code}{said})"),
        403 => format!(
            "the token may not {what} (HTTP 403{said}); it needs a Role with the verbs list and watch for endpointslices of \
             discovery.k8s.io"
        ),
        404 => format!("it has no discovery.k8s.io/v1, which Kubernetes has since 1.21 (HTTP 404{said})"),
        _ => format!("HTTP {code}{said}"),
    }
}
