//! All keys of `listeners.yaml`: what each is for, what it takes, and its default. Data only; `spec` has
//! the meaning of its terms.

use std::time::Duration;

use super::{KeySpec, ValueKind, Presence, SectionSpec, DurationRange};

pub(in crate::config) static ROOT: SectionSpec = SectionSpec {
    about: "Plaintext in on this host, TLS or mTLS out, in the protocol's own way.",
    keys: &[
        section("admin", &ADMIN),
        section("log", &LOG),
        section("runtime", &RUNTIME),
        section("shutdown", &SHUTDOWN),
        optional("identities", ValueKind::Names(&IDENTITY),
            "Client certificates by name, for several clusters to share."),
        required("listeners", ValueKind::Names(&LISTENER), "Where applications connect, by name."),
        required("clusters", ValueKind::Names(&CLUSTER), "Where their sessions go, by name."),
    ],
};

static ADMIN: SectionSpec = SectionSpec {
    about: "Where the daemon answers questions about itself.",
    keys: &[
        default("bind", ValueKind::Text("127.0.0.1:9901"), "127.0.0.1:9901",
            "HTTP address of metrics, health and status page, read-only; `off` for none."),
        optional("control", ValueKind::Text("unix:/run/ambassador/control.sock"),
            "Socket for all that changes state, as unix:PATH; `off` for none. Default: control.sock \
             in $RUNTIME_DIRECTORY, else in $XDG_RUNTIME_DIR/ambassador, else in /run/ambassador."),
    ],
};

static LOG: SectionSpec = SectionSpec {
    about: "What is written, and where.",
    keys: &[
        optional("format", words(&["text", "json"]),
            "How a line looks. Default: text on a terminal, json elsewhere."),
        default("level", words(&["error", "warn", "info", "debug", "trace", "off"]), "info",
            "The least important level that is written."),
        default("output", OUTPUT, "stderr",
            "Where the daemon's own words go: stderr, stdout, journald (journald:PATH where its socket is elsewhere), or a \
             file, as a path with a slash. SIGHUP and SIGUSR1 open files again."),
        default("access", ValueKind::Either(&[ValueKind::Boolean, ValueKind::Section(&ACCESS)]), "true",
            "Whether each session leaves a record at its end; a section says where, too."),
    ],
};

static ACCESS: SectionSpec = SectionSpec {
    about: "The records of sessions.",
    keys: &[
        optional("output", OUTPUT, "Where they go, as with `log.output`. Default: where that goes."),
        optional("format", words(&["text", "json"]), "How they look. Default: as `log.format` says."),
        default("sample", ValueKind::Ratio(1), "1", SAMPLE),
        optional("slower_than", TIMEOUT, SLOWER_THAN),
    ],
};

static ACCESS_LOG: SectionSpec = SectionSpec {
    about: "Which sessions of the listener leave a record.",
    keys: &[
        default("sample", ValueKind::Ratio(1), "1", SAMPLE),
        optional("slower_than", TIMEOUT, SLOWER_THAN),
    ],
};

static RUNTIME: SectionSpec = SectionSpec {
    about: "What the daemon takes of the host.",
    keys: &[
        optional("workers", ValueKind::Integer(1, 256), "Worker threads. Default: one per core."),
        default("landlock", words(&["auto", "off"]), "auto",
            "Whether the daemon gives up all files but those it needs, as far as the kernel has Landlock."),
    ],
};

static SHUTDOWN: SectionSpec = SectionSpec {
    about: "How the daemon stops.",
    keys: &[
        default("lame_duck", DELAY, "0s",
            "How long it goes on accepting after it said that it is not ready."),
        default("drain_timeout", DELAY, "30s", "How long sessions may go on after it stopped accepting."),
        default("replaced_timeout", TIMEOUT_OR_NONE, "none",
            "How long sessions may go on in a process that another has taken over from."),
    ],
};

