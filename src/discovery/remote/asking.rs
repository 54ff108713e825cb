//! Asks a server by HTTP for a cluster's endpoints, for as long as the cluster lives: what is asked, and what an answer means, a
//! [`RemoteQuery`] says.
//!
//! Each request has a connection of its own: answers are waited for by the server (Consul's blocking queries), or one answer
//! lasts (watches of etcd and Kubernetes), so that requests are rare.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use hyper::header::HeaderMap;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::super::aside::{SHORT, aside};
use super::super::server_access::{Access, CONNECTION, ServerAccess};
use super::super::source_update::{RemoteResult, SourceUpdate};
use super::lines::{Lines, Paced};
use super::{ANSWER_MAX, too_long};
use crate::cluster::{
    MakeQuery, RemoteAnswer, RemoteProgress, RemoteQuery, RemoteReads, RemoteRequest, RemoteSource,
};
use crate::http::{self, ConnectTerms, HttpRequest, HttpResponse, HttpUrl};
use crate::policy::ask_schedule::AskSchedule;
use crate::policy::backoff;
use crate::{alarm, clock};

/// The longest answer that is a secret.
const SECRET_ANSWER_MAX: usize = 64 * 1024;

/// Asks for one cluster.
pub(super) struct Asking {
    source: RemoteSource,
    rng: Rng,
    /// When it is asked again, and which of its servers.
    schedule: AskSchedule,
    /// Absent while an answer is read on another thread.
    query: Option<Box<dyn RemoteQuery>>,
    make: MakeQuery,
    access: ServerAccess,
    has_some: Arc<AtomicBool>,
    results: mpsc::Sender<RemoteResult>,
}

/// How a request ended that did not fail.
enum Asked {
    Well,
    /// Nobody waits for results any more.
    Unwanted,
}

impl Asking {
    pub(super) fn new(
        source: RemoteSource,
        make: MakeQuery,
        access: ServerAccess,
        mut rng: Rng,
        has_some: Arc<AtomicBool>,
        results: mpsc::Sender<RemoteResult>,
    ) -> Self {
        Self {
            query: Some(make()),
            make,
            schedule: AskSchedule::new(source.control_plane.servers.len(), &mut rng),
            source,
            rng,
            access,
            has_some,
            results,
        }
    }

    pub(super) async fn forever(mut self) {
        loop {
            let begun = clock::now();
            match self.ask().await {
                Ok(Asked::Well) => {
                    let due = self.schedule.record_answer(begun);
                    if !self.query.as_ref().is_some_and(|query| query.continues()) {
                        alarm::sleep_until(Some(due)).await;
                    }
                }
                Ok(Asked::Unwanted) => return,
                Err(error) => {
                    if matches!(self.tell(Some(SourceUpdate::Error(error))).await, Asked::Unwanted) {
                        return;
                    }
                    self.query.get_or_insert_with(|| (self.make)()).reset();
                    self.access.forget();
                    let lasted = clock::now().saturating_duration_since(begun);
                    let has_some = self.has_some.load(Ordering::Relaxed);
                    alarm::sleep(self.schedule.record_failure(lasted, has_some, &mut self.rng)).await;
                }
            }
        }
    }

    async fn tell(&self, result: RemoteResult) -> Asked {
        if self.results.send(result).await.is_ok() { Asked::Well } else { Asked::Unwanted }
    }

    /// Words about the server that is asked. Errors of HTTP have its URL.
    fn about(&self, words: &str) -> String {
        format!("{}: {words}", self.url())
    }

    fn url(&self) -> &HttpUrl {
        &self.source.control_plane.servers[self.schedule.server()]
    }

