//! etcd's keys below a prefix, each of whose values is a list as an endpoints file has it: read once, then watched from that revision
//! on, over etcd's JSON gateway.
//!
//! The list is a linearizable range, which names the revision that it is of. A watch begins one revision later, so nothing lies in
//! between; one that ends goes on where it was, at any member. The list is read again only where that history is gone (compacted) or is
//! another one: a store that was restored from a backup goes back. The watch asks for a leader, or a member that is cut off would keep
//! silent. Revisions in headers are the store's, which may be ahead of the events that were sent; only a message without events
//! (`progress_notify`) says that there are none in between. The set is the union of the lists in the order of keys. Pure.

mod answer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use serde::Serialize;
use zeroize::Zeroizing;

use self::answer::{
    AuthenticateResponse, Header, KeyValue, RangeResponse, StreamLine, WatchResponse, bytes, read, said,
};
use super::words;
use crate::cluster::{
    ENDPOINTS_MAX, RemoteAnswer, RemoteProgress, RemoteQuery, RemoteReads, RemoteRequest, Target,
};
use crate::escape::escaped;
use crate::http::HttpField;

/// How long a member may take for an answer, or for the first line of a watch. A linearizable read gives up after 7 s of its own.
const PATIENCE: Duration = Duration::from_secs(15);
/// A watch without a line for that long is begun anew: the kernel of a member that is frozen answers for it, and its own signs of life
/// come every ten minutes only.
const RENEWAL: Duration = Duration::from_secs(300);
/// The most keys below a prefix.
const KEYS_MAX: usize = ENDPOINTS_MAX;
/// A watch that was answered and breaks before it has brought anything goes on so many times; then the list is read again.
const RESUMES_MAX: u8 = 3;

/// Reads a key's value. The key is for the words of an error.
pub(crate) type ParseValue = Arc<dyn Fn(&str, &[u8]) -> Result<Vec<Target>, String> + Send + Sync>;

/// What is asked for.
#[derive(Clone)]
pub(crate) struct EtcdSettings {
    /// What the keys begin with; not empty.
    pub(crate) prefix: String,
    /// Who asks, with the secret as the password.
    pub(crate) user: Option<String>,
    /// Makes targets.
    pub(crate) parse: ParseValue,
}

/// The query, and where it is.
pub(crate) struct EtcdQuery {
    settings: EtcdSettings,
    /// What was asked last.
    step: Step,
    /// `None`: it has to be asked for. Empty: this etcd asks nobody who they are.
    token: Option<Zeroizing<String>>,
    /// Whether nothing has been read with the token yet.
    is_fresh: bool,
    /// `None`: the list has to be read.
    known: Option<Known>,
    /// How often a watch that was answered broke before it brought anything.
    resumes: u8,
    /// Whether there was an answer to the last request.
    is_answered: bool,
    /// How often a watch was refused, one after the other, of what could be read.
    refusals: u8,
    continues: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Authenticate,
    Range,
    Watch,
}

/// The keys as they were at a revision.
struct Known {
    cluster_id: u64,
    raft_term: u64,
    revision: u64,
    lists: BTreeMap<Vec<u8>, List>,
}

/// What a key's value lists, or what is wrong with it.
type List = Result<Vec<Target>, String>;

impl Known {
    /// Whether the store that a watch was begun at is another one than that which was read, or not as far: a backup was restored, or
    /// the member has fallen behind. Neither a revision nor a term goes back otherwise.
    const fn is_of_another(&self, header: &Header) -> bool {
        header.cluster_id != self.cluster_id
            || header.raft_term < self.raft_term
            || header.revision < self.revision
    }
}

impl fmt::Debug for EtcdQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = self.known.as_ref().map(|known| known.revision);
        f.debug_struct("EtcdQuery")
            .field("step", &self.step)
            .field("revision", &revision)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct AuthenticateRequest<'a> {
    name: &'a str,
    password: &'a str,
}

impl EtcdQuery {
    pub(crate) const fn new(settings: EtcdSettings) -> Self {
        Self {
            settings,
            step: Step::Range,
            token: None,
            is_fresh: false,
            known: None,
            resumes: 0,
            is_answered: false,
            refusals: 0,
            continues: false,
        }
    }

    fn next_step(&self) -> Step {
        match (&self.known, &self.token) {
            (_, None) if self.settings.user.is_some() => Step::Authenticate,
            (None, _) => Step::Range,
            (Some(_), _) => Step::Watch,
        }
    }

    fn authenticate_body(&self, password: Option<&str>) -> Zeroizing<Vec<u8>> {
        let (name, password) =
            (self.settings.user.as_deref().unwrap_or_default(), password.unwrap_or_default());
        // With its final capacity: a vector that grows leaves a copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(64 + 6 * (name.len() + password.len())));
        serde_json::to_writer(&mut *body, &AuthenticateRequest { name, password })
            .expect("text can be written to memory");
        body
    }