static IDENTITY: SectionSpec = SectionSpec {
    about: "A client certificate with its key.",
    keys: &[
        optional("cert", ValueKind::Text("certs/client.pem"),
            "PEM file of the certificate, then its intermediates."),
        optional("key", ValueKind::Text("certs/client.key"),
            "PEM file of the private key (PKCS#8, PKCS#1 or SEC1), not encrypted."),
        optional("spiffe", ValueKind::Text("unix:/run/spire/agent.sock"),
            "A SPIFFE Workload API that gives certificate and key instead, and renews them."),
    ],
};

static LISTENER: SectionSpec = SectionSpec {
    about: "An address, or several, where applications connect in plaintext.",
    keys: &[
        required("bind", ValueKind::Either(&[BIND, ValueKind::List(&BIND)]),
            "IP:PORT, \"[IPV6]:PORT\", unix:PATH, systemd:NAME (sockets that a .socket unit passes under that \
             name), or a list of these."),
        required("cluster", ValueKind::Either(&[CLUSTER_NAME, ValueKind::List(&CLUSTER_NAME)]),
            "The cluster its sessions go to; with `context: connect` also a list of those that a client may name."),
        default("mode", ValueKind::Mode, "0660", "Permission bits of a unix socket."),
        optional("owner", ValueKind::Account, "Owner of a unix socket. Default: whoever the daemon runs as."),
        optional("group", ValueKind::Account, "Group of a unix socket. Default: the daemon's own."),
        default("expose", ValueKind::Boolean, "false",
            "Says that a plaintext address which is not loopback is meant."),
        default("max_connections", ValueKind::Integer(1, 1_000_000), "1000",
            "Live sessions over all its addresses; more are refused."),
        optional("allow", ValueKind::List(&ValueKind::Section(&CALLER_RULE)),
            "Who on this host may connect: rules, of which one must match. Absent: whoever reaches the socket."),
        optional("per_caller", ValueKind::Section(&PER_CALLER), PER_CALLER.about),
        optional("access_log", ValueKind::Either(&[ValueKind::Boolean, ValueKind::Section(&ACCESS_LOG)]),
            "Whether its sessions leave records, and which. Default: as `log.access` says."),
        default("accept_proxy", ValueKind::Boolean, "false",
            "Whether every connection begins with a PROXY header (v1 or v2), and may come from this host only."),
        default("context", words(&["none", "connect"]), "none",
            "Whether each connection opens with an HTTP CONNECT request, which names the cluster and may tighten \
             the dial."),
    ],
};

static PER_CALLER: SectionSpec = SectionSpec {
    about: "What each caller may take of the listener: a service of the host, else a user.",
    keys: &[
        optional("max_connections", ValueKind::Integer(1, 1_000_000), "Live sessions of one caller; more are refused."),
        optional("connections_per_second", ValueKind::Integer(1, 1_000_000),
            "New connections of one caller in a second, all at once if it likes; more are refused."),
        optional("max_queued", ValueKind::Integer(0, 1_000_000),
            "Sessions of one caller that may wait for room in a cluster (limits.queue_timeout) when one more comes in \
             here; 0: none waits. Default: half of the cluster's max_pending."),
    ],
};

static CALLER_RULE: SectionSpec = SectionSpec {
    about: "What a caller must be, in all that is given.",
    keys: &[
        optional("user", ValueKind::Account, "Its user."),
        optional("group", ValueKind::Account, "One of its groups, supplementary ones among them."),
        optional("unit", ValueKind::Text("report.service"),
            "Its systemd unit; `user@1000.service/report.service` for one of a user's own."),
    ],
};

