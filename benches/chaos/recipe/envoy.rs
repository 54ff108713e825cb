//! Envoy's TCP proxy, with its default outlier detection and three attempts; with a TCP check every second.
//!
//! Lacks a check of TLS: its TCP check connects, and sends nothing here. Lacks tuned circuit breakers.
use super::Job;
use crate::originate;
use crate::scenario::Naming;

pub(super) fn configuration(job: &Job<'_>) -> String {
    let named = job.shape.naming != Naming::Addresses;
    let discovery = if named {
        "    type: STRICT_DNS\n    respect_dns_ttl: true\n    dns_lookup_family: V4_ONLY\n"
    } else {
        "    type: STATIC\n"
    };
    let checks = if job.variant.checks {
        "    health_checks:\n    - { timeout: 1s, interval: 1s, unhealthy_threshold: 3, healthy_threshold: 2, tcp_health_check: {} }\n"
    } else {
        ""
    };
    let slow_start = if job.shape.slow_start {
        "    least_request_lb_config: { slow_start_config: { slow_start_window: 10s } }\n"
    } else {
        ""
    };
    format!(
        r#"static_resources:
  listeners:
  - name: main
    address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: main
          cluster: up
          max_connect_attempts: 3
  clusters:
  - name: up
{discovery}    connect_timeout: 3s
    lb_policy: LEAST_REQUEST
    outlier_detection: {{}}
{checks}{slow_start}    load_assignment:
      cluster_name: up
      endpoints:
{groups}{tls}"#,
        ip = job.listen.ip(),
        port = job.listen.port(),
        groups = groups(job),
        tls = originate::envoy(job.pki),
    )
}

/// One for each priority.
fn groups(job: &Job<'_>) -> String {
    let mut priorities: Vec<u32> = job.targets.iter().map(|target| target.priority).collect();
    priorities.dedup();
    let group = |priority: u32| {
        let endpoints = job.targets.iter().filter(|target| target.priority == priority).map(|target| {
            let weight = target
                .weight
                .map_or_else(String::new, |weight| format!("          load_balancing_weight: {weight}\n"));
            format!(
                "        - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}\n{weight}",
                target.host, target.port
            )
        });
        format!("      - priority: {priority}\n        lb_endpoints:\n{}", endpoints.collect::<String>())
    };
    priorities.into_iter().map(group).collect()
}
