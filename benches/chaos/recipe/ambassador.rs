//! ambassador's listeners.yaml: its defaults, with or without the check; one worker.
//!
//! Lacks any limit or timeout of its own: the defaults are what is measured.
use super::Job;
use crate::originate;
use crate::speech::Speech;

pub(super) fn configuration(job: &Job<'_>) -> String {
    let endpoints = job.targets.iter().map(|target| {
        let address = format!("address: \"{}:{}\"", target.host, target.port);
        let weight = target.weight.map_or_else(String::new, |weight| format!(", weight: {weight}"));
        let priority =
            if target.priority > 0 { format!(", priority: {}", target.priority) } else { String::new() };
        format!("      - {{ {address}{weight}{priority} }}\n")
    });
    // A database counts probes that end without a login as errors of this host.
    let kind = if job.shape.speech == Speech::Echo { "tls" } else { "protocol" };
    let check = format!("    health_check: {{ type: {kind}, interval: 1s, timeout: 1s }}\n");
    let check = if job.variant.checks { check.as_str() } else { "" };
    let slow_start = if job.shape.slow_start { "    slow_start: 10s\n" } else { "" };
    let preconnect = match job.shape.preconnect {
        0 => String::new(),
        count => format!("    connect: {{ preconnect: {count} }}\n"),
    };
    format!(
        "admin: {{ bind: off, control: \"unix:{folder}/control\" }}
log: {{ format: json }}
runtime: {{ workers: 1 }}
listeners:
  main: {{ bind: \"{listen}\", cluster: up }}
clusters:
  up:
    protocol: {protocol}
    endpoints:
{endpoints}{tls}{check}{slow_start}{preconnect}{extra}",
        folder = job.folder.display(),
        listen = job.listen,
        protocol = job.shape.speech.protocol(),
        endpoints = endpoints.collect::<String>(),
        tls = originate::ambassador(job.pki),
        extra = job.variant.extra,
    )
}