static CLUSTER: SectionSpec = SectionSpec {
    about: "Interchangeable endpoints, and how a session gets a connection to one of them.",
    keys: &[
        default("protocol", PROTOCOLS, "tcp", "What its servers speak."),
        required("endpoints", ValueKind::Either(&[ENDPOINT_LIST, ValueKind::Section(&SOURCE)]),
            "Its servers: a list of HOST:PORT or { address, weight, priority, server_name }; or where they are found."),
        default("balance", BALANCE, "least_connections",
            "Which endpoint takes the next session."),
        optional("tls", ValueKind::Section(&TLS), "TLS towards the servers. Absent: plaintext."),
        section("connect", &CONNECT),
        section("limits", &LIMITS),
        section("session", &SESSION),
        default("scram_plus", words(&["auto", "strip", "keep"]), "auto",
            "protocol postgres: what becomes of SCRAM-SHA-256-PLUS in the server's offer."),
        optional("helo_name", ValueKind::Text("app.example.com"),
            "protocols smtp and lmtp: what we call ourselves in EHLO, a domain or an address such as \"[10.0.0.7]\". Default: the \
             host's name where that is a full one, else the address that the connection comes from."),
        default("send_proxy", words(&["none", "v1", "v2"]), "none",
            "Which PROXY header the servers get in front of everything else; v2 carries the server's name, \
             the session's id, and who the caller is."),
        optional("send_proxy_max", ValueKind::Integer(59, 16384),
            "The most bytes that a v2 header may have; what it says of session and caller beyond that is left out. Default: \
             what servers of the protocol are known to take."),
        section("circuit_breaker", &CIRCUIT_BREAKER),
        section("outlier_detection", &OUTLIER_DETECTION),
        optional("health_check", ValueKind::Section(&HEALTH_CHECK),
            "Probes of each endpoint. Absent: none."),
        default("announce_caller", ValueKind::Boolean, "false",
            "protocols postgres and mysql: adds the caller's unit to application_name, or to the connection attributes."),
        optional("panic", words(&["all", "never"]),
            "Health checks find every endpoint down: use all of them, or refuse. Default: all; never with a \
             health check of type http, which asks for a role."),
        default("slow_start", DELAY, "0s",
            "How long an endpoint that came back, or joined others, takes fewer sessions; 0s for not at all."),
        default("on_unhealthy", words(&["keep", "close"]), "keep",
            "What becomes of sessions on an endpoint that health checks find down."),
        default("on_removed", words(&["keep", "close"]), "keep",
            "What becomes of sessions on an endpoint that is removed, or disabled by an operator."),
        default("closing_time", DELAY, "5s",
            "Sessions that end with an endpoint that was removed or disabled do so evenly spread over this time; on one that is down, at once."),
        default("on_rotation", words(&["keep", "drain"]), "keep",
            "What becomes of sessions made with an identity that was replaced; drain ends them once they rest."),
    ],
};

static HEALTH_CHECK: SectionSpec = SectionSpec {
    about: "Probes of each endpoint, through the cluster's own TLS and local_address.",
    keys: &[
        default("type", words(&["tcp", "tls", "protocol", "http", "exchange"]), "tcp",
            "What a probe does: connects; shakes hands too; hears from the server by its protocol that it \
             serves; asks an HTTP server beside it; or sends bytes and looks for others."),
        default("interval", INTERVAL, "5s",
            "From one probe to the next, give or take a tenth; a fifth of it while results disagree."),
        default("timeout", TIMEOUT, "2s", "For a whole probe, from resolving to the answer."),
        default("healthy_threshold", ValueKind::Integer(1, 100), "2",
            "Successes in a row after which an endpoint that is down counts as healthy."),
        default("unhealthy_threshold", ValueKind::Integer(1, 100), "3",
            "Failures in a row after which a healthy endpoint counts as down."),
        section("http", &HTTP_CHECK),
        optional("exchange", ValueKind::Section(&EXCHANGE_CHECK), EXCHANGE_CHECK.about),
    ],
};

static HTTP_CHECK: SectionSpec = SectionSpec {
    about: "type http: what is asked of the endpoint's host. The defaults ask Patroni for the primary.",
    keys: &[
        default("port", ValueKind::Integer(1, 65_535), "8008", "The HTTP server's port."),
        default("path", ValueKind::Text("/primary"), "/primary", "What is asked for by GET, with a query if there is one."),
        optional("status", ValueKind::List(&ValueKind::Integer(100, 599)),
            "The answers that mean healthy. Default: 200 alone."),
        default("tls", ValueKind::Boolean, "false", "HTTPS, with the cluster's CA, names and identity."),
    ],
};

