//! HAProxy: retries 3 and redispatch, with checks on every retry, as its manual advises for servers that come and go.
//!
//! Lacks `observe`: it marks servers down by traffic, which for TCP means connects only, and those are redispatched
//! anyhow.
use super::Job;
use crate::originate;
use crate::scenario::Naming;

pub(super) fn configuration(job: &Job<'_>) -> String {
    let checks = job.variant.checks;
    let tls = originate::haproxy(job.pki);
    let check = if checks { " check inter 1s" } else { "" };
    let slow_start = if job.shape.slow_start { " slowstart 10s" } else { "" };
    // Without a section of its own HAProxy resolves only once, at its start.
    let names = if job.resolver.is_some() && checks { " resolvers names init-addr none" } else { "" };
    let servers = job.targets.iter().map(|target| {
        let weight = target.weight.map_or_else(String::new, |weight| format!(" weight {weight}"));
        let backup = if target.priority > 0 { " backup" } else { "" };
        // A name has as many servers as addresses, at most these.
        let is_template = job.shape.naming == Naming::OneName && checks;
        let head =
            if is_template { "server-template up 2".to_owned() } else { format!("server up{}", target.key) };
        format!("  {head} {}:{}{tls}{check}{weight}{backup}{slow_start}{names}\n", target.host, target.port)
    });
    let resolvers = job.resolver.filter(|_| checks).map_or_else(String::new, |server| {
        format!("resolvers names\n  nameserver first {server}:53\n  hold valid 1s\n")
    });
    // All backups serve then, not only the first.
    let backups =
        if job.targets.iter().any(|target| target.priority > 0) { "  option allbackups\n" } else { "" };
    format!(
        "global
  nbthread 1
{resolvers}defaults
  mode tcp
  timeout connect 3s
  timeout client 1h
  timeout server 1h
  retries 3
  option redispatch{each}
{backups}  balance leastconn
listen main
  bind {listen}
{servers}",
        each = if checks { " 1" } else { "" },
        listen = job.listen,
        servers = servers.collect::<String>(),
    )
}
