//! Asks a server for a cluster's endpoints, by HTTP, for as long as the cluster lives: what is asked, and what an answer means, a
//! [`RemoteQuery`] says.
//!
//! Each request has a connection of its own: answers are waited for by the server (Consul's blocking queries), or one answer
//! lasts (watches of etcd and Kubernetes), so that requests are rare.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use hyper::header::HeaderMap;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::resolver::Resolver;
use super::source_update::{LastUpdate, SourceUpdate};
use crate::blocking::BlockingTask;
use crate::cluster::{RemoteAnswer, RemoteProgress, RemoteQuery, RemoteReads, RemoteRequest, RemoteSource};
use crate::credentials::secret_of;
use crate::http::{self, HttpRequest, HttpResponse, HttpTerms, HttpUrl};
use crate::policy::ask_schedule::{AskSchedule, RETRY_MAX_EMPTY};
use crate::policy::backoff;
use crate::tls::{self, CredentialFiles, Roots};
use crate::{alarm, clock};

/// The longest answer, and the longest line of one, in bytes: 4096 services of Consul with long metadata have some 10 MB.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// The longest answer that is a secret.
const SECRET_ANSWER_MAX: usize = 64 * 1024;
/// Longer answers are read on a thread of their own: this one probes and answers scrapes too.
const ASIDE: usize = 64 * 1024;
/// For name, token and CAs of a request; the rest has the query's own patience.
const PREPARATION: Duration = Duration::from_secs(10);
/// TLS by the CAs on disk is used so long, unless a request fails: Consul may be asked each second, and the host's own CAs take
/// milliseconds.
const TLS_AGE: Duration = Duration::from_secs(60);
/// What comes in lines is told no more often than that, so that a store with many writes costs no more than one with few.
const PACE: Duration = Duration::from_millis(200);
/// For connecting and TLS.
const CONNECTION: Duration = Duration::from_secs(10);

/// What the server said about the endpoints; `None`: they are those of before.
pub(super) type RemoteResult = Option<SourceUpdate>;

/// A server that is asked.
#[derive(Debug)]
pub(super) struct WatchedRemote {
    pub(super) source: RemoteSource,
    resolver: Arc<Resolver>,
    rng: Rng,
    results: mpsc::Receiver<RemoteResult>,
    /// The task that asks; it ends with this.
    task: JoinSet<()>,
    pub(super) last: LastUpdate,
    /// Whether endpoints are in use, so that there is no hurry.
    has_some: Arc<AtomicBool>,
}

impl WatchedRemote {
    pub(super) fn new(source: RemoteSource, resolver: Arc<Resolver>, rng: Rng) -> Self {
        let mut watched = Self {
            source,
            resolver,
            rng,
            results: mpsc::channel(1).1,
            task: JoinSet::new(),
            last: LastUpdate::default(),
            has_some: Arc::default(),
        };
        watched.begin(Duration::ZERO);
        watched
    }

    fn begin(&mut self, after: Duration) {
        let (sender, results) = mpsc::channel(1);
        let (resolver, has_some) = (Arc::clone(&self.resolver), Arc::clone(&self.has_some));
        let asking = Asking::new(self.source.clone(), resolver, self.rng.fork(), has_some, sender);
        self.results = results;
        self.task = JoinSet::new();
        self.task.spawn(async move {
            if !after.is_zero() {
                alarm::sleep(after).await;
            }
            asking.forever().await;
        });
    }

    /// The next result. Cancel-safe.
    pub(super) async fn result(&mut self) -> RemoteResult {
        match self.results.recv().await {
            Some(result) => result,
            // It ends only by a panic.
            None => {
                self.begin(RETRY_MAX_EMPTY);
                let origin = self.source.describe();
                Some(SourceUpdate::Error(format!("{origin}: ambassador itself failed while it asked")))
            }
        }
    }

    /// Says whether endpoints are in use.
    pub(super) fn set_has_some(&self, has_some: bool) {
        self.has_some.store(has_some, Ordering::Relaxed);
    }

    /// Whether that is an answer without any endpoint, which is believed only if nothing speaks against it.
    pub(super) fn is_doubtful(&self, result: &RemoteResult) -> bool {
        !self.source.accepts_empty
            && matches!(result, Some(SourceUpdate::Targets(targets, _)) if targets.is_empty())
    }

    /// Takes a result in; `None` if it is the same as before. `has_own`: endpoints are in use that came from here.
    pub(super) fn take(
        &mut self,
        result: RemoteResult,
        has_own: bool,
        now: Instant,
    ) -> Option<&SourceUpdate> {
        let is_refused = has_own && self.is_doubtful(&result);
        match result {
            _ if is_refused => {
                let origin = self.source.describe();
                let error = format!(
                    "{origin} knows no endpoint any more, which is believed only with `empty: accept`"
                );
                self.last.take(SourceUpdate::Error(error), now)
            }
            Some(said) => self.last.take(said, now),
            None => {
                self.last.confirm(now);
                None
            }
        }
    }
}

