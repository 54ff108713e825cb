//! All keys of `listeners.yaml`: the meaning of each, its values, and its default.
//! Data only; `spec` has the types.

mod discovery;
mod login;

use std::time::Duration;

pub(in crate::config) use discovery::ENDPOINTS_FILE;
use discovery::{DISCOVERY, ENDPOINT_LIST, SOURCE, XDS};
use login::LOGIN;

use crate::policy::balance::Policy;
use super::{KeySpec, ValueKind, Presence, SectionSpec, DurationRange};

pub(in crate::config) static ROOT: SectionSpec = SectionSpec {
    about: "Configuration of ambassador. Listeners accept plaintext connections on this host; clusters connect them \
         to servers by TLS or mTLS.",
    keys: &[
        section("admin", &ADMIN),
        section("log", &LOG),
        section("runtime", &RUNTIME),
        section("shutdown", &SHUTDOWN),
        section("discovery", &DISCOVERY),
        optional("xds", ValueKind::Section(&XDS), XDS.about),
        optional("identities", ValueKind::Names(&IDENTITY),
            "Client certificates by name, for use in several clusters (tls.identity)."),
        required("listeners", ValueKind::Names(&LISTENER), "Listeners by name: the addresses where applications connect."),
        required("clusters", ValueKind::Names(&CLUSTER), "Clusters by name: the servers that sessions go to."),
    ],
};

static ADMIN: SectionSpec = SectionSpec {
    about: "The daemon's own HTTP address and control socket.",
    keys: &[
        default("bind", ValueKind::Text("127.0.0.1:9901"), "127.0.0.1:9901",
            "IP:PORT of the read-only HTTP server with metrics, health and the status page; `off` disables it."),
        optional("control", ValueKind::Text("unix:/run/ambassador/control.sock"),
            "Unix socket for requests that change state, as unix:PATH; `off` disables it. Default: control.sock in \
             $RUNTIME_DIRECTORY, else in $XDG_RUNTIME_DIR/ambassador, else in /run/ambassador."),
    ],
};

static LOG: SectionSpec = SectionSpec {
    about: "Log lines and access records: level, format and destination.",
    keys: &[
        optional("format", words(&["text", "json"]),
            "Format of a log line; not allowed with journald. Default: text on a terminal, json elsewhere."),
        default("level", words(&["error", "warn", "info", "debug", "trace", "off"]), "info",
            "The least severe level that is written."),
        default("output", OUTPUT, "stderr",
            "Destination of log lines: stderr, stdout, journald (journald:PATH for a socket elsewhere), or a file, as \
             a path with a slash. SIGHUP and SIGUSR1 reopen files."),
        default("access", ValueKind::Either(&[ValueKind::Boolean, ValueKind::Section(&ACCESS)]), "true",
            "Whether each session writes an access record when it ends; a map also sets destination, format and \
             sampling."),
    ],
};

static ACCESS: SectionSpec = SectionSpec {
    about: "Access records, one per session.",
    keys: &[
        optional("output", OUTPUT, "Destination of access records; values as for log.output. Default: log.output."),
        optional("format", words(&["text", "json"]),
            "Format of an access record; not allowed with journald. Default: log.format."),
        default("sample", ValueKind::Ratio(1), "1", SAMPLE),
        optional("slower_than", TIMEOUT, SLOWER_THAN),
    ],
};

static ACCESS_LOG: SectionSpec = SectionSpec {
    about: "Which sessions of the listener write an access record.",
    keys: &[
        default("sample", ValueKind::Ratio(1), "1", SAMPLE),
        optional("slower_than", TIMEOUT, SLOWER_THAN),
    ],
};

static RUNTIME: SectionSpec = SectionSpec {
    about: "Worker threads and file access of the daemon.",
    keys: &[
        optional("workers", ValueKind::Integer(1, 256), "Number of worker threads. Default: one per core."),
        default("landlock", words(&["auto", "off"]), "auto",
            "auto: Landlock restricts the daemon to the files it needs, as far as the kernel supports it; off: no \
             restriction."),
    ],
};

