//! The keys of where endpoints come from.

use super::login::SECRET_FILE;
use super::{SERVER_NAME, default, optional, required, section, words};
use crate::config::spec::{KeySpec, SectionSpec, ValueKind};

pub(super) static DISCOVERY: SectionSpec = SectionSpec {
    about: "What all clusters have in common whose endpoints are discovered.",
    keys: &[
        optional("keep", ValueKind::Text("/var/lib/ambassador"),
            "Folder for the last good endpoints of each cluster, with which a host that starts while nobody answers serves; \
             `none`: nothing is kept. Default: $STATE_DIRECTORY if systemd sets it, else none."),
    ],
};

pub(super) static XDS: SectionSpec = SectionSpec {
    about: "The control plane that speaks xDS, for clusters with `endpoints: { xds: … }`: one stream of delta ADS for all of them.",
    keys: &[
        required("servers", ValueKind::Either(&[XDS_SERVER, ValueKind::List(&XDS_SERVER)]),
            "A server, or a list of them: URLs, or unix:PATH. Where one fails, the next is asked. Without TLS they must be on this \
             host, unless `allow_plaintext` is set."),
        section("node", &XDS_NODE),
        optional("token", ValueKind::Section(&SECRET_FILE), "A bearer token; it is read for each stream."),
        REMOTE_CA,
        ALLOW_PLAINTEXT,
    ],
};

const XDS_SERVER: ValueKind = ValueKind::Text("https://control.example.com:18000");

static XDS_NODE: SectionSpec = SectionSpec {
    about: "As what we ask: `node` of the first request.",
    keys: &[
        optional("id", ValueKind::Text("host-7"), "Who asks. Default: the host's name."),
        default("cluster", ValueKind::Text("hosts"), "ambassador", "The group that it belongs to."),
        optional("region", ValueKind::Text("eu-central-1"), "Its region."),
        optional("zone", ValueKind::Text("eu-central-1a"), "Its zone."),
        optional("sub_zone", ValueKind::Text("rack-4"), "Its part of the zone."),
        optional("metadata", ValueKind::List(&ValueKind::Text("NAMESPACE=shop")),
            "What the control plane wants to know beyond that: texts of the form NAME=VALUE."),
    ],
};

pub(super) static SOURCE: SectionSpec = SectionSpec {
    about: "How the servers are discovered: exactly one of `srv`, `file`, `consul`, `etcd`, `kubernetes` and `xds`.",
    keys: &[
        optional("srv", ValueKind::Text("_postgresql._tcp.example.com"),
            "Name of an SRV record; it is resolved again when its TTL has passed."),
        optional("file", ValueKind::Text("endpoints/orders.yaml"),
            "YAML or JSON file with an `endpoints:` list in the same form; it is read again when it changes."),
        optional("consul", ValueKind::Section(&CONSUL), CONSUL.about),
        optional("etcd", ValueKind::Section(&ETCD), ETCD.about),
        optional("kubernetes", ValueKind::Section(&KUBERNETES), KUBERNETES.about),
        optional("xds", ValueKind::Section(&XDS_ENDPOINTS), XDS_ENDPOINTS.about),
    ],
};

static XDS_ENDPOINTS: SectionSpec = SectionSpec {
    about: "The endpoints that the control plane under `xds` has for a cluster (EDS).",
    keys: &[
        optional("service", ValueKind::Text("orders"),
            "What the control plane calls it: the name of the ClusterLoadAssignment. Default: the cluster's own name."),
        EMPTY,
    ],
};

static CONSUL: SectionSpec = SectionSpec {
    about: "The healthy instances of a service in Consul's catalog, followed by blocking queries.",
    keys: &[
        required("service", ValueKind::Text("orders"), "The service's name."),
        default("address", ValueKind::Text("https://consul.example.com:8501"), "http://127.0.0.1:8500",
            "The agent: URL, or unix:PATH. Without TLS it must be on this host, unless `allow_plaintext` is set."),
        optional("tags", ValueKind::List(&ValueKind::Text("primary")), "Tags that an instance must have, all of them."),
        optional("datacenter", ValueKind::Text("dc2"), "The datacenter. Default: the agent's."),
        optional("namespace", ValueKind::Text("team-a"), "The namespace (Consul Enterprise)."),
        optional("partition", ValueKind::Text("default"), "The admin partition (Consul Enterprise)."),
        default("health", words(&["passing", "warning"]), "passing",
            "Which instances are used. passing: those of which every check passes; warning: also those with a check that warns, \
             with their weight for that."),
        default("stale", ValueKind::Boolean, "true",
            "true: any server of Consul may answer, also without a leader; false: the leader alone."),
        optional("token", ValueKind::Section(&SECRET_FILE), "The ACL token, which needs service:read and node:read."),
        REMOTE_CA,
        ALLOW_PLAINTEXT,
        EMPTY,
    ],
};

