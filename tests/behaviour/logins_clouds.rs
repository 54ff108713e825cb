//! `login` by tokens of clouds: their metadata services, played by this test or by moto, and a real PostgreSQL. What is asked and
//! signed is held to azure-identity and botocore, which `scripts/test-matrix clients` fetches, with moto: a hundred megabytes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::pgwire::{accept_ssl, app_startup, message, read_startup, welcome};
use crate::harness::postgres::psql;
use crate::harness::{
    Ambassador, Config, Conn, Pki, Postgres, ServerTls, Upstream, finish, newer_clients, roles,
};

/// The password of the role `tokened`.
const TOKEN: &str = "ya29.token";

/// Answers each request by the first line that begins with the expected one, and keeps all requests.
struct Metadata {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Metadata {
    fn start(answers: Vec<(&'static str, String)>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("its address");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&heads);
        thread::spawn(move || {
            for stream in socket.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    head.push(byte[0]);
                }
                let mut head = String::from_utf8_lossy(&head).into_owned();
                let length = head.to_lowercase();
                let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
                if stream.read_exact(&mut body).is_ok() {
                    head.push_str(&String::from_utf8_lossy(&body));
                }
                let found = answers.iter().find(|(begins, _)| head.starts_with(begins));
                let (status, body) = found.map_or(("404 Not Found", ""), |(_, body)| ("200 OK", body));
                let length = body.len();
                drop(write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"));
                kept.lock().expect("a lock").push(head);
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("a lock").clone()
    }
}

fn config(server: &Postgres, login: &str) -> Config {
    let cluster = format!(
        "protocol: postgres\ntls: {{ ca: {}, server_name: db.test }}\nlogin: {login}",
        server.pki().ca().display()
    );
    Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[&server.address()],
        &cluster,
    )
}

fn asks(ambassador: &Ambassador) -> String {
    let conninfo = format!("host=127.0.0.1 port={} user=x dbname=orders", ambassador.address("app").port());
    psql(&conninfo, "select current_user").must_succeed().stdout.trim().to_owned()
}

/// Cloud SQL takes the token in place of the password; here it is the role's password.
#[test]
fn a_token_of_google_clouds_metadata_server_signs_in() {
    let server = Postgres::by_method();
    let token = format!(r#"{{"access_token":"{TOKEN}","expires_in":3599,"token_type":"Bearer"}}"#);
    let metadata =
        Metadata::start(vec![("GET /computeMetadata/v1/instance/service-accounts/default/token ", token)]);
    let address = metadata.address.to_string();
    let ambassador = Ambassador::start_with(&config(server, "{ as: tokened, gcp: {} }"), |command| {
        command.env("GCE_METADATA_HOST", address);
    });
    assert_eq!(asks(&ambassador), "tokened");
    let heads = metadata.heads();
    assert!(heads[0].to_lowercase().contains("metadata-flavor: google"), "{heads:?}");
    assert_eq!(asks(&ambassador), "tokened");
    assert_eq!(metadata.heads().len(), 1, "it is asked once");
    let status = ambassador.status().to_string();
    assert!(status.contains("up as tokened (gcp)") && !status.contains(TOKEN), "{status}");
}

#[test]
fn a_managed_identity_of_azure_signs_in() {
    let server = Postgres::by_method();
    let token = format!(r#"{{"access_token":"{TOKEN}","expires_in":"86399"}}"#);
    let path = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fossrdbms";
    let metadata = Metadata::start(vec![(path, token)]);
    let address = format!("http://{}", metadata.address);
    let ambassador = Ambassador::start_with(&config(server, "{ as: tokened, azure: {} }"), |command| {
        command.env("AZURE_POD_IDENTITY_AUTHORITY_HOST", address);
    });
    assert_eq!(asks(&ambassador), "tokened");
    assert!(metadata.heads()[0].to_lowercase().contains("metadata: true"), "{:?}", metadata.heads());
}

/// The instance's role by IMDSv2: a session first, then the role, then its keys, each with the session's token. The token
/// itself is held to botocore's in `credentials::login::aws`; the role here lets anybody in.
#[test]
fn keys_of_the_instance_come_by_imdsv2_alone() {
    let server = Postgres::by_method();
    let keys = r#"{"Code":"Success","AccessKeyId":"AKID","SecretAccessKey":"hidden","Token":"session","Expiration":"2099-01-01T00:00:00Z"}"#;
    let metadata = Metadata::start(vec![
        ("PUT /latest/api/token ", "imds-session".into()),
        ("GET /latest/meta-data/iam/security-credentials/ ", "app-role\n".into()),
        ("GET /latest/meta-data/iam/security-credentials/app-role ", keys.into()),
    ]);
    let address = format!("http://{}", metadata.address);
    let login = "{ as: trusted, aws_rds_iam: { region: eu-central-1 } }";
    let ambassador = Ambassador::start_with(&config(server, login), |command| {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_PROFILE", "HOME"] {
            command.env_remove(name);
        }
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", address);
    });
    assert_eq!(asks(&ambassador), "trusted");
    let heads: Vec<_> = metadata.heads().iter().map(|head| head.to_lowercase()).collect();
    assert_eq!(heads.len(), 3, "{heads:?}");
    assert!(heads[0].contains("x-aws-ec2-metadata-token-ttl-seconds: "), "{heads:?}");
    assert!(
        heads[1..].iter().all(|head| head.contains("x-aws-ec2-metadata-token: imds-session")),
        "{heads:?}"
    );
    let expiry = ambassador
        .metrics()
        .sum("login_expiry_timestamp_seconds", &[("cluster", "up"), ("source", "aws_rds_iam")]);
    assert!(expiry > 1.0e9, "{expiry}");
    for text in [ambassador.lines().join("\n"), ambassador.status().to_string()] {
        assert!(!text.contains("hidden") && !text.contains("X-Amz-Signature"), "a secret is shown");
    }
}

/// A request as azure-identity's oracle shows one.
fn shown(request: &str, host: &str) -> (String, String, Vec<(String, String)>) {
    let (head, body) = request.split_once("\r\n\r\n").expect("a whole request");
    let mut words = head.split(' ');
    let (method, target) = (words.next().expect("a method"), words.next().expect("a target"));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut form: Vec<_> = body.split('&').filter_map(|pair| pair.split_once('=')).collect();
    form.sort_unstable();
    let form = form.into_iter().map(|(name, value)| (decoded(name), decoded(value))).collect();
    (method.to_owned(), format!("{host}{}", decoded(target)), form)
}

/// What azure-identity asks in the same environment.
fn azure_identity(
    credential: &str,
    client_id: &str,
    environment: &[(&str, String)],
) -> (Value, String, String, Vec<(String, String)>) {
    let mut python = python("with_azure_identity.py");
    python.args([credential, "https://ossrdbms-aad.database.windows.net", client_id]);
    python.envs(environment.iter().map(|(name, value)| (name, value)));
    let told: Value = serde_json::from_str(&finish(&mut python).must_succeed().stdout).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let form = told["form"].as_object().cloned().unwrap_or_default();
    let mut form: Vec<_> = form.into_iter().map(|(name, value)| (name, text(&value))).collect();
    form.sort_unstable();
    (told["fields"].clone(), text(&told["method"]), text(&told["url"]), form)
}

fn python(driver: &str) -> Command {
    let drivers = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers");
    let mut python = Command::new("/usr/bin/python3");
    python.arg(drivers.join(driver)).env("PYTHONPATH", newer_clients("python"));
    python
}

fn azure_answers() -> Vec<(&'static str, String)> {
    let token = format!(r#"{{"access_token":"{TOKEN}","expires_on":"4102444800","token_type":"Bearer"}}"#);
    vec![
        ("GET /msi/token?", token.clone()),
        ("GET /metadata/identity/oauth2/token?", token.clone()),
        (
            "POST /tenant/oauth2/v2.0/token ",
            token.replace("\"expires_on\":\"4102444800\"", "\"expires_in\":3599"),
        ),
    ]
}

/// The environment of each of Azure's identities, by what it has there. `localhost` is what Container Apps have.
fn azure_environments(
    metadata: &Metadata,
    token_file: &str,
) -> [(&'static str, Vec<(&'static str, String)>); 3] {
    let port = metadata.address.port();
    [
        (
            "app service",
            vec![
                ("IDENTITY_ENDPOINT", format!("http://localhost:{port}/msi/token")),
                ("IDENTITY_HEADER", "header-secret".into()),
            ],
        ),
        ("machine", vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", format!("http://127.0.0.1:{port}"))]),
        (
            "workload",
            vec![
                ("AZURE_FEDERATED_TOKEN_FILE", token_file.into()),
                ("AZURE_TENANT_ID", "tenant".into()),
                ("AZURE_CLIENT_ID", "client".into()),
                ("AZURE_AUTHORITY_HOST", format!("http://127.0.0.1:{port}/")),
            ],
        ),
    ]
}

fn asked_in(server: &Postgres, metadata: &Metadata, login: &str, environment: &[(&str, String)]) -> String {
    let before = metadata.heads().len();
    let ambassador = Ambassador::start_with(&config(server, login), |command| {
        command.envs(environment.iter().map(|(name, value)| (name, value)));
    });
    assert_eq!(asks(&ambassador), "tokened");
    for text in [ambassador.lines().join("\n"), ambassador.status().to_string()] {
        for secret in [TOKEN, "header-secret", "federated-token"] {
            assert!(!text.contains(secret), "{secret} is shown in {text}");
        }
    }
    metadata.heads().remove(before)
}

/// Scenario: Container Apps have `http://localhost:PORT/msi/token` in IDENTITY_ENDPOINT, which was refused as a name without TLS.
#[test]
fn each_identity_of_azure_signs_in() {
    let server = Postgres::by_method();
    let metadata = Metadata::start(azure_answers());
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("token");
    fs::write(&file, "federated-token\n").expect("a file");
    for (what, environment) in azure_environments(&metadata, &file.display().to_string()) {
        let request = asked_in(server, &metadata, "{ as: tokened, azure: {} }", &environment);
        let expected = match what {
            "app service" => "x-identity-header: header-secret\r\n",
            "machine" => "metadata: true\r\n",
            _ => "&client_assertion=federated-token",
        };
        assert!(request.contains(expected), "{what}: {request}");
    }
}

#[test]
#[ignore = "azure-identity: scripts/test-matrix clients"]
fn azure_is_asked_as_azure_identity_asks() {
    let server = Postgres::by_method();
    let metadata = Metadata::start(azure_answers());
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("token");
    fs::write(&file, "federated-token\n").expect("a file");
    for (what, environment) in azure_environments(&metadata, &file.display().to_string()) {
        for client_id in ["", "one-of-several"] {
            if what == "workload" && !client_id.is_empty() {
                continue;
            }
            let key = if client_id.is_empty() { String::new() } else { format!("client_id: {client_id}") };
            let login = format!("{{ as: tokened, azure: {{ {key} }} }}");
            let request = asked_in(server, &metadata, &login, &environment);
            // msal takes an authority by https alone; and it has no variable for the machine's endpoint.
            let (credential, authority) = match what {
                "workload" => ("workload", "https://login.microsoftonline.com"),
                "machine" => ("managed", "http://169.254.169.254"),
                _ => ("managed", ""),
            };
            let theirs: Vec<_> = environment
                .iter()
                .filter(|(name, _)| !name.ends_with("AUTHORITY_HOST"))
                .map(|(name, value)| (*name, value.clone()))
                .collect();
            let (fields, method, url, form) = azure_identity(credential, client_id, &theirs);
            let host = match authority {
                "" => format!("http://localhost:{}", metadata.address.port()),
                other => other.to_owned(),
            };
            assert_eq!(shown(&request, &host), (method, url, form), "{what}");
            let lower = request.to_lowercase();
            for (name, value) in fields.as_object().into_iter().flatten() {
                // It sends `Metadata: true` to App Services, too.
                if what == "machine" || name != "metadata" {
                    let line = format!("{name}: {}\r\n", value.as_str().unwrap_or_default().to_lowercase());
                    assert!(lower.contains(&line), "{what}: no {line:?} in {request}");
                }
            }
        }
    }
}

/// A PostgreSQL server that asks for a password in the clear, and keeps what it was shown.
struct Clear {
    upstream: Upstream,
    pki: Pki,
    shown: Arc<Mutex<Vec<String>>>,
}

impl Clear {
    fn start() -> Self {
        let pki = Pki::new();
        let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).alpn(&["postgresql"]).build();
        let shown = Arc::<Mutex<Vec<_>>>::default();
        let kept = Arc::clone(&shown);
        let upstream = Upstream::plain(move |conn| {
            let (tls, kept) = (Arc::clone(&tls), Arc::clone(&kept));
            async move {
                let Some(conn) = accept_ssl(conn, tls).await else { return };
                let _ = take_password(conn, &kept).await;
            }
        });
        Self { upstream, pki, shown }
    }
}

async fn take_password(mut conn: Conn, shown: &Mutex<Vec<String>>) -> Option<()> {
    read_startup(&mut conn).await?;
    conn.write_all(&message(b'R', &[0, 0, 0, 3])).await.ok()?;
    conn.flush().await.ok()?;
    conn.read_u8().await.ok().filter(|kind| *kind == b'p')?;
    let length = usize::try_from(conn.read_u32().await.ok()?).ok()?.checked_sub(4)?;
    let mut body = vec![0; length];
    conn.read_exact(&mut body).await.ok()?;
    let password = String::from_utf8(body).ok()?.trim_end_matches('\0').to_owned();
    shown.lock().expect("passwords nobody poisoned").push(password);
    conn.write_all(&welcome()).await.ok()?;
    conn.flush().await.ok()?;
    roles::echo(conn).await;
    Some(())
}

/// moto's server, with botocore beside it.
struct Moto {
    child: Child,
    told: BufReader<ChildStdout>,
    port: u16,
}

impl Moto {
    fn start() -> Self {
        let mut command = python("with_moto.py");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("python starts");
        let mut told = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        told.read_line(&mut line).expect("a port");
        Self { child, told, port: line.trim().parse().expect("a port") }
    }

    /// The token that botocore makes at the moment of ours.
    fn token(&mut self, place: &str, ours: &str) -> String {
        let words = format!("{place} eu-central-1 db.abc.eu-central-1.rds.amazonaws.com 5432 app {ours}\n");
        self.child.stdin.as_mut().expect("its input").write_all(words.as_bytes()).expect("it reads");
        let mut line = String::new();
        self.told.read_line(&mut line).expect("a token");
        line.trim().to_owned()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// STS and the metadata service are moto's; moto has no container's endpoint, so this test plays that one.
#[test]
#[ignore = "moto and botocore: scripts/test-matrix clients"]
fn tokens_of_rds_are_botocores_by_keys_of_sts_of_metadata_and_of_a_container() {
    let database = Clear::start();
    let mut moto = Moto::start();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("token");
    fs::write(&file, "web.identity.token\n").expect("a file");
    let keys = r#"{"AccessKeyId":"AKID","SecretAccessKey":"hidden","Token":"se/ss+ion==","Expiration":"2099-01-01T00:00:00Z","RoleArn":"arn"}"#;
    let container = Metadata::start(vec![("GET /v2/credentials/app ", keys.into())]);
    let beside = format!("http://localhost:{}/v2/credentials/app", container.address.port());
    let at = format!("http://127.0.0.1:{}", moto.port);
    let ca = database.pki.ca().display().to_string();
    let login = "{ as: app, aws_rds_iam: { region: eu-central-1, host: \"db.abc.eu-central-1.rds.amazonaws.com:5432\" } }";
    let cluster = format!("protocol: postgres\ntls: {{ ca: {ca} }}\nlogin: {login}");
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone");
    let config = config.cluster("up", &[&database.upstream.address()], &cluster);
    for (place, environment) in [
        (
            "sts",
            vec![
                ("AWS_WEB_IDENTITY_TOKEN_FILE", file.display().to_string()),
                ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/app".into()),
                ("AWS_ENDPOINT_URL_STS", at.clone()),
            ],
        ),
        ("imds", vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", at.clone())]),
        (beside.as_str(), vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", beside.clone())]),
    ] {
        let ambassador = Ambassador::start_with(&config, |command| {
            for name in ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_PROFILE", "HOME"] {
                command.env_remove(name);
            }
            command.envs(environment);
        });
        let mut client = ambassador.connect();
        client.send(app_startup());
        client.expect(welcome());
        let ours = database.shown.lock().expect("passwords nobody poisoned").pop().expect("a token");
        assert!(ours.contains("X-Amz-Security-Token="), "{place}: {ours}");
        assert_eq!(ours, moto.token(place, &ours), "{place}");
    }
}
