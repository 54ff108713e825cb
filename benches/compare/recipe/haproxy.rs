//! HAProxy's configuration, in three variants: as in its manual, with splicing, and tuned.
//!
//! Lacks health checks, which none of the contestants makes here.
use super::Job;
use crate::originate;
use crate::peer::Peer;

/// maxconn: 20,000 descriptors hold two sockets a session and, with splice, the pipes.
///
/// `splice-auto` alone never takes effect on a raw TCP stream of 2.6, hence all three options: the row is to show
/// splicing. Its manual says that `tune.pipesize` can improve performance but is not for everyone, and advises against
/// `tune.bufsize`: they make it "tuned".
pub(super) fn configuration(job: &Job<'_>, peer: Peer) -> String {
    let Job { listen, upstream, workers, .. } = job;
    let splice = if peer == Peer::Haproxy {
        ""
    } else {
        "  option splice-auto\n  option splice-request\n  option splice-response\n"
    };
    let tuned = if peer.is_tuned() { "  tune.pipesize 1048576\n  tune.bufsize 65536\n" } else { "" };
    let tls = job.pki.map_or_else(String::new, originate::haproxy);
    format!(
        "global
  nbthread {workers}
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
