//! The configurations of the growth rows: a listener for each cluster, all on one port of many loopback addresses, and
//! endpoints that nobody listens at, without health checks.
//!
//! Each with its metrics, and with its own way of changing one cluster: ambassador by SIGHUP, HAProxy by a successor
//! (`-sf`), Envoy by a file of clusters that it watches. Lacks nginx's metrics, which its stream proxy does not have.
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::growth::Fleet;
use crate::originate;
use crate::peer::Peer;
use crate::pki::Pki;

pub(crate) struct FleetJob<'a> {
    pub(crate) program: &'a Path,
    pub(crate) fleet: Fleet,
    /// Of all listeners.
    pub(crate) port: u16,
    pub(crate) admin: SocketAddr,
    /// Absent if the upstreams are plain.
    pub(crate) pki: Option<&'a Pki>,
    pub(crate) workers: usize,
    pub(crate) folder: &'a Path,
}

/// The `index`th address of 127.`group`.0.0/16; a /24 holds 250.
fn address(group: usize, index: usize) -> String {
    format!("127.{group}.{}.{}", index / 250, index % 250 + 1)
}

const ENDPOINT_PORT: u16 = 9;

impl FleetJob<'_> {
    /// In the first cluster, of a changed configuration alone.
    pub(crate) fn changed_endpoint() -> String {
        format!("{}:{ENDPOINT_PORT}", address(3, 0))
    }

    /// Of one cluster, without the port.
    fn endpoints(&self, cluster: usize, changed: bool) -> impl Iterator<Item = String> {
        let each = self.fleet.endpoints;
        (0..each).map(move |index| match (cluster, index) {
            (0, 0) if changed => address(3, 0),
            _ => address(2, cluster * each + index),
        })
    }

    fn listener(&self, cluster: usize) -> String {
        address(1, cluster)
    }

    pub(crate) fn command(&self, peer: Peer, replaced: Option<i32>) -> Command {
        let mut command = Command::new(self.program);
        let file = self.folder.join(file_name(peer));
        match peer {
            Peer::Haproxy => {
                command.args(["-db", "-f"]).arg(file);
                command.args(replaced.iter().flat_map(|pid| ["-sf".to_owned(), pid.to_string()]));
            }
            Peer::Nginx => {
                command.arg("-p").arg(self.folder).args(["-e", "stderr", "-c"]).arg(file);
            }
            Peer::Envoy => {
                command.args(["--concurrency", &self.workers.to_string()]);
                command.args(["--disable-hot-restart", "--log-level", "error", "-c"]).arg(file);
            }
            _ => {
                command.args(["run", "--config"]).arg(file);
            }
        }
        command
    }

    /// Served with status 200 once it is ready, at the admin address.
    pub(crate) fn ready(&self, peer: Peer) -> Option<&'static str> {
        match peer {
            Peer::Ambassador => Some("/readyz"),
            Peer::Envoy => Some("/ready"),
            _ => None,
        }
    }

    /// Envoy's are those that were ever used, as its manual advises for many clusters: all others are zero.
    pub(crate) fn metrics(&self, peer: Peer) -> Option<&'static str> {
        match peer {
            Peer::Ambassador | Peer::Haproxy => Some("/metrics"),
            Peer::Envoy => Some("/stats/prometheus?usedonly"),
            _ => None,
        }
    }

    pub(crate) fn shows_endpoints(&self, peer: Peer) -> &'static str {
        if peer == Peer::Envoy { "/clusters" } else { "/status" }
    }

    /// `changed`: with one endpoint of one cluster replaced.
    pub(crate) fn write(&self, peer: Peer, changed: bool) -> io::Result<()> {
        let text = match peer {
            Peer::Haproxy => self.haproxy(changed),
            Peer::Nginx => self.nginx(changed),
            Peer::Envoy => {
                // Envoy sees what is moved to the name, so that it never reads half a file.
                let new = self.folder.join("clusters.new");
                fs::write(&new, self.envoy_clusters(changed))?;
                fs::rename(new, self.folder.join("clusters.yaml"))?;
                self.envoy()
            }
            _ => self.ambassador(changed),
        };
        fs::write(self.folder.join(file_name(peer)), text)
    }

    fn ambassador(&self, changed: bool) -> String {
        let Self { admin, workers, port, .. } = self;
        let mut text = format!(
            "admin: {{ bind: \"{admin}\", control: off }}\nlog: {{ access: false, level: warn }}\nruntime: {{ workers: {workers} }}\nlisteners:\n"
        );
        for i in 0..self.fleet.clusters {
            line(
                &mut text,
                format_args!("  l{i}: {{ bind: \"{}:{port}\", cluster: c{i} }}", self.listener(i)),
            );
        }
        text += "clusters:\n";
        let tls = self.pki.map_or_else(String::new, originate::ambassador);
        for i in 0..self.fleet.clusters {
            let endpoints = self.endpoints(i, changed).map(|ip| format!("\"{ip}:{ENDPOINT_PORT}\""));
            let endpoints = endpoints.collect::<Vec<_>>().join(", ");
            line(&mut text, format_args!("  c{i}:\n    endpoints: [{endpoints}]"));
            text += &tls;
        }
        text
    }

    fn haproxy(&self, changed: bool) -> String {
        let Self { admin, workers, port, .. } = self;
        let mut text = format!(
            "global
  nbthread {workers}
  maxconn 7000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend metrics
  mode http
  bind {admin}
  http-request use-service prometheus-exporter if {{ path /metrics }}
"
        );
        let tls = self.pki.map_or_else(String::new, originate::haproxy);
        for i in 0..self.fleet.clusters {
            line(
                &mut text,
                format_args!("frontend f{i}\n  bind {}:{port}\n  default_backend c{i}", self.listener(i)),
            );
            line(&mut text, format_args!("backend c{i}"));
            for (k, ip) in self.endpoints(i, changed).enumerate() {
                line(&mut text, format_args!("  server s{k} {ip}:{ENDPOINT_PORT}{tls}"));
            }
        }
        text
    }

    /// Its admin address is one more listener, to be asked whether it is ready.
    fn nginx(&self, changed: bool) -> String {
        let Self { admin, workers, port, folder, .. } = self;
        let mut text = format!(
            "{}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile 20000;\npid {}/nginx.pid;\nevents {{ worker_connections 16000; }}\nstream {{\n  server {{ listen {admin}; return ready; }}\n",
            originate::stream_module(),
            folder.display()
        );
        let tls = self.pki.map_or_else(String::new, originate::nginx);
        for i in 0..self.fleet.clusters {
            let servers = self.endpoints(i, changed).map(|ip| format!("server {ip}:{ENDPOINT_PORT};"));
            let servers = servers.collect::<Vec<_>>().join(" ");
            let listener = self.listener(i);
            line(
                &mut text,
                format_args!(
                    "  upstream c{i} {{ {servers} }}\n  server {{\n    listen {listener}:{port};\n    proxy_pass c{i};\n{tls}  }}"
                ),
            );
        }
        text + "}\n"
    }

    fn envoy(&self) -> String {
        let (ip, port, folder) = (self.admin.ip(), self.admin.port(), self.folder.display());
        let mut text = format!(
            "node: {{ id: compare, cluster: compare }}
admin: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }}
dynamic_resources: {{ cds_config: {{ resource_api_version: V3, path_config_source: {{ path: \"{folder}/clusters.yaml\" }} }} }}
static_resources:
  listeners:
"
        );
        for i in 0..self.fleet.clusters {
            line(
                &mut text,
                format_args!(
                    r#"  - name: l{i}
    address: {{ socket_address: {{ address: {}, port_value: {} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: l{i}
          cluster: c{i}"#,
                    self.listener(i),
                    self.port
                ),
            );
        }
        text
    }

    fn envoy_clusters(&self, changed: bool) -> String {
        let tls = self.pki.map_or_else(String::new, originate::envoy);
        let mut text = format!("version_info: \"{}\"\nresources:\n", u8::from(changed));
        for i in 0..self.fleet.clusters {
            line(
                &mut text,
                format_args!(
                    r#"  - "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: c{i}
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: c{i}
      endpoints:
      - lb_endpoints:"#
                ),
            );
            for ip in self.endpoints(i, changed) {
                line(
                    &mut text,
                    format_args!(
                        "        - endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {ENDPOINT_PORT} }} }} }}"
                    ),
                );
            }
            text += &tls;
        }
        text
    }
}

fn file_name(peer: Peer) -> &'static str {
    match peer {
        Peer::Haproxy => "haproxy.cfg",
        Peer::Nginx => "nginx.conf",
        Peer::Envoy => "envoy.yaml",
        _ => "listeners.yaml",
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes everything");
}
