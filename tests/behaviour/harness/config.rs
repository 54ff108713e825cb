//! Builds a `listeners.yaml`: the admin and log sections that every test shares, and the additions of the test.

use std::fmt::Write as _;
use std::path::Path;

/// Text of a configuration. Bodies are YAML lines of the section they go to, indented here.
#[derive(Clone, Default)]
pub(crate) struct Config {
    admin: Option<String>,
    log: Option<String>,
    top: String,
    listeners: String,
    clusters: String,
}

impl Config {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The most common form: listener `app` on a port of 127.0.0.1 leads to cluster `up`, which has these endpoints
    /// and keys.
    pub(crate) fn app(endpoints: &[&str], cluster: &str) -> Self {
        Self::new().listener("app", "bind: 127.0.0.1:0\ncluster: up").cluster("up", endpoints, cluster)
    }

    /// [`Config::app`] speaking `protocol: postgres`.
    pub(crate) fn postgres(endpoints: &[&str], cluster: &str) -> Self {
        Self::app(endpoints, &format!("protocol: postgres\n{cluster}"))
    }

    pub(crate) fn listener(mut self, name: &str, body: &str) -> Self {
        entry(&mut self.listeners, name, body);
        self
    }

    pub(crate) fn cluster(mut self, name: &str, endpoints: &[&str], body: &str) -> Self {
        // A discovery source instead of a list.
        if let [one] = endpoints
            && ["{ srv:", "{ file:", "{ consul:", "{ etcd:", "{ kubernetes:", "{ xds:"]
                .iter()
                .any(|source| one.starts_with(source))
        {
            entry(&mut self.clusters, name, &format!("endpoints: {one}\n{body}"));
            return self;
        }
        // A list in block style takes plain addresses and `{ address: …, weight: … }` alike.
        let list: String = endpoints.iter().map(|endpoint| format!("- {endpoint}\n")).collect();
        entry(&mut self.clusters, name, &format!("endpoints:\n{list}{body}"));
        self
    }

    /// A top-level line such as `shutdown: { drain_timeout: 1s }`.
    pub(crate) fn top(mut self, line: &str) -> Self {
        writeln!(self.top, "{line}").expect("a string takes all");
        self
    }

    /// Another `admin:` value than the shared one; `{dir}` is replaced by the directory of this ambassador.
    pub(crate) fn admin(mut self, value: &str) -> Self {
        self.admin = Some(value.to_owned());
        self
    }

    pub(crate) fn log(mut self, value: &str) -> Self {
        self.log = Some(value.to_owned());
        self
    }

    /// The whole file, for an ambassador whose directory is `dir`. Bodies may refer to it as `{dir}`.
    pub(crate) fn render(&self, dir: &Path) -> String {
        let admin =
            self.admin.as_deref().unwrap_or(r#"{ bind: "127.0.0.1:0", control: "unix:{dir}/control.sock" }"#);
        let log = self.log.as_deref().unwrap_or("{ format: json, level: debug, access: true }");
        let Self { top, listeners, clusters, .. } = self;
        let text = format!("admin: {admin}\nlog: {log}\n{top}listeners:\n{listeners}clusters:\n{clusters}");
        text.replace("{dir}", &dir.display().to_string())
    }
}

fn entry(section: &mut String, name: &str, body: &str) {
    writeln!(section, "  {name}:").expect("a string takes all");
    for line in body.lines().filter(|line| !line.trim().is_empty()) {
        writeln!(section, "    {line}").expect("a string takes all");
    }
}