static ETCD: SectionSpec = SectionSpec {
    about: "The keys of etcd with a prefix, each of whose values has an `endpoints:` list as a file would; they are watched.",
    keys: &[
        required("prefix", ValueKind::Text("/services/orders/"), "What the keys begin with."),
        default("address", ValueKind::Either(&[ETCD_MEMBER, ValueKind::List(&ETCD_MEMBER)]), "http://127.0.0.1:2379",
            "A member, or a list of them: URLs, or unix:PATH. Where one fails, the next is asked. Without TLS they must be on \
             this host, unless `allow_plaintext` is set."),
        optional("user", ValueKind::Text("app"), "The user, whose roles need READ for all keys with the prefix."),
        optional("password", ValueKind::Section(&SECRET_FILE), "The user's password."),
        REMOTE_CA,
        ALLOW_PLAINTEXT,
        EMPTY,
    ],
};

static KUBERNETES: SectionSpec = SectionSpec {
    about: "The ready endpoints of a Service of Kubernetes, followed by list and watch of its EndpointSlices.",
    keys: &[
        required("service", ValueKind::Text("orders"), "The Service's name."),
        optional("namespace", ValueKind::Text("shop"),
            "The Service's namespace. Default, where `address` is absent: that of the pod that ambassador runs in."),
        optional("port", ValueKind::Account,
            "Which port, where the Service has several: its name, or the number that it has at the pods (targetPort)."),
        optional("zone", ValueKind::Text("eu-central-1a"),
            "Our zone: endpoints that Kubernetes hints for others are used only if none for ours is usable."),
        optional("address", ValueKind::Text("https://api.k8s.example.com:6443"),
            "The API server: URL, or unix:PATH. Default: that of the cluster that ambassador runs in, by KUBERNETES_SERVICE_HOST \
             and _PORT."),
        optional("token", ValueKind::Section(&SECRET_FILE),
            "The token, whose role needs list and watch for endpointslices of discovery.k8s.io. Default, where `address` is \
             absent: the pod's service account."),
        optional("ca", ValueKind::Text("certs/ca.pem"),
            "CAs of its https: a PEM file, `system` or `webpki`, as in `tls.ca`. Default, where `address` is absent: the cluster's; \
             else `system`."),
        ALLOW_PLAINTEXT,
        EMPTY,
    ],
};

const ETCD_MEMBER: ValueKind = ValueKind::Text("https://etcd1.example.com:2379");

const REMOTE_CA: KeySpec = default("ca", ValueKind::Text("certs/ca.pem"), "system",
    "CAs of its https: a PEM file, `system` or `webpki`, as in `tls.ca`.");

const ALLOW_PLAINTEXT: KeySpec = default("allow_plaintext", ValueKind::Boolean, "false",
    "Allows http to other hosts, where whoever is on the way reads the secret and says which servers are used.");

const EMPTY: KeySpec = default("empty", words(&["keep", "accept"]), "keep",
    "What an answer without any endpoint does. keep: the known ones stay, and discovery counts as failing; accept: there are \
     none any more.");

pub(in crate::config) static ENDPOINTS_FILE: SectionSpec = SectionSpec {
    about: "The servers of a cluster.",
    keys: &[required("endpoints", ENDPOINT_LIST, "The servers; an empty list means that there are none.")],
};

static ENDPOINT: SectionSpec = SectionSpec {
    about: "One server.",
    keys: &[
        required("address", ValueKind::Text("db1.example.com:5432"), "HOST:PORT."),
        default("weight", ValueKind::Integer(1, 65_535), "1", "Share of the sessions, relative to the other endpoints."),
        optional("server_name", SERVER_NAME,
            "The name in the server's certificate. Default: the cluster's tls.server_name, else the endpoint's host."),
        default("priority", ValueKind::Integer(0, 1000), "0",
            "0 is used first; endpoints of a higher number are used only if none of a lower number is usable."),
    ],
};

pub(super) const ENDPOINT_LIST: ValueKind = ValueKind::List(&ENDPOINT_ITEM);

static ENDPOINT_ITEM: ValueKind = ValueKind::Either(&[ValueKind::Text("db1.example.com:5432"), ValueKind::Section(&ENDPOINT)]);
