//! The metrics of the process: its configuration and replacements, its tasks, its log, and what the kernel knows of it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use super::names::{BUILD_INFO, CONFIG_LOADED, CONFIG_RELOADS, LOST_LINES, PARTED, REPLACEMENTS, TASKS};
use super::text::Text;
use super::values::{Counter, Timestamp};

static LOADED: Timestamp = Timestamp::new();
static RELOADED: Counter = Counter::new();
static REFUSED: Counter = Counter::new();
static REPLACED: Counter = Counter::new();
static NOT_REPLACED: Counter = Counter::new();
static PARTED_QUIET: Counter = Counter::new();
static PARTED_FORCED: Counter = Counter::new();
static SESSION_TASKS: AtomicUsize = AtomicUsize::new(0);
static UPKEEP_TASKS: AtomicUsize = AtomicUsize::new(0);

type Counts = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;
static LOST: OnceLock<Counts> = OnceLock::new();

/// Records that the configuration was loaded at that time; `is_first` at the start.
pub(crate) fn record_config_loaded(at: SystemTime, is_first: bool) {
    LOADED.set(at);
    RELOADED.increment(u64::from(!is_first));
}

/// Records a refused reload.
pub(crate) fn record_config_refused() {
    REFUSED.increment(1);
}

/// Records the end of a drain: how many sessions ended while idle, and how many by force.
pub(crate) fn record_drain(quiet: usize, forced: usize) {
    PARTED_QUIET.increment(quiet as u64);
    PARTED_FORCED.increment(forced as u64);
}

/// Records that this process took over from another, or that its successor did not start.
pub(crate) fn record_replacement(is_ok: bool) {
    if is_ok { &REPLACED } else { &NOT_REPLACED }.increment(1);
}

/// Sets the function that returns the lost log lines by kind of output; only the first one given is used.
pub(crate) fn count_lost_lines(count: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static) {
    LOST.get_or_init(|| Box::new(count));
}

/// Sets how many tasks run: of sessions, and all others.
pub(super) fn set_tasks(sessions: usize, upkeep: usize) {
    SESSION_TASKS.store(sessions, Ordering::Relaxed);
    UPKEEP_TASKS.store(upkeep, Ordering::Relaxed);
}

/// Writes them. Their series are few, and exist from the start, so that the first increase can be seen.
pub(super) fn write(text: &mut Text<'_>) {
    text.of_process(&BUILD_INFO, |series| series.gauge_of("version", env!("CARGO_PKG_VERSION"), 1.0));
    text.of_process(&CONFIG_LOADED, |series| series.timestamp(&LOADED));
    let results = |ok: &Counter, failed: &Counter| [("ok", ok.get()), ("failed", failed.get())];
    text.of_process(&CONFIG_RELOADS, |series| series.counts("result", results(&RELOADED, &REFUSED), true));
    text.of_process(&REPLACEMENTS, |series| series.counts("result", results(&REPLACED, &NOT_REPLACED), true));
    text.of_process(&PARTED, |series| {
        series.counts("how", [("quiet", PARTED_QUIET.get()), ("forced", PARTED_FORCED.get())], true);
    });
    text.of_process(&TASKS, |series| {
        series.gauge_of("of", "sessions", SESSION_TASKS.load(Ordering::Relaxed) as f64);
        series.gauge_of("of", "upkeep", UPKEEP_TASKS.load(Ordering::Relaxed) as f64);
    });
    let lost = LOST.get().map(|lost| lost()).unwrap_or_default();
    text.of_process(&LOST_LINES, |series| series.counts("output", lost, true));
    write_of_kernel(text);
}

/// The standard metrics of a process (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).
fn write_of_kernel(text: &mut Text<'_>) {
    let metrics_process::collector::Metrics {
        cpu_seconds_total,
        open_fds,
        max_fds,
        virtual_memory_bytes,
        virtual_memory_max_bytes,
        resident_memory_bytes,
        start_time_seconds,
        threads,
    } = metrics_process::collector::collect();
    let cpu = "Total user and system CPU time spent in seconds.";
    text.foreign("process_cpu_seconds_total", "counter", cpu, cpu_seconds_total);
    let whole = |number: Option<u64>| number.map(|number| number as f64);
    for (name, help, value) in [
        ("process_open_fds", "Number of open file descriptors.", open_fds),
        ("process_max_fds", "Maximum number of open file descriptors.", max_fds),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", virtual_memory_bytes),
        (
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            virtual_memory_max_bytes,
        ),
        ("process_resident_memory_bytes", "Resident memory size in bytes.", resident_memory_bytes),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            start_time_seconds,
        ),
        ("process_threads", "Number of OS threads in the process.", threads),
    ] {
        text.foreign(name, "gauge", help, whole(value));
    }
}
