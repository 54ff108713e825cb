//! `login.oauth2` against PostgreSQL 18 itself, which asks a validator module about tokens (drivers/oauth_validator.c).

use crate::harness::postgres::psql_command;
use crate::harness::secrets::Secrets;
use crate::harness::token_server::{Reply, TokenServer, token};
use crate::harness::{Ambassador, Config, Finished, Postgres, finish};

fn start(server: &Postgres, tokens: &TokenServer, secrets: &Secrets, more: &str) -> Ambassador {
    let cluster = format!(
        "protocol: postgres\ntls: {{ ca: {}, server_name: db.test }}\n\
         login: {{ as: app{more}, oauth2: {{ ca: {}, token_url: \"{}\", client_id: c, client_secret: {{ file: {} }} }} }}",
        server.pki().ca().display(),
        tokens.ca(),
        tokens.url("/token"),
        secrets.path().display()
    );
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone");
    Ambassador::start(&config.cluster("up", &[&server.address()], &cluster))
}

fn psql(ambassador: &Ambassador) -> Finished {
    let port = ambassador.address("app").port();
    let mut psql = psql_command(&format!("host=127.0.0.1 port={port} user=anybody dbname=postgres"));
    finish(psql.env_remove("PGPASSWORD").args(["-w", "-c", "select current_user, system_user"]))
}

#[test]
#[ignore = "PostgreSQL 18: scripts/test-matrix postgres-18"]
fn a_token_lets_in_by_oauthbearer() {
    let (server, secrets) = (Postgres::by_token(), Secrets::of("the client's"));
    let tokens = TokenServer::start(|_, _| Reply::Json(200, token("token-of-app", 3600)));
    for more in ["", ", mechanisms: [oauth]"] {
        let ambassador = start(server, &tokens, &secrets, more);
        assert_eq!(psql(&ambassador).must_succeed().stdout.trim(), "app|oauth:app");
        let record = ambassador.record();
        assert_eq!((&record["outcome"], &record["login_as"]), (&"completed".into(), &"app".into()));
    }
}

#[test]
#[ignore = "PostgreSQL 18: scripts/test-matrix postgres-18"]
fn a_wrong_token_is_tried_once() {
    let (server, secrets) = (Postgres::by_token(), Secrets::of("the client's"));
    let tokens = TokenServer::start(|_, _| Reply::Json(200, token("token-of-somebody-else", 3600)));
    let ambassador = start(server, &tokens, &secrets, "");
    // It logs the validator's verdict by the same words, as LOG.
    let failures =
        || server.log().matches("FATAL:  OAuth bearer authentication failed for user \"app\"").count();
    let before = failures();
    // A rejected token is tried again after a minute, and clients take long to start.
    for round in 0..3 {
        let told = psql(&ambassador).must_exit(2).stderr;
        assert!(told.contains("ambassador: login_failed: "), "{round}: {told}");
        assert!(told.contains("OAuth bearer authentication failed for user \"app\""), "{round}: {told}");
    }
    assert_eq!(failures() - before, 1, "the server was asked once");
    let records = ambassador.wait_records(3);
    assert!(records.iter().all(|record| record["outcome"] == "login_failed"), "{records:?}");
    for text in
        [ambassador.lines().join("\n"), ambassador.get("/metrics").body, ambassador.status().to_string()]
    {
        assert!(!text.contains("token-of-somebody-else"), "a token is shown");
    }
}
