//! What a token endpoint answers: a token (RFC 6749 §5.1), or an error (§5.2).

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::escape::is_control;
use crate::http::HttpAnswer;

/// The life of a token whose server does not say it. Most give an hour; where it is less, the server's rejection has the next
/// one fetched.
const LIFE_UNSAID: Duration = Duration::from_secs(3600);
/// Longer lives are cut to this.
const LIFE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Of an error's code and of its description so many characters are shown.
const CODE_SHOWN: usize = 64;
const DESCRIPTION_SHOWN: usize = 300;
/// What is shorter is found in words by chance, and is not secret to anybody.
const SECRET_MIN: usize = 5;

/// A token.
pub(super) struct TokenAnswer {
    pub(super) access_token: Zeroizing<String>,
    pub(super) refresh_token: Option<Zeroizing<String>>,
    pub(super) expires: SystemTime,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OAuth2Error {
    /// An error body.
    Told {
        /// `invalid_client` and the like.
        code: String,
        /// For people.
        description: Option<String>,
    },
    /// Another answer.
    Other(String),
}

impl fmt::Display for OAuth2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told { code, description: Some(description) } => write!(f, "{code}: {description}"),
            Self::Told { code, description: None } => f.write_str(code),
            Self::Other(words) => f.write_str(words),
        }
    }
}

impl OAuth2Error {
    /// Whether the code is that one.
    pub(super) fn is(&self, expected: &str) -> bool {
        matches!(self, Self::Told { code, .. } if code == expected)
    }

    /// Reads an answer that is not a success.
    pub(super) fn read(answer: &HttpAnswer, secrets: &[&str]) -> Self {
        #[derive(Deserialize)]
        struct Told {
            error: String,
            error_description: Option<String>,
        }
        match serde_json::from_slice::<Told>(&answer.body) {
            Ok(told) => Self::Told {
                code: shown(&told.error, CODE_SHOWN, secrets),
                description: told
                    .error_description
                    .map(|description| shown(&description, DESCRIPTION_SHOWN, secrets))
                    .filter(|description| !description.is_empty()),
            },
            Err(_) => Self::Other(format!("HTTP {} without an OAuth 2.0 error body", answer.status)),
        }
    }
}

impl TokenAnswer {
    /// Reads the answer to a request that began at `begun`.
    pub(super) fn read(
        answer: &HttpAnswer,
        secrets: &[&str],
        begun: SystemTime,
    ) -> Result<Self, OAuth2Error> {
        #[derive(Deserialize)]
        struct Granted {
            #[serde(deserialize_with = "secret", default)]
            access_token: Option<Zeroizing<String>>,
            #[serde(deserialize_with = "secret", default)]
            refresh_token: Option<Zeroizing<String>>,
            token_type: Option<String>,
            expires_in: Option<serde_json::Value>,
            /// In seconds since 1970, of Azure's App Service, which gives no `expires_in`.
            expires_on: Option<serde_json::Value>,
        }
        let other = |words: &str| Err(OAuth2Error::Other(words.into()));
        if answer.status != 200 {
            return Err(OAuth2Error::read(answer, secrets));
        }
        // serde's errors quote what they do not like.
        let Ok(granted) = serde_json::from_slice::<Granted>(&answer.body) else {
            return other("HTTP 200 with a body that is no token answer in JSON");
        };
        let Some(access_token) = granted.access_token else {
            // Some servers report errors so.
            return match OAuth2Error::read(answer, secrets) {
                told @ OAuth2Error::Told { .. } => Err(told),
                OAuth2Error::Other(_) => other("HTTP 200 without an access_token"),
            };
        };
        if let Some(kind) = granted.token_type.filter(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            let kind = shown(&kind, CODE_SHOWN, secrets);
            return other(&format!("it gives tokens of type {kind}, and only bearer tokens can be used"));
        }
        // What RFC 6750 §2.1 allows; else it could leave its place in a login.
        if access_token.is_empty() || !access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return other("its access_token has other characters than a token may have");
        }
        let left = match granted.expires_in.as_ref() {
            None | Some(serde_json::Value::Null) => {
                let begun = begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                granted.expires_on.as_ref().and_then(seconds).map(|end| end.saturating_sub(begun))
            }
            Some(value) => match seconds(value) {
                None => return other("its expires_in is no number of seconds"),
                left => left,
            },
        };
        let life = match left {
            None => LIFE_UNSAID,
            Some(0) => return other("its token has expired already"),
            Some(left) => Duration::from_secs(left).min(LIFE_MAX),
        };
        let refresh_token = granted.refresh_token.filter(|token| {
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        });
        Ok(Self { access_token, refresh_token, expires: begun + life })
    }
}

/// A number, or, as of Microsoft's first version, a string with one.
fn seconds(value: &serde_json::Value) -> Option<u64> {
    let whole = |number: f64| (0.0..1e15).contains(&number).then_some(number as u64);
    match value {
        serde_json::Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole)),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    }
}

