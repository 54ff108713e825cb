//! How each contestant is told to do the job: one listener, one upstream, one thread, no access log, room
//! for the sessions of the idle row, the server's name checked, sessions resumed.
//!
//! Each as its own manual advises for this job, else its defaults; a setting that makes a peer look
//! worse than it is would be our defect, so the reason stands beside everything that is set. Lacks
//! per-row tuning: a user has one configuration for all that comes.
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peer::Peer;
use crate::pki::{Pki, SERVER_NAME};

pub(crate) struct Job<'a> {
    pub(crate) program: &'a Path,
    pub(crate) listen: SocketAddr,
    pub(crate) upstream: SocketAddr,
    /// Absent when the upstream is plain.
    pub(crate) pki: Option<&'a Pki>,
    /// In bulk rows; the splice floor fits its pipes to it.
    pub(crate) sessions: usize,
    /// For the configuration file.
    pub(crate) folder: &'a Path,
}

impl Job<'_> {
    /// Writes what the contestant wants to read and says how to start it.
    pub(crate) fn command(&self, peer: Peer) -> io::Result<Command> {
        let mut command = Command::new(self.program);
        match peer {
            Peer::Floor => {
                command.arg("floor-epoll").args([self.listen, self.upstream].map(|at| at.to_string()));
            }
            Peer::FloorSplice => {
                command.arg("floor-splice").args([self.listen, self.upstream].map(|at| at.to_string()));
                // Many pipes of 1 MiB fall out of the cache; 256 KiB was the better half of two trials.
                command.arg((if self.sessions == 1 { 1 << 20 } else { 256 << 10 }).to_string());
            }
            Peer::Ambassador => {
                command.args(["run", "--config"]).arg(self.write("listeners.yaml", &self.ambassador())?);
            }
            Peer::Haproxy | Peer::HaproxySplice | Peer::HaproxyTuned => {
                let text = self.haproxy(peer);
                command.args(["-db", "-f"]).arg(self.write("haproxy.cfg", &text)?);
            }
            Peer::Nginx | Peer::NginxTuned => {
                let file = self.write("nginx.conf", &self.nginx(peer))?;
                command.arg("-p").arg(self.folder).args(["-e", "stderr", "-c"]).arg(file);
            }
            Peer::Envoy => {
                let file = self.write("envoy.yaml", &self.envoy())?;
                command
                    .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"])
                    .arg(file);
            }
        }
        Ok(command)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let file = self.folder.join(name);
        fs::write(&file, text)?;
        Ok(file)
    }

    fn ambassador(&self) -> String {
        let Self { listen, upstream, .. } = self;
        let tls = self.pki.map_or_else(String::new, |pki| {
            format!(
                "    tls: {{ ca: \"{}\", cert: \"{}\", key: \"{}\", server_name: {SERVER_NAME} }}\n",
                pki.ca().display(),
                pki.certificate("client").display(),
                pki.key("client").display()
            )
        });
        format!(
            "admin: {{ bind: off, control: off }}
log: {{ access: false, level: warn }}
runtime: {{ workers: 1 }}
listeners:
  main: {{ bind: \"{listen}\", cluster: up, max_connections: 15000 }}
clusters:
  up:
    protocol: tcp
    endpoints: [\"{upstream}\"]
    limits: {{ max_connections: 15000, max_pending: 15000, max_connections_per_endpoint: 15000 }}
{tls}"
        )
    }

    /// maxconn: 20,000 descriptors hold two sockets a session and, with splice, the pipes.
    ///
    /// `splice-auto` alone never sets in on a raw TCP stream of 2.6, hence all three options: splicing is
    /// what is to be shown. Its manual says of `tune.pipesize` that it can improve performance but is not
    /// for everybody, and advises against `tune.bufsize`: they make it "tuned".
    fn haproxy(&self, peer: Peer) -> String {
        let Self { listen, upstream, .. } = self;
        let splice = if peer == Peer::Haproxy {
            ""
        } else {
            "  option splice-auto\n  option splice-request\n  option splice-response\n"
        };
        let tuned = if peer.is_tuned() { "  tune.pipesize 1048576\n  tune.bufsize 65536\n" } else { "" };
        let tls = self.pki.map_or_else(String::new, |pki| {
            format!(
                " ssl verify required ca-file {} crt {} sni str({SERVER_NAME}) verifyhost {SERVER_NAME}",
                pki.ca().display(),
                pki.bundle("client").display()
            )
        });
        format!(
            "global
  nbthread 1
  maxconn 7000
{tuned}defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
{splice}frontend main
  bind {listen}
  default_backend up
backend up
  server up {upstream}{tls}
"
        )
    }

    /// TLS 1.3 has to be named: it is not yet among the defaults of `proxy_ssl_protocols` in 1.22.
    ///
    /// `proxy_buffer_size` is 16k by default; a page of it that is never written costs nothing, so the larger one
    /// is all gain in bulk. The manual gives no advice on it: it makes nginx "tuned".
    fn nginx(&self, peer: Peer) -> String {
        let Self { listen, upstream, folder, .. } = self;
        let tuned = if peer.is_tuned() { "    proxy_buffer_size 256k;\n" } else { "" };
        let folder = folder.display();
        let tls = self.pki.map_or_else(String::new, |pki| {
            format!(
                "    proxy_ssl on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    proxy_ssl_certificate {};
    proxy_ssl_certificate_key {};
    proxy_ssl_trusted_certificate {};
    proxy_ssl_verify on;
    proxy_ssl_server_name on;
    proxy_ssl_name {SERVER_NAME};
",
                pki.certificate("client").display(),
                pki.key("client").display(),
                pki.ca().display()
            )
        });
        format!(
            "{module}daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
events {{ worker_connections 16000; }}
stream {{
  upstream up {{ server {upstream}; }}
  server {{
    listen {listen} backlog=4096;
    proxy_pass up;
    proxy_connect_timeout 5s;
    proxy_timeout 1h;
{tuned}{tls}  }}
}}
",
            module = nginx_stream_module()
        )
    }

    /// Circuit breakers allow 1024 connections unless told otherwise; the highest TLS version of a client
    /// has not always been 1.3. Of TLS 1.3 sessions it keeps one unless told otherwise, and each is good
    /// for one handshake, so with several sessions starting at once most could not resume.
    fn envoy(&self) -> String {
        let Self { listen, upstream, .. } = self;
        let tls = self.pki.map_or_else(String::new, |pki| {
            format!(
                r#"    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {SERVER_NAME}
        max_session_keys: 64
        common_tls_context:
          tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}
          tls_certificates:
          - certificate_chain: {{ filename: "{}" }}
            private_key: {{ filename: "{}" }}
          validation_context:
            trusted_ca: {{ filename: "{}" }}
            match_typed_subject_alt_names:
            - {{ san_type: DNS, matcher: {{ exact: {SERVER_NAME} }} }}
"#,
                pki.certificate("client").display(),
                pki.key("client").display(),
                pki.ca().display()
            )
        });
        format!(
            r#"static_resources:
  listeners:
  - name: main
    address: {{ socket_address: {{ address: {listen_ip}, port_value: {listen_port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: main
          cluster: up
  clusters:
  - name: up
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds: [ {{ max_connections: 15000, max_pending_requests: 15000 }} ]
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {up_ip}, port_value: {up_port} }} }} }}
{tls}"#,
            listen_ip = listen.ip(),
            listen_port = listen.port(),
            up_ip = upstream.ip(),
            up_port = upstream.port()
        )
    }
}

/// Debian builds nginx's stream proxy as a module of its own; elsewhere it is built in.
fn nginx_stream_module() -> String {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if Path::new(module).exists() { format!("load_module {module};\n") } else { String::new() }
}
