//! stunnel as a TLS client, after the examples in its sample configuration.
//!
//! By default sessions are resumed and TCP_NODELAY is set. Lacks a worker count: it has a thread for each session.
use super::{Job, Protocol};
use crate::pki::{Pki, SERVER_NAME};

/// `debug = err`: from `notice` on it writes two lines a session. `sni` is the host of `connect` by default,
/// which here is an address and no name. A session cache of 1000 is the default; it is named because all depends
/// on it.
pub(super) fn configuration(job: &Job<'_>, pki: &Pki) -> String {
    let Job { listen, upstream, .. } = job;
    let protocol = match job.protocol {
        Protocol::Opaque => "",
        Protocol::Postgres => "protocol = pgsql\n",
    };
    format!(
        "foreground = yes
syslog = no
pid =
debug = err
[main]
client = yes
accept = {listen}
connect = {upstream}
{protocol}CAfile = {}
cert = {}
key = {}
verifyChain = yes
checkHost = {SERVER_NAME}
sni = {SERVER_NAME}
sessionCacheSize = 1000
",
        pki.ca().display(),
        pki.certificate("client").display(),
        pki.key("client").display()
    )
}
