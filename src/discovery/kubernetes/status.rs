//! What a Kubernetes API server says when it refuses, in words. Pure.

use std::fmt;

use serde::Deserialize;

use crate::discovery::words;

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

    fn text(&self) -> &str {
        if self.message.is_empty() { &self.reason } else { &self.message }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(&words::shown(text))
    }
}

/// Why an answer with that HTTP status is of no use. `what`: the verb, and what for.
pub(super) fn refusal(code: u16, body: &[u8], what: &str, has_token: bool) -> String {
    let said = serde_json::from_slice::<Status>(body).unwrap_or_else(|_| Status {
        message: String::from_utf8_lossy(body).into_owned(),
        ..Status::default()
    });
    let said = words::and_says(said.text());
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
