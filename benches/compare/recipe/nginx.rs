//! nginx's stream proxy, in two variants: as its manual starts, and tuned.
//!
//! Lacks `reuseport`: with several workers it spreads connections as it does unless told otherwise.
use std::path::Path;

use super::Job;
use crate::peer::Peer;
use crate::pki::SERVER_NAME;

/// TLS 1.3 has to be named: it is not yet among the defaults of `proxy_ssl_protocols` in 1.22.
///
/// `proxy_buffer_size` is 16k by default; a page of it that is never written costs nothing, so the larger one
/// is all gain in bulk. The manual gives no advice on it: it makes nginx "tuned".
pub(super) fn configuration(job: &Job<'_>, peer: Peer) -> String {
    let Job { listen, upstream, folder, workers, .. } = job;
    let tuned = if peer.is_tuned() { "    proxy_buffer_size 256k;\n" } else { "" };
    let folder = folder.display();
    let tls = job.pki.map_or_else(String::new, |pki| {
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
worker_processes {workers};
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
        module = stream_module()
    )
}

/// Debian builds nginx's stream proxy as a module of its own; elsewhere it is built in.
fn stream_module() -> String {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if Path::new(module).exists() { format!("load_module {module};\n") } else { String::new() }
}
