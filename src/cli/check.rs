//! `check`: whether the configuration is right, and with `--connect`, whether each endpoint answers.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::{CommandError, ConfigFile};
use crate::alarm;
use crate::cluster::{AttemptStep, Cluster, Endpoint, Origin, Settings};
use crate::credentials::{self, LoginCredential, LoginSettings};
use crate::dial::{DialRecord, examine_endpoint, late_rejection, probe, sign_in_once};
use crate::discovery::{self, DiscoveryServices};
use crate::escape::escaped;
use crate::listener;
use crate::tls::{self, CredentialFiles, IdentityChoice, UNCERTIFIED};
use crate::workers;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Also dial each endpoint once, and print the result of each step: resolve, connect, upgrade, handshake, answer
    #[arg(long)]
    connect: bool,
}

pub(super) fn check(arguments: &Arguments) -> Result<(), CommandError> {
    let config = arguments.file.load()?;
    for warning in &config.warnings {
        eprintln!("warning: {}", escaped(warning));
    }
    let wrong: Vec<_> = config.clusters.iter().filter_map(mistake_in_file).collect();
    if !wrong.is_empty() {
        return Err(CommandError::Wrong(wrong));
    }
    println!(
        "{}: fine: {} listener(s), {} cluster(s)",
        config.file.display(),
        config.listeners.len(),
        config.clusters.len()
    );
    if !arguments.connect {
        return Ok(());
    }
    let failed = |error: &dyn std::error::Error| CommandError::Running(error.to_string());
    let runtime = workers::runtime().map_err(|error| failed(&error))?;
    let services = DiscoveryServices::default();
    let fixed = config.clusters.iter().filter(|cluster| cluster.source.is_none());
    let fixed = fixed.map(|cluster| (cluster.name.clone(), cluster.addresses()));
    services.own.set(listener::listener_edges(&config.listeners), fixed);
    let unreachable = runtime.block_on(alarm::drive(connect_all(config.clusters, &services)));
    runtime.shutdown_background();
    match unreachable.map_err(|error| failed(&error))? {
        0 => Ok(()),
        count => Err(CommandError::Running(format!("{count} endpoint(s) cannot be used"))),
    }
}

/// The daemon starts all the same and waits for the file to be corrected: others write it, and it may appear later.
fn mistake_in_file(cluster: &Settings) -> Option<String> {
    cluster.source.as_ref()?.file()?.targets().err()
}

/// One after the other, so that the report reads in the file's order.
async fn connect_all(clusters: Vec<Settings>, services: &DiscoveryServices) -> usize {
    let mut unreachable = 0;
    for settings in clusters {
        let cluster = Cluster::new(settings, Rng::with_seed(0));
        if !fetch_identities(&cluster).await {
            unreachable += 1;
        }
        let identities =
            cluster.settings().tls.as_ref().map(|tls| tls.identities().clone()).unwrap_or_default();
        let found = discovery::settle(&cluster, services.clone(), Rng::with_seed(0)).await;
        for origin in &found.origins {
            println!("\nclusters.{} {}", cluster.settings().name, escaped(&origin.name));
            if !report_resolved(origin) {
                unreachable += 1;
            }
        }
        let logins = cluster.settings().login.as_ref().map(LoginSettings::all).unwrap_or_default();
        let logins: Vec<_> = if logins.is_empty() { vec![None] } else { logins.iter().map(Some).collect() };
        for endpoint in cluster.endpoints() {
            for (choice, login) in
                identities.choices().flat_map(|choice| logins.iter().map(move |login| (choice, *login)))
            {
                print!("\nclusters.{} {}", cluster.settings().name, endpoint.settings().name);
                match identities.name(choice).filter(|_| identities.all().len() > 1) {
                    Some(name) => println!(" as {name}"),
                    None => println!(),
                }
                if !connect(&cluster, &endpoint, choice, login).await {
                    unreachable += 1;
                }
            }
        }
    }
    unreachable
}

/// Fetches from every agent; returns whether all have sent their certificates.
async fn fetch_identities(cluster: &Arc<Cluster>) -> bool {
    let tls = cluster.settings().tls.as_ref();
    let mut all = true;
    for identity in tls.map(|tls| tls.identities().all()).unwrap_or_default() {
        if let Err(reason) = credentials::fetch(identity).await {
            println!("\nclusters.{} as {}", cluster.settings().name, identity.name());
            all = report_failure("identity", &reason);
        }
    }
    for login in cluster.settings().login.as_ref().map(LoginSettings::all).unwrap_or_default() {
        if let Err(reason) = credentials::fetch_once(login).await {
            println!("\nclusters.{} login by {}", cluster.settings().name, login.source().label());
            all = report_failure(AttemptStep::Login.label(), &reason);
        }
    }
    // Trust that comes from an agent has to be loaded after its certificates.
    let _ = tls.map(|tls| tls.trust().refresh(&CredentialFiles::default()));
    all
}

