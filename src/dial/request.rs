//! What a session requests of its dial.

use std::net::IpAddr;
use std::time::Duration;

use crate::caller::Caller;
use crate::cluster::{DialTarget, LeaseRequest, Purpose};

use super::first_words::Opening;
use super::login::SignInAs;
use super::proxy_header::ProxyInfo;

/// What a session requests of its dial.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DialRequest<'a> {
    /// Which endpoint to dial.
    pub target: DialTarget,
    /// Whether bytes of the client are pending.
    pub has_spoken: bool,
    /// The pending bytes that the upgrade sends.
    pub preface: &'a [u8],
    /// All pending bytes, if they are known and request a session.
    pub opening: Opening<'a>,
    /// Who to sign in as; `None`: the client signs in, or there is nothing to sign in to.
    pub sign_in_as: Option<SignInAs<'a>>,
    /// What the client's CONNECT request sets.
    pub overrides: DialOverrides<'a>,
    /// The contents of the PROXY header, where the cluster sends one.
    pub proxy_info: Option<&'a ProxyInfo>,
    /// The hash for `source_hash`: of the client's affinity, the caller or the client's address.
    pub affinity: Option<u64>,
    /// The caller, if known: the queue is fair between callers, and the caller may determine the TLS identity. For a
    /// cancel: the caller of the session to cancel.
    pub caller: Option<&'a Caller>,
    /// The client's address, over TCP.
    pub from: Option<IpAddr>,
    /// How many sessions of the same caller may wait for room; `None`: the cluster's number.
    pub max_queued: Option<u32>,
}

/// How a client tightens what the file allows its dial.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DialOverrides<'a> {
    /// Maximum number of attempts, at least 1.
    pub attempts: Option<u32>,
    /// Maximum duration of all attempts together.
    pub deadline: Option<Duration>,
    /// The key of `source_hash`.
    pub affinity: Option<&'a str>,
}

impl<'a> DialRequest<'a> {
    /// The part that the cluster decides by.
    pub(super) const fn lease_request(&self, purpose: Purpose) -> LeaseRequest<'a> {
        let Self { target, affinity, caller, from, max_queued, .. } = *self;
        LeaseRequest { target, purpose, affinity, caller, from, max_queued }
    }
}
