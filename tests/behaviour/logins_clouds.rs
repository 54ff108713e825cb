//! `login` by tokens of clouds: their metadata services, played by this test, and a real PostgreSQL.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::harness::postgres::psql;
use crate::harness::{Ambassador, Config, Postgres};

/// The password of the role `tokened`.
const TOKEN: &str = "ya29.token";

/// Answers each request by the first line that begins with the expected one, and keeps the heads of all.
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
                let head = String::from_utf8_lossy(&head).into_owned();
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