pub(super) fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Zeroizing::new))
}

/// A server's words, in one printable line of at most `most` characters; not if they repeat a secret.
pub(super) fn shown(text: &str, most: usize, secrets: &[&str]) -> String {
    if secrets.iter().any(|secret| secret.len() >= SECRET_MIN && text.contains(secret)) {
        return "(its words repeat a secret, and are not shown)".into();
    }
    let text: String =
        text.chars().map(|character| if is_control(character) { ' ' } else { character }).collect();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Result<(String, Option<String>, u64), String> {
        let answer = HttpAnswer { status, retry_after: None, body: Zeroizing::new(body.as_bytes().to_vec()) };
        let begun = SystemTime::UNIX_EPOCH;
        let read = TokenAnswer::read(&answer, &["hunter2"], begun).map_err(|error| error.to_string())?;
        let life = read.expires.duration_since(begun).unwrap().as_secs();
        Ok((read.access_token.to_string(), read.refresh_token.map(|token| token.to_string()), life))
    }

    #[test]
    fn tokens_are_read_as_servers_write_them() {
        for (body, refresh, life) in [
            (
                r#"{"access_token":"T","token_type":"Bearer","expires_in":3599,"ext_expires_in":3599}"#,
                None,
                3599,
            ),
            (r#"{"access_token":"T","token_type":"bearer","expires_in":"3599"}"#, None, 3599),
            (r#"{"access_token":"T","expires_in":60.9,"refresh_token":"R"}"#, Some("R"), 60),
            (r#"{"access_token":"T","refresh_token":null,"expires_in":null}"#, None, 3600),
            (r#"{"access_token":"T","refresh_token":""}"#, None, 3600),
            (r#"{"access_token":"T","expires_in":"86399","expires_on":"7","resource":"x"}"#, None, 86_399),
            (r#"{"access_token":"T","expires_on":"7200"}"#, None, 7200),
            (r#"{"access_token":"T","expires_on":"11/30/2026"}"#, None, 3600),
            (r#"{"access_token":"T","expires_in":18446744073709551615}"#, None, 366 * 24 * 3600),
        ] {
            assert_eq!(read(200, body), Ok(("T".into(), refresh.map(Into::into), life)), "{body}");
        }
    }

    #[test]
    fn errors_are_quoted_cut_and_printable_and_never_with_a_secret() {
        let long = format!(r#"{{"error":"e","error_description":"{}"}}"#, "x".repeat(400));
        for (status, body, expected) in [
            (400, r#"{"error":"invalid_scope"}"#, "invalid_scope"),
            (
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid.\r\nTrace\u001b[2J ID"}"#,
                "invalid_client: AADSTS7000215: Invalid. Trace [2J ID",
            ),
            (400, &long, &format!("e: {}...", "x".repeat(300))),
            (
                400,
                r#"{"error":"e","error_description":"no hunter2 here"}"#,
                "e: (its words repeat a secret, and are not shown)",
            ),
            (500, "<html>", "HTTP 500 without an OAuth 2.0 error body"),
            (200, r#"{"error":"bad"}"#, "bad"),
            (200, "{}", "HTTP 200 without an access_token"),
            (200, "[\"hunter2\"]", "HTTP 200 with a body that is no token answer in JSON"),
            (
                200,
                r#"{"access_token":"a\u0001b"}"#,
                "its access_token has other characters than a token may have",
            ),
            (200, r#"{"access_token":""}"#, "its access_token has other characters than a token may have"),
            (200, r#"{"access_token":"T","expires_in":0}"#, "its token has expired already"),
            (200, r#"{"access_token":"T","expires_on":"0"}"#, "its token has expired already"),
            (200, r#"{"access_token":"T","expires_in":-5}"#, "its expires_in is no number of seconds"),
            (
                200,
                r#"{"access_token":"T","token_type":"mac"}"#,
                "it gives tokens of type mac, and only bearer tokens can be used",
            ),
        ] {
            assert_eq!(read(status, body), Err(expected.to_owned()), "{body}");
        }
    }

    /// Any bytes: no panic, and no secret.
    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let mut rng = fastrand::Rng::with_seed(17);
        let seeds =
            [&br#"{"access_token":"T","expires_in":5,"refresh_token":"R"}"#[..], br#"{"error":"hunter2"}"#];
        for _ in 0..20_000 {
            let mut body = rng.choice(seeds).unwrap_or_default().to_vec();
            for _ in 0..rng.usize(0..6) {
                let at = rng.usize(0..body.len());
                body[at] = rng.u8(..);
            }
            let status = *rng.choice(&[200, 400]).unwrap_or(&200);
            let answer = HttpAnswer { status, retry_after: None, body: Zeroizing::new(body) };
            if let Err(error) = TokenAnswer::read(&answer, &["hunter2"], SystemTime::UNIX_EPOCH) {
                assert!(!error.to_string().contains("hunter2"), "{error}");
            }
        }
    }
}