static SHUTDOWN: SectionSpec = SectionSpec {
    about: "Time limits while the daemon stops.",
    keys: &[
        default("lame_duck", DELAY, "0s",
            "How long listeners still accept after /readyz has begun to return 503."),
        default("drain_timeout", DELAY, "30s",
            "How long sessions may continue after the listeners have stopped accepting. Quiet ones are ended earlier, \
             spread over this time."),
        default("replaced_timeout", TIMEOUT_OR_NONE, "none",
            "How long sessions may continue in a process that was replaced; none: until they end."),
    ],
};

static IDENTITY: SectionSpec = SectionSpec {
    about: "A client certificate with its private key: `cert` and `key`, or `spiffe`.",
    keys: &[
        optional("cert", ValueKind::Text("certs/client.pem"),
            "PEM file of the certificate, followed by its intermediates."),
        optional("key", ValueKind::Text("certs/client.key"),
            "PEM file of the private key (PKCS#8, PKCS#1 or SEC1), not encrypted."),
        optional("spiffe", ValueKind::Text("unix:/run/spire/agent.sock"),
            "Socket of a SPIFFE Workload API that provides and renews certificate and key, instead of `cert` and `key`."),
    ],
};

static LISTENER: SectionSpec = SectionSpec {
    about: "One or more addresses where applications connect in plaintext.",
    keys: &[
        required("bind", ValueKind::Either(&[BIND, ValueKind::List(&BIND)]),
            "Addresses to accept on: IP:PORT, \"[IPV6]:PORT\", unix:PATH, systemd:NAME (sockets that a .socket unit \
             passes under that name), or a list of these."),
        required("cluster", ValueKind::Either(&[CLUSTER_NAME, ValueKind::List(&CLUSTER_NAME)]),
            "The cluster that the listener's sessions go to. With `context: connect` also a list of clusters, of \
             which the client names one."),
        default("mode", ValueKind::Mode, "0660", "Permission bits of a unix socket, in octal."),
        optional("owner", ValueKind::Account, "Owner of a unix socket. Default: the daemon's user."),
        optional("group", ValueKind::Account, "Group of a unix socket. Default: the daemon's group."),
        default("expose", ValueKind::Boolean, "false",
            "Permits plaintext addresses that are not loopback."),
        default("max_connections", ValueKind::Integer(1, 1_000_000), "1000",
            "Live sessions over all addresses of the listener; further connections are refused."),
        optional("allow", ValueKind::Either(&[words(&["anyone"]), ValueKind::List(&ValueKind::Section(&CALLER_RULE))]),
            "Rules for the local processes that may connect; one must match. Absent, or `anyone`: every peer that reaches \
             the socket. `anyone` has to be written where the cluster signs in (login)."),
        optional("per_caller", ValueKind::Section(&PER_CALLER), PER_CALLER.about),
        optional("access_log", ValueKind::Either(&[ValueKind::Boolean, ValueKind::Section(&ACCESS_LOG)]),
            "Whether the listener's sessions write access records, and which. Default: log.access."),
        default("accept_proxy", ValueKind::Boolean, "false",
            "If true, every connection must begin with a PROXY header (v1 or v2) and come from this host."),
        default("context", words(&["none", "connect"]), "none",
            "connect: each connection begins with an HTTP CONNECT request, which names the cluster and may set \
             tighter limits for the dial."),
    ],
};

