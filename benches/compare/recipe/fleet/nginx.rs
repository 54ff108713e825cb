//! The fleet of nginx's stream proxy.
//!
//! Lacks metrics, which it does not have.
use super::{ENDPOINT_PORT, FleetJob, line};
use crate::originate;

/// Its admin address is one more listener, to be asked whether it is ready.
pub(super) fn configuration(job: &FleetJob<'_>, changed: bool) -> String {
    let FleetJob { admin, workers, port, folder, .. } = job;
    let mut text = format!(
        "{}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile 20000;\npid {}/nginx.pid;\nevents {{ worker_connections 16000; }}\nstream {{\n  server {{ listen {admin}; return ready; }}\n",
        originate::stream_module(),
        folder.display()
    );
    let tls = job.pki.map_or_else(String::new, originate::nginx);
    for i in 0..job.fleet.clusters {
        let servers = job.endpoints(i, changed).map(|ip| format!("server {ip}:{ENDPOINT_PORT};"));
        let servers = servers.collect::<Vec<_>>().join(" ");
        let listener = job.listener(i);
        line(
            &mut text,
            format_args!(
                "  upstream c{i} {{ {servers} }}\n  server {{\n    listen {listener}:{port};\n    proxy_pass c{i};\n{tls}  }}"
            ),
        );
    }
    text + "}\n"
}
