//! The real binary, started on a configuration and observed from outside: readiness by its notify socket, ports and
//! state by the control socket, everything else by its stderr.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Client, Config, Metrics, Response, command, http, until};

pub(crate) struct Ambassador {
    child: Child,
    /// The process that has taken over from the child.
    successor: Option<Pid>,
    dir: TempDir,
    lines: Arc<Mutex<Vec<String>>>,
    /// The messages to systemd so far.
    notified: Arc<Mutex<Vec<String>>>,
    file: PathBuf,
    control: PathBuf,
    /// Listener name → its addresses, as `/status` had them at the start.
    listeners: BTreeMap<String, Vec<String>>,
    admin: Option<String>,
}

impl Ambassador {
    /// Starts on `config` and returns once READY=1 was sent.
    #[track_caller]
    pub(crate) fn start(config: &Config) -> Self {
        Self::start_with(config, |_| {})
    }

    /// The same with changes to the command: environment variables, limits.
    #[track_caller]
    pub(crate) fn start_with(config: &Config, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut started = Self::spawn(config, adjust);
        started.wait_notified("READY=1");
        let status = started.status();
        started.admin = status["admin"].as_str().map(str::to_owned);
        started.listeners = listeners(&status);
        started
    }

    /// Starts without waiting: for a start that is to fail, or that is watched.
    #[track_caller]
    pub(crate) fn spawn(config: &Config, adjust: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("listeners.yaml");
        fs::write(&file, config.render(dir.path())).expect("listeners.yaml is written");
        let socket = dir.path().join("notify.sock");
        let notify = UnixDatagram::bind(&socket).expect("a notify socket");
        let notified = Arc::new(Mutex::new(Vec::new()));
        listen(notify, &notified);
        let mut command = command::ambassador();
        command.args(["run", "--config"]).arg(&file).env("NOTIFY_SOCKET", &socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        adjust(&mut command);
        let mut child = command.spawn().expect("the binary starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        // A test may have taken stderr for itself; then there are no lines.
        if let Some(stderr) = child.stderr.take() {
            let sink = lines.clone();
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    sink.lock().expect("lines nobody poisoned").push(line);
                }
            });
        }
        let control = dir.path().join("control.sock");
        Self {
            child,
            successor: None,
            dir,
            lines,
            notified,
            file,
            control,
            listeners: BTreeMap::new(),
            admin: None,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces its file, as an editor does: in one step.
    pub(crate) fn rewrite(&self, config: &Config) {
        let beside = self.file.with_extension("new");
        fs::write(&beside, config.render(self.dir())).expect("a new listeners.yaml");
        fs::rename(&beside, &self.file).expect("listeners.yaml is replaced");
    }

    /// All messages to systemd so far.
    pub(crate) fn notified(&self) -> Vec<String> {
        self.notified.lock().expect("notices nobody poisoned").clone()
    }

    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    pub(crate) fn pid(&self) -> Pid {
        self.successor.unwrap_or_else(|| Pid::from_child(&self.child))
    }

    /// Has another process of the binary take over, and waits until systemd would know it. Returns the old process id.
    #[track_caller]
    pub(crate) fn replace(&mut self) -> Pid {
        self.replace_while(|_| {})
    }

    /// The same, with `during` run while the successor starts.
    #[track_caller]
    pub(crate) fn replace_while(&mut self, starting: impl FnOnce(&Self)) -> Pid {
        let old = self.pid();
        let successions =
            |notified: &[String]| notified.iter().filter(|line| line.starts_with("MAINPID=")).count();
        let before = successions(&self.notified());
        self.signal(Signal::USR2);
        starting(self);
        let successor = until("a successor took over", || {
            let notified = self.notified();
            let line = (successions(&notified) > before)
                .then(|| notified.iter().rfind(|line| line.starts_with("MAINPID=")))?;
            Pid::from_raw(line?.strip_prefix("MAINPID=")?.parse().ok()?)
        });
        self.successor = Some(successor);
        old
    }

    /// Waits until `state` was sent to systemd.
    #[track_caller]
    pub(crate) fn wait_notified(&mut self, state: &str) {
        until(format!("the ambassador notified {state}"), || {
            let told = self.notified().iter().any(|line| line == state);
            if !told && let Some(status) = self.child.try_wait().expect("a child to wait for") {
                panic!("it ended with {status} before {state}");
            }
            told.then_some(())
        });
    }

    /// All addresses of a listener: `127.0.0.1:PORT`, `[::1]:PORT`, `unix:/path`.
    #[track_caller]
    pub(crate) fn addresses(&self, listener: &str) -> &[String] {
        self.listeners.get(listener).unwrap_or_else(|| panic!("/status knows no listener {listener}"))
    }

    /// The first TCP address of a listener.
    #[track_caller]
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let tcp = self.addresses(listener).iter().find_map(|address| address.parse().ok());
        tcp.unwrap_or_else(|| panic!("listener {listener} has no TCP address"))
    }

