//! The command line: one file per verb, and the exit status of each.

mod check;
mod client;
mod close;
mod completions;
mod demo;
mod drain;
mod endpoint;
mod log_level;
mod man;
mod reload;
mod run;
mod sessions;
mod show;
mod sign_in;
mod status;
mod top;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::admin::{self, ConfigId};
use crate::config::{Config, Mistakes};
use crate::escape::escaped_lines;

/// The exit status of a command that failed.
const FAILED: u8 = 1;
/// EX_CONFIG of sysexits.h: wrong configuration.
const CONFIG: u8 = 78;

/// Accepts plaintext connections on this host and forwards them to upstream servers over TLS or mTLS.
///
/// It begins TLS in each protocol's own way (STARTTLS, PostgreSQL's SSLRequest, ...). Each listener of
/// listeners.yaml is a local plaintext address that leads to a cluster of upstream endpoints. Without a
/// command, the daemon runs. Commands exit with 0, 1 for a failure, 2 for wrong usage, or 78 for a wrong
/// configuration.
#[derive(Debug, Parser)]
#[command(name = "ambassador", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    file: ConfigFile,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the daemon in the foreground until SIGTERM or SIGINT; the default command.
    ///
    /// SIGHUP reloads the configuration. SIGUSR2 replaces the process without closing a listening socket.
    Run(ConfigFile),
    /// Reads the configuration, certificates and keys as `run` does, and prints all mistakes.
    ///
    /// It binds no address. It prints each mistake with file, line and column, and exits with 78 if there is one.
    /// Example: `ambassador check --connect -c listeners.yaml`.
    Check(check::Arguments),
    /// Shows a failover: clients keep working while one of two mTLS servers stops.
    ///
    /// Servers, clients and certificates are made in this process, so nothing needs to be installed or configured.
    Demo(demo::Arguments),
    /// Shows the listeners, clusters and endpoints of a running daemon.
    Status(status::Arguments),
    /// Lists the live sessions of a running daemon.
    Sessions(sessions::Arguments),
    /// Shows status and sessions of a running daemon on a terminal, live.
    ///
    /// Keys: `s` sorts, `/` filters, `k` closes a session, `q` quits.
    Top(top::Arguments),
    /// Closes sessions of a running daemon, by their ids.
    Close(close::Arguments),
    /// Enables, drains or disables an endpoint of a running daemon.
    ///
    /// The order holds until another one; a reload does not change it.
    /// Example: `ambassador endpoint orders-db 10.0.0.7:5432 drain`.
    Endpoint(endpoint::Arguments),
    /// Shows or changes the log level of a running daemon.
    ///
    /// A changed level holds until the next reload or replacement, or for the time of `--for`.
    /// Example: `ambassador log-level debug --for 10m`.
    LogLevel(log_level::Arguments),
    /// Makes a running daemon read its configuration again.
    ///
    /// If the configuration has mistakes, the command prints them and exits with 78, and nothing changes.
    Reload(reload::Arguments),
    /// Stops a running daemon as SIGTERM does: it drains, then exits.
    ///
    /// It stops accepting after `shutdown.lame_duck`; live sessions then have `shutdown.drain_timeout` to end.
    Drain(drain::Arguments),
    /// Gets a refresh token for a cluster that signs in with OAuth 2.0, with a person's consent.
    ///
    /// It prints an address and a code. The person opens the address in any browser, signs in there, and enters the code
    /// (RFC 8628). The token is written to the cluster's `refresh_token` file; a running daemon notices it.
    SignIn(sign_in::Arguments),
    /// Prints the JSON Schema of listeners.yaml, for editors.
    Schema,
    /// Prints completions of this command line for a shell.
    ///
    /// Example: `ambassador completions bash > /etc/bash_completion.d/ambassador`.
    Completions(completions::Arguments),
    /// Prints the manual page ambassador(1), or writes all manual pages.
    ///
    /// All pages are ambassador(1), one for each command, and listeners.yaml(5).
    Man(man::Arguments),
}

