//! HAProxy's fleet, with the Prometheus exporter that it is built with.
//!
//! Lacks health checks, which are off unless asked for.
use super::{ENDPOINT_PORT, FleetJob, line};
use crate::originate;

pub(super) fn configuration(job: &FleetJob<'_>, changed: bool) -> String {
    let FleetJob { admin, workers, port, .. } = job;
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
    let tls = job.pki.map_or_else(String::new, originate::haproxy);
    for i in 0..job.fleet.clusters {
        line(
            &mut text,
            format_args!("frontend f{i}\n  bind {}:{port}\n  default_backend c{i}", job.listener(i)),
        );
        line(&mut text, format_args!("backend c{i}"));
        for (k, ip) in job.endpoints(i, changed).enumerate() {
            line(&mut text, format_args!("  server s{k} {ip}:{ENDPOINT_PORT}{tls}"));
        }
    }
    text
}