static EXCHANGE_CHECK: SectionSpec = SectionSpec {
    about: "type exchange: bytes that are sent, and bytes that the answer must have in it.",
    keys: &[
        optional("send", ValueKind::Bytes("PING\\r\\n"), "What is sent. Absent: nothing, for a server that speaks first."),
        required("expect", ValueKind::Bytes("+PONG"), "What must be among the first 4096 bytes of the answer."),
    ],
};

static SOURCE: SectionSpec = SectionSpec {
    about: "Where the servers are found: one of these.",
    keys: &[
        optional("srv", ValueKind::Text("_postgresql._tcp.example.com"),
            "An SRV record, followed by its TTL."),
        optional("file", ValueKind::Text("endpoints/orders.yaml"),
            "A YAML or JSON file with an `endpoints:` list like the one here, followed while it changes."),
    ],
};

pub(in crate::config) static ENDPOINTS_FILE: SectionSpec = SectionSpec {
    about: "The servers of a cluster.",
    keys: &[required("endpoints", ENDPOINT_LIST, "The servers; an empty list says that there is none.")],
};

static ENDPOINT: SectionSpec = SectionSpec {
    about: "One server.",
    keys: &[
        required("address", ValueKind::Text("db1.example.com:5432"), "HOST:PORT."),
        default("weight", ValueKind::Integer(1, 65_535), "1", "Its share of the sessions, against the others'."),
        optional("server_name", SERVER_NAME,
            "The name in its certificate. Default: the cluster's tls.server_name, else its host."),
        default("priority", ValueKind::Integer(0, 1000), "0",
            "Endpoints of a higher number are for when those of a lower one cannot be used."),
    ],
};

