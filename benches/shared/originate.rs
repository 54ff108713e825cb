//! How each proxy is configured to originate mTLS: the upstream's name sent and verified, a certificate of its own,
//! sessions resumed.
//!
//! Lacks everything but TLS, which differs from bench to bench.
use std::path::Path;

use super::pki::{Pki, SERVER_NAME};

/// The cluster's `tls`, as a line of YAML.
pub(crate) fn ambassador(pki: &Pki) -> String {
    format!(
        "    tls: {{ ca: \"{}\", cert: \"{}\", key: \"{}\", server_name: {SERVER_NAME} }}\n",
        pki.ca().display(),
        pki.certificate("client").display(),
        pki.key("client").display()
    )
}

/// The text after a server's address, from its first blank on.
pub(crate) fn haproxy(pki: &Pki) -> String {
    format!(
        " ssl verify required ca-file {} crt {} sni str({SERVER_NAME}) verifyhost {SERVER_NAME}",
        pki.ca().display(),
        pki.bundle("client").display()
    )
}

/// Directives of a stream server.
///
/// TLS 1.3 has to be named: it is not yet among the defaults of `proxy_ssl_protocols` in 1.22.
pub(crate) fn nginx(pki: &Pki) -> String {
    format!(
        "    proxy_ssl on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    proxy_ssl_certificate {};
    proxy_ssl_certificate_key {};
    proxy_ssl_trusted_certificate {};
    proxy_ssl_verify on;
    proxy_ssl_server_name on;
    proxy_ssl_name {SERVER_NAME};
",
        pki.certificate("client").display(),
        pki.key("client").display(),
        pki.ca().display()
    )
}

/// Debian builds nginx's stream proxy as a module of its own; elsewhere it is built in.
pub(crate) fn stream_module() -> String {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if Path::new(module).exists() { format!("load_module {module};\n") } else { String::new() }
}

/// The cluster's transport socket.
///
/// Its default highest TLS version as a client was not always 1.3. Of TLS 1.3 sessions it keeps one by default, and
/// each is good for one handshake, so with several sessions starting at once most could not resume.
pub(crate) fn envoy(pki: &Pki) -> String {
    format!(
        r#"    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {SERVER_NAME}
        max_session_keys: 64
        common_tls_context:
          tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}
          tls_certificates:
          - certificate_chain: {{ filename: "{}" }}
            private_key: {{ filename: "{}" }}
          validation_context:
            trusted_ca: {{ filename: "{}" }}
            match_typed_subject_alt_names:
            - {{ san_type: DNS, matcher: {{ exact: {SERVER_NAME} }} }}
"#,
        pki.certificate("client").display(),
        pki.key("client").display(),
        pki.ca().display()
    )
}