static PER_CALLER: SectionSpec = SectionSpec {
    about: "Limits of each caller of the listener. A caller is a service of this host, else a user.",
    keys: &[
        optional("max_connections", ValueKind::Integer(1, 1_000_000),
            "Live sessions of one caller; further connections are refused. Default: no limit per caller."),
        optional("connections_per_second", ValueKind::Integer(1, 1_000_000),
            "New connections of one caller per second, which may come in one burst; further ones are refused. \
             Default: no limit."),
        optional("max_queued", ValueKind::Integer(0, 1_000_000),
            "Sessions of one caller that may wait in a cluster (limits.queue_timeout), checked when one more arrives \
             at this listener; 0: none waits. Default: half of the cluster's max_pending."),
    ],
};

const USER: KeySpec = optional("user", ValueKind::Account, "The caller's user.");
const GROUP: KeySpec =
    optional("group", ValueKind::Account, "One of the caller's groups, supplementary groups included.");
const UNIT: KeySpec = optional("unit", ValueKind::Text("report.service"),
    "The caller's systemd unit; `user@1000.service/report.service` for a unit of a user's service manager.");

static CALLER_RULE: SectionSpec = SectionSpec {
    about: "A rule for callers; every key that is given must match.",
    keys: &[
        USER,
        GROUP,
        UNIT,
    ],
};

static CLUSTER: SectionSpec = SectionSpec {
    about: "Interchangeable servers (endpoints), and how sessions are connected to them.",
    keys: &[
        default("protocol", PROTOCOLS, "tcp", "The protocol of the servers; with tcp nothing is parsed."),
        required("endpoints", ValueKind::Either(&[ENDPOINT_LIST, ValueKind::Section(&SOURCE)]),
            "The servers: a list of HOST:PORT or { address, weight, priority, server_name }, or { srv }, { file }, \
             { consul }, { etcd } or { kubernetes } to discover them."),
        default("balance", BALANCE, "least_connections",
            "How the endpoint of a session is chosen: round_robin; least_connections (sessions and dials per weight); \
             ewma (the same, times the average dial time); random; source_hash (by caller); first (in the list's \
             order)."),
        optional("tls", ValueKind::Section(&TLS), "TLS to the servers. Absent: plaintext."),
        optional("login", ValueKind::Either(&[ValueKind::Section(&LOGIN), ValueKind::List(&ValueKind::Section(&LOGIN))]),
            "Signs in to the servers for the client, which needs no password or may send any: a section, or a list of \
             sections with conditions on the caller, of which the first that matches counts. Absent: the client signs in."),
        section("connect", &CONNECT),
        section("limits", &LIMITS),
        section("session", &SESSION),
        default("scram_plus", words(&["auto", "strip", "keep"]), "auto",
            "protocol postgres: SCRAM-SHA-256-PLUS in the offer of a verified server. auto: removed, except for \
             clients that are known to need it (Npgsql); strip: always removed; keep: never removed."),
        optional("helo_name", ValueKind::Text("app.example.com"),
            "protocols smtp and lmtp: the name sent in EHLO, a domain or an address such as \"[10.0.0.7]\". Default: \
             the host's name if it is fully qualified, else the local address of the connection."),
        default("send_proxy", words(&["none", "v1", "v2"]), "none",
            "The PROXY header sent to the servers before everything else; v2 also carries the server's name, the \
             session's id and the caller."),
        optional("send_proxy_max", ValueKind::Integer(59, 16384),
            "Maximum length of a v2 header, in bytes; fields about session and caller that do not fit are omitted. \
             Default: what servers of the protocol are known to accept (256 to 1500)."),
        section("circuit_breaker", &CIRCUIT_BREAKER),
        section("outlier_detection", &OUTLIER_DETECTION),
        optional("health_check", ValueKind::Section(&HEALTH_CHECK),
            "Probes of each endpoint. Absent: no probes."),
        default("announce_caller", ValueKind::Boolean, "false",
            "protocols postgres and mysql: adds the caller's unit to application_name (postgres) or to the connection \
             attributes (mysql)."),
        optional("panic", words(&["all", "never"]),
            "If health checks find every endpoint down, all: use all of them; never: refuse sessions. Default: all; \
             never with a health check of type http, which tests an endpoint's role."),
        default("slow_start", DELAY, "0s",
            "How long an endpoint that returned or was added takes fewer sessions than its share; 0s: off."),
        default("on_unhealthy", words(&["keep", "close"]), "keep",
            "Sessions on an endpoint that health checks find down. keep: they continue; close: they are ended at once."),
        default("on_removed", words(&["keep", "close"]), "keep",
            "Sessions on an endpoint that is removed, or disabled by an operator. keep: they continue; close: they are \
             ended over closing_time."),
        default("closing_time", DELAY, "5s",
            "The time over which `on_removed: close` spreads the ends of sessions evenly; `on_unhealthy: close` ends \
             them at once."),
        default("on_rotation", words(&["keep", "drain"]), "keep",
            "Sessions made with a client certificate that was replaced. keep: they continue; drain: each is ended when \
             it is idle, or after an hour."),
    ],
};

