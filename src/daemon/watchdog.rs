//! Feeds systemd's watchdog as long as every worker makes progress.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::alarm;
use crate::clock;
use crate::drain::{Drain, DrainWatch};
use crate::sys::is_succeeding;
use crate::workers::Workers;

use super::notify::{self, Notice};

/// Feeds it until the drain begins; returns at once where there is no watchdog.
pub(super) async fn keep_alive(workers: Arc<Workers>, drain: Drain, watch: DrainWatch) {
    let Some(interval) = watchdog_interval(&|name| std::env::var(name).ok()) else { return };
    let mut stop = std::pin::pin!(watch.begun());
    loop {
        // Twice as often as required, with a quarter of the interval for the workers to respond.
        match stuck(&workers, &drain, clock::now() + interval / 4).await.as_slice() {
            [] => notify::send(&Notice::Fed),
            stuck => {
                tracing::error!(workers = ?stuck, "a worker makes no progress; systemd's watchdog gets no keep-alive")
            }
        }
        tokio::select! {
            () = &mut stop => return,
            () = alarm::sleep(interval / 2) => {}
        }
    }
}

/// The watchdog's timeout; `None` without a watchdog (sd_watchdog_enabled(3)). A successor has its predecessor's
/// environment, and its watchdog.
fn watchdog_interval(environment: &dyn Fn(&str) -> Option<String>) -> Option<Duration> {
    let microseconds = environment("WATCHDOG_USEC")?.parse().ok().filter(|time| *time > 0)?;
    let process = environment("WATCHDOG_PID").and_then(|process| process.parse::<u32>().ok());
    let is_for_us = process.is_none_or(|process| process == std::process::id()) || is_succeeding(environment);
    is_for_us.then(|| Duration::from_micros(microseconds))
}

/// The workers that have not run a task until the deadline, by number.
async fn stuck(workers: &Workers, drain: &Drain, deadline: Instant) -> Vec<usize> {
    let (beat, mut beats) = mpsc::unbounded_channel();
    let mut silent: Vec<_> = (0..workers.all().len()).collect();
    for (number, worker) in workers.all().iter().enumerate() {
        let beat = beat.clone();
        // The receiver may have timed out.
        drain.spawn_on(worker.handle(), async move { beat.send(number).unwrap_or_default() });
    }
    drop(beat);
    while let Ok(Some(number)) = alarm::timeout_at(deadline, beats.recv()).await {
        silent.retain(|one| *one != number);
    }
    silent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_hungry_when_it_says_so_and_means_us() {
        let interval = |set: &[(&str, &str)]| {
            watchdog_interval(&|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
            })
        };
        let usec = ("WATCHDOG_USEC", "3000000");
        let ours = std::process::id().to_string();
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[usec]), Some(Duration::from_secs(3)));
        assert_eq!(interval(&[usec, ("WATCHDOG_PID", &ours)]), Some(Duration::from_secs(3)));
        assert_eq!(interval(&[usec, ("WATCHDOG_PID", "1")]), None);
        assert_eq!(interval(&[("WATCHDOG_USEC", "0")]), None);
    }

    #[tokio::test]
    async fn a_worker_that_hangs_is_named() {
        alarm::drive(async {
            let workers = Workers::start(2).unwrap();
            let drain = Drain::default();
            let patience = Duration::from_millis(300);
            assert_eq!(stuck(&workers, &drain, clock::now() + patience * 10).await, [0_usize; 0]);
            let (release, released) = std::sync::mpsc::channel::<()>();
            drain.spawn_on(workers.all()[1].handle(), async move { released.recv().unwrap_or_default() });
            assert_eq!(stuck(&workers, &drain, clock::now() + patience).await, [1]);
            drop(release);
            assert_eq!(stuck(&workers, &drain, clock::now() + patience * 10).await, [0_usize; 0]);
        })
        .await
        .unwrap();
    }
}
