//! Debian's etcd, each member at a loopback address of its own: two ports are enough for all of them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU8, Ordering};

use data_encoding::BASE64;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::daemon::keep;
use super::{Leaf, PATIENCE, demand, until};

/// A member.
pub(crate) struct Etcd {
    ip: String,
    dir: tempfile::TempDir,
    arguments: Vec<String>,
    keeper: Option<Child>,
    token: Option<String>,
}

impl Etcd {
    /// The only member of its cluster.
    pub(crate) fn start() -> Self {
        let ip = free_ip();
        let mut member = Self::new(&ip, std::slice::from_ref(&ip));
        member.begin();
        member.wait_ready();
        member
    }

    /// The same over https at port 2377 too, with that certificate for the member's address.
    pub(crate) fn start_with_tls(certificate: impl FnOnce(&str) -> Leaf) -> Self {
        let ip = free_ip();
        let mut member = Self::new(&ip, std::slice::from_ref(&ip));
        let Leaf { cert, key, .. } = certificate(&ip);
        let urls = format!("{},https://{ip}:2377", member.url());
        member.set("--listen-client-urls", &urls);
        member.set("--cert-file", &cert.display().to_string());
        member.set("--key-file", &key.display().to_string());
        member.begin();
        member.wait_ready();
        member
    }

    /// Three members of one cluster.
    pub(crate) fn start_three() -> [Self; 3] {
        let ips = [(); 3].map(|()| free_ip());
        let mut members = ips.each_ref().map(|ip| Self::new(ip, &ips));
        members.iter_mut().for_each(Self::begin);
        members.iter().for_each(Self::wait_ready);
        members
    }

    fn new(ip: &str, ips: &[String]) -> Self {
        let (client, peer) = (format!("http://{ip}:2379"), format!("http://{ip}:2380"));
        let all: Vec<_> = ips.iter().map(|ip| format!("{ip}=http://{ip}:2380")).collect();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data").display().to_string();
        let mut member = Self { ip: ip.to_owned(), dir, arguments: Vec::new(), keeper: None, token: None };
        for (name, value) in [
            ("--name", ip),
            ("--data-dir", &data),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &all.join(",")),
        ] {
            member.set(name, value);
        }
        member
    }

    /// Sets an option, for its next begin.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        let begins = format!("{name}=");
        self.arguments.retain(|one| !one.starts_with(&begins));
        self.arguments.push(begins + value);
    }

    /// Starts it, with what it has on disk.
    pub(crate) fn begin(&mut self) {
        let logs = self.dir.path().join("logs");
        fs::create_dir_all(&logs).expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ >"$0"; exec "$@""#]).arg(self.dir.path().join("pid"));
        command.arg(demand("etcd", "etcd-server")).args(&self.arguments);
        self.keeper = Some(keep(&command, "KILL", &logs, None));
    }

    pub(crate) fn kill(&mut self) {
        let mut keeper = self.keeper.take().expect("it runs");
        drop(keeper.stdin.take());
        keeper.wait().expect("it ends");
    }

    /// STOP and CONT: the kernel goes on answering for a process that is frozen.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = fs::read_to_string(self.dir.path().join("pid")).expect("its process id");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    pub(crate) fn ip(&self) -> &str {
        &self.ip
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}:2379", self.ip)
    }

    /// A write succeeds.
    pub(crate) fn wait_ready(&self) {
        self.call("/v3/kv/put", &json!({ "key": BASE64.encode(b"ready"), "value": "" }));
    }

    /// A call of its JSON gateway: status and body.
    fn request(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect((self.ip.as_str(), 2379))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let token = self.token.as_ref().map(|token| format!("Authorization: {token}\r\n"));
        let (token, length) = (token.unwrap_or_default(), body.len());
        let head =
            format!("{method} {path} HTTP/1.0\r\nHost: etcd\r\n{token}Content-Length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
    }

    /// A call that succeeds, now or once there is a leader.
    #[track_caller]
    pub(crate) fn call(&self, path: &str, body: &Value) -> Value {
        let mut last = None;
        until(format!("{path} succeeded"), || {
            let answered = self.request("POST", path, &body.to_string());
            if let Ok((200, answer)) = &answered {
                return Some(serde_json::from_str(answer).expect("JSON"));
            }
            last = Some(answered);
            None
        })
    }

    #[track_caller]
    pub(crate) fn put(&self, key: &str, value: &str) {
        let (key, value) = (BASE64.encode(key.as_bytes()), BASE64.encode(value.as_bytes()));
        self.call("/v3/kv/put", &json!({ "key": key, "value": value }));
    }

    #[track_caller]
    pub(crate) fn delete(&self, key: &str) {
        self.call("/v3/kv/deleterange", &json!({ "key": BASE64.encode(key.as_bytes()) }));
    }

    /// Forgets all revisions before the last one.
    #[track_caller]
    pub(crate) fn compact(&self) {
        let now = self.call("/v3/kv/put", &json!({ "key": BASE64.encode(b"last"), "value": "" }));
        self.call("/v3/kv/compaction", &json!({ "revision": now["header"]["revision"], "physical": true }));
    }

    /// Demands users from here on: `root` for the calls of this harness, and `app` with that password, who may read nothing yet.
    pub(crate) fn enable_users(&mut self, password: &str) {
        for (user, password) in [("root", "the root password"), ("app", password)] {
            self.call("/v3/auth/user/add", &json!({ "name": user, "password": password }));
        }
        self.call("/v3/auth/role/add", &json!({ "name": "root" }));
        self.call("/v3/auth/user/grant", &json!({ "user": "root", "role": "root" }));
        self.call("/v3/auth/enable", &json!({}));
        self.log_in();
    }

    /// Tokens of a member end with its process.
    pub(crate) fn log_in(&mut self) {
        // A call with a token that has ended is refused, this one too.
        self.token = None;
        let root = json!({ "name": "root", "password": "the root password" });
        let answer = self.call("/v3/auth/authenticate", &root);
        self.token = answer["token"].as_str().map(ToOwned::to_owned);
    }

    /// Lets `app` read all keys with that prefix, which ends in a slash.
    pub(crate) fn let_app_read(&self, prefix: &str) {
        let end = format!("{}0", prefix.strip_suffix('/').expect("a slash"));
        let (key, range_end) = (BASE64.encode(prefix.as_bytes()), BASE64.encode(end.as_bytes()));
        self.call("/v3/auth/role/add", &json!({ "name": "reader" }));
        let perm = json!({ "permType": "READ", "key": key, "range_end": range_end });
        self.call("/v3/auth/role/grant", &json!({ "name": "reader", "perm": perm }));
        self.call("/v3/auth/user/grant", &json!({ "user": "app", "role": "reader" }));
    }

    pub(crate) fn is_leader(&self) -> bool {
        let status = self.call("/v3/maintenance/status", &json!({}));
        status["leader"].is_string() && status["leader"] == status["header"]["member_id"]
    }

    /// The sum of its samples whose name, with labels, begins so.
    pub(crate) fn metric(&self, begins: &str) -> f64 {
        let (_, body) = self.request("GET", "/metrics", "").unwrap_or_default();
        let samples = body.lines().filter(|line| line.starts_with(begins));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.metric("etcd_debugging_mvcc_watcher_total") > 0.0
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            self.kill();
        }
    }
}

/// An address of the loopback network that no other member of this process has.
fn free_ip() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    format!("127.78.{}.{}", std::process::id() % 251, NEXT.fetch_add(1, Ordering::Relaxed))
}
