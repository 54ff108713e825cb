//! What is written on a thread of its own, one after the other: answers that grow with the configuration and the sessions. The
//! thread that serves requests also probes, resolves and obeys.

use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak, mpsc};
use std::thread::Builder;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_ENCODING, HeaderValue, VARY};
use hyper::{Response, StatusCode};
use tokio::sync::oneshot;

use super::AdminState;
use super::response::{HttpResponse, json, respond, text};
use super::status::{SessionList, Status};
use crate::metrics::{self, OPENMETRICS, openmetrics};

/// What is reported.
#[derive(Debug, Clone, Copy)]
pub(super) enum Report {
    /// `/metrics`, in the format that the client prefers.
    Metrics { is_openmetrics: bool, is_scrape: bool },
    /// `/status`.
    Status,
    /// `/sessions`.
    Sessions,
}

/// A report that somebody waits for.
struct ReportRequest {
    report: Report,
    is_gzipped: bool,
    /// It may be gone by the time that the report would be written.
    admin_state: Weak<AdminState>,
    answer: oneshot::Sender<HttpResponse>,
}

/// The thread that writes reports. It ends with this.
#[derive(Debug)]
pub(crate) struct ReportWriter(mpsc::Sender<ReportRequest>);

impl ReportWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started: `EAGAIN`.
    pub(crate) fn start() -> io::Result<Self> {
        let (requests, queue) = mpsc::channel::<ReportRequest>();
        // As many wait as there are admin connections, whose number is limited.
        Builder::new().name("reports".into()).spawn(move || {
            for ReportRequest { report, is_gzipped, admin_state, answer } in queue {
                let Some(admin_state) = admin_state.upgrade().filter(|_| !answer.is_closed()) else {
                    continue;
                };
                // A panic ends its own answer and no other.
                let written = catch_unwind(AssertUnwindSafe(|| {
                    let plain = report.write(&admin_state);
                    if is_gzipped { gzipped(plain) } else { plain }
                }));
                if let Ok(written) = written {
                    // Whoever asked may have left meanwhile.
                    drop(answer.send(written));
                }
            }
        })?;
        Ok(Self(requests))
    }

    /// Writes a report, after those that were asked for before.
    pub(super) async fn write(
        &self,
        admin_state: &Arc<AdminState>,
        report: Report,
        is_gzipped: bool,
    ) -> HttpResponse {
        let (answer, written) = oneshot::channel();
        let request = ReportRequest { report, is_gzipped, admin_state: Arc::downgrade(admin_state), answer };
        // The thread lives as long as this.
        drop(self.0.send(request));
        written.await.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "it could not be written\n"))
    }
}

impl Report {
    fn write(self, admin_state: &AdminState) -> HttpResponse {
        match self {
            Self::Metrics { is_openmetrics, is_scrape } => {
                let text = admin_state.metrics().render(is_scrape);
                match is_openmetrics {
                    true => respond(StatusCode::OK, OPENMETRICS, openmetrics(&text)),
                    false => respond(StatusCode::OK, metrics::TEXT, text),
                }
            }
            Self::Status => json(&Status::of(admin_state)),
            Self::Sessions => json(&SessionList::of(admin_state)),
        }
    }
}

fn gzipped(plain: HttpResponse) -> HttpResponse {
    let (mut head, body) = plain.into_parts();
    let Some(body) = body.into_inner() else { return Response::from_parts(head, Full::default()) };
    // The fastest level: a scrape is the same text over and over, and shrinks to a twentieth all the same.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory cannot fail.
    let small = encoder.write_all(&body).and_then(|()| encoder.finish()).unwrap_or_default();
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    Response::from_parts(head, Full::new(Bytes::from(small)))
}
