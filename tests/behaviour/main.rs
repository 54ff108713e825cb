//! Behaviour tests: the real binary between real clients and real servers, observed only from outside.
//!
//! One binary with a module per feature; a test's name is the claim it proves. Nothing here knows the
//! sources: what is asserted is what users see on the wire, in the log, in the metrics and in exit codes.
//! Debian packages the tests need are installed by `scripts/test`; a missing one fails its tests by name.

// The bans keep the product deterministic. Tests look at it from outside, with real time and real threads,
// and a broken expectation is how they fail.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod harness;

mod activation; // sockets that systemd binds
mod admin; // health, metrics, status, the log
mod attribution; // attribution of sockets that change their owner, and of containers
mod balancing; // the choice of endpoints
mod bulk; // much data, many sessions
mod callers; // identification and admission of callers
mod certificates; // unusual server certificates and keys, on a real OpenSSL
mod check_connect; // `check --connect`
mod configuration; // `listeners.yaml` and its mistakes
mod context; // CONNECT requests, and real clients that make them
mod control; // control requests, and the commands that send them
mod credentials; // certificates that are replaced while in use
mod demo; // `demo` and the shipped example
mod dialling; // attempts, deadlines, retries, clients that leave
mod direct_clients; // clients of protocols with TLS from the first byte
mod discovery; // endpoints from names, SRV records and files
mod discovery_consul; // endpoints from Consul, and those kept on disk
mod discovery_etcd; // endpoints from etcd
mod discovery_kubernetes;
mod discovery_xds; // endpoints from Kubernetes
mod drain; // SIGTERM and what follows
mod greetings; // servers that speak first, late or never
mod half_close; // one direction ends first
mod hardening; // dropped privileges, and access to the control socket
mod health; // health checks
mod health_servers; // health checks of real servers, and what those log
mod identities; // client certificates by caller
mod landlock; // the daemon's own restriction of file access
mod ldap_clients; // ldapsearch against OpenLDAP
mod limits; // caps of a cluster
mod listeners; // sockets, modes, caps, descriptors
mod logins_certificates; // signing in by the TLS client certificate alone
mod logins_clouds; // tokens of clouds: metadata services
mod logins_mail; // signing in to a mail server in the client's place
mod logins_mail_clients; // clients that are held to a password of their own
mod logins_mail_tokens; // OAuth tokens for Dovecot and Postfix, which have them checked
mod logins_mailbox; // signing in to IMAP, POP3 and ManageSieve in the client's place
mod logins_mechanisms; // what may carry the secret of a login
mod logins_mysql; // signing in to MariaDB and MySQL in the client's place
mod logins_nats; // signing in to NATS by tokens, nkeys and JWTs
mod logins_oauth; // tokens for signing in: what is asked of a token server, and when
mod logins_others; // signing in to Redis, MQTT, LDAP, NATS and others in the client's place
mod logins_postgres; // signing in to PostgreSQL in the client's place
mod logins_postgres_oauth; // signing in to PostgreSQL 18 by a token
mod logins_tokens; // token endpoints that are slow, ask for pauses or rotate tokens, and what is shown of a login
mod logs; // files, disks, journald, rotation
mod mail_clients; // mail clients, against Postfix and Dovecot
mod mailbox_clients; // programs that fetch mail, against Dovecot
mod many_names; // more names than are queried at once
mod many_reloads; // random reloads, and what they leak
mod mssql_clients; // FreeTDS and pytds, against a scripted SQL Server
mod mysql_clients; // MariaDB, and a server that authenticates as MySQL does
mod mysql_server; // MySQL itself, if scripts/test-matrix has fetched it
mod names; // DNS servers and resolv.conf(5)
mod nats_clients; // a cluster of nats-server
mod newer_clients; // clients that scripts/test-matrix fetches, against the servers of this Debian
mod other_daemons; // several daemons of one user
mod overload; // descriptors, the accept queue, memory
mod page; // the status page, in a browser
mod postgres_cancel; // which server a cancel reaches
mod postgres_clients; // psql and pgbench against a real server
mod postgres_dialogue; // the dialogue byte by byte
mod postgres_direct; // direct TLS
mod postgres_drivers; // psycopg, JDBC and others
mod postgres_logins; // SCRAM by hand, protocol versions
mod postgres_probe; // `check --connect` and the server's log
mod postgres_refusals; // servers that lie, clients that send garbage
mod postgres_replication; // base backups, WAL
mod postgres_roles; // the role that a certificate is mapped to
mod preconnect; // upstream connections kept ready
mod proxy_protocol; // PROXY headers, read and sent
mod proxy_receivers; // which of our headers servers accept
mod reference; // the reference servers alone: if these fail, no other result counts
mod refusals; // what clients do with a refusal
mod relaying; // counters, resets, ends
mod reload; // reading the configuration again
mod replacement; // SIGUSR2, and sockets that systemd keeps
mod resilience; // ejection, breaker, retry budget, priorities
mod returning; // what is removed from the file and added again
mod shares; // limits of each caller
mod slow_files; // files that hang
mod slow_names; // hosts whose user databases are slow
mod spiffe; // certificates from an agent
mod succession; // state that a process hands to its successor
mod telemetry; // dashboard and alert rules against a scrape
mod time_limits; // limits on idle time and duration of sessions
mod tls; // TLS to the upstream when all is well
mod tls_demands; // pins, URIs and revocation lists
mod tls_refusals; // TLS to the upstream when it must fail
mod top; // `top` in a terminal
mod upstream_refused; // servers that report that they are full
