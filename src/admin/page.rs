//! The page at `/`: one file with its style and its script, compiled in. It loads nothing else, and a policy that
//! allows only these two, by their hashes, enforces that (CSP level 3, §8.2): injected markup could neither run nor
//! fetch.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;

pub(super) const PAGE: &str = include_str!("page.html");

pub(super) fn policy() -> &'static str {
    static POLICY: OnceLock<String> = OnceLock::new();
    POLICY.get_or_init(|| {
        let (style, script) = (hash(inside("style")), hash(inside("script")));
        format!(
            "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    })
}

/// The text between a pair of tags that the page has once.
fn inside(tag: &str) -> &'static str {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let begin = PAGE.find(&open).map_or(0, |at| at + open.len());
    let end = PAGE.find(&close).unwrap_or(begin);
    &PAGE[begin..end]
}

fn hash(text: &str) -> String {
    BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_what_is_in_the_page_and_nothing_else() {
        assert!(inside("style").contains("prefers-color-scheme"));
        assert!(inside("script").contains("use strict"));
        assert_eq!(PAGE.matches("<script").count(), 1);
        assert_eq!(PAGE.matches("<style").count(), 1);
        assert!(policy().starts_with("default-src 'none';"));
        // SHA-256 in base64.
        assert_eq!(hash(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn the_page_names_no_other_host_and_puts_no_text_in_as_markup() {
        for forbidden in
            ["http://", "https://", "innerHTML", "insertAdjacent", "document.write", " style=", "onclick"]
        {
            let found = PAGE.replace("http://www.w3.org/2000/svg", "").contains(forbidden);
            assert!(!found, "the page has {forbidden}");
        }
    }
}
