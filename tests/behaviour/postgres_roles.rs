//! The PostgreSQL role of a caller, where the server maps names in certificates to roles (`cert map=…` and
//! `pg_ident.conf`): by the identity that is used for the caller, and after the certificate is replaced.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::credentials::{Folder, wait_reload};
use crate::harness::other_user::{Cgroup, OtherUser, Users};
use crate::harness::postgres::{psql, psql_command};
use crate::harness::{Ambassador, Config, Finished, Leaf, Postgres, until};

/// The names in two certificates, and the roles that the server's map assigns to them.
const BILLING: (&str, &str) = ("billing.unit.test", "invoicing");
const REPORT: (&str, &str) = ("report.unit.test", "reporting");

fn identity(name: &str, Leaf { cert, key, .. }: &Leaf) -> String {
    format!("  {name}: {{ cert: {}, key: {} }}", cert.display(), key.display())
}

fn conninfo(ambassador: &Ambassador, role: &str) -> String {
    let port = ambassador.address("app").port();
    format!("host=127.0.0.1 port={port} user={role} dbname=postgres sslmode=prefer")
}

/// The server's own message, as the client shows it.
#[track_caller]
fn is_refused_by_the_server(finished: &Finished, role: &str) {
    assert_ne!(finished.code, 0);
    let words = format!("FATAL:  certificate authentication failed for user \"{role}\"");
    assert!(finished.stderr.contains(&words), "{}", finished.stderr);
}

#[test]
fn a_user_and_a_unit_are_the_roles_that_the_servers_map_gives_to_their_certificates_and_no_others() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let Some(report) = Cgroup::make("ambtest.slice/ambtest-mapped.service") else { return };
    let postgres = Postgres::shared();
    let pki = postgres.pki();
    let identities = [
        "identities:".to_owned(),
        identity("billing", &pki.client(BILLING.0)),
        identity("report", &pki.client(REPORT.0)),
    ];
    let cluster = format!(
        "protocol: postgres\ntls:\n  ca: {}\n  identity:\n    - {{ user: {}, use: billing }}\n    \
         - {{ unit: ambtest-mapped.service, use: report }}",
        pki.ca().display(),
        billing.name
    );
    let listener = "bind: 127.0.0.1:0\ncluster: up";
    let config = Config::new().top(&identities.join("\n")).listener("app", listener).cluster(
        "up",
        &[&postgres.address()],
        &cluster,
    );
    let ambassador = Ambassador::start(&config);
    let callers = [(OtherUser::user(billing), BILLING), (OtherUser::user(reports).within(&report), REPORT)];
    let login = |caller: &OtherUser, role: &str| {
        let mut psql = psql_command(&conninfo(&ambassador, role));
        psql.args(["-c", "select current_user, client_dn from pg_stat_ssl where pid = pg_backend_pid()"]);
        caller.run(&psql)
    };
    for (caller, (name, role)) in &callers {
        let shown = login(caller, role).must_succeed().stdout;
        assert_eq!(shown.trim(), format!("{role}|/CN={name}"));
    }
    for ((caller, (name, _)), (_, (_, role))) in callers.iter().zip(callers.iter().rev()) {
        is_refused_by_the_server(&login(caller, role), role);
        let why = format!("no match in usermap \"units\" for user \"{role}\" authenticated as \"{name}\"");
        until(format!("the server's log says {why}"), || postgres.log().contains(&why).then_some(()));
    }
}

/// A psql process that gets one query after the other.
struct Conversation {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Conversation {
    fn begin(conninfo: &str) -> Self {
        let mut psql = psql_command(conninfo);
        let piped = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("psql");
        let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    fn ask(&mut self, sql: &str) -> String {
        writeln!(self.stdin, "{sql};").expect("psql reads");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("psql writes");
        line.trim_end().to_owned()
    }

    /// Its error message when it queries after its connection was closed.
    fn complaint(mut self) -> String {
        writeln!(self.stdin, "select 1;").expect("psql reads");
        drop(self.stdin);
        let output = self.child.wait_with_output().expect("psql ends");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// The certificate of an identity is replaced by one that is mapped to another role. Live sessions keep the role of
/// their login until they end.
#[test]
fn new_sessions_have_the_role_of_a_replaced_certificate_and_old_ones_go_on_or_end_at_rest() {
    let postgres = Postgres::shared();
    let pki = postgres.pki();
    let folder = Folder::with(&pki.client(BILLING.0));
    let (cert, key) = (folder.path("client.pem"), folder.path("client.key"));
    let identities = format!("identities:\n  unit: {{ cert: {}, key: {} }}", cert.display(), key.display());
    let start = |on_rotation: &str| {
        let cluster = format!(
            "protocol: postgres\ntls: {{ ca: {}, identity: unit }}\n{on_rotation}",
            pki.ca().display()
        );
        let config = Config::new().top(&identities).listener("app", "bind: 127.0.0.1:0\ncluster: up");
        Ambassador::start(&config.cluster("up", &[&postgres.address()], &cluster))
    };
    let both = [start("on_rotation: keep"), start("on_rotation: drain\nclosing_time: 0s")];
    let mut conversations =
        both.each_ref().map(|ambassador| Conversation::begin(&conninfo(ambassador, BILLING.1)));
    for conversation in &mut conversations {
        assert_eq!(conversation.ask("select current_user"), BILLING.1);
    }
    let new = pki.client(REPORT.0);
    folder.install(&new.key, "client.key");
    folder.install(&new.cert, "client.pem");
    for ambassador in &both {
        wait_reload(ambassador, "identity", "ok");
        let login = |role: &str| psql(&conninfo(ambassador, role), "select current_user");
        assert_eq!(login(REPORT.1).must_succeed().stdout.trim(), REPORT.1);
        is_refused_by_the_server(&login(BILLING.1), BILLING.1);
    }
    let [kept, drained] = &both;
    let record = drained.record_of("rotated");
    assert_eq!(record["closed_by"], "ambassador", "{record}");
    let [mut goes_on, ended] = conversations;
    assert_eq!(goes_on.ask("select current_user"), BILLING.1);
    let complaint = ended.complaint();
    assert!(complaint.contains("server closed the connection unexpectedly"), "{complaint}");
    assert!(kept.records().iter().all(|record| record["outcome"] == "completed"));
}
