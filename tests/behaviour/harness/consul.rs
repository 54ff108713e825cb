//! Consul's own agents, each at an address of its own: its ports are fixed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use super::daemon::keep;
use super::{PATIENCE, until};

/// Consul is not in this Debian; scripts/test fetches it from an older one.
fn program() -> PathBuf {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| found.join("target"), PathBuf::from);
    let program = target.join("consul/usr/bin/consul");
    assert!(program.exists(), "{} is missing: scripts/test fetches it", program.display());
    program
}

/// An agent in server mode.
pub(crate) struct Consul {
    ip: String,
    dir: tempfile::TempDir,
    config: Value,
    keeper: Option<Child>,
    token: Option<&'static str>,
}

impl Consul {
    /// The only server of its datacenter, and its leader. `config` overrides what is usual; an `IP` at the beginning of a text is its
    /// own.
    pub(crate) fn start(config: &Value) -> Self {
        let mut consul = Self::spawn(Self::free_ip(), config);
        consul.wait_leader();
        consul.token = None;
        consul
    }

    /// Three servers of one datacenter.
    pub(crate) fn start_three() -> [Self; 3] {
        let ips = [(); 3].map(|()| Self::free_ip());
        let config = json!({ "bootstrap_expect": 3, "retry_join": ips, "retry_interval": "1s" });
        let servers = ips.map(|ip| Self::spawn(ip, &config));
        servers.iter().for_each(Self::wait_leader);
        servers
    }

    /// An address of the loopback network that no other agent of this process has.
    fn free_ip() -> String {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        format!("127.77.{}.{}", std::process::id() % 251, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn spawn(ip: String, config: &Value) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut whole = json!({
            "server": true, "bootstrap_expect": 1, "datacenter": "dc1", "node_name": ip.replace('.', "-"),
            "bind_addr": ip, "client_addr": ip, "data_dir": dir.path().join("data"),
            "ports": { "dns": -1, "grpc": -1, "serf_wan": -1 },
            "disable_update_check": true, "enable_local_script_checks": false, "leave_on_terminate": false,
            // The quickest that Consul allows.
            "performance": { "raft_multiplier": 1 },
        });
        let (whole_map, more) = (whole.as_object_mut().expect("a map"), config.as_object().expect("a map"));
        whole_map.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
        let mut consul = Self { ip, dir, config: whole, keeper: None, token: None };
        consul.begin();
        consul
    }

    /// Starts it again with what it has on disk.
    pub(crate) fn begin(&mut self) {
        let (file, logs) = (self.dir.path().join("consul.json"), self.dir.path().join("logs"));
        fs::write(&file, self.config.to_string().replace("\"IP ", &format!("\"{} ", self.ip)))
            .expect("a configuration");
        fs::create_dir_all(&logs).expect("a directory");
        let mut command = Command::new(program());
        command.args(["agent", "-config-file"]).arg(&file);
        self.keeper = Some(keep(&command, "KILL", &logs, None));
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        let mut keeper = self.keeper.take().expect("it runs");
        drop(keeper.stdin.take());
        keeper.wait().expect("it ends");
    }

    /// Removes what it has on disk.
    pub(crate) fn forget(&self) {
        fs::remove_dir_all(self.dir.path().join("data")).expect("its data");
    }

    pub(crate) fn with_token(mut self, token: &'static str) -> Self {
        self.token = Some(token);
        self
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}:8500", self.ip)
    }

    pub(crate) fn wait_leader(&self) {
        until("Consul had a leader", || {
            let answer = self.request("GET", "/v1/status/leader", "").ok()?;
            (answer.0 == 200 && answer.1.len() > 2).then_some(())
        });
        // The leader takes registrations once it has taken over.
        until("the leader was ready", || {
            let answer = self.request("GET", "/v1/catalog/nodes", "").ok()?;
            (answer.0 == 200 && answer.1.contains(&self.ip.replace('.', "-")) || answer.1.trim() == "[]")
                .then_some(())
        });
    }

    /// A request to its HTTP API: status and body.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect((self.ip.as_str(), 8500))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let token = self.token.map(|token| format!("X-Consul-Token: {token}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: consul\r\n{token}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: &Value) -> String {
        // A leader that has just been elected may answer 500 for a moment.
        until(format!("PUT {path} succeeded"), || {
            let (status, answer) = self.request("PUT", path, &body.to_string()).ok()?;
            (status == 200).then_some(answer)
        })
    }

    /// An instance of a service, with further fields of its registration.
    #[track_caller]
    pub(crate) fn register(&self, id: &str, service: &str, port: u16, more: &Value) {
        let mut registration = json!({ "ID": id, "Name": service, "Address": "127.0.0.1", "Port": port });
        let map = registration.as_object_mut().expect("a map");
        map.extend(more.as_object().expect("a map").iter().map(|(key, value)| (key.clone(), value.clone())));
        self.put("/v1/agent/service/register", &registration);
    }

    #[track_caller]
    pub(crate) fn deregister(&self, id: &str) {
        self.put(&format!("/v1/agent/service/deregister/{id}"), &Value::Null);
    }

    /// Sets the check of a service that was registered with `{ "Check": { "TTL": … } }`.
    #[track_caller]
    pub(crate) fn set_check(&self, service_id: &str, status: &str) {
        self.put(&format!("/v1/agent/check/update/service:{service_id}"), &json!({ "Status": status }));
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            self.kill();
        }
    }
}
