//! The keys of `login`: where a secret comes from, and as whom ambassador signs in.

use super::{GROUP, UNIT, USER, default, optional, required, words};
use crate::config::spec::{SectionSpec, ValueKind};

pub(super) static LOGIN: SectionSpec = SectionSpec {
    about: "Who to sign in as, and where the secret comes from: exactly one source.",
    keys: &[
        optional("as", ValueKind::Text("app"),
            "The user at the server. Absent: the source says it (a password file with user and password)."),
        optional("database", ValueKind::Text("orders"),
            "protocols postgres and mysql: the database; a client that asks for another one is refused. Default: the client's. \
             mongodb: the database that knows the user. Default: admin."),
        optional("mechanisms", ValueKind::List(&ValueKind::Text("SCRAM-SHA-256")),
            "The only ones that may carry the secret: SASL mechanisms (smtp, lmtp, imap, pop3, sieve, mongodb, amqp), methods of libpq's \
             require_auth and scram-sha-256-plus (postgres), plugins (mysql). Default: the best one that the server offers."),
        optional("client", ValueKind::Section(&CLIENT), CLIENT.about),
        optional("password", ValueKind::Section(&PASSWORD), PASSWORD.about),
        optional("oauth2", ValueKind::Section(&OAUTH2), OAUTH2.about),
        optional("aws_rds_iam", ValueKind::Section(&AWS_RDS_IAM), AWS_RDS_IAM.about),
        optional("aws_elasticache_iam", ValueKind::Section(&AWS_ELASTICACHE_IAM), AWS_ELASTICACHE_IAM.about),
        optional("azure", ValueKind::Section(&AZURE), AZURE.about),
        optional("gcp", ValueKind::Section(&GCP), GCP.about),
        optional("certificate", ValueKind::Boolean,
            "protocols amqp, imap, ldap, lmtp, mongodb, nats, postgres and smtp: true: the cluster's TLS client certificate \
             proves the user, and no secret is sent. With amqp, mongodb and nats `as` may be absent."),
        optional("token", ValueKind::Section(&TOKEN), TOKEN.about),
        optional("nkey", ValueKind::Section(&NKEY), NKEY.about),
        USER,
        GROUP,
        UNIT,
    ],
};

static AWS_RDS_IAM: SectionSpec = SectionSpec {
    about: "A token of AWS IAM in place of the password of RDS or Aurora, signed here. The keys come from the environment, a web \
            identity, the shared credentials file, the container's endpoint or the instance's metadata, in this order.",
    keys: &[
        required("region", ValueKind::Text("eu-central-1"), "The region of the database."),
        optional("host", ValueKind::Text("reports.abc.eu-central-1.rds.amazonaws.com:3306"),
            "HOST:PORT of the database as RDS calls it. Default: the cluster's only endpoint."),
    ],
};

static AWS_ELASTICACHE_IAM: SectionSpec = SectionSpec {
    about: "A token of AWS IAM in place of the password of ElastiCache or MemoryDB, signed here; keys as for aws_rds_iam.",
    keys: &[
        required("region", ValueKind::Text("eu-central-1"), "The region of the cache."),
        required("cache", ValueKind::Text("my-cache"), "The name of the cache or replication group, or of the MemoryDB cluster."),
        default("service", words(&["elasticache", "memorydb"]), "elasticache", "Which of the two services it is of."),
    ],
};

static AZURE: SectionSpec = SectionSpec {
    about: "An access token of Microsoft Entra for a managed identity or, where the environment names one, a workload identity.",
    keys: &[
        optional("resource", ValueKind::Text("https://outlook.office365.com"),
            "What the token is for. Default: Azure Database (https://ossrdbms-aad.database.windows.net)."),
        optional("client_id", ValueKind::Text("00000000-0000-0000-0000-000000000000"),
            "One of several identities of the machine. Default: $AZURE_CLIENT_ID of a workload identity, else its only one."),
    ],
};

static GCP: SectionSpec = SectionSpec {
    about: "An access token of Google Cloud (Cloud SQL IAM): of the metadata server for the machine's service account, or for an account \
            whose key is in a file.",
    keys: &[
        optional("service_account", ValueKind::Section(&SERVICE_ACCOUNT),
            "The key of a service account, as Google issues it. With postgres and mysql `as` may be absent: the account as Cloud SQL \
             calls it."),
        optional("scopes", ValueKind::List(&ValueKind::Text("https://www.googleapis.com/auth/alloydb.login")),
            "With `service_account`: the scopes to ask for, one an item. Default: postgres and mysql sqlservice.login, mail \
             mail.google.com, else cloud-platform."),
    ],
};