    /// The prefix, and the first key after all those that begin with it.
    fn range(&self) -> String {
        let mut end = self.settings.prefix.clone().into_bytes();
        // No byte of UTF-8 is 0xff.
        if let Some(last) = end.last_mut() {
            *last = last.saturating_add(1);
        }
        let (key, end) = (BASE64.encode(self.settings.prefix.as_bytes()), BASE64.encode(&end));
        format!(r#""key":"{key}","range_end":"{end}""#)
    }

    fn take_token(&mut self, body: &[u8]) -> Result<RemoteProgress, String> {
        let AuthenticateResponse { token } = read(body)?;
        if token.is_empty() {
            return Err("it has let us in without a token: that is no etcd".into());
        }
        (self.token, self.is_fresh, self.continues) = (Some(token.into()), true, true);
        Ok(RemoteProgress::NotYet)
    }

    fn take_range(&mut self, body: &[u8]) -> Result<RemoteProgress, String> {
        let RangeResponse { header, kvs, more } = read(body)?;
        if more || kvs.len() > KEYS_MAX {
            return Err(self.too_many_keys());
        }
        if header.revision == 0 {
            return Err("the answer has no revision: that is no etcd".into());
        }
        let lists = kvs.iter().map(|one| self.list(one)).collect::<Result<_, _>>()?;
        let Header { cluster_id, revision, raft_term } = header;
        let known = Known { cluster_id, raft_term, revision, lists };
        (self.known, self.is_fresh, self.continues, self.resumes) = (Some(known), false, true, 0);
        Ok(self.union())
    }

    fn list(&self, pair: &KeyValue) -> Result<(Vec<u8>, List), String> {
        let (key, value) = (bytes(&pair.key)?, bytes(&pair.value)?);
        let parsed = (self.settings.parse)(&escaped(&String::from_utf8_lossy(&key)), &value);
        Ok((key, parsed))
    }

    fn too_many_keys(&self) -> String {
        let prefix = escaped(&self.settings.prefix);
        format!("more than {KEYS_MAX} keys begin with {prefix}, which is more than are used")
    }

    /// The endpoints of all keys, or which key is wrong.
    fn union(&self) -> RemoteProgress {
        let lists = self.known.iter().flat_map(|known| known.lists.values());
        let wrong: Vec<_> = lists.clone().filter_map(|list| list.as_ref().err().cloned()).collect();
        if let Some(complaint) = words::first_and_count(&wrong) {
            return RemoteProgress::Unusable(complaint);
        }
        let targets: Vec<_> = lists.flatten().flatten().cloned().collect();
        if targets.len() > ENDPOINTS_MAX {
            let (count, prefix) = (targets.len(), escaped(&self.settings.prefix));
            return RemoteProgress::Unusable(format!(
                "{prefix} has {count} endpoints, and a cluster has at most {ENDPOINTS_MAX}"
            ));
        }
        RemoteProgress::Targets(targets)
    }

    fn take_line(&mut self, body: &[u8]) -> Result<RemoteProgress, String> {
        let StreamLine { result, error } = read(body)?;
        if let Some(error) = error {
            return self.refused(None, &said(&error));
        }
        let response = result.ok_or("a line of the watch has neither a result nor an error")?;
        if response.canceled {
            return self.canceled(&response);
        }
        let Some(known) = &mut self.known else { return Ok(RemoteProgress::Anew) };
        if response.created && known.is_of_another(&response.header) {
            self.known = None;
            return Ok(RemoteProgress::Anew);
        }
        if response.events.is_empty() && !response.created {
            known.revision = known.revision.max(response.header.revision);
            self.resumes = 0;
            return Ok(RemoteProgress::Unchanged);
        }
        self.refusals = 0;
        if !response.events.is_empty() {
            self.resumes = 0;
        }
        self.apply(response)?;
        Ok(self.union())
    }

    fn apply(&mut self, response: WatchResponse) -> Result<(), String> {
        let mut changes = Vec::with_capacity(response.events.len());
        for event in response.events {
            let revision = event.kv.mod_revision;
            changes.push(match event.kind.as_deref() {
                None | Some("PUT") => (revision, self.list(&event.kv).map(|(key, list)| (key, Some(list)))?),
                Some("DELETE") => (revision, (bytes(&event.kv.key)?, None)),
                Some(other) => return Err(format!("it tells of an event {}", escaped(other))),
            });
        }
        let Some(known) = &mut self.known else { return Ok(()) };
        for (revision, (key, list)) in changes {
            known.revision = known.revision.max(revision);
            match list {
                Some(list) => known.lists.insert(key, list),
                None => known.lists.remove(&key),
            };
        }
        if known.lists.len() > KEYS_MAX {
            self.known = None;
            return Err(self.too_many_keys());
        }
        Ok(())
    }

    /// The watch is over; its stream would stay open.
    fn canceled(&mut self, response: &WatchResponse) -> Result<RemoteProgress, String> {
        let reason = &response.cancel_reason;
        if response.compact_revision > 0 {
            self.known = None;
            return Ok(RemoteProgress::Anew);
        }
        // The answer to a range tells which it is, in more words; with a new token if the old one has ended.
        if self.refusals == 0 && (is_about_token(reason) || reason.contains("permission denied")) {
            (self.token, self.known) = (None, None);
            self.refusals += 1;
            return Ok(RemoteProgress::Anew);
        }
        Err(format!("the watch was ended: {}", escaped(reason)))
    }

    /// What an answer that is none says. `status`: absent where a line of a watch says it.
    fn refused(&mut self, status: Option<u16>, words: &str) -> Result<RemoteProgress, String> {
        let number = status.map(|status| format!("HTTP {status}"));
        let shown = (!words.is_empty()).then(|| escaped(words).into_owned());
        let told = number.into_iter().chain(shown).collect::<Vec<_>>().join(": ");
        if words.contains("no leader") {
            return Err(format!("this member has no leader ({told})"));
        }
        if status == Some(404) {
            return Err("there is no etcd with a JSON gateway of version 3 at that address (HTTP 404)".into());
        }
        let user = self.settings.user.as_deref().map_or_else(|| "nobody".into(), escaped);
        if self.step == Step::Authenticate && words.contains("authentication is not enabled") {
            (self.token, self.is_fresh, self.continues) = (Some(Zeroizing::default()), true, true);
            return Ok(RemoteProgress::NotYet);
        }
        if is_about_token(words) && self.settings.user.is_some() && !self.is_fresh {
            self.token = None;
            return Ok(RemoteProgress::Anew);
        }
        Err(match (self.step, status) {
            (Step::Authenticate, Some(400..=403)) => format!("it does not let user {user} in ({told})"),
            _ if is_about_token(words) && self.settings.user.is_none() => {
                format!("it wants a user and a password ({told})")
            }
            _ if is_about_token(words) => {
                self.token = None;
                format!("it does not take the token that it gave to user {user} ({told})")
            }
            (_, Some(403)) => {
                let prefix = escaped(&self.settings.prefix);
                format!(
                    "user {user} may not read {prefix} ({told}): a role needs READ for all keys with that prefix"
                )
            }
            _ => told,
        })
    }
}

/// Whether a new token may help.
fn is_about_token(words: &str) -> bool {
    ["invalid auth token", "revision of auth store is old", "user name is empty"]
        .iter()
        .any(|one| words.contains(one))
}

impl RemoteQuery for EtcdQuery {
    fn request(&mut self, token: Option<&str>) -> RemoteRequest {
        (self.step, self.continues, self.is_answered) = (self.next_step(), false, false);
        let (target, body) = match self.step {
            Step::Authenticate => ("/v3/auth/authenticate", self.authenticate_body(token)),
            Step::Range => {
                let range = self.range();
                ("/v3/kv/range", format!(r#"{{{range},"limit":"{KEYS_MAX}"}}"#).into_bytes().into())
            }
            Step::Watch => {
                let next = self.known.as_ref().map_or(0, |known| known.revision).saturating_add(1);
                let range = self.range();
                let create = format!(r#"{range},"start_revision":"{next}","progress_notify":true"#);
                ("/v3/watch", format!(r#"{{"create_request":{{{create}}}}}"#).into_bytes().into())
            }
        };
        let plain = |name, value: &str| HttpField(name, Zeroizing::new(value.to_owned()));
        let leader = HeaderName::from_static("grpc-metadata-hasleader");
        let token = self.token.as_ref().filter(|token| !token.is_empty());
        let token = token.map(|token| HttpField(AUTHORIZATION, token.clone()));
        let headers = [plain(CONTENT_TYPE, "application/json"), plain(leader, "true")];
        RemoteRequest {
            method: Method::POST,
            target: target.into(),
            headers: headers.into_iter().chain(token).collect(),
            body,
            reads: match self.step {
                Step::Authenticate => RemoteReads::Secret,
                Step::Range => RemoteReads::Whole,
                Step::Watch => RemoteReads::Lines,
            },
            patience: PATIENCE,
        }
    }

    fn take(&mut self, answer: &RemoteAnswer<'_>) -> Result<RemoteProgress, String> {
        self.is_answered = true;
        if answer.status != 200 {
            let words = said(&serde_json::from_slice(answer.body).unwrap_or_default());
            return self.refused(Some(answer.status), &words);
        }
        match self.step {
            Step::Authenticate => self.take_token(answer.body),
            Step::Range => self.take_range(answer.body),
            Step::Watch => self.take_line(answer.body),
        }
    }

    /// Goes on from the last revision: an error is more often one of the connection.
    fn reset(&mut self) {
        self.continues = false;
        self.resumes += u8::from(self.is_answered);
        if self.resumes > RESUMES_MAX {
            (self.known, self.resumes) = (None, 0);
        }
    }

    fn continues(&self) -> bool {
        self.continues
    }

    fn renewal(&self) -> Option<Duration> {
        Some(RENEWAL)
    }
}