async fn connect(
    cluster: &Arc<Cluster>,
    endpoint: &Endpoint,
    identity: IdentityChoice,
    login: Option<&Arc<LoginCredential>>,
) -> bool {
    let mut record = DialRecord::default();
    let silent = |words: &str| println!("  {:<10} waits   {}", AttemptStep::Upgrade.label(), escaped(words));
    let dialled = examine_endpoint(cluster.settings(), endpoint, identity, Some(&silent), &mut record).await;
    let failed_at = dialled.as_ref().err().map(|error| error.step());
    let passed = |step: AttemptStep| failed_at.is_none_or(|failed| step < failed);
    let took = |took: Option<Duration>| took.map(|took| format!("{:.1} ms", took.as_secs_f64() * 1e3));
    let host = endpoint.settings().host.as_deref();
    report(
        RESOLVE,
        &host.map_or_else(|| "nothing to do, it is an address".into(), |host| format!("from {host}")),
    );
    if passed(AttemptStep::Connect) {
        report(AttemptStep::Connect.label(), &took(record.connect.get()).unwrap_or_default());
    }
    let settings = cluster.settings();
    let upgrades = settings
        .tls
        .as_ref()
        .is_some_and(|tls| tls.start() != tls::TlsStart::Direct && settings.protocol.upgrade().is_some())
        && dialled.as_ref().map_or(true, |ready| ready.is_upgraded);
    if passed(AttemptStep::Upgrade) && upgrades {
        report(AttemptStep::Upgrade.label(), settings.protocol.label());
    }
    let mut ready = match dialled {
        Ok(ready) => ready,
        Err(error) => return report_failure(error.step().label(), &error.to_string()),
    };
    // A server that requires a certificate rejects us after the handshake, and some do so without an alert.
    let is_uncertified = ready.stream.is_uncertified();
    let secured = record.agreed.as_ref().map(|agreed| {
        format!(
            "{} {}, {}",
            agreed.version(),
            agreed.cipher,
            took(record.handshake.get()).unwrap_or_default()
        )
    });
    if let (Some(credential), Some(login)) = (login, &settings.login) {
        secured.inspect(|words| report(AttemptStep::Handshake.label(), words));
        return match sign_in_once(&mut ready, settings, endpoint, login, credential, &mut record).await {
            Ok(()) => {
                let words = record.login.map(|login| {
                    let (user, took) = *login;
                    let left =
                        credential.left().map(|left| format!(", credential ends in {} s", left.as_secs()));
                    format!("as {user}, {:.1} ms{}", took.as_secs_f64() * 1e3, left.unwrap_or_default())
                });
                report(AttemptStep::Login.label(), &words.unwrap_or_default());
                late_rejection(ready.stream).await;
                true
            }
            Err(reason) => report_failure(AttemptStep::Login.label(), &reason),
        };
    }
    // With TLS 1.3 a server verifies our certificate after our side of the handshake is done. It reports the result
    // within a round trip, which is also when a probe gets its response.
    match probe(settings, ready).await {
        Ok(None) => {
            secured.inspect(|words| report(AttemptStep::Handshake.label(), words));
            println!("  {ANSWER:<10} ok      the server would serve a client");
            true
        }
        Err(failure) if is_uncertified && failure.is_end() => report_failure(
            AttemptStep::Handshake.label(),
            &format!("{}, then: {UNCERTIFIED}", secured.unwrap_or_default()),
        ),
        Err(failure) => {
            secured.inspect(|words| report(AttemptStep::Handshake.label(), words));
            report_failure(ANSWER, &failure.to_string())
        }
        Ok(Some(ready)) => match (secured, late_rejection(ready.stream).await) {
            (Some(words), Some(reason)) => {
                let reason = if is_uncertified { UNCERTIFIED } else { &reason };
                report_failure(AttemptStep::Handshake.label(), &format!("{words}, then: {reason}"))
            }
            (secured, _) => {
                secured.inspect(|words| report(AttemptStep::Handshake.label(), words));
                true
            }
        },
    }
}

/// The step after the handshake, where the protocol has a probe.
const ANSWER: &str = "answer";

/// The step before all others, for which sessions do not wait.
const RESOLVE: &str = "resolve";

fn report_resolved(origin: &Origin) -> bool {
    match &origin.error {
        None => {
            report(RESOLVE, &format!("{} found", origin.found));
            true
        }
        Some(error) => report_failure(RESOLVE, error),
    }
}

fn report(step: &str, words: &str) {
    println!("  {step:<10} ok      {}", escaped(words));
}

fn report_failure(step: &str, words: &str) -> bool {
    println!("  {step:<10} FAILED  {}", escaped(words));
    false
}
