//! The task that keeps one credential fresh: it asks the source when its files change, ahead of the expiry, when a
//! session misses it, and, after a failure, again after growing pauses. One question at a time, for any number of
//! sessions: none is begun while another hangs, which keeps a thread, unless a file was replaced, and then a few at most.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;

use super::{FetchError, FetchedLogin, LoginCredential};
use crate::alarm;
use crate::blocking::BlockingTask;
use crate::clock;
use crate::drain::DrainWatch;
use crate::metrics::LoginMetrics;
use crate::policy::backoff;
use crate::watch::{FileEvent, Watch};

/// The first pause after a failure; it doubles.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest pause between failures.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// Questions that sessions and file events bring about come no closer than this.
const APART: Duration = Duration::from_millis(500);
/// How long a source may take before it counts as hanging; its answer is taken whenever it comes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many hanging questions may be given up because a file has changed: each keeps a thread.
const GIVEN_UP_MAX: usize = 4;
/// The share of its life before the end of which a credential is replaced.
const AHEAD: u32 = 5;
/// At most that shortly before the end: a token of an hour is renewed five minutes ahead.
const AHEAD_MAX: Duration = Duration::from_secs(300);

/// A server that asks for a longer pause (Retry-After) gets this one: whoever runs it may have mended it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Sessions that miss a credential hasten the next question after a failure only down to this.
const APART_FAILING: Duration = Duration::from_secs(5);

/// What a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Another credential is needed: there is none, or it ends, or was rejected.
    Need,
    /// The files may have changed.
    Files,
}

/// The question to a source, on a thread of its own.
#[derive(Default)]
struct Question {
    asking: BlockingTask<Result<Option<FetchedLogin>, FetchError>>,
    given_up: usize,
}

/// Follows the credential as long as it is in use.
pub(crate) async fn follow(credential: Weak<LoginCredential>, mut rng: Rng, stop: DrainWatch) {
    let mut stop = std::pin::pin!(stop.begun());
    let Some(files) = credential.upgrade().map(|credential| credential.files()) else { return };
    let mut failures = 0;
    // Until when the source wants not to be asked.
    let mut held = None;
    let metrics = match credential.upgrade() {
        Some(credential) => LoginMetrics::of(&credential.cluster, credential.source.label()),
        None => return,
    };
    let mut watch = tokio::select! {
        () = &mut stop => return,
        watch = Watch::new(files) => watch,
    };
    let (mut cause, mut question) = (Cause::Files, Question::default());
    // What an earlier configuration has left may live on. The metric of its end exists while this is held.
    let mut _expiry = credential.upgrade().and_then(|strong| strong.publish_expiry());
    let mut next = credential
        .upgrade()
        .and_then(|strong| strong.expires())
        .map(|end| clock::now() + ahead(end, clock::wall(), &mut rng));
    loop {
        let Some(strong) = credential.upgrade() else { return };
        let begun = clock::now();
        strong.begin_asking();
        let fetched = tokio::select! {
            () = &mut stop => return,
            fetched = question.ask(&strong, cause, held.is_some_and(|until| begun < until), PATIENCE) => fetched,
        };
        let mut apart = APART;
        match fetched {
            Ok(None) => strong.end_asking(),
            Ok(Some(fetched)) => {
                (failures, held) = (0, None);
                metrics.record_fetched(clock::wall());
                next = fetched.expires.map(|end| clock::now() + ahead(end, clock::wall(), &mut rng));
                if strong.install(fetched) {
                    let (cluster, source) = (&strong.cluster, strong.source.label());
                    tracing::info!(%cluster, source, "a credential for signing in was read");
                }
                _expiry = strong.publish_expiry();
            }
            Err(FetchError { reason, retry_after }) => {
                metrics.failed.increment(1);
                if failures == 0 {
                    let (cluster, source) = (&strong.cluster, strong.source.label());
                    tracing::warn!(%cluster, source, "no new credential for signing in: {reason}");
                }
                strong.fail(reason);
                let pause = backoff::doubled(AGAIN, failures, AGAIN_MAX);
                failures = failures.saturating_add(1);
                apart = pause.clamp(APART, APART_FAILING);
                next = Some(begun + backoff::jittered(pause, 0.2, &mut rng));
                held = retry_after.map(|wanted| held_until(wanted, clock::now()));
                if let Some(until) = held {
                    // Not all hosts at the same moment.
                    next = next.max(Some(until + pause - backoff::jittered(pause, 0.5, &mut rng)));
                }
            }
        }
        let due = next.map(|next| next.max(begun + APART));
        let earliest = held.map_or(begun + apart, |until: Instant| until.max(begun + apart));
        cause = tokio::select! {
            () = &mut stop => return,
            event = watch.changed() => {
                question.look_again(event);
                Cause::Files
            }
            () = strong.reread.notified() => Cause::Files,
            () = async {
                strong.wanted.notified().await;
                alarm::sleep_until(Some(earliest)).await;
            } => Cause::Need,
            () = alarm::sleep_until(due) => Cause::Need,
            // One that has hung has been answered at last.
            () = question.finished() => Cause::Files,
        };
    }
}

