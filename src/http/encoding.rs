//! What is percent-encoded: parts of URLs, and forms.

use hyper::header::CONTENT_TYPE;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::HttpField;

/// As application/x-www-form-urlencoded has them.
pub(crate) const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

/// The text as in a URL or form. It may be a secret.
pub(crate) fn percent_encoded(text: &str, kept: &'static AsciiSet) -> Zeroizing<String> {
    // With its final capacity: a string that grows leaves a copy behind.
    let mut encoded = Zeroizing::new(String::with_capacity(3 * text.len()));
    encoded.extend(utf8_percent_encode(text, kept));
    encoded
}

/// A form: the field of the header that says so, and the body.
pub(crate) fn form(fields: &[(&str, &str)]) -> (HttpField, Zeroizing<Vec<u8>>) {
    let most = fields.iter().map(|(name, value)| name.len() + 2 + 3 * value.len()).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(most));
    for (name, value) in fields {
        if !body.is_empty() {
            body.push(b'&');
        }
        body.extend_from_slice(name.as_bytes());
        body.push(b'=');
        utf8_percent_encode(value, KEPT).for_each(|part| body.extend_from_slice(part.as_bytes()));
    }
    (HttpField(CONTENT_TYPE, Zeroizing::new("application/x-www-form-urlencoded".into())), body)
}
