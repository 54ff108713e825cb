//! A submission server as providers have it: Postfix, which takes mail from nobody who has not signed in, with Dovecot for
//! the passwords. User `app` has the servers' password. No client certificate is asked for.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use super::daemon::{Account, give};
use super::demand;
use super::server::{OAUTH2_PASSDB, PASSWORD, Plan, Server, postfix_files, shared, write_files};

/// Dovecot's authentication on port 0, for Postfix, without the delays by which it slows down who fails.
fn sasl(mechanisms: &str, more: &str, files: &[(&str, &str)]) -> Server {
    Server::start(1, None, "TERM", |plan| {
        write_files(plan, files);
        let dir = plan.dir.display();
        let more = more.replace("DIR", &dir.to_string());
        let config = format!(
            "protocols =\nbase_dir = {dir}/run\nstate_dir = {dir}/state\nlog_path = /dev/stderr\n\
                 auth_verbose = yes\nssl = no\nauth_mechanisms = {mechanisms}\n{more}\
                 auth_failure_delay = 0\nfirst_valid_uid = 1\n\
                 passdb {{\n driver = passwd-file\n args = {dir}/users\n}}\n\
                 userdb {{\n driver = static\n args = uid=mail gid=mail home={dir}/home\n}}\n\
                 service auth {{\n inet_listener {{\n  address = 127.0.0.1\n  port = {}\n }}\n}}\n\
                 service anvil {{\n unix_listener anvil-auth-penalty {{\n  mode = 0\n }}\n}}\n\
                 service stats {{\n unix_listener stats-writer {{\n  mode = 0666\n }}\n}}\n",
            plan.ports[0]
        );
        plan.write("users", &format!("app:{{PLAIN}}{PASSWORD}::::::\n"));
        let file = plan.write("dovecot.conf", &config);
        let mut command = Command::new(demand("dovecot", "dovecot-core"));
        command.args(["-F", "-c", &file]);
        command
    })
}

/// The server. Port 0 has STARTTLS and offers PLAIN, LOGIN and SCRAM-SHA-256; port 1 has TLS from the first byte and offers
/// PLAIN; port 2 has STARTTLS and LOGIN alone; port 3 knows no AUTH.
pub(crate) fn submission() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, submission_alone)
}

/// Another Postfix, whose log has no sessions of other tests.
pub(crate) fn submission_alone() -> Server {
    static SASL: OnceLock<Server> = OnceLock::new();
    submission_by(shared(&SASL, || sasl("plain login scram-sha-256", "", &[])))
}

/// Dovecot, and Postfix that asks it: OAuth tokens are taken by these mechanisms on port 0, as these settings say.
pub(crate) fn submission_with_oauth2(mechanisms: &str, settings: &str) -> (Server, Server) {
    let sasl = sasl(mechanisms, OAUTH2_PASSDB, &[("oauth2.conf", settings)]);
    let submission = submission_by(&sasl);
    (sasl, submission)
}

fn submission_by(sasl: &Server) -> Server {
    let sasl = sasl.address(0);
    Server::start(4, None, "TERM", |plan: &Plan<'_>| {
        for name in ["spool", "data"] {
            fs::create_dir_all(plan.dir.join(name)).expect("a directory");
        }
        give(&plan.dir.join("data"), Account::of("postfix", "postfix").as_ref());
        let [starttls, direct, login, none] = plan.ports else { panic!("four ports") };
        postfix_files(
            plan,
            &format!(
                "mynetworks =\nsmtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\n\
                     smtpd_sasl_path = inet:{sasl}\nsmtpd_sasl_security_options = noanonymous\n\
                     smtpd_relay_restrictions = permit_sasl_authenticated, reject\n\
                     smtpd_recipient_restrictions = permit_sasl_authenticated, reject\n\
                     broken_sasl_auth_clients = yes\n"
            ),
            &format!(
                "127.0.0.1:{starttls} inet n - n - - smtpd\n\
                     127.0.0.1:{direct} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes -o smtpd_sasl_mechanism_filter=plain\n\
                     127.0.0.1:{login} inet n - n - - smtpd -o smtpd_sasl_mechanism_filter=login\n\
                     127.0.0.1:{none} inet n - n - - smtpd -o smtpd_sasl_auth_enable=no\n"
            ),
        )
    })
}