static HEALTH_CHECK: SectionSpec = SectionSpec {
    about: "Probes of each endpoint, with the cluster's TLS and local_address.",
    keys: &[
        default("type", words(&["tcp", "tls", "protocol", "http", "exchange"]), "tcp",
            "What a probe does. tcp: connects; tls: also does the TLS handshake; protocol: also exchanges messages of \
             the cluster's protocol that show the server at work; http: sends a GET to an HTTP server on the same \
             host; exchange: sends bytes and searches the answer for others."),
        default("interval", INTERVAL, "5s",
            "Time from one probe to the next, varied by up to a tenth; a fifth of it, at most 1s, while results \
             disagree or a session could not connect."),
        default("timeout", TIMEOUT, "2s", "Limit of a whole probe, from name resolution to the answer."),
        default("healthy_threshold", ValueKind::Integer(1, 100), "2",
            "Successes in a row that make an unhealthy endpoint healthy. An endpoint's first probe decides alone."),
        default("unhealthy_threshold", ValueKind::Integer(1, 100), "3",
            "Failures in a row that make a healthy endpoint unhealthy. An endpoint's first probe decides alone."),
        section("http", &HTTP_CHECK),
        optional("exchange", ValueKind::Section(&EXCHANGE_CHECK), EXCHANGE_CHECK.about),
    ],
};

static HTTP_CHECK: SectionSpec = SectionSpec {
    about: "type http: the request that is sent to the endpoint's host. The defaults ask Patroni whether it is the \
         primary.",
    keys: &[
        default("port", ValueKind::Integer(1, 65_535), "8008", "Port of the HTTP server."),
        default("path", ValueKind::Text("/primary"), "/primary",
            "Path of the GET request, with its query if there is one."),
        optional("status", ValueKind::List(&ValueKind::Integer(100, 599)),
            "Status codes that mean healthy. Default: 200 only."),
        default("tls", ValueKind::Boolean, "false", "Uses HTTPS, with the CA, names and identity of the cluster's `tls`."),
    ],
};

static EXCHANGE_CHECK: SectionSpec = SectionSpec {
    about: "type exchange: bytes that are sent, and bytes that the answer must contain.",
    keys: &[
        optional("send", ValueKind::Bytes("PING\\r\\n"),
            "Bytes to send. Absent: nothing is sent, for a server that speaks first."),
        required("expect", ValueKind::Bytes("+PONG"), "Bytes that the first 4096 bytes of the answer must contain."),
    ],
};