static CLIENT: SectionSpec = SectionSpec {
    about: "smtp, lmtp, imap, pop3 and sieve: the user and password that the client has to log in with here. Absent: it may log in \
            with any, or not at all.",
    keys: &[
        optional("as", ValueKind::Text("printer"),
            "The client's user. Absent: the password file has user and password."),
        required("password", ValueKind::Section(&PASSWORD), PASSWORD.about),
    ],
};

static TOKEN: SectionSpec = SectionSpec {
    about: "protocol nats: a token without a user, in a file, which is followed. Without `as`.",
    keys: &[required("file", ValueKind::Text("secrets/token"), "The file: the token and nothing else.")],
};

static NKEY: SectionSpec = SectionSpec {
    about: "protocol nats: an nkey, alone or with its JWT, in a file, which is followed. Without `as`.",
    keys: &[
        required("file", ValueKind::Text("secrets/app.creds"),
            "The file: a user's seed as `nk` writes it, or a .creds file as `nsc` writes it."),
    ],
};

static PASSWORD: SectionSpec = SectionSpec {
    about: "A password in a file, which is followed: a replaced file counts for the next session.",
    keys: &[
        required("file", ValueKind::Text("secrets/orders"),
            "The file. With `as`: the password and nothing else. Without: user and password, as JSON or as lines \
             key=value (username, password)."),
    ],
};

static OAUTH2: SectionSpec = SectionSpec {
    about: "Access tokens from a token endpoint (OAuth 2.0), renewed ahead of their end: by client credentials, a refresh \
            token, or a service account's key. Needs `as`.",
    keys: &[
        optional("token_url", ValueKind::Text("https://login.example.com/oauth2/v2.0/token"),
            "The token endpoint, https only. Default with `service_account`: token_uri of its file."),
        optional("client_id", ValueKind::Text("6731de76-14a6-49ae-97bc-6eba6914391e"), "Our id at the token endpoint."),
        optional("client_secret", ValueKind::Section(&SECRET_FILE), "The client's secret."),
        default("client_auth", words(&["post", "basic"]), "post",
            "How the secret is sent. post: in the body; basic: as HTTP Basic authentication."),
        optional("client_assertion", ValueKind::Section(&CLIENT_ASSERTION), CLIENT_ASSERTION.about),
        optional("scopes", ValueKind::List(&ValueKind::Text("https://outlook.office365.com/.default")),
            "The scopes to ask for, one an item. Default: the server's."),
        optional("refresh_token", ValueKind::Section(&REFRESH_TOKEN), REFRESH_TOKEN.about),
        optional("device_url", ValueKind::Text("https://login.example.com/oauth2/v2.0/devicecode"),
            "With `refresh_token`: the device authorization endpoint, by which `ambassador sign-in` gets the first one."),
        optional("service_account", ValueKind::Section(&SERVICE_ACCOUNT), SERVICE_ACCOUNT.about),
        default("ca", ValueKind::Text("certs/ca.pem"), "system",
            "CAs of the endpoints: a PEM file, `system` or `webpki`, as in `tls.ca`."),
    ],
};

pub(super) static SECRET_FILE: SectionSpec = SectionSpec {
    about: "A secret in a file, which is followed.",
    keys: &[
        required("file", ValueKind::Text("secrets/outlook"), "The file: the secret and nothing else."),
    ],
};

static CLIENT_ASSERTION: SectionSpec = SectionSpec {
    about: "Signed assertions (RFC 7523) in place of a client secret, such as Entra's certificate credentials.",
    keys: &[
        required("key", ValueKind::Text("secrets/app.key"), "The key, PEM: RSA, or EC on P-256."),
        optional("cert", ValueKind::Text("certs/app.pem"),
            "Its certificate, PEM; the assertion names it by its digest (x5t#S256)."),
        optional("key_id", ValueKind::Text("2024-1"), "The key's id at the token endpoint (kid)."),
        optional("algorithm", words(&["RS256", "PS256", "ES256"]),
            "The signature algorithm. Default: ES256 with an EC key; with an RSA key PS256 if there is a `cert`, else RS256."),
    ],
};

static REFRESH_TOKEN: SectionSpec = SectionSpec {
    about: "A refresh token in a file, which is replaced when the server replaces the token.",
    keys: &[
        required("file", ValueKind::Text("/var/lib/ambassador/outlook"),
            "The file, in a folder that the daemon may write to. `ambassador sign-in` makes it."),
    ],
};

static SERVICE_ACCOUNT: SectionSpec = SectionSpec {
    about: "The key of a service account, as Google issues it; tokens are asked for by a signed assertion.",
    keys: &[
        required("file", ValueKind::Text("secrets/service-account.json"),
            "The JSON file: client_email, private_key_id, private_key, token_uri."),
        optional("subject", ValueKind::Text("alerts@example.com"),
            "The user that the account acts for (domain-wide delegation). Default: itself."),
    ],
};
