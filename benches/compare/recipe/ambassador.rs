//! ambassador's listeners.yaml: only the access log and the admin address are switched off.
//!
//! Its limits are very high: the idle row has more sessions than the defaults allow.
use super::{Job, Protocol};
use crate::originate;

pub(super) fn configuration(job: &Job<'_>) -> String {
    let Job { listen, upstream, workers, .. } = job;
    let tls = job.pki.map_or_else(String::new, originate::ambassador);
    let protocol = match job.protocol {
        Protocol::Opaque => "tcp",
        Protocol::Postgres => "postgres",
    };
    format!(
        "admin: {{ bind: off, control: off }}
log: {{ access: false, level: warn }}
runtime: {{ workers: {workers} }}
listeners:
  main: {{ bind: \"{listen}\", cluster: up, max_connections: 15000 }}
clusters:
  up:
    protocol: {protocol}
    endpoints: [\"{upstream}\"]
    limits: {{ max_connections: 15000, max_pending: 15000, max_connections_per_endpoint: 15000 }}
{tls}"
    )
}
