//! Debian's etcd, each member at a loopback address of its own: two ports are enough for all of them.

use std::fs;
use std::io;
use std::process::{Child, Command};

use data_encoding::BASE64;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::daemon::{OwnIp, keep};
use super::http::{self, Call, Response};
use super::{Leaf, demand, until};

/// For clients, for members, and those that tests add.
const PORTS: [u16; 4] = [2379, 2380, 2377, 2378];

/// A member.
pub(crate) struct Etcd {
    ip: OwnIp,
    dir: tempfile::TempDir,
    arguments: Vec<String>,
    keeper: Option<Child>,
    token: Option<String>,
}

impl Etcd {
    /// The only member of its cluster.
    pub(crate) fn start() -> Self {
        let mut member = Self::alone();
        member.begin();
        member.wait_ready();
        member
    }

    /// The same over https at port 2377 too, with that certificate for the member's address.
    pub(crate) fn start_with_tls(certificate: impl FnOnce(&str) -> Leaf) -> Self {
        let mut member = Self::alone();
        let Leaf { cert, key, .. } = certificate(member.ip());
        let urls = format!("{},https://{}:2377", member.url(), member.ip());
        member.set("--listen-client-urls", &urls);
        member.set("--cert-file", &cert.display().to_string());
        member.set("--key-file", &key.display().to_string());
        member.begin();
        member.wait_ready();
        member
    }

    /// Three members of one cluster.
    pub(crate) fn start_three() -> [Self; 3] {
        let ips = [(); 3].map(|()| OwnIp::next(&PORTS));
        let all = ips.each_ref().map(|ip| ip.as_str().to_owned());
        let mut members = ips.map(|ip| Self::new(ip, &all));
        members.iter_mut().for_each(Self::begin);
        members.iter().for_each(Self::wait_ready);
        members
    }

    fn alone() -> Self {
        let ip = OwnIp::next(&PORTS);
        let all = [ip.as_str().to_owned()];
        Self::new(ip, &all)
    }

    fn new(ip: OwnIp, all: &[String]) -> Self {
        let name = ip.as_str().to_owned();
        let (client, peer) = (format!("http://{name}:2379"), format!("http://{name}:2380"));
        let all: Vec<_> = all.iter().map(|ip| format!("{ip}=http://{ip}:2380")).collect();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data").display().to_string();
        let mut member = Self { ip, dir, arguments: Vec::new(), keeper: None, token: None };
        for (name, value) in [
            ("--name", &name),
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
        self.ip.as_str()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}:2379", self.ip())
    }

    /// A write succeeds.
    pub(crate) fn wait_ready(&self) {
        self.call("/v3/kv/put", &json!({ "key": BASE64.encode(b"ready"), "value": "" }));
    }

    /// A call of its JSON gateway.
    fn request(&self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        let field = self.token.as_ref().map(|token| ("Authorization", token.as_str()));
        http::call(self.ip(), 2379, Call { method, path, field, body })
    }

    /// A call that succeeds, now or once there is a leader.
    #[track_caller]
    pub(crate) fn call(&self, path: &str, body: &Value) -> Value {
        until(format!("{path} succeeded"), || {
            let answer = self.request("POST", path, &body.to_string()).ok()?;
            (answer.status == 200).then(|| answer.json())
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
    fn metric(&self, begins: &str) -> f64 {
        let body = self.request("GET", "/metrics", "").map_or_else(|_| String::new(), |answer| answer.body);
        let samples = body.lines().filter(|line| line.starts_with(begins));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// How many times a range of keys was read since it began.
    pub(crate) fn ranges(&self) -> f64 {
        self.metric(r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Range""#)
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