    async fn ask(&mut self) -> Result<Asked, String> {
        let server = self.url().clone();
        let access = self.access.to(&server).await;
        let Access { addresses, token, tls } = access.map_err(|error| self.about(&error))?;
        let query = self.query.as_mut().ok_or("it is being read")?;
        let RemoteRequest { method, target, headers, body, reads, patience } =
            query.request(token.as_ref().map(|token| token.as_str()));
        let url = server.below(&target);
        let request = HttpRequest { method, url: &url, headers, body };
        let now = clock::now();
        let terms = ConnectTerms { addresses: &addresses, tls, until: now + CONNECTION };
        let mut response =
            http::open(request, terms, now + patience).await.map_err(|error| error.to_string())?;
        if reads == RemoteReads::Lines && response.status == 200 {
            return self.read_lines(&mut response, patience).await;
        }
        let body = whole(&mut response, reads, clock::now() + patience).await;
        let body = body.map_err(|error| self.about(&error))?;
        let progress = self.take(response.status, response.headers, body).await?;
        Ok(match self.result_of(progress) {
            Some(result) => self.tell(result).await,
            None => Asked::Well,
        })
    }

    async fn read_lines(&mut self, response: &mut HttpResponse, patience: Duration) -> Result<Asked, String> {
        let mut paced = Paced { held: None, due: clock::now() };
        let asked = self.read_lines_into(&mut paced, response, patience).await;
        // What came before an error or the end was true.
        match paced.held {
            Some(result) if !matches!(asked, Ok(Asked::Unwanted)) => {
                let told = self.tell(result).await;
                asked.map(|_| told)
            }
            _ => asked,
        }
    }

    async fn read_lines_into(
        &mut self,
        paced: &mut Paced,
        response: &mut HttpResponse,
        patience: Duration,
    ) -> Result<Asked, String> {
        let mut lines = Lines::default();
        let renewal = self.query.as_ref().and_then(|query| query.renewal());
        // Not all hosts at once.
        let renewal = renewal.map(|after| backoff::jittered(after, 0.2, &mut self.rng));
        let silence = renewal.unwrap_or(patience);
        let mut silent_until = clock::now() + silence;
        let begun = self.query.as_mut().ok_or("it is being read")?.begin_lines();
        paced.hold(self.result_of(begun));
        loop {
            while let Some(line) = lines.next() {
                // Those who read lines look at no header.
                let progress = self.take(response.status, HeaderMap::new(), line.into()).await?;
                let is_over = progress == RemoteProgress::Anew;
                paced.hold(self.result_of(progress));
                if is_over {
                    return Ok(Asked::Well);
                }
            }
            if let Some(result) = paced.take_due(clock::now())
                && matches!(self.tell(result).await, Asked::Unwanted)
            {
                return Ok(Asked::Unwanted);
            }
            let until = paced.held.as_ref().map_or(silent_until, |_| paced.due.min(silent_until));
            match alarm::timeout_at(until, response.chunk()).await {
                Ok(Ok(Some(data))) => {
                    silent_until = clock::now() + silence;
                    lines.push(&data).map_err(|error| self.about(&error))?;
                }
                // Servers end watches now and then.
                Ok(Ok(None)) => return Ok(Asked::Well),
                Ok(Err(error)) => return Err(error.to_string()),
                Err(alarm::Elapsed) if until < silent_until => {}
                Err(alarm::Elapsed) if renewal.is_some() => return Ok(Asked::Well),
                Err(alarm::Elapsed) => return Err(self.about(&format!("nothing came for {patience:?}"))),
            }
        }
    }

    /// What is told of an answer; `None`: nothing.
    fn result_of(&self, progress: RemoteProgress) -> Option<RemoteResult> {
        Some(match progress {
            RemoteProgress::Targets(targets) => Some(SourceUpdate::Targets(targets, None)),
            RemoteProgress::Partly(targets, error) => {
                Some(SourceUpdate::Targets(targets, Some(self.about(&error))))
            }
            RemoteProgress::Unusable(error) => Some(SourceUpdate::Error(self.about(&error))),
            RemoteProgress::Unchanged => None,
            RemoteProgress::NotYet | RemoteProgress::Anew => return None,
        })
    }

