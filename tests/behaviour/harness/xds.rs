//! A control plane that speaks delta ADS: grpcio's server with the messages of xds-protos (drivers/ads_server.py), or go-control-plane's
//! (drivers/control_plane.go).

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::daemon::free_port;
use super::{Leaf, Upstream, finish, until};

pub(crate) struct ControlPlane {
    /// With its first arguments.
    program: Vec<PathBuf>,
    at: String,
    certificate: Option<(PathBuf, PathBuf)>,
    running: Option<Running>,
    /// What it has told, of all its lives.
    told: Arc<Mutex<Vec<Value>>>,
}

struct Running {
    child: Child,
    orders: ChildStdin,
}

impl ControlPlane {
    pub(crate) fn start() -> Self {
        Self::start_at(format!("127.0.0.1:{}", free_port()), None)
    }

    pub(crate) fn start_with(leaf: &Leaf) -> Self {
        let certificate = (leaf.cert.clone(), leaf.key.clone());
        Self::start_at(format!("127.0.0.1:{}", free_port()), Some(certificate))
    }

    pub(crate) fn start_at(at: String, certificate: Option<(PathBuf, PathBuf)>) -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
        let python = target.join("xds-python/bin/python");
        assert!(python.exists(), "{} is missing: scripts/test fetches xds-protos", python.display());
        Self::start_program(vec![python, driver("ads_server.py")], at, certificate)
    }

    /// go-control-plane's, which is built from the packages of that line of scripts/test-matrix.
    pub(crate) fn start_go() -> Self {
        let packages =
            std::env::var_os("AMBASSADOR_TEST_BINDIR").expect("scripts/test-matrix go-control-plane");
        let tree = Path::new(&packages).join("../../..").canonicalize().expect("the tree of packages");
        let root = fs::read_dir(tree.join("usr/lib"))
            .expect("its libraries")
            .map(|one| one.expect("an entry").path());
        let mut roots = root.filter(|path| path.join("bin/go").exists() && !path.is_symlink());
        let root = roots.next().expect("Go");
        let program = tree.join("control_plane");
        let mut build = Command::new(root.join("bin/go"));
        build.arg("build").arg("-o").arg(&program).arg(driver("control_plane.go"));
        build.env("GOROOT", &root).env("GOPATH", &packages).env("GOCACHE", tree.join("cache"));
        build.env("GO111MODULE", "off").env("GOFLAGS", "").env("CGO_ENABLED", "0");
        finish(&mut build).must_succeed();
        Self::start_program(vec![program], format!("127.0.0.1:{}", free_port()), None)
    }

    fn start_program(program: Vec<PathBuf>, at: String, certificate: Option<(PathBuf, PathBuf)>) -> Self {
        let mut plane = Self { program, at, certificate, running: None, told: Arc::default() };
        plane.begin();
        plane
    }

    /// Starts it again, with nothing.
    pub(crate) fn begin(&mut self) {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).arg(&self.at);
        if let Some((certificate, key)) = &self.certificate {
            command.args([certificate, key]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a Python");
        let lines = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
        let told = Arc::clone(&self.told);
        let before = self.done();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
                told.lock().expect("a sane lock").push(line);
            }
        });
        let orders = child.stdin.take().expect("a piped stdin");
        self.running = Some(Running { child, orders });
        until("the control plane listened", || (self.done() > before).then_some(()));
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.at
    }

    /// All that it has told.
    pub(crate) fn told(&self) -> Vec<Value> {
        self.told.lock().expect("a sane lock").clone()
    }

    fn done(&self) -> usize {
        self.told().iter().filter(|line| line["done"].is_number()).count()
    }

    /// The requests that it has got.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.told().into_iter().filter(|line| line["type"].is_string()).collect()
    }

    /// How many streams were begun, with what they had as their token.
    pub(crate) fn streams(&self) -> Vec<String> {
        let told = self.told();
        told.iter().filter_map(|line| line["opened"].as_str().map(ToOwned::to_owned)).collect()
    }

    #[track_caller]
    pub(crate) fn order(&mut self, order: &Value) {
        let before = self.done();
        let running = self.running.as_mut().expect("it runs");
        writeln!(running.orders, "{order}").expect("it takes orders");
        until("the control plane had obeyed", || (self.done() > before).then_some(()));
    }

    /// Gives that cluster these endpoints.
    #[track_caller]
    pub(crate) fn set(&mut self, name: &str, endpoints: &[Value]) {
        self.order(&json!({ "set": { name: endpoints } }));
    }

    /// Waits until a request came for which that holds.
    #[track_caller]
    pub(crate) fn wait_request(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        until(format!("a request {what}"), || self.requests().into_iter().find(|request| holds(request)))
    }
}

fn driver(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers").join(name)
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An endpoint as the control plane tells it.
pub(crate) fn at(upstream: &Upstream) -> Value {
    json!({ "address": "127.0.0.1", "port": upstream.port() })
}

/// The same with more.
pub(crate) fn with(upstream: &Upstream, key: &str, value: impl Into<Value>) -> Value {
    let mut endpoint = at(upstream);
    endpoint[key] = value.into();
    endpoint
}