struct Asking {
    source: RemoteSource,
    resolver: Arc<Resolver>,
    rng: Rng,
    /// When it is asked again, and which of its servers.
    schedule: AskSchedule,
    /// Absent while an answer is read on another thread.
    query: Option<Box<dyn RemoteQuery>>,
    preparing: BlockingTask<Result<Prepared, String>>,
    /// What was read of the CAs, and when.
    tls: Option<(Arc<ClientConfig>, Instant)>,
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
    fn new(
        source: RemoteSource,
        resolver: Arc<Resolver>,
        mut rng: Rng,
        has_some: Arc<AtomicBool>,
        results: mpsc::Sender<RemoteResult>,
    ) -> Self {
        Self {
            query: Some((source.query)()),
            schedule: AskSchedule::new(source.servers.len(), &mut rng),
            source,
            resolver,
            rng,
            preparing: BlockingTask::default(),
            tls: None,
            has_some,
            results,
        }
    }

    async fn forever(mut self) {
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
                    self.query.get_or_insert_with(|| (self.source.query)()).reset();
                    self.tls = None;
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
        &self.source.servers[self.schedule.server()]
    }

    async fn ask(&mut self) -> Result<Asked, String> {
        let until = clock::now() + PREPARATION;
        let prepared = within(until, self.prepare()).await;
        let Prepared { token, tls } = prepared.map_err(|error| self.about(&error))?;
        let query = self.query.as_mut().ok_or("it is being read")?;
        let RemoteRequest { method, target, headers, body, reads, patience } =
            query.request(token.as_ref().map(|token| token.as_str()));
        let url = self.url().below(&target);
        let addresses = within(until, self.addresses(&url)).await.map_err(|error| self.about(&error))?;
        let request = HttpRequest { method, url: &url, headers, body };
        let now = clock::now();
        let terms =
            HttpTerms { addresses: &addresses, tls, connected_by: now + CONNECTION, until: now + patience };
        let mut response = http::open(request, terms).await.map_err(|error| error.to_string())?;
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
        let is_short = body.len() < ASIDE;
        let read = move || {
            let progress = query.take(&RemoteAnswer { status, headers: &headers, body: &body });
            (query, progress)
        };
        let read = if is_short { Ok(read()) } else { aside(read).await };
        let (query, progress) = read.map_err(|error| self.about(&error))?;
        self.query = Some(query);
        progress.map_err(|error| self.about(&error))
    }

    /// Reads secret and CAs for each request, so that they may be replaced. A file system may hang; then that reading is waited for again,
    /// and no other one is begun.
    async fn prepare(&mut self) -> Result<Prepared, String> {
        let RemoteSource { token, roots, .. } = &self.source;
        let known = self.tls.as_ref().filter(|(_, read)| clock::now() < *read + TLS_AGE);
        let known = known.filter(|_| self.url().is_tls()).map(|(tls, _)| Arc::clone(tls));
        let roots = (self.url().is_tls() && known.is_none()).then(|| roots.clone());
        if token.is_none() && roots.is_none() {
            return Ok(Prepared { token: None, tls: known });
        }
        if !self.preparing.is_busy() {
            let token = token.clone();
            let begun = self.preparing.begin(move || Prepared::read(token.as_deref(), roots));
            begun.map_err(|error| no_thread(&error))?;
        }
        let Prepared { token, tls } = self.preparing.join().await.map_err(|_| panicked())??;
        if let Some(tls) = &tls {
            self.tls = Some((Arc::clone(tls), clock::now()));
        }
        Ok(Prepared { token, tls: tls.or(known) })
    }

