//! What etcd's JSON gateway answers: proto3's JSON, in which 64-bit numbers are text, bytes are base64, and zeros are absent.
//! Only the fields that are used; what else there is is skipped.

use data_encoding::BASE64;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Reads an answer, or a line of one.
///
/// # Errors
/// It has another form.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the answer is not one of etcd: {error}"))
}

/// Bytes in base64.
///
/// # Errors
/// They are not.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, String> {
    BASE64
        .decode(text.as_bytes())
        .map_err(|error| format!("the answer has a key or value that is no base64: {error}"))
}

/// The words of an error, as the gateway's versions write them.
pub(super) fn said(error: &Value) -> String {
    let inner = error.get("error").filter(|inner| inner.is_object()).unwrap_or(error);
    let words = [inner.get("message"), inner.get("error"), Some(inner)];
    words.into_iter().flatten().find_map(Value::as_str).unwrap_or_default().chars().take(SHOWN).collect()
}

/// Of an error's text so many characters are shown.
const SHOWN: usize = 200;

/// A 64-bit number, as text or as a number.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(from)?;
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.ok_or_else(|| D::Error::custom("a number was expected"))
}

#[derive(Deserialize)]
pub(super) struct AuthenticateResponse {
    #[serde(default)]
    pub(super) token: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RangeResponse {
    pub(super) header: Header,
    pub(super) kvs: Vec<KeyValue>,
    pub(super) more: bool,
}

/// Who answers, and how far the store was then.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(default)]
pub(super) struct Header {
    #[serde(deserialize_with = "number")]
    pub(super) cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub(super) revision: u64,
    #[serde(deserialize_with = "number")]
    pub(super) raft_term: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct KeyValue {
    pub(super) key: String,
    pub(super) value: String,
    #[serde(deserialize_with = "number")]
    pub(super) mod_revision: u64,
}

/// A line of a stream.
#[derive(Deserialize)]
pub(super) struct StreamLine {
    pub(super) result: Option<WatchResponse>,
    pub(super) error: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct WatchResponse {
    pub(super) header: Header,
    pub(super) created: bool,
    pub(super) canceled: bool,
    #[serde(deserialize_with = "number")]
    pub(super) compact_revision: u64,
    pub(super) cancel_reason: String,
    pub(super) events: Vec<Event>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Event {
    /// Absent: PUT.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) kv: KeyValue,
}
