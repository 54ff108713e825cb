//! Kubernetes: the EndpointSlices of a Service, by list and watch of the API server's HTTP API.
//!
//! A list, in pages, says what there is at a version; a watch from that version tells what changes, one JSON object a line, until the
//! server ends it. The next watch goes on from the last version that was seen. A version or page that the server has forgotten (410)
//! means to list again ("Kubernetes API Concepts", Efficient detection of changes). Versions are opaque. Pure.

mod endpoint_slice;
mod slices;
mod status;

use std::time::Duration;

use hyper::header::AUTHORIZATION;
use serde::Deserialize;

use crate::cluster::{RemoteAnswer, RemoteProgress, RemoteQuery, RemoteReads, RemoteRequest, Target};
use crate::http::{HttpField, KEPT, bearer, percent_encoded};
use endpoint_slice::EndpointSlice;
pub(crate) use endpoint_slice::PortChoice;
pub(crate) use slices::EndpointChoice;
use slices::Slices;
use status::Status;

/// Slices in one page: even at Kubernetes' largest, 1000 endpoints each, it is shorter than the longest answer.
const PAGE: usize = 32;
/// The most pages of one list. A server may send pages that are not full.
const PAGES_MAX: u32 = 1024;
/// How long a server may take for a page.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a watch lasts. A connection that died without a sign is noticed after that.
const WATCH: Duration = Duration::from_secs(240);
/// A server ends a watch about that much later.
const GRACE: Duration = Duration::from_secs(15);
/// The longest version or name of a page that is sent back, in bytes.
const OPAQUE_MAX: usize = 16 * 1024;
/// So often in a row the server may forget a list before it is whole.
const RESTARTS_MAX: u32 = 3;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct KubernetesSettings {
    /// The Service's namespace.
    pub(crate) namespace: String,
    /// The Service's name.
    pub(crate) service: String,
    /// What is made of its slices.
    pub(crate) choice: EndpointChoice,
}

/// The query, and where it is.
#[derive(Debug)]
pub(crate) struct KubernetesQuery {
    settings: KubernetesSettings,
    position: Position,
    slices: Slices,
    /// What was told last: endpoints, and what is wrong with others.
    told: Option<(Vec<Target>, Option<String>)>,
    has_token: bool,
    /// Whether the token was refused last time. It may have been replaced since, so the first time is no error.
    is_unauthorized: bool,
    /// Whether the last error was that we may not watch, after which what is known still holds.
    may_not_watch: bool,
    /// How often the server had forgotten where we are since the last whole list.
    restarts: u32,
}

#[derive(Debug)]
enum Position {
    /// The next page of a list; the first one has no name.
    Page { name: Option<String>, slices: Slices, number: u32 },
    /// Changes after that version.
    Watch(String),
}

#[derive(Deserialize)]
struct Page {
    kind: Option<String>,
    #[serde(default)]
    metadata: PageMetadata,
    items: Option<Vec<EndpointSlice>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    r#continue: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum Event {
    Added(EndpointSlice),
    Modified(EndpointSlice),
    Deleted(EndpointSlice),
    /// A slice that has a version alone.
    Bookmark(EndpointSlice),
    Error(Status),
}

impl Position {
    fn start() -> Self {
        Self::Page { name: None, slices: Slices::default(), number: 0 }
    }
}

impl KubernetesQuery {
    pub(crate) fn new(settings: KubernetesSettings) -> Self {
        Self {
            settings,
            position: Position::start(),
            slices: Slices::default(),
            told: None,
            has_token: false,
            is_unauthorized: false,
            may_not_watch: false,
            restarts: 0,
        }
    }