    async fn addresses(&self, url: &HttpUrl) -> Result<Vec<SocketAddr>, String> {
        if let Some(addresses) = url.addresses() {
            return Ok(addresses);
        }
        let (host, port) = url.host();
        let found = self.resolver.addresses_of(host).await?;
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

/// What a request needs from disk: the secret, and TLS by the CAs.
#[derive(Debug, Default, Clone)]
struct Prepared {
    token: Option<Zeroizing<String>>,
    tls: Option<Arc<ClientConfig>>,
}

impl Prepared {
    fn read(token: Option<&Path>, roots: Option<Roots>) -> Result<Self, String> {
        let token = token.map(secret_of).transpose()?;
        let tls = roots
            .map(|roots| tls::https_config(roots, &CredentialFiles::default()))
            .transpose()
            .map_err(|error| error.to_string())?;
        Ok(Self { token, tls })
    }
}

/// Does it on a thread of its own: it takes long.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let mut task = BlockingTask::default();
    task.begin(work).map_err(|error| no_thread(&error))?;
    task.join().await.map_err(|_| panicked())
}

fn no_thread(error: &std::io::Error) -> String {
    format!("no thread can be started: {error}")
}

fn panicked() -> String {
    "ambassador itself failed while it read it".into()
}

async fn within<T>(until: Instant, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match alarm::timeout_at(until, Box::pin(work)).await {
        Ok(result) => result,
        Err(alarm::Elapsed) => {
            Err(format!("its name, token or CAs could not be read within {PREPARATION:?}"))
        }
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

fn too_long() -> String {
    format!("the answer has more than {} MiB", ANSWER_MAX / 1024 / 1024)
}

/// What lines came to last, and when it may be told: of many that come at once, the last alone.
#[derive(Debug)]
struct Paced {
    held: Option<RemoteResult>,
    due: Instant,
}

impl Paced {
    fn hold(&mut self, result: Option<RemoteResult>) {
        // That nothing has changed since says nothing that what is held does not.
        if let Some(result) = result.filter(|result| self.held.is_none() || result.is_some()) {
            self.held = Some(result);
        }
    }

    fn take_due(&mut self, now: Instant) -> Option<RemoteResult> {
        if now < self.due {
            return None;
        }
        let result = self.held.take()?;
        self.due = now + PACE;
        Some(result)
    }
}

/// Cuts a body into lines.
#[derive(Debug, Default)]
struct Lines {
    held: Vec<u8>,
    whole: VecDeque<Vec<u8>>,
}

impl Lines {
    fn push(&mut self, mut data: &[u8]) -> Result<(), String> {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            let mut line = std::mem::take(&mut self.held);
            line.extend_from_slice(&data[..end]);
            data = &data[end + 1..];
            if !line.iter().all(u8::is_ascii_whitespace) {
                self.whole.push_back(line);
            }
        }
        if self.held.len() + data.len() > ANSWER_MAX {
            return Err(too_long());
        }
        self.held.extend_from_slice(data);
        Ok(())
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        self.whole.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for lines, and leaves an answer that brings none for 50 ms.
    #[derive(Debug)]
    struct Restless;

    impl RemoteQuery for Restless {
        fn request(&mut self, _: Option<&str>) -> RemoteRequest {
            RemoteRequest {
                method: hyper::Method::GET,
                target: "/".into(),
                headers: Vec::new(),
                body: Zeroizing::default(),
                reads: RemoteReads::Lines,
                patience: PREPARATION,
            }
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
            servers: vec![server],
            roots: Roots::WebPki,
            token: None,
            accepts_empty: true,
            server_name: String::new(),
            query: Arc::new(|| Box::new(Restless)),
        }
    }

    /// Each request began another reading of its token, with a thread that stayed for as long as the file system hung.
    #[tokio::test]
    async fn a_token_whose_reading_hangs_is_read_once() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        // Whoever opens it waits for a writer.
        mknodat(CWD, &token, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let source = RemoteSource { token: Some(token.clone()), ..at(HttpUrl::at_socket("/nowhere".into())) };
        let mut asking =
            Asking::new(source, Arc::default(), Rng::with_seed(1), Arc::default(), mpsc::channel(1).0);
        let read = alarm::drive(async {
            for _ in 0..3 {
                let soon = clock::now() + Duration::from_millis(50);
                assert!(alarm::timeout_at(soon, asking.prepare()).await.is_err(), "nobody writes");
            }
            std::thread::spawn(move || std::fs::write(token, "secret\n").unwrap());
            asking.prepare().await
        });
        assert_eq!(read.await.unwrap().unwrap().token.unwrap().as_str(), "secret");
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
            let mut watched = WatchedRemote::new(source, Arc::default(), Rng::with_seed(1));
            [watched.result().await, watched.result().await, watched.result().await]
        });
        let [bad, good, last_of_many] = results.await.unwrap();
        assert!(matches!(bad, Some(SourceUpdate::Error(error)) if error.ends_with("/: bad")));
        let empty = || Some(SourceUpdate::Targets(Vec::new(), None));
        assert_eq!((good, last_of_many), (empty(), empty()));
    }

    /// Each write to a store that is watched was told: compared, sorted and resolved by all that follow it.
    #[test]
    fn of_many_lines_the_last_is_told_and_an_unchanged_one_hides_nothing() {
        let begun = clock::now();
        let after = |millis| begun + Duration::from_millis(millis);
        let error = |text: &str| Some(Some(SourceUpdate::Error(text.into())));
        let mut paced = Paced { held: None, due: begun };
        assert_eq!(paced.take_due(begun), None);
        for one in [error("1"), None, error("2"), Some(None)] {
            paced.hold(one);
        }
        assert_eq!(paced.take_due(begun), error("2"));
        paced.hold(error("3"));
        assert_eq!(paced.take_due(after(199)), None, "no sooner");
        assert_eq!(paced.take_due(after(200)), error("3"));
        paced.hold(Some(None));
        assert_eq!(paced.take_due(after(400)), Some(None), "that nothing has changed is told, too");
    }

    #[test]
    fn lines_are_cut_wherever_the_parts_begin_and_end() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\r\nrest";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            text.chunks(size).for_each(|part| lines.push(part).unwrap());
            let found: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
            assert_eq!(found, [&b"{\"a\":1}"[..], b"{\"b\":2}\r"], "{size}");
            assert_eq!(lines.held, b"rest");
        }
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; ANSWER_MAX]).is_ok());
        assert!(lines.push(b"x").unwrap_err().contains("16 MiB"));
    }
}
