//! HAProxy and nginx, in front of us and behind us: each sends PROXY headers from some ports, and reports on others
//! what it reads in the headers that it gets.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::OnceLock;

use super::demand;
use super::server::{Plan, Server, shared};

/// HAProxy. It forwards connections to port 0 with a header of version 1, to port 1 with one of version 2 that has an
/// id, an authority and a checksum, to `v1.sock` and `v2.sock` in its directory. Port 2 reports what it reads in a
/// header, and port 3 does so over TLS, by HTTP.
pub(crate) fn haproxy() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        Server::start(4, None, "TERM", |plan| {
            let Plan { dir, ports, .. } = plan;
            let [v1, v2, tells, tells_tls] = ports else { panic!("four ports") };
            let pem =
                ["server.pem", "server.key"].map(|name| std::fs::read(dir.join(name)).expect("a PEM file"));
            std::fs::write(dir.join("both.pem"), pem.concat()).expect("a PEM file");
            let dir = dir.display();
            let answer = "http-request return status 200 content-type text/plain lf-string \
                          \"src=%[src]:%[src_port] dst=%[dst]:%[dst_port] id=%[fc_pp_unique_id] \
                          authority=%[fc_pp_authority] local=%[src_is_local]\"";
            let config = format!(
                "defaults\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
                 listen v1\n  mode tcp\n  bind 127.0.0.1:{v1}\n  server a unix@{dir}/v1.sock send-proxy\n\
                 listen v2\n  mode tcp\n  bind 127.0.0.1:{v2}\n  unique-id-format %{{+X}}o\\ %ci:%cp\n  \
                 server a unix@{dir}/v2.sock send-proxy-v2 proxy-v2-options unique-id,crc32c,authority\n\
                 frontend tells\n  mode http\n  bind 127.0.0.1:{tells} accept-proxy\n  {answer}\n\
                 frontend tells-tls\n  mode http\n  bind 127.0.0.1:{tells_tls} accept-proxy ssl crt {dir}/both.pem\n  \
                 {answer}\n"
            );
            let file = plan.write("haproxy.cfg", &config);
            let mut command = Command::new(demand("haproxy", "haproxy"));
            command.args(["-db", "-f", &file]);
            command
        })
    })
}

/// nginx. It forwards connections to port 0 with a header of version 1 to `nginx.sock` in its directory; port 1
/// reports what it reads in a header, port 2 does so over TLS. Ports 3 and 4 demand a client certificate, with TLS 1.2
/// and 1.3 only, and report whose it is.
pub(crate) fn nginx() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        Server::start(5, None, "TERM", |plan| {
            let Plan { dir, ports, .. } = plan;
            let [sends, tells, tells_tls, judges, judges_late] = ports else { panic!("five ports") };
            // Its workers drop root, and must reach the test's socket in this directory.
            std::fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("a passable directory");
            let dir = dir.display();
            let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
            assert!(
                std::path::Path::new(module).exists(),
                "apt-get install libnginx-mod-stream (scripts/test does it)"
            );
            let answer = "return \"from $proxy_protocol_addr:$proxy_protocol_port \
                          to $proxy_protocol_server_addr:$proxy_protocol_server_port\";";
            let demanding = |port, version| {
                format!(
                    "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {dir}/server.pem;\n\
                     ssl_certificate_key {dir}/server.key; ssl_protocols {version};\n\
                     ssl_client_certificate {dir}/ca.pem; ssl_verify_client on; return $ssl_client_s_dn; }}\n"
                )
            };
            let config = format!(
                "load_module {module};\ndaemon off;\npid {dir}/pid;\nerror_log stderr info;\nworker_processes 1;\n\
                 events {{}}\nstream {{\n\
                 server {{ listen 127.0.0.1:{sends}; proxy_pass unix:{dir}/nginx.sock; proxy_protocol on; }}\n\
                 server {{ listen 127.0.0.1:{tells} proxy_protocol; {answer} }}\n\
                 server {{ listen 127.0.0.1:{tells_tls} proxy_protocol ssl; ssl_certificate {dir}/server.pem;\n\
                 ssl_certificate_key {dir}/server.key; {answer} }}\n\
                 {}{}}}\n",
                demanding(judges, "TLSv1.2"),
                demanding(judges_late, "TLSv1.3")
            );
            let file = plan.write("nginx.conf", &config);
            let mut command = Command::new(demand("nginx", "nginx"));
            command.args(["-p", &plan.file(""), "-e", "stderr", "-c", &file]);
            command
        })
    })
}
