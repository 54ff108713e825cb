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

mod activation; // sockets that systemd bound
mod admin; // health, metrics, status, the log
mod attribution; // whose a connection is that changes hands, or comes out of a container
mod balancing; // who gets the next session
mod bulk; // much data, many sessions
mod callers; // who connects, and who may
mod check_connect; // `check --connect`
mod configuration; // `listeners.yaml` and its mistakes
mod context; // CONNECT requests, and real clients that make them
mod control; // orders on the control socket, and the commands that give them
mod credentials; // certificates that are replaced while in use
mod demo; // `demo` and the shipped example
mod dialling; // attempts, deadlines, retries, clients that go away
mod direct_clients; // clients of protocols with TLS from the first byte
mod discovery; // endpoints that are found: names, SRV records, files
mod drain; // SIGTERM and what follows
mod half_close; // one direction ends first
mod hardening; // what the daemon gives up, and who may order it
mod health; // probes, and what becomes of endpoints that fail them
mod health_servers; // probes of real servers, and what those log
mod identities; // which certificate is shown for whom
mod landlock; // files that the daemon gives up at its start
mod ldap_clients; // ldapsearch against OpenLDAP
mod limits; // caps of a cluster
mod listeners; // sockets, modes, caps, descriptors
mod logs; // files, disks, journald, rotation
mod mail_clients; // Postfix and Dovecot, and who speaks to them
mod many_names; // more names than are asked for at once
mod many_reloads; // random ones, and what is left
mod mysql_clients; // MariaDB, and a server that hashes as MySQL does
mod mysql_server; // MySQL itself, where scripts/test-matrix has fetched it
mod nats_clients; // a cluster of nats-server
mod newer_clients; // what scripts/test-matrix has fetched, against the servers of this Debian
mod other_daemons; // several of one user
mod overload; // descriptors, the accept queue, memory
mod page; // the page for people, in a browser
mod postgres_cancel; // which server a cancel reaches
mod postgres_clients; // psql and pgbench against a real server
mod postgres_dialogue; // the dialogue byte by byte
mod postgres_direct; // direct TLS
mod postgres_drivers; // psycopg, JDBC and others
mod postgres_logins; // SCRAM by hand, protocol versions
mod postgres_probe; // `check --connect` and the server's log
mod postgres_refusals; // servers that lie, clients that send rubbish
mod postgres_replication; // base backups, WAL
mod postgres_roles; // which role a certificate opens
mod preconnect; // upstream connections kept ready
mod proxy_protocol; // PROXY headers, read and sent
mod proxy_receivers; // what servers take of the headers that we send
mod reference; // the reference servers on their own: when these fail, nothing else can be believed
mod relaying; // counters, resets, ends
mod reload; // the file read again
mod replacement; // SIGUSR2, and sockets that systemd keeps
mod resilience; // ejection, breaker, retry budget, priorities
mod returning; // what is taken out of the file and put back
mod shares; // what each caller may take
mod slow_files; // files that hang
mod slow_names; // hosts whose databases of users are slow
mod spiffe; // certificates from an agent
mod succession; // what a process leaves to its successor
mod telemetry; // dashboard and alert rules against a scrape
mod time_limits; // idle and old sessions
mod tls; // TLS to the upstream when all is well
mod tls_demands; // pins, URIs and revocation lists
mod tls_refusals; // TLS to the upstream when it must not succeed
mod top; // `top` in a terminal