/// The end of the pause that a source wants.
fn held_until(wanted: Duration, now: Instant) -> Instant {
    now + wanted.min(RETRY_AFTER_MAX)
}

/// How long from now a credential that ends then is good enough.
fn ahead(end: SystemTime, wall: SystemTime, rng: &mut Rng) -> Duration {
    let life = end.duration_since(wall).unwrap_or_default();
    let before = (life / AHEAD).min(AHEAD_MAX);
    // Hosts that began together do not ask together.
    life - before + (before - backoff::jittered(before, 0.5, rng)) / 2
}

impl Question {
    /// Asks the source, or waits further for the answer to a question that hangs. `None`: its files are what they were, and what
    /// they gave is good, or the source wants not to be asked (`is_held`).
    async fn ask(
        &mut self,
        credential: &Arc<LoginCredential>,
        cause: Cause,
        is_held: bool,
        patience: Duration,
    ) -> Result<Option<FetchedLogin>, FetchError> {
        if !self.asking.is_busy() {
            let asked = Arc::clone(credential);
            let is_in_order = credential.is_in_order();
            let may_keep = cause == Cause::Files && (is_in_order || is_held);
            // A refresh token that another source has replaced is no reason to ask while what it gave lives.
            let counts_written = !is_in_order || credential.is_rejected();
            self.asking
                .begin(move || match may_keep && !asked.source.is_news(counts_written) {
                    true => Ok(None),
                    false => asked.source.fetch().map(Some),
                })
                .map_err(|error| format!("no thread can be started: {error}"))?;
        }
        match alarm::timeout_at(clock::now() + patience, self.asking.join()).await {
            Ok(result) => {
                result.unwrap_or_else(|_| Err("reading it has failed unexpectedly".to_owned().into()))
            }
            Err(_) => Err(format!("it has not answered within {patience:?}").into()),
        }
    }

    /// After a file event, what a question hangs on may have been replaced: the next one does not wait for it.
    fn look_again(&mut self, event: FileEvent) {
        if event == FileEvent::Changed && self.asking.is_busy() && self.given_up < GIVEN_UP_MAX {
            self.given_up += 1;
            self.asking = BlockingTask::default();
        }
    }

    /// Returns when a question that hung has been answered.
    async fn finished(&mut self) {
        poll_fn(|cx| self.asking.poll_finished(cx)).await;
    }
}

