//! nginx's stream proxy, whose `max_fails` and `fail_timeout` are on by default.
//!
//! Lacks active checks: those are in its commercial edition.
use super::Job;
use crate::originate;
use crate::scenario::Naming;

pub(super) fn configuration(job: &Job<'_>) -> String {
    let servers = job.targets.iter().map(|target| {
        let weight = target.weight.map_or_else(String::new, |weight| format!(" weight={weight}"));
        let backup = if target.priority > 0 { " backup" } else { "" };
        format!("server {}:{}{weight}{backup}; ", target.host, target.port)
    });
    // Only a name in a variable is resolved again.
    let (upstream, pass) = match (job.shape.naming, job.targets.first()) {
        (Naming::OneName, Some(target)) => {
            let resolver = job.resolver.map_or_else(String::new, |server| format!("resolver {server}; "));
            let name = format!("set $up {}; proxy_pass $up:{};", target.host, target.port);
            (format!("  {resolver}resolver_timeout 2s;\n"), name)
        }
        _ => {
            let servers = servers.collect::<String>();
            (format!("  upstream up {{ least_conn; {servers}}}\n"), "proxy_pass up;".to_owned())
        }
    };
    format!(
        "{module}user root;
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
stream {{
{upstream}  server {{
    listen {listen};
    {pass}
    proxy_connect_timeout 3s;
    proxy_timeout 1h;
{tls}  }}
}}
",
        module = originate::stream_module(),
        folder = job.folder.display(),
        listen = job.listen,
        tls = originate::nginx(job.pki),
    )
}
