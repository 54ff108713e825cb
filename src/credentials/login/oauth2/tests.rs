//! What is sent to a token endpoint, and which files count.

use super::*;
use crate::http::PlainHttp;

fn form_of(client: &OAuth2Client) -> Form {
    let url = HttpUrl::parse("https://login.test/token", PlainHttp::Never).unwrap();
    let mut form = Form::default();
    client.authenticate(&mut form, &url).unwrap();
    form
}

/// RFC 6749 §2.3.1: in the header both are encoded as in a form, and then in base64.
#[test]
fn a_client_secret_is_sent_in_the_body_or_in_the_header() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "p&ss:w rd+\u{e9}\n").unwrap();
    let client = |is_basic| OAuth2Client {
        id: "a:b".into(),
        proof: ClientProof::Secret { file: file.clone(), is_basic },
    };
    let post = form_of(&client(false));
    let body = String::from_utf8(post.encoded().1.to_vec()).unwrap();
    assert_eq!(body, "client_id=a%3Ab&client_secret=p%26ss%3Aw%20rd%2B%C3%A9");
    assert!(post.authorization.is_none());
    assert_eq!(post.secrets(), ["p&ss:w rd+\u{e9}"]);
    let basic = form_of(&client(true));
    assert!(basic.encoded().1.is_empty());
    let header = basic.authorization.as_ref().unwrap().strip_prefix("Basic ").unwrap();
    let decoded = BASE64.decode(header.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(decoded).unwrap(), "a%3Ab:p%26ss%3Aw%20rd%2B%C3%A9");
    assert_eq!(basic.secrets(), ["p&ss:w rd+\u{e9}"]);
    let public = form_of(&OAuth2Client { id: "me".into(), proof: ClientProof::None });
    assert_eq!((&public.encoded().1[..], public.secrets().len()), (&b"client_id=me"[..], 0));
}

/// What is written by the source itself is no reason to ask again; what others write is, where the token it has is of no use.
#[test]
fn own_writing_is_no_news() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refresh");
    let client = OAuth2Client { id: "me".into(), proof: ClientProof::None };
    let source = OAuth2 {
        user: TokenUser::Named("app".into()),
        label: "oauth2",
        kind: SecretKind::BearerToken,
        token_url: HttpUrl::parse("https://login.test/token", PlainHttp::Never).ok(),
        roots: Roots::WebPki,
        grant: Grant::RefreshToken { client, file: RefreshTokenFile::new(path.clone()), device_url: None },
        scopes: Vec::new(),
        seen: SeenFiles::default(),
    };
    std::fs::write(&path, "hunter2").unwrap();
    assert!(!source.is_news(true), "nothing to compare with");
    assert!(!source.is_news(true));
    std::fs::write(&path, "hunter3").unwrap();
    assert!(source.is_news(true));
    assert!(!source.is_news(true));
    std::fs::write(&path, "hunter4").unwrap();
    assert!(!source.is_news(false), "another cluster has used the same file");
    assert!(!format!("{source:?}").contains("hunter"));
}

/// As Cloud SQL's documentation has them ("Log in using IAM database authentication").
#[test]
fn cloud_sql_calls_a_service_account_by_protocol() {
    let account = "app@project.iam.gserviceaccount.com";
    assert_eq!(TokenUser::WithoutDomain.of(account), "app@project.iam");
    assert_eq!(TokenUser::BeforeAt.of(account), "app");
    assert_eq!(TokenUser::Named("me".into()).of(account), "me");
}
