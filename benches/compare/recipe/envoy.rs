//! Envoy's TCP proxy.
//!
//! Lacks a connection balancer: with several workers the kernel spreads connections, its default on Linux. Lacks
//! PostgreSQL's upgrade: the filter for it is in its contrib build alone.
use super::Job;
use crate::originate;

/// Circuit breakers allow 1024 connections unless told otherwise.
pub(super) fn configuration(job: &Job<'_>) -> String {
    let Job { listen, upstream, .. } = job;
    let tls = job.pki.map_or_else(String::new, originate::envoy);
    format!(
        r#"static_resources:
  listeners:
  - name: main
    address: {{ socket_address: {{ address: {listen_ip}, port_value: {listen_port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: main
          cluster: up
  clusters:
  - name: up
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds: [ {{ max_connections: 15000, max_pending_requests: 15000 }} ]
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {up_ip}, port_value: {up_port} }} }} }}
{tls}"#,
        listen_ip = listen.ip(),
        listen_port = listen.port(),
        up_ip = upstream.ip(),
        up_port = upstream.port()
    )
}