    fn take_page(&mut self, body: &[u8]) -> Result<RemoteProgress, String> {
        let page: Page = serde_json::from_slice(body)
            .map_err(|error| format!("the answer is no list of EndpointSlices: {error}"))?;
        if page.kind.as_deref() != Some("EndpointSliceList") {
            return Err("the answer is no list of EndpointSlices: that is no Kubernetes".into());
        }
        let Position::Page { slices, number, .. } = &mut self.position else {
            return Err("a list was not asked for".into());
        };
        let items = page.items.unwrap_or_default();
        let share = body.len() / items.len().max(1);
        items.into_iter().try_for_each(|slice| slices.put(slice, share))?;
        let (slices, number) = (std::mem::take(slices), *number + 1);
        if !page.metadata.r#continue.is_empty() {
            if number >= PAGES_MAX {
                return Err(format!("its list has more than {PAGES_MAX} pages"));
            }
            let name = Some(opaque(page.metadata.r#continue)?);
            self.position = Position::Page { name, slices, number };
            return Ok(RemoteProgress::NotYet);
        }
        self.position = Position::Watch(opaque(page.metadata.resource_version)?);
        (self.slices, self.restarts) = (slices, 0);
        Ok(self.judge())
    }

    fn take_event(&mut self, line: &[u8]) -> Result<RemoteProgress, String> {
        let event: Event = serde_json::from_slice(line)
            .map_err(|error| format!("a line of the answer is no event of a watch: {error}"))?;
        let version = match event {
            Event::Error(status) if status.is_gone() => return self.begin_anew(),
            Event::Error(status) => return Err(format!("it ended the watch: {status}")),
            Event::Added(mut slice) | Event::Modified(mut slice) => {
                let version = slice.take_version();
                self.slices.put(slice, line.len())?;
                version
            }
            Event::Deleted(mut slice) => {
                self.slices.remove(slice.name());
                slice.take_version()
            }
            Event::Bookmark(mut slice) => slice.take_version(),
        };
        self.position = Position::Watch(opaque(version)?);
        Ok(self.judge())
    }

    /// What the slices come to now.
    fn judge(&mut self) -> RemoteProgress {
        let told = match self.slices.targets(&self.settings.choice) {
            Ok((targets, Some(complaint))) if targets.is_empty() => {
                self.told = None;
                return RemoteProgress::Unusable(complaint);
            }
            Ok(told) => told,
            Err(error) => {
                self.told = None;
                return RemoteProgress::Unusable(error);
            }
        };
        if self.told.as_ref() == Some(&told) {
            return RemoteProgress::Unchanged;
        }
        let (targets, complaint) = self.told.insert(told).clone();
        RemoteProgress::known(targets, complaint)
    }

    /// The server has forgotten the version or the page.
    fn begin_anew(&mut self) -> Result<RemoteProgress, String> {
        self.position = Position::start();
        self.restarts += 1;
        if self.restarts > RESTARTS_MAX {
            return Err("it forgets its lists sooner than they can be read (HTTP 410)".into());
        }
        Ok(RemoteProgress::Anew)
    }

    const fn is_watching(&self) -> bool {
        matches!(self.position, Position::Watch(_))
    }

    /// Why an answer is no list, in words.
    fn refusal(&self, code: u16, body: &[u8]) -> String {
        let verb = if self.is_watching() { "watch" } else { "list" };
        let what = format!("{verb} endpointslices in namespace {}", self.settings.namespace);
        status::refusal(code, body, &what, self.has_token)
    }
}

impl RemoteQuery for KubernetesQuery {
    fn request(&mut self, token: Option<&str>) -> RemoteRequest {
        let encoded = |text: &str| percent_encoded(text, KEPT).to_string();
        let KubernetesSettings { namespace, service, .. } = &self.settings;
        let mut target = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?labelSelector={}",
            encoded(namespace),
            encoded(&format!("kubernetes.io/service-name={service}"))
        );
        let (reads, patience) = match &self.position {
            Position::Page { name, .. } => {
                target.push_str(&format!("&limit={PAGE}"));
                if let Some(name) = name {
                    target.push_str(&format!("&continue={}", encoded(name)));
                }
                (RemoteReads::Whole, PATIENCE)
            }
            Position::Watch(version) => {
                let (version, seconds) = (encoded(version), WATCH.as_secs());
                target.push_str(&format!(
                    "&watch=1&resourceVersion={version}&allowWatchBookmarks=true&timeoutSeconds={seconds}"
                ));
                (RemoteReads::Lines, WATCH + GRACE)
            }
        };
        self.has_token = token.is_some();
        let token = token.map(|token| HttpField(AUTHORIZATION, bearer(token)));
        RemoteRequest::get(target, token, reads, patience)
    }

    /// Let in again after a refusal, nothing may have changed meanwhile.
    fn begin_lines(&mut self) -> RemoteProgress {
        self.is_unauthorized = false;
        self.judge()
    }

    fn take(&mut self, answer: &RemoteAnswer<'_>) -> Result<RemoteProgress, String> {
        match answer.status {
            200 => self.is_unauthorized = false,
            401 if self.has_token && !self.is_unauthorized => {
                self.is_unauthorized = true;
                return Ok(RemoteProgress::Anew);
            }
            410 => return self.begin_anew(),
            status => {
                self.may_not_watch = self.is_watching() && matches!(status, 401 | 403);
                return Err(self.refusal(status, answer.body));
            }
        }
        if self.is_watching() { self.take_event(answer.body) } else { self.take_page(answer.body) }
    }

    /// Where only the watch is forbidden, only that is asked again: a role without `watch` would list for ever else.
    fn reset(&mut self) {
        self.told = None;
        if !std::mem::take(&mut self.may_not_watch) {
            (self.position, self.slices) = (Position::start(), Slices::default());
        }
    }
}

/// Text that is sent back as it came.
fn opaque(text: String) -> Result<String, String> {
    match text.len() {
        0 => Err("the answer has no resourceVersion: that is no Kubernetes".into()),
        1..=OPAQUE_MAX => Ok(text),
        _ => Err(format!("it names a version or page with more than {OPAQUE_MAX} bytes")),
    }
}

#[cfg(test)]
mod tests;
