//! nginx's stream proxy, in two variants: as in its manual, and tuned.
//!
//! Lacks `reuseport`: with several workers it spreads connections by its default.
use super::Job;
use crate::originate;
use crate::peer::Peer;

/// `proxy_buffer_size` is 16k by default; a page of it that is never written costs nothing, so a larger one only gains
/// in bulk. The manual gives no advice on it: it makes nginx "tuned".
pub(super) fn configuration(job: &Job<'_>, peer: Peer) -> String {
    let Job { listen, upstream, folder, workers, .. } = job;
    let tuned = if peer.is_tuned() { "    proxy_buffer_size 256k;\n" } else { "" };
    let folder = folder.display();
    let tls = job.pki.map_or_else(String::new, originate::nginx);
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
        module = originate::stream_module()
    )
}