    /// Has the query read an answer, on a thread of its own if that takes long.
    async fn take(
        &mut self,
        status: u16,
        headers: HeaderMap,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<RemoteProgress, String> {
        let mut query = self.query.take().ok_or("it is being read")?;
        let is_short = body.len() < SHORT;
        let read = move || {
            let progress = query.take(&RemoteAnswer { status, headers: &headers, body: &body });
            (query, progress)
        };
        let read = if is_short { Ok(read()) } else { aside(read).await };
        let (query, progress) = read.map_err(|error| self.about(&error))?;
        self.query = Some(query);
        progress.map_err(|error| self.about(&error))
    }
}

async fn whole(
    response: &mut HttpResponse,
    reads: RemoteReads,
    until: Instant,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let reading = async {
        if reads == RemoteReads::Secret {
            // With its final capacity: a vector that grows leaves a copy behind.
            let mut body = Zeroizing::new(Vec::with_capacity(SECRET_ANSWER_MAX));
            response.read_into(&mut body).await.map_err(|error| error.to_string())?;
            return Ok(body);
        }
        let mut body = Vec::new();
        while let Some(data) = response.chunk().await.map_err(|error| error.to_string())? {
            if body.len() + data.len() > ANSWER_MAX {
                return Err(too_long());
            }
            body.extend_from_slice(&data);
        }
        Ok(body.into())
    };
    match alarm::timeout_at(until, Box::pin(reading)).await {
        Ok(body) => body,
        Err(alarm::Elapsed) => Err("the answer took too long".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::xds_streams::XdsStreams;
    use super::super::WatchedRemote;
    use super::*;
    use crate::cluster::{ControlPlane, RemoteQuestion};
    use crate::tls::Roots;

    /// Asks for lines, and leaves an answer that brings none for 50 ms.
    #[derive(Debug)]
    struct Restless;

    impl RemoteQuery for Restless {
        fn request(&mut self, _: Option<&str>) -> RemoteRequest {
            RemoteRequest::get("/".into(), None, RemoteReads::Lines, CONNECTION)
        }

        fn take(&mut self, answer: &RemoteAnswer<'_>) -> Result<RemoteProgress, String> {
            match answer.body {
                b"good" => Ok(RemoteProgress::Targets(Vec::new())),
                other => Ok(RemoteProgress::Unusable(String::from_utf8_lossy(other).into_owned())),
            }
        }

        fn reset(&mut self) {
            panic!("nothing has failed");
        }

        fn renewal(&self) -> Option<Duration> {
            Some(Duration::from_millis(50))
        }
    }

    fn at(server: HttpUrl) -> RemoteSource {
        RemoteSource {
            kind: crate::cluster::OriginKind::Etcd,
            name: "x".into(),
            control_plane: Arc::new(ControlPlane {
                servers: vec![server],
                roots: Roots::WebPki,
                token: None,
            }),
            accepts_empty: true,
            server_name: String::new(),
            question: RemoteQuestion::Http(Arc::new(|| Box::new(Restless))),
        }
    }

    /// A server that is frozen was watched until its next sign of life, which for etcd comes every ten minutes.
    #[tokio::test]
    async fn an_answer_without_lines_is_renewed_and_a_bad_line_does_not_end_it() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url =
            HttpUrl::parse(&format!("http://{}", listener.local_addr().unwrap()), http::PlainHttp::Local);
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for lines in ["bad\n", "good\n", "bad\nbad\ngood\n"] {
                let (mut socket, _) = listener.accept().unwrap();
                assert_ne!(socket.read(&mut [0; 4096]).unwrap(), 0);
                let length = lines.len();
                write!(
                    socket,
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{lines}\r\n"
                )
                .unwrap();
                open.push(socket);
            }
            std::thread::park();
        });
        let source = at(url.unwrap());
        let results = alarm::drive(async {
            let mut watched =
                WatchedRemote::new(source, &XdsStreams::default(), Arc::default(), Rng::with_seed(1));
            [watched.result().await, watched.result().await, watched.result().await]
        });
        let [bad, good, last_of_many] = results.await.unwrap();
        assert!(matches!(bad, Some(SourceUpdate::Error(error)) if error.ends_with("/: bad")));
        let empty = || Some(SourceUpdate::Targets(Vec::new(), None));
        assert_eq!((good, last_of_many), (empty(), empty()));
    }
}
