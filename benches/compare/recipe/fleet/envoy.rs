//! Envoy's fleet: listeners in its bootstrap, clusters in a file that it watches, which is how it reloads without a
//! control plane.
//!
//! Lacks the binary form of a control plane's messages: both files are YAML, as everybody's are.
use super::{ENDPOINT_PORT, FleetJob, line};
use crate::originate;

pub(super) fn bootstrap(job: &FleetJob<'_>) -> String {
    let (ip, port, folder) = (job.admin.ip(), job.admin.port(), job.folder.display());
    let mut text = format!(
        "node: {{ id: compare, cluster: compare }}
admin: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }}
dynamic_resources: {{ cds_config: {{ resource_api_version: V3, path_config_source: {{ path: \"{folder}/clusters.yaml\" }} }} }}
static_resources:
  listeners:
"
    );
    for i in 0..job.fleet.clusters {
        line(
            &mut text,
            format_args!(
                r#"  - name: l{i}
    address: {{ socket_address: {{ address: {}, port_value: {} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: l{i}
          cluster: c{i}"#,
                job.listener(i),
                job.port
            ),
        );
    }
    text
}

pub(super) fn clusters(job: &FleetJob<'_>, changed: bool) -> String {
    let tls = job.pki.map_or_else(String::new, originate::envoy);
    let mut text = format!("version_info: \"{}\"\nresources:\n", u8::from(changed));
    for i in 0..job.fleet.clusters {
        line(
            &mut text,
            format_args!(
                r#"  - "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: c{i}
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: c{i}
      endpoints:
      - lb_endpoints:"#
            ),
        );
        for ip in job.endpoints(i, changed) {
            line(
                &mut text,
                format_args!(
                    "        - endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {ENDPOINT_PORT} }} }} }}"
                ),
            );
        }
        text += &tls;
    }
    text
}
