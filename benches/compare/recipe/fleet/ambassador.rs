//! ambassador's fleet, with only the access log and the control socket switched off.
//!
//! Lacks health checks: nobody listens at the endpoints.
use super::{ENDPOINT_PORT, FleetJob, line};
use crate::originate;

pub(super) fn configuration(job: &FleetJob<'_>, changed: bool) -> String {
    let FleetJob { admin, workers, port, .. } = job;
    let mut text = format!(
        "admin: {{ bind: \"{admin}\", control: off }}\nlog: {{ access: false, level: warn }}\nruntime: {{ workers: {workers} }}\nlisteners:\n"
    );
    for i in 0..job.fleet.clusters {
        line(&mut text, format_args!("  l{i}: {{ bind: \"{}:{port}\", cluster: c{i} }}", job.listener(i)));
    }
    text += "clusters:\n";
    let tls = job.pki.map_or_else(String::new, originate::ambassador);
    for i in 0..job.fleet.clusters {
        let endpoints = job.endpoints(i, changed).map(|ip| format!("\"{ip}:{ENDPOINT_PORT}\""));
        let endpoints = endpoints.collect::<Vec<_>>().join(", ");
        line(&mut text, format_args!("  c{i}:\n    endpoints: [{endpoints}]"));
        text += &tls;
    }
    text
}
