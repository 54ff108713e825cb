//! AWS Signature Version 4, as a presigned URL: the token by which RDS and ElastiCache let an IAM identity in. The moment is an
//! argument.
//!
//! Sources: AWS documentation, "Create a signed AWS API request" and "Authenticating requests: using query parameters";
//! botocore's generate_db_auth_token, whose tokens the tests have byte for byte.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use zeroize::Zeroizing;

use crate::http::percent_encoded;

/// Keys of AWS, as a source of them gives them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct AwsKeys {
    /// Not secret.
    pub(super) id: String,
    pub(super) secret: Zeroizing<String>,
    /// Of temporary keys.
    pub(super) session_token: Option<Zeroizing<String>>,
    /// When temporary keys end, if it is known.
    pub(super) expires: Option<SystemTime>,
}

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connect<'a> {
    /// `rds-db` or `elasticache`.
    pub(super) service: &'a str,
    pub(super) region: &'a str,
    /// As in the URL: `HOST:PORT` of RDS, the name of a cache.
    pub(super) host: &'a str,
    /// The parameter that names the user, and the user.
    pub(super) user: (&'a str, &'a str),
}

/// How long a token lets new connections in: AWS' limit, in seconds.
pub(super) const LIFETIME: u64 = 900;

/// RFC 3986 §2.3: what stays as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The token: the presigned URL without its scheme.
pub(super) fn token(connect: &Connect<'_>, keys: &AwsKeys, at: SystemTime) -> Zeroizing<String> {
    let Connect { service, region, host, user: (parameter, user) } = connect;
    let (date, time) = stamps(at);
    // What has a secret in it is put together at once: a string that grows leaves a copy behind.
    let encoded = |text: &str| percent_encoded(text, RESERVED);
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let credential = encoded(&format!("{}/{scope}", keys.id));
    let session = keys.session_token.as_ref().map(|token| encoded(token));
    let session = session.map(|token| Zeroizing::new(["&X-Amz-Security-Token=", &*token].concat()));
    let session = session.unwrap_or_default();
    let fixed = format!(
        "Action=connect&{parameter}={}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={time}&\
         X-Amz-Expires={LIFETIME}",
        *encoded(user),
        *credential
    );
    let query = Zeroizing::new([&*fixed, "&X-Amz-SignedHeaders=host", &*session].concat());
    // What is signed has its parameters in order; "Security" comes before "SignedHeaders".
    let ordered = Zeroizing::new([&*fixed, &*session, "&X-Amz-SignedHeaders=host"].concat());
    let request =
        Zeroizing::new(["GET\n/\n", &*ordered, "\nhost:", *host, "\n\nhost\n", &hash(b"")].concat());
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hash(request.as_bytes()));
    let first = Zeroizing::new(["AWS4", &*keys.secret].concat().into_bytes());
    let key = [date.as_str(), *region, *service, "aws4_request"]
        .iter()
        .fold(first, |key, part| Zeroizing::new(sign(&key, part.as_bytes())));
    let signature = HEXLOWER.encode(&sign(&key, to_sign.as_bytes()));
    Zeroizing::new([*host, "/?", &*query, "&X-Amz-Signature=", &signature].concat())
}

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn hash(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// The day as `20261130`, and the moment as `20261130T120000Z`; a time before 1970 is 1970.
fn stamps(at: SystemTime) -> (String, String) {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let date = format!("{year:04}{month:02}{day:02}");
    let time = format!("{date}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60);
    (date, time)
}

/// The date of a day since 1970-01-01, in the Gregorian calendar: years that begin in March, eras of 400 years.
const fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + if month <= 2 { 1 } else { 0 }, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 2026-11-30 12:00:00.
    const NOON: u64 = 1_796_040_000;

    fn keys(session: Option<&str>) -> AwsKeys {
        AwsKeys {
            id: "AKIDEXAMPLE".into(),
            secret: Zeroizing::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()),
            session_token: session.map(|token| Zeroizing::new(token.into())),
            expires: None,
        }
    }

    /// By botocore 1.35.36 at that time: `generate_db_auth_token` for RDS, `generate_presigned_url` for ElastiCache.
    #[test]
    fn tokens_are_botocores_byte_for_byte() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOON);
        let rds = Connect {
            service: "rds-db",
            region: "eu-central-1",
            host: "reports.abc.eu-central-1.rds.amazonaws.com:3306",
            user: ("DBUser", "rep+user@x"),
        };
        let cache =
            Connect { service: "elasticache", host: "my-cache", user: ("User", "app"), ..rds.clone() };
        let session = "IQoJb3JpZ2luX2VjEA==/+token";
        let shown = "&X-Amz-Security-Token=IQoJb3JpZ2luX2VjEA%3D%3D%2F%2Btoken";
        for (connect, session, begins, signature) in [
            (
                &rds,
                None,
                "DBUser=rep%2Buser%40x",
                "e43994a9e26185bc0b633794845aeb1b09c354722e2b311cd744f1cf7d20268e",
            ),
            (
                &rds,
                Some(session),
                "DBUser=rep%2Buser%40x",
                "6abc09f6cf83b0904475d93b79c07a63ee475b21f6eb56d6da148850a576b59a",
            ),
            (&cache, None, "User=app", "9b40b48a9460fb00c1186fe5bc4dfba436aed14482059f4dc9965fd8a2708ef2"),
            (
                &cache,
                Some(session),
                "User=app",
                "acda4b921cdf304eca27141ebb0b9e7c663408187cf735f849b4d0323fe1a755",
            ),
        ] {
            let service = connect.service;
            let expected = format!(
                "{}/?Action=connect&{begins}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261130%2F\
                 eu-central-1%2F{service}%2Faws4_request&X-Amz-Date=20261130T120000Z&X-Amz-Expires=900&\
                 X-Amz-SignedHeaders=host{}&X-Amz-Signature={signature}",
                connect.host,
                if session.is_some() { shown } else { "" }
            );
            assert_eq!(*token(connect, &keys(session), at), expected);
        }
    }

    #[test]
    fn days_have_their_dates() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (10_957, (2000, 1, 1)),
            (11_016, (2000, 2, 29)),
            (20_787, (2026, 11, 30)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), expected, "{days}");
        }
    }
}