// No doc comment: clap would show it as the help of `run`.
#[derive(Debug, Clone, clap::Args)]
struct ConfigFile {
    /// Configuration file [default: ./listeners.yaml if it exists, else /etc/ambassador/listeners.yaml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Parses the command line and runs the command. Wrong usage exits with 2.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.verb {
        None => run::run(&cli.file),
        Some(Verb::Run(file)) => run::run(&file),
        Some(Verb::Check(arguments)) => check::check(&arguments),
        Some(Verb::Demo(arguments)) => demo::demo(&arguments),
        Some(Verb::Status(arguments)) => status::status(&arguments),
        Some(Verb::Sessions(arguments)) => sessions::sessions(&arguments),
        Some(Verb::Top(arguments)) => top::top(&arguments),
        Some(Verb::Close(arguments)) => close::close(&arguments),
        Some(Verb::Endpoint(arguments)) => endpoint::endpoint(&arguments),
        Some(Verb::LogLevel(arguments)) => log_level::log_level(&arguments),
        Some(Verb::Reload(arguments)) => reload::reload(&arguments),
        Some(Verb::Drain(arguments)) => drain::drain(&arguments),
        Some(Verb::SignIn(arguments)) => sign_in::sign_in(&arguments),
        Some(Verb::Schema) => schema(),
        Some(Verb::Completions(arguments)) => completions::completions(&arguments),
        Some(Verb::Man(arguments)) => man::man(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Why a command failed.
#[derive(Debug)]
enum CommandError {
    Config(Mistakes),
    /// What is wrong with a file, in words.
    Wrong(Vec<String>),
    Running(String),
}

impl CommandError {
    fn report(&self) -> ExitCode {
        match self {
            Self::Config(mistakes) => {
                eprintln!("{}", escaped_lines(&mistakes.to_string()));
                ExitCode::from(CONFIG)
            }
            Self::Wrong(words) => {
                eprintln!("{}", escaped_lines(&words.join("\n")));
                ExitCode::from(CONFIG)
            }
            Self::Running(reason) => {
                eprintln!("ambassador: {}", escaped_lines(reason));
                ExitCode::from(FAILED)
            }
        }
    }
}

impl ConfigFile {
    /// The named file, or the first default that exists; if none exists, the last, so that the error names it.
    fn path(&self) -> PathBuf {
        let defaults = ["listeners.yaml", "/etc/ambassador/listeners.yaml"].map(PathBuf::from);
        let [here, system] = defaults;
        match &self.config {
            Some(path) => path.clone(),
            None if here.exists() => here,
            None => system,
        }
    }

    fn load(&self) -> Result<Config, CommandError> {
        Config::load(&self.path()).map_err(CommandError::Config)
    }

    /// Distinguishes it from other files; `None` where there is no file.
    fn id(&self) -> Option<ConfigId> {
        let path = self.path();
        (self.config.is_some() || path.exists()).then(|| ConfigId::of(&path))
    }

    /// The admin settings of this file; without a file, the default ones.
    fn load_admin(&self) -> Result<admin::Settings, CommandError> {
        let path = self.path();
        let settings = if self.config.is_none() && !path.exists() {
            Config::default_admin()
        } else {
            Config::load_admin(&path)
        };
        settings.map_err(CommandError::Config)
    }
}

fn schema() -> Result<(), CommandError> {
    let schema = crate::config::schema();
    let text =
        serde_json::to_string_pretty(&schema).map_err(|error| CommandError::Running(error.to_string()))?;
    print(format!("{text}\n").as_bytes())
}

/// Prints all of the text to stdout, with control characters escaped. A reader that closes the pipe (`| head`) is no
/// error.
fn print(bytes: &[u8]) -> Result<(), CommandError> {
    let text = String::from_utf8_lossy(bytes);
    let mut stdout = io::stdout().lock();
    match stdout.write_all(escaped_lines(&text).as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::Running(format!("cannot write to stdout: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