static TLS: SectionSpec = SectionSpec {
    about: "TLS towards the servers.",
    keys: &[
        default("verify", words(&["full", "ca", "pin"]), "full",
            "How much of the server's certificate counts. `full`: who signed it, dates, purpose and name (libpq's verify-full); \
             `ca`: all but the name (verify-ca); `pin`: that it is in the file `ca`, or its key among `pins`, and nothing else."),
        default("ca", ValueKind::Text("certs/ca.pem"), "webpki",
            "Who may have signed the server's certificate: a PEM file, `system` or `webpki` \
             (Mozilla's list). A file may also hold that certificate itself."),
        optional("cert", ValueKind::Text("certs/client.pem"),
            "PEM file of our certificate; with `key`, an identity of this cluster's own."),
        optional("key", ValueKind::Text("certs/client.key"), "PEM file of the certificate's private key."),
        optional("identity", ValueKind::Either(&[ValueKind::Text("billing"), ValueKind::List(&ValueKind::Section(&IDENTITY_RULE))]),
            "One of `identities`, instead of cert and key; or by who connects, the first rule that matches. No match is a denial."),
        optional("server_name", SERVER_NAME,
            "The name sent to the servers, and the one their certificates must bear. Default: each \
             endpoint's host."),
        optional("allowed_uris", ValueKind::List(&ValueKind::Text("spiffe://example.com/orders-db")),
            "URI names (SPIFFE IDs) of which the server's certificate must bear one, instead of the name."),
        optional("pins", ValueKind::List(&ValueKind::Text("sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
            "SHA-256 of public keys (SPKI) of which the server's must be one, in addition; instead of all else with `verify: pin`."),
        optional("crl", ValueKind::Either(&[ValueKind::Text("certs/crl.pem"), ValueKind::List(&ValueKind::Text("certs/crl.pem"))]),
            "PEM file of revocation lists, or several: one of each CA that signs, none of them expired."),
        optional("alpn", ValueKind::List(&ValueKind::Text("postgresql")),
            "Protocols offered by ALPN, in this order. Default: what the cluster's protocol has."),
        default("min_version", words(&["1.2", "1.3"]), "1.2", "The lowest TLS version accepted."),
        optional("start", words(&["upgrade", "direct"]),
            "By the protocol's own dialogue, or with the first byte. Default: upgrade where the \
             protocol has one; with mssql, whichever of the two the server takes."),
        default("insecure_skip_verify", ValueKind::Boolean, "false",
            "Accepts any certificate: whoever sits between is not noticed."),
    ],
};

static IDENTITY_RULE: SectionSpec = SectionSpec {
    about: "Which identity a caller gets that is all that is given; with `use` alone, whoever is left.",
    keys: &[
        optional("user", ValueKind::Account, "Its user."),
        optional("group", ValueKind::Account, "One of its groups, supplementary ones among them."),
        optional("unit", ValueKind::Text("report.service"),
            "Its systemd unit; `user@1000.service/report.service` for one of a user's own."),
        required("use", ValueKind::Text("billing"), "One of `identities`."),
    ],
};

static CONNECT: SectionSpec = SectionSpec {
    about: "How a session's upstream connection comes about.",
    keys: &[
        default("timeout", TIMEOUT, "3s", "TCP, per attempt."),
        default("handshake_timeout", TIMEOUT, "5s", "Upgrade and TLS, per attempt, but for a greeting before them (`greeting_timeout`)."),
        optional("greeting_timeout", TIMEOUT,
            "How long a server that has accepted may take to greet, where it has to before TLS; not part of handshake_timeout \
             nor of deadline. Default: 5m for smtp and lmtp, 30s for mysql, 10s for nats, 1m for others whose servers speak first."),
        optional("attempts", ValueKind::Integer(1, 100),
            "Attempts at most, each on an endpoint not yet tried while there is one. Default: every endpoint, and then all \
             of them again after a wait, until the deadline."),
        default("deadline", TIMEOUT, "10s", "Over all attempts."),
        optional("hedge_after", TIMEOUT_OR_NONE,
            "An attempt that has not led anywhere after so long gets another endpoint tried beside it, and whichever is ready \
             first is used. Default: four times what the endpoint usually takes, 100 ms at least; `none` for never. Never \
             where servers mind a login that breaks off (mysql)."),
        section("backoff", &BACKOFF),
        optional("local_address", ValueKind::Text("10.0.0.7"),
            "The local IP address to connect from. Default: the kernel's choice."),
        section("retry_budget", &RETRY_BUDGET),
        default("preconnect", ValueKind::Integer(0, 1000), "0",
            "Upstream connections kept ready for sessions to come, upgrade and handshake done; they count in the \
             limits. For protocols whose servers wait for the client."),
    ],
};

static RETRY_BUDGET: SectionSpec = SectionSpec {
    about: "How many attempts may be retries, so that a dead endpoint does not multiply the dials to the others.",
    keys: &[
        default("ratio", ValueKind::Ratio(100), "0.2", "Retries per session: 0.2 is one for five."),
        default("min_per_second", ValueKind::Integer(0, 1_000_000), "3",
            "Retries a second that are there however few the sessions."),
    ],
};

static CIRCUIT_BREAKER: SectionSpec = SectionSpec {
    about: "Stops dialling for sessions when dials fail in a row and no endpoint is left that may be good; until one serves, the ambassador tries them itself, and sessions wait (limits.queue_timeout).",
    keys: &[
        default("consecutive_failures", ValueKind::Integer(0, 1_000_000), "5",
            "Dials that fail in a row until it opens, where every endpoint's last one failed; 0 for never."),
        default("open_for", TIMEOUT, "100ms", "How long until the endpoints are tried; twice as long each time that all of them fail."),
        default("max_open_for", TIMEOUT, "500ms", "From one time to the next it is no longer."),
        default("half_open_trials", ValueKind::Integer(1, 1000), "1",
            "Trials that have to succeed, one after the other, until sessions are dialled for again."),
    ],
};

static OUTLIER_DETECTION: SectionSpec = SectionSpec {
    about: "Sets an endpoint aside after failures in a row, until the ambassador's own trial, a health check or a session shows that it serves; never the last one that is usable.",
    keys: &[
        default("consecutive_failures", ValueKind::Integer(0, 1_000_000), "3",
            "Failures in a row, of connects, upgrades, handshakes or sessions that died young; 0 for never."),
        default("base_ejection_time", TIMEOUT, "500ms",
            "How long until it is tried the first time; twice, three times that where the trial fails, or where it has not served \
             well in between: consecutive_failures sessions in so much time."),
        default("max_ejection_time", TIMEOUT, "10s", "No ejection is longer; who was back for so long has served well."),
        default("early_close", DELAY, "1s",
            "A session that the server ends this soon without a byte counts as a failure; 0s for none."),
    ],
};

static BACKOFF: SectionSpec = SectionSpec {
    about: "Waits before an endpoint is tried again; they double, with jitter.",
    keys: &[
        default("base", DELAY, "25ms", "The first wait."),
        default("max", DELAY, "1s", "No wait is longer."),
    ],
};

static LIMITS: SectionSpec = SectionSpec {
    about: "How many sessions and dials; more are refused.",
    keys: &[
        default("max_connections", ValueKind::Integer(1, 1_000_000), "1024", "Sessions and dials together."),
        default("max_pending", ValueKind::Integer(1, 1_000_000), "1024", "Dials in flight."),
        default("max_connections_per_endpoint", ValueKind::Integer(1, 1_000_000), "500",
            "Sessions and dials of one endpoint."),
        optional("queue_timeout", DELAY,
            "How long a session may wait for room, or for a cluster that is down to come back; 0s to refuse it at once. Default: \
             connect.deadline. Where it is given, callers take turns. At most max_pending wait, half of them of one caller \
             then, unless per_caller.max_queued says otherwise."),
    ],
};

static SESSION: SectionSpec = SectionSpec {
    about: "Timers of a session while it relays, and options of its sockets.",
    keys: &[
        default("idle_timeout", TIMEOUT_OR_NONE, "none",
            "No byte either way for this long ends the session."),
        default("half_close_timeout", TIMEOUT_OR_NONE, "60s",
            "How long one direction may be silent after the other has ended."),
        default("max_lifetime", TIMEOUT_OR_NONE, "none", "The session's whole life."),
        default("keepalive", KEEPALIVE, "60s", "Silence after which TCP probes the peer, on both legs; not towards loopback."),
        default("user_timeout", USER_TIMEOUT, "75s",
            "How long sent data may stay unacknowledged, on both legs; not towards loopback."),
    ],
};

const SAMPLE: &str = "The share of ordinary sessions that leave one: those that completed at the first attempt. All others always do.";
const SLOWER_THAN: &str = "Who waited longer for the server's first byte is not ordinary.";
const OUTPUT: ValueKind = ValueKind::Text("/var/log/ambassador/ambassador.log");
const CLUSTER_NAME: ValueKind = ValueKind::Text("orders");
const ENDPOINT_LIST: ValueKind = ValueKind::List(&ENDPOINT_ITEM);
const BIND: ValueKind = ValueKind::Text("127.0.0.1:5432");
const SERVER_NAME: ValueKind = ValueKind::Text("db.example.com");
static ENDPOINT_ITEM: ValueKind = ValueKind::Either(&[ValueKind::Text("db1.example.com:5432"), ValueKind::Section(&ENDPOINT)]);

const PROTOCOLS: ValueKind = ValueKind::Word(crate::protocol::LABELS);
const BALANCE: ValueKind = ValueKind::Word(&["round_robin", "least_connections", "ewma", "random", "source_hash", "first"]);

const MILLISECOND: Duration = Duration::from_millis(1);
/// Long enough for any use, and short enough that adding it to the clock cannot overflow.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const DELAY: ValueKind = ValueKind::Duration(DurationRange { min: Duration::ZERO, max: YEAR, none: false });
const TIMEOUT: ValueKind = ValueKind::Duration(DurationRange { min: MILLISECOND, max: YEAR, none: false });
/// More frequent probes would measure only themselves.
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

/// A section that always exists: when it is absent, its keys have their defaults.
const fn section(name: &'static str, spec: &'static SectionSpec) -> KeySpec {
    KeySpec { name, about: spec.about, kind: ValueKind::Section(spec), presence: Presence::Default("") }
}
