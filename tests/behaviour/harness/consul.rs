//! Consul's own agents, each at an address of its own: its ports are fixed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};

use super::daemon::{OwnIp, keep};
use super::http::{self, Call, Response};
use super::until;

/// HTTP, and what servers of one datacenter say to each other.
const PORTS: [u16; 3] = [8500, 8300, 8301];

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
    ip: OwnIp,
    dir: tempfile::TempDir,
    config: Value,
    keeper: Option<Child>,
    token: Option<&'static str>,
}

impl Consul {
    /// The only server of its datacenter, and its leader. `config` overrides what is usual; an `IP` at the beginning of a text is its
    /// own.
    pub(crate) fn start(config: &Value) -> Self {
        let mut consul = Self::spawn(OwnIp::next(&PORTS), config);
        consul.wait_leader();
        consul.token = None;
        consul
    }

    /// Three servers of one datacenter.
    pub(crate) fn start_three() -> [Self; 3] {
        let ips = [(); 3].map(|()| OwnIp::next(&PORTS));
        let all = ips.each_ref().map(OwnIp::as_str);
        let config = json!({ "bootstrap_expect": 3, "retry_join": all, "retry_interval": "1s" });
        let servers = ips.map(|ip| Self::spawn(ip, &config));
        servers.iter().for_each(Self::wait_leader);
        servers
    }

    fn spawn(ip: OwnIp, config: &Value) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = ip.as_str();
        let mut whole = json!({
            "server": true, "bootstrap_expect": 1, "datacenter": "dc1", "node_name": at.replace('.', "-"),
            "bind_addr": at, "client_addr": at, "data_dir": dir.path().join("data"),
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
        fs::write(&file, self.config.to_string().replace("\"IP ", &format!("\"{} ", self.ip.as_str())))
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
        format!("http://{}:8500", self.ip.as_str())
    }

    pub(crate) fn wait_leader(&self) {
        until("Consul had a leader", || {
            let answer = self.request("GET", "/v1/status/leader", "").ok()?;
            (answer.status == 200 && answer.body.len() > 2).then_some(())
        });
        // The leader takes registrations once it has taken over.
        let name = self.ip.as_str().replace('.', "-");
        until("the leader was ready", || {
            let Response { status, body, .. } = self.request("GET", "/v1/catalog/nodes", "").ok()?;
            (status == 200 && body.contains(&name) || body.trim() == "[]").then_some(())
        });
    }

    /// A request to its HTTP API.
    fn request(&self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        let field = self.token.map(|token| ("X-Consul-Token", token));
        http::call(self.ip.as_str(), 8500, Call { method, path, field, body })
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: &Value) -> String {
        // A leader that has just been elected may answer 500 for a moment.
        until(format!("PUT {path} succeeded"), || {
            let answer = self.request("PUT", path, &body.to_string()).ok()?;
            (answer.status == 200).then_some(answer.body)
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
