//! Tests of whole files: what is refused, where and in which words, and what an accepted file means.

mod accepted;
mod files;
mod health_check;
mod log;
mod preconnect;
mod random;
mod refused;
mod schema;

use std::path::Path;

use super::{Config, Mistakes};

/// Compiles as `/etc/ambassador/listeners.yaml`, in an environment with three variables.
fn parse(text: &str) -> Result<Config, Mistakes> {
    Config::parse(text, Path::new("/etc/ambassador/listeners.yaml"), &|name| match name {
        "PORT" => Some("5432".into()),
        "WORKERS" => Some("3".into()),
        "YES" => Some("true".into()),
        _ => None,
    })
}

/// Compiles a file that must be accepted.
#[track_caller]
fn accept(text: &str) -> Config {
    parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// A listener and a cluster that are right, each with more lines, such as `expose: true`.
fn with(top: &str, listener: &str, cluster: &str) -> String {
    let indented = |lines: &str| lines.lines().map(|line| format!("\n    {line}")).collect::<String>();
    format!(
        "{top}\nlisteners:\n  app:\n    cluster: up{}\nclusters:\n  up:\n    protocol: tcp{}\n",
        indented(listener),
        indented(cluster),
    )
}

const BIND: &str = "bind: 127.0.0.1:5432";
const ENDPOINTS: &str = "endpoints: [10.0.0.1:5432]";

/// A file with the minimum of keys, and these lines.
fn least(top: &str, listener: &str, cluster: &str) -> String {
    with(top, &format!("{BIND}\n{listener}"), &format!("{ENDPOINTS}\n{cluster}"))
}