/// Asks once, for `check --connect`.
///
/// # Errors
/// As the source says.
pub(crate) async fn fetch_once(credential: &Arc<LoginCredential>) -> Result<(), String> {
    let mut question = Question::default();
    let fetched = question.ask(credential, Cause::Need, false, PATIENCE).await;
    let fetched = fetched.map_err(|error| error.reason)?;
    if let Some(fetched) = fetched {
        credential.install(fetched);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{self, Receiver};

    use zeroize::Zeroizing;

    use super::*;
    use crate::credentials::login::LoginSource;
    use crate::drain::Drain;
    use crate::metrics::Exposition;
    use crate::protocol::{AllowedMechanisms, LoginCredentials, Secret, SecretKind};
    use crate::sync::Mutex;

    /// Hangs until it is released, once for each question, and counts these.
    #[derive(Debug)]
    struct Hanging(Mutex<Receiver<&'static str>>, Arc<AtomicUsize>);

    impl LoginSource for Hanging {
        fn label(&self) -> &'static str {
            "password"
        }

        fn secret_kind(&self) -> SecretKind {
            SecretKind::Password
        }

        fn files(&self) -> Vec<PathBuf> {
            Vec::new()
        }

        fn fetch(&self) -> Result<FetchedLogin, FetchError> {
            self.1.fetch_add(1, Ordering::SeqCst);
            let answer = self.0.lock().recv().unwrap_or("nobody answers any more");
            Err(answer.to_owned().into())
        }
    }

    /// Gives a token to a user.
    #[derive(Debug)]
    struct Giving(&'static str);

    impl LoginSource for Giving {
        fn label(&self) -> &'static str {
            "oauth2"
        }

        fn secret_kind(&self) -> SecretKind {
            SecretKind::BearerToken
        }

        fn files(&self) -> Vec<PathBuf> {
            Vec::new()
        }

        fn fetch(&self) -> Result<FetchedLogin, FetchError> {
            let secret = Secret::new(SecretKind::BearerToken, Zeroizing::new("token".into()));
            let credentials = LoginCredentials { user: self.0.into(), secret };
            Ok(FetchedLogin { credentials, expires: Some(clock::wall() + Duration::from_secs(3600)) })
        }
    }

    /// Scenario: two users of one cluster have tokens from the same kind of source, and when one was fetched, the metric of when the
    /// other ends disappeared, with the alert on it.
    #[tokio::test]
    async fn the_ends_of_all_users_are_shown() {
        let users = ["one-of-two", "two-of-two"];
        let credentials = users.map(|user| {
            LoginCredential::new("orders".into(), Box::new(Giving(user)), AllowedMechanisms::default())
        });
        let drain = Drain::default();
        let [one, other] = credentials
            .each_ref()
            .map(|credential| Box::pin(follow(Arc::downgrade(credential), Rng::with_seed(1), drain.watch())));
        let shown = async {
            for credential in &credentials {
                credential.acquire(clock::now() + PATIENCE).await.unwrap().give_back();
            }
            let exposition = Exposition::default();
            drop(exposition.render(true));
            // As long as an object is shown that nobody holds any more.
            (0..100).for_each(|_| exposition.upkeep());
            exposition.render(true)
        };
        let text = alarm::drive(async {
            tokio::select! {
                ((), ()) = async { tokio::join!(one, other) } => panic!("it goes on"),
                text = shown => text,
            }
        });
        let text = text.await.unwrap();
        for user in users {
            assert!(text.contains(&format!("source=\"oauth2\",user=\"{user}\"}} ")), "{text}");
        }
    }

    /// Scenario: the file system of a password hung for a day, and each minute another thread began to hang in it.
    #[tokio::test]
    async fn a_source_that_hangs_is_asked_once_and_heard_whenever_it_answers() {
        let (answer, answers) = mpsc::channel();
        let asked = Arc::new(AtomicUsize::new(0));
        let source = Box::new(Hanging(Mutex::new(answers), Arc::clone(&asked)));
        let credential = LoginCredential::new("orders".into(), source, AllowedMechanisms::default());
        alarm::drive(async {
            let mut question = Question::default();
            for _ in 0..3 {
                let error = question.ask(&credential, Cause::Need, false, Duration::from_millis(20)).await;
                assert_eq!(error.unwrap_err().reason, "it has not answered within 20ms");
                question.look_again(FileEvent::Overdue);
            }
            answer.send("late").unwrap();
            question.finished().await;
            let error = question.ask(&credential, Cause::Need, false, PATIENCE).await.unwrap_err();
            assert_eq!((&*error.reason, asked.load(Ordering::SeqCst)), ("late", 1));
            // A file that was replaced is read beside the one that hangs, but not any number of times.
            for _ in 0..3 * GIVEN_UP_MAX {
                let error = question.ask(&credential, Cause::Files, false, Duration::from_millis(5)).await;
                assert!(error.is_err());
                question.look_again(FileEvent::Changed);
            }
            assert_eq!(question.given_up, GIVEN_UP_MAX);
            drop(answer);
            question.finished().await;
        })
        .await
        .unwrap();
        assert!(asked.load(Ordering::SeqCst) <= 2 + GIVEN_UP_MAX);
    }

    #[test]
    fn no_source_is_left_alone_for_long() {
        let now = clock::now();
        for (wanted, expected) in [(0, 0), (7, 7), (300, 300), (u64::MAX, 300)] {
            let until = held_until(Duration::from_secs(wanted), now);
            assert_eq!(until - now, Duration::from_secs(expected), "{wanted}");
        }
    }

    #[test]
    fn a_credential_is_replaced_ahead_of_its_end() {
        let (wall, mut rng) = (SystemTime::UNIX_EPOCH, Rng::with_seed(1));
        for (life, earliest, latest) in
            [(5, 4.0, 4.3), (60, 48.0, 51.0), (3600, 3300.0, 3375.0), (0, 0.0, 0.0)]
        {
            for _ in 0..100 {
                let after = ahead(wall + Duration::from_secs(life), wall, &mut rng).as_secs_f64();
                assert!((earliest..=latest).contains(&after), "{life}: {after}");
            }
        }
    }
}