static TLS: SectionSpec = SectionSpec {
    about: "TLS to the servers.",
    keys: &[
        default("verify", words(&["full", "ca", "pin"]), "full",
            "How the server's certificate is verified. full: issuer, dates, purpose and name (libpq's verify-full); \
             ca: all except the name (verify-ca); pin: only that the certificate is in the file `ca`, or its key \
             among `pins`."),
        default("ca", ValueKind::Text("certs/ca.pem"), "webpki",
            "CAs that may have issued the server's certificate: a PEM file, system, or webpki (Mozilla's list, \
             compiled in). A file may also contain the server's certificate itself. Without this key, an identity \
             with `spiffe` brings its own CAs."),
        optional("cert", ValueKind::Text("certs/client.pem"),
            "PEM file of the client certificate for this cluster; needs `key`."),
        optional("key", ValueKind::Text("certs/client.key"), "PEM file of the private key of `cert`."),
        optional("identity", ValueKind::Either(&[ValueKind::Text("billing"), ValueKind::List(&ValueKind::Section(&IDENTITY_RULE))]),
            "Name of one of `identities`, instead of cert and key; or a list of rules for callers, of which the first \
             that matches counts. A caller that matches none is denied."),
        optional("server_name", SERVER_NAME,
            "The name that is sent to the servers (SNI) and that their certificates must have. Default: each \
             endpoint's host."),
        optional("allowed_uris", ValueKind::List(&ValueKind::Text("spiffe://example.com/orders-db")),
            "URI names (SPIFFE IDs), one of which the server's certificate must have, instead of the host name."),
        optional("pins", ValueKind::List(&ValueKind::Text("sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
            "SHA-256 of public keys (SPKI), one of which must be the server's, in addition to the other checks; with \
             `verify: pin` it is the only check."),
        optional("crl", ValueKind::Either(&[ValueKind::Text("certs/crl.pem"), ValueKind::List(&ValueKind::Text("certs/crl.pem"))]),
            "PEM file of certificate revocation lists, or a list of files; one revocation list of each issuing CA is \
             needed, none of them expired."),
        optional("alpn", ValueKind::List(&ValueKind::Text("postgresql")),
            "Protocols offered by ALPN, in this order. Default: those of the cluster's protocol."),
        default("min_version", words(&["1.2", "1.3"]), "1.2", "Lowest TLS version that is accepted."),
        optional("start", words(&["upgrade", "direct"]),
            "upgrade: TLS begins by the protocol's own messages; direct: with the first byte. Default: upgrade if the \
             protocol has one, else direct; with mssql, whichever of the two the server accepts."),
        default("insecure_skip_verify", ValueKind::Boolean, "false",
            "Accepts any certificate; an attacker between daemon and server is not detected."),
    ],
};

static IDENTITY_RULE: SectionSpec = SectionSpec {
    about: "The identity for callers that match every key given; a rule with only `use` matches all callers.",
    keys: &[
        USER,
        GROUP,
        UNIT,
        required("use", ValueKind::Text("billing"), "Name of one of `identities`."),
    ],
};

static CONNECT: SectionSpec = SectionSpec {
    about: "How upstream connections are made.",
    keys: &[
        default("timeout", TIMEOUT, "3s", "Limit of the TCP connect, per attempt."),
        default("handshake_timeout", TIMEOUT, "5s",
            "Limit of the protocol's upgrade and the TLS handshake, per attempt; a greeting before them has its own \
             (greeting_timeout)."),
        optional("greeting_timeout", TIMEOUT,
            "Limit of the greeting, per attempt, where the server speaks before TLS; not part of handshake_timeout or \
             deadline. Default: 5m for smtp and lmtp, 30s for mysql, 10s for nats, 1m for other protocols whose \
             servers speak first."),
        optional("attempts", ValueKind::Integer(1, 100),
            "Maximum number of attempts, each on an untried endpoint while there is one. Default: every endpoint, \
             then all of them again after a wait, until the deadline."),
        default("deadline", TIMEOUT, "10s", "Limit over all attempts of a session."),
        optional("hedge_after", TIMEOUT_OR_NONE,
            "If an attempt has not succeeded after this time, another endpoint is tried in parallel, and the first \
             that is ready is used. Default: four times the endpoint's usual time, at least 100ms; none: never. Not \
             for protocols whose servers count aborted logins (mysql)."),
        section("backoff", &BACKOFF),
        optional("local_address", ValueKind::Text("10.0.0.7"),
            "Local IP address to connect from. Default: chosen by the kernel."),
        section("retry_budget", &RETRY_BUDGET),
        default("preconnect", ValueKind::Integer(0, 1000), "0",
            "Number of upstream connections kept ready for new sessions, with upgrade and handshake done; they count \
             towards `limits`. Only for protocols whose servers wait for the client."),
    ],
};

static RETRY_BUDGET: SectionSpec = SectionSpec {
    about: "Limits how many attempts may be retries, so that a dead endpoint does not multiply the dials to the others.",
    keys: &[
        default("ratio", ValueKind::Ratio(100), "0.2", "Retries per session: 0.2 permits one per five sessions."),
        default("min_per_second", ValueKind::Integer(0, 1_000_000), "3",
            "Retries per second that are permitted however few sessions there are."),
    ],
};

static CIRCUIT_BREAKER: SectionSpec = SectionSpec {
    about: "Stops dialling for sessions when dials failed in a row and the last dial to every endpoint failed. The \
         daemon then tries the endpoints itself until one serves; meanwhile sessions wait (limits.queue_timeout).",
    keys: &[
        default("consecutive_failures", ValueKind::Integer(0, 1_000_000), "5",
            "Failed dials in a row that open the breaker, if every endpoint's last one failed; 0: never."),
        default("open_for", TIMEOUT, "100ms",
            "Time until the endpoints are tried; it doubles each time that all of them fail, up to max_open_for."),
        default("max_open_for", TIMEOUT, "500ms", "Longest time from one round of trials to the next."),
        default("half_open_trials", ValueKind::Integer(1, 1000), "1",
            "Trials that must succeed, one after the other, before the breaker closes."),
    ],
};

static OUTLIER_DETECTION: SectionSpec = SectionSpec {
    about: "Ejects an endpoint after failures in a row, until the daemon's own trial, a health check or a session \
         shows that it serves; never the last usable endpoint.",
    keys: &[
        default("consecutive_failures", ValueKind::Integer(0, 1_000_000), "3",
            "Failures in a row, of one kind, that eject: connects, upgrades, handshakes, or sessions that closed \
             early (early_close); 0: never."),
        default("base_ejection_time", TIMEOUT, "500ms",
            "Time until an ejected endpoint is tried. It is multiplied by 2, 3, ... if the trial fails, or if the \
             endpoint is ejected again before it has been back for this time and served consecutive_failures \
             sessions."),
        default("max_ejection_time", TIMEOUT, "10s",
            "Longest ejection. An endpoint that has been back for this long starts at base_ejection_time again."),
        default("early_close", DELAY, "1s",
            "A session that the server ends within this time without having sent a byte counts as a failure; 0s: none \
             does."),
    ],
};

static BACKOFF: SectionSpec = SectionSpec {
    about: "Waits before a session tries an endpoint again; they double, with jitter.",
    keys: &[
        default("base", DELAY, "25ms", "First wait."),
        default("max", DELAY, "1s", "Longest wait."),
    ],
};

static LIMITS: SectionSpec = SectionSpec {
    about: "Maximum numbers of sessions and dials of the cluster; beyond them sessions wait (queue_timeout), then are \
         refused.",
    keys: &[
        default("max_connections", ValueKind::Integer(1, 1_000_000), "1024",
            "Live sessions and dials in progress, together."),
        default("max_pending", ValueKind::Integer(1, 1_000_000), "1024", "Dials in progress."),
        default("max_connections_per_endpoint", ValueKind::Integer(1, 1_000_000), "500",
            "Live sessions and dials in progress of one endpoint, together."),
        optional("queue_timeout", DELAY,
            "How long a session may wait for room, or for a cluster that is down to return; 0s: it is refused at \
             once. Default: connect.deadline. If it is set, callers take turns. At most max_pending sessions wait; if \
             it is set, at most half of them from one caller, unless per_caller.max_queued is given."),
    ],
};

static SESSION: SectionSpec = SectionSpec {
    about: "Timers of established sessions, and TCP options of their sockets.",
    keys: &[
        default("idle_timeout", TIMEOUT_OR_NONE, "none",
            "A session without a byte in either direction for this long is ended."),
        default("half_close_timeout", TIMEOUT_OR_NONE, "60s",
            "How long one direction may be silent after the other has ended, before the session is ended."),
        default("max_lifetime", TIMEOUT_OR_NONE, "none", "Maximum duration of a session."),
        default("keepalive", KEEPALIVE, "60s",
            "Idle time before TCP keepalive probes, on both legs; not towards loopback."),
        default("user_timeout", USER_TIMEOUT, "75s",
            "How long sent data may stay unacknowledged before the connection is closed (TCP_USER_TIMEOUT), on both \
             legs; not towards loopback."),
    ],
};

const SAMPLE: &str = "Share of the ordinary sessions that write a record. Ordinary sessions completed at the first \
     attempt; all others always write one.";
const SLOWER_THAN: &str = "A session that waited longer than this for the server's first byte always writes a record. \
     Needs `sample` below 1. Default: off.";
const OUTPUT: ValueKind = ValueKind::Text("/var/log/ambassador/ambassador.log");
const CLUSTER_NAME: ValueKind = ValueKind::Text("orders");
const BIND: ValueKind = ValueKind::Text("127.0.0.1:5432");
const SERVER_NAME: ValueKind = ValueKind::Text("db.example.com");

const PROTOCOLS: ValueKind = ValueKind::Word(crate::protocol::LABELS);
const BALANCE: ValueKind = ValueKind::Word(&Policy::LABELS);

const MILLISECOND: Duration = Duration::from_millis(1);
/// Long enough for every use, and short enough that adding it to the clock cannot overflow.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const DELAY: ValueKind = ValueKind::Duration(DurationRange { min: Duration::ZERO, max: YEAR, none: false });
const TIMEOUT: ValueKind = ValueKind::Duration(DurationRange { min: MILLISECOND, max: YEAR, none: false });
/// More frequent probes would mostly measure themselves.
const INTERVAL: ValueKind = ValueKind::Duration(DurationRange { min: Duration::from_millis(100), max: YEAR, none: false });
const TIMEOUT_OR_NONE: ValueKind = ValueKind::Duration(DurationRange { min: MILLISECOND, max: YEAR, none: true });
/// Whole seconds in the kernel, at most MAX_TCP_KEEPIDLE (include/net/tcp.h); beyond, setsockopt(2) fails.
const KEEPALIVE: ValueKind =
    ValueKind::Duration(DurationRange { min: Duration::from_secs(1), max: Duration::from_secs(32_767), none: true });
/// Milliseconds in an `int` of the kernel: 24 days and some hours.
const USER_TIMEOUT: ValueKind =
    ValueKind::Duration(DurationRange { min: MILLISECOND, max: Duration::from_secs(24 * 24 * 60 * 60), none: true });

const fn words(words: &'static [&'static str]) -> ValueKind {
    ValueKind::Word(words)
}

const fn required(name: &'static str, kind: ValueKind, about: &'static str) -> KeySpec {
    KeySpec { name, about, kind, presence: Presence::Required }
}

const fn default(name: &'static str, kind: ValueKind, value: &'static str, about: &'static str) -> KeySpec {
    KeySpec { name, about, kind, presence: Presence::Default(value) }
}

const fn optional(name: &'static str, kind: ValueKind, about: &'static str) -> KeySpec {
    KeySpec { name, about, kind, presence: Presence::Optional }
}

/// A section that always exists: if it is absent, its keys have their defaults.
const fn section(name: &'static str, spec: &'static SectionSpec) -> KeySpec {
    KeySpec { name, about: spec.about, kind: ValueKind::Section(spec), presence: Presence::Default("") }
}
