//! `sign-in`: a person consents that a cluster signs in for them, and its refresh token is written (RFC 8628).

use super::{CommandError, ConfigFile, print};
use crate::clock;
use crate::config::Config;
use crate::credentials::{LoginSettings, OAuth2, SignInProgress};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Cluster with `login.oauth2.refresh_token` and `device_url`
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// `as` of the rule that is meant, where the cluster has several
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
}

pub(super) fn sign_in(arguments: &Arguments) -> Result<(), CommandError> {
    let config = arguments.file.load()?;
    let source = chosen(&config, arguments).map_err(CommandError::Running)?;
    authorize(source).map_err(CommandError::Running)
}

/// The only source that fits.
fn chosen<'a>(config: &'a Config, arguments: &Arguments) -> Result<&'a OAuth2, String> {
    let name = &arguments.cluster;
    let cluster =
        config.clusters.iter().find(|cluster| cluster.name == crate::name::ClusterName::from(name.as_str()));
    let cluster = cluster.ok_or_else(|| format!("there is no cluster {name}"))?;
    let logins = cluster.login.as_ref().map(LoginSettings::all).unwrap_or_default();
    let able: Vec<_> = logins
        .iter()
        .filter_map(|login| login.source().oauth2())
        .filter(|source| source.sign_in_file().is_some())
        .filter(|source| arguments.user.as_ref().is_none_or(|user| source.user.to_string() == *user))
        .collect();
    match able[..] {
        [only] => Ok(only),
        [] => Err(format!(
            "cluster {name} has no login{} with `oauth2: {{ refresh_token, device_url }}`",
            arguments.user.as_ref().map(|user| format!(" as {user}")).unwrap_or_default()
        )),
        [..] => {
            let users: Vec<_> = able.iter().map(|source| source.user.to_string()).collect();
            Err(format!("cluster {name} has several; say which one: --as {}", users.join(", --as ")))
        }
    }
}

/// Asks for a code, shows it, and waits for the person.
fn authorize(source: &OAuth2) -> Result<(), String> {
    let mut sign_in = source.begin_sign_in()?;
    let until = clock::now() + sign_in.life;
    say(&format!("Open {} and enter the code {}\n", sign_in.verification_uri, sign_in.user_code))?;
    if let Some(uri) = &sign_in.complete_uri {
        say(&format!("or open {uri}\n"))?;
    }
    say(&format!("Sign in there as {}. Waiting...\n", source.user))?;
    loop {
        std::thread::sleep(sign_in.interval);
        if clock::now() >= until {
            return Err("the code has expired; begin anew".into());
        }
        if source.poll_sign_in(&mut sign_in)? == SignInProgress::Done {
            let file =
                source.sign_in_file().map(|file| file.path().display().to_string()).unwrap_or_default();
            return say(&format!("The refresh token is in {file}\n"));
        }
    }
}

fn say(text: &str) -> Result<(), String> {
    print(text.as_bytes()).map_err(|_| "cannot write to stdout".to_owned())
}
