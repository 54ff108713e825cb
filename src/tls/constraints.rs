//! A CA's name constraints on directory names (RFC 5280 §4.2.1.10), which webpki always refuses: taken out of a trust
//! anchor before webpki sees it, and checked here.
//!
//! Only permitted subtrees of anchors are handled. Excluded ones, and those of a CA below, stay with webpki, which then
//! refuses. Names are compared conservatively: two unrecognized spellings of one name cost a connection, and no more.

use rustls::pki_types::{CertificateDer, Der, TrustAnchor};
use x509_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::prelude::{FromDer, GeneralName, RelativeDistinguishedName, X509Name};

use super::signed::parsed;

/// The directory names that an anchor permits, each the root of a subtree, in DER.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Permitted(Vec<Vec<u8>>);

const PERMITTED: u32 = 0;
const DIRECTORY_NAME: u32 = 4;
const SEQUENCE: u8 = 0x30;
const PERMITTED_TAG: u8 = 0xA0;

impl Permitted {
    /// Takes them out of the anchor. `None`, with the anchor unchanged, where there are none or they cannot be parsed.
    pub(super) fn take_from(anchor: &mut TrustAnchor<'static>) -> Option<Self> {
        let (rest, permitted) = split(anchor.name_constraints.as_ref()?)?;
        anchor.name_constraints = (!rest.is_empty()).then(|| Der::from(rest));
        Some(permitted)
    }

    /// Whether each directory name of the certificate is permitted; one that cannot be read is not.
    pub(super) fn permits(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(parsed) = parsed(certificate) else { return false };
        let Ok(others) = parsed.subject_alternative_name() else { return false };
        let subject = Some(parsed.subject()).filter(|subject| subject.iter_rdn().next().is_some());
        let others = others.iter().flat_map(|names| &names.value.general_names);
        let others = others
            .filter_map(|name| if let GeneralName::DirectoryName(name) = name { Some(name) } else { None });
        subject.into_iter().chain(others).all(|name| self.0.iter().any(|root| is_below(name, root)))
    }
}

/// Splits the constraints into those for webpki and the permitted directory names.
fn split(mut constraints: &[u8]) -> Option<(Vec<u8>, Permitted)> {
    let (mut rest, mut permitted) = (Vec::new(), Vec::new());
    while !constraints.is_empty() {
        let (behind, subtrees) = Any::from_der(constraints).ok()?;
        let whole = &constraints[..constraints.len() - behind.len()];
        constraints = behind;
        if subtrees.class() != Class::ContextSpecific || subtrees.tag() != Tag(PERMITTED) {
            rest.extend_from_slice(whole);
            continue;
        }
        let others = others_of(subtrees.data, &mut permitted)?;
        if !others.is_empty() {
            element(PERMITTED_TAG, &others, &mut rest);
        }
    }
    (!permitted.is_empty()).then_some((rest, Permitted(permitted)))
}

/// Returns the subtrees of other kinds; those of directory names go to `permitted`.
fn others_of(mut subtrees: &[u8], permitted: &mut Vec<Vec<u8>>) -> Option<Vec<u8>> {
    let mut others = Vec::new();
    while !subtrees.is_empty() {
        let (behind, subtree) = Any::from_der(subtrees).ok()?;
        subtrees = behind;
        // No trailing bytes: RFC 5280 allows no `minimum` but the default, and no `maximum`.
        let Ok(([], base)) = Any::from_der(subtree.data) else { return None };
        if base.class() == Class::ContextSpecific && base.tag() == Tag(DIRECTORY_NAME) {
            X509Name::from_der(base.data).ok().filter(|(rest, _)| rest.is_empty())?;
            permitted.push(base.data.to_vec());
        } else {
            element(SEQUENCE, subtree.data, &mut others);
        }
    }
    Some(others)
}

/// Writes an element in DER.
fn element(tag: u8, contents: &[u8], to: &mut Vec<u8>) {
    to.push(tag);
    let length = contents.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    match significant {
        [] => to.push(0),
        [short] if *short < 0x80 => to.push(*short),
        long => {
            to.push(0x80 | u8::try_from(long.len()).expect("a length has eight bytes at most"));
            to.extend_from_slice(long);
        }
    }
    to.extend_from_slice(contents);
}

/// Whether `name` begins with all parts of `root`.
fn is_below(name: &X509Name<'_>, root: &[u8]) -> bool {
    let Ok((_, root)) = X509Name::from_der(root) else { return false };
    let mut parts = name.iter_rdn();
    root.iter_rdn().all(|wanted| parts.next().is_some_and(|part| is_same(part, wanted)))
}

fn is_same(one: &RelativeDistinguishedName<'_>, other: &RelativeDistinguishedName<'_>) -> bool {
    let all = |part: &RelativeDistinguishedName<'_>| {
        let values = part.iter().map(|value| (value.attr_type().to_id_string(), folded(value.attr_value())));
        let mut values: Vec<_> = values.collect();
        values.sort_unstable();
        values
    };
    all(one) == all(other)
}

/// A value as RFC 5280 §7.1 compares it, for ASCII: ignoring case and the amount of white space.
fn folded(value: &Any<'_>) -> (u32, Vec<u8>) {
    let text = [Tag::Utf8String, Tag::PrintableString].contains(&value.tag());
    match std::str::from_utf8(value.data) {
        Ok(said) if text => {
            let words: Vec<_> = said.split(' ').filter(|word| !word.is_empty()).collect();
            (Tag::Utf8String.0, words.join(" ").to_ascii_lowercase().into_bytes())
        }
        Ok(_) | Err(_) => (value.tag().0, value.data.to_vec()),
    }
}