    /// A client of listener `app`.
    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        self.connect_to("app")
    }

    #[track_caller]
    pub(crate) fn connect_to(&self, listener: &str) -> Client {
        Client::tcp(self.address(listener)).expect("the listener accepts")
    }

    /// GET over the control socket.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.try_get(path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// The same while one process ends and another begins: a connection to the ending one is cut.
    pub(crate) fn try_get(&self, path: &str) -> io::Result<Response> {
        http::over_unix(&self.control, "GET", path)
    }

    /// POST over the control socket.
    #[track_caller]
    pub(crate) fn post(&self, path: &str) -> Response {
        http::over_unix(&self.control, "POST", path).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// `127.0.0.1:PORT` of the admin endpoint.
    #[track_caller]
    pub(crate) fn admin(&self) -> &str {
        self.admin.as_deref().expect("an admin address in /status")
    }

    /// A request to the admin port.
    #[track_caller]
    pub(crate) fn request(&self, method: &str, path: &str, host: &str) -> Response {
        http::over_tcp(self.admin(), method, path, host)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.get("/status").json()
    }

    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").body)
    }

    /// Waits until listener `app` has this many live sessions.
    #[track_caller]
    pub(crate) fn wait_active(&self, count: u64) {
        until(format!("the ambassador had {count} sessions"), || {
            let status = self.status();
            let active = status["listeners"].as_array()?.iter().map(|listener| listener["active"].as_u64());
            (active.sum::<Option<u64>>()? == count).then_some(())
        });
    }

    /// The log so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("lines nobody poisoned").clone()
    }

    /// Waits for a line that contains `part`. Lines of a process that has ended may arrive after its end.
    #[track_caller]
    pub(crate) fn wait_line(&self, part: &str) -> String {
        until(format!("a line with {part:?} was logged"), || {
            self.lines().into_iter().find(|line| line.contains(part))
        })
    }

    /// The access records so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        let records = self.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        records.filter(|record| record["target"] == "access").collect()
    }

    /// Waits for `count` access records and returns them all.
    #[track_caller]
    pub(crate) fn wait_records(&self, count: usize) -> Vec<Value> {
        until(format!("{count} access records were written"), || {
            let records = self.records();
            (records.len() >= count).then_some(records)
        })
    }

    /// The record of the only session there was.
    #[track_caller]
    pub(crate) fn record(&self) -> Value {
        let mut records = self.wait_records(1);
        assert_eq!(records.len(), 1, "one session, one record: {records:?}");
        records.remove(0)
    }

    /// Waits for a record that fits.
    #[track_caller]
    pub(crate) fn record_where(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        until(format!("an access record with {what} was written"), || self.records().into_iter().find(&fits))
    }

    /// Waits for the record of this outcome.
    #[track_caller]
    pub(crate) fn record_of(&self, outcome: &str) -> Value {
        self.record_where(outcome, |record| record["outcome"] == outcome)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a process to signal");
    }

    /// Stops all its threads, does `act`, and lets them continue: they find everything that happened meanwhile at
    /// once.
    #[track_caller]
    pub(crate) fn frozen<T>(&self, act: impl FnOnce() -> T) -> T {
        self.signal(Signal::STOP);
        until("every thread of the ambassador stood still", || self.stands_still().then_some(()));
        let done = act();
        self.signal(Signal::CONT);
        done
    }

    fn stands_still(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid().as_raw_nonzero()));
        tasks.expect("the threads of our child").flatten().all(|task| {
            // `PID (NAME) STATE …`; a thread that ended meanwhile does not run either.
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
        })
    }

    /// Waits for the end of the process; 128 + n for signal n.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> i32 {
        let status = until("the ambassador exited", || self.child.try_wait().expect("a child to wait for"));
        command::code(status)
    }
}

impl Drop for Ambassador {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(successor) = self.successor {
            // Its parent is gone, so another process reaps it.
            let _ = kill_process(successor, Signal::KILL);
        }
        if thread::panicking() {
            eprintln!("--- stderr of the ambassador, last lines");
            let lines = self.lines();
            for line in &lines[lines.len().saturating_sub(60)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Reads the messages to systemd as long as the value lives: an unread socket would fill up.
fn listen(notify: UnixDatagram, notified: &Arc<Mutex<Vec<String>>>) {
    notify.set_read_timeout(Some(Duration::from_millis(200))).expect("a read timeout");
    let notified = Arc::downgrade(notified);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Some(notified) = notified.upgrade() {
            if let Ok(count) = notify.recv(&mut buffer) {
                let told = String::from_utf8_lossy(&buffer[..count]);
                notified.lock().expect("notices nobody poisoned").extend(told.lines().map(str::to_owned));
            }
        }
    });
}

fn listeners(status: &Value) -> BTreeMap<String, Vec<String>> {
    let entries = status["listeners"].as_array().expect("a list of listeners in /status");
    let entry = |listener: &Value| {
        let addresses =
            listener["addresses"].as_array()?.iter().map(|address| address.as_str().map(str::to_owned));
        Some((listener["name"].as_str()?.to_owned(), addresses.collect::<Option<_>>()?))
    };
    entries.iter().map(|listener| entry(listener).expect("a name and addresses for each listener")).collect()
}
