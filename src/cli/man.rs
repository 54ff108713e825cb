//! `man`: the manual in roff, generated from the command line and the table of keys, so that it is
//! always up to date.

use std::path::PathBuf;
use std::{fs, io};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::{Cli, CommandError};
use crate::config::{self, KeyDoc};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Write all pages to this folder instead of printing ambassador(1)
    #[arg(long, value_name = "FOLDER")]
    all: Option<PathBuf>,
}

pub(super) fn man(arguments: &Arguments) -> Result<(), CommandError> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    match &arguments.all {
        None => super::print(&page(program)?),
        Some(folder) => {
            let mut pages = vec![("listeners.yaml.5".to_owned(), file())];
            for verb in program.get_subcommands() {
                pages.push((format!("ambassador-{}.1", verb.get_name()), page(verb.clone())?));
            }
            pages.push(("ambassador.1".to_owned(), page(program)?));
            for (name, page) in pages {
                let path = folder.join(name);
                fs::write(&path, page).map_err(|error| {
                    CommandError::Running(format!("cannot write {}: {error}", path.display()))
                })?;
            }
            Ok(())
        }
    }
}

fn page(command: Command) -> Result<Vec<u8>, CommandError> {
    let is_program = command.get_name() == "ambassador";
    let man = Man::new(command).manual("ambassador");
    let mut page = Vec::new();
    let written = man.render(&mut page).and_then(|()| if is_program { more(&mut page) } else { Ok(()) });
    written.map_err(|error| CommandError::Running(error.to_string()))?;
    Ok(page)
}

/// The sections that hold for all commands.
fn more(page: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in [
        ("0", "Done."),
        ("1", "Failed while running."),
        ("2", "Wrong usage."),
        ("78", "Wrong configuration (EX_CONFIG); every mistake is named on stderr."),
    ] {
        roff.control("TP", []).text([bold(status)]).text([roman(meaning)]);
    }
    roff.control("SH", ["SIGNALS"]);
    for (signal, meaning) in [
        ("SIGTERM, SIGINT", "Drains, then exits with 0; a second one exits at once."),
        ("SIGHUP", "Reads the configuration again, and opens the log's files again."),
        ("SIGUSR1", "Opens the log's files again."),
        ("SIGUSR2", "Replaces the running binary."),
    ] {
        roff.control("TP", []).text([bold(signal)]).text([roman(meaning)]);
    }
    roff.control("SH", ["FILES"]);
    for file in ["./listeners.yaml", "/etc/ambassador/listeners.yaml"] {
        roff.control("TP", [])
            .text([italic(file)])
            .text([roman("The first that exists is read; see listeners.yaml(5).")]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("listeners.yaml"),
        roman("(5), "),
        bold("systemd.socket"),
        roman("(5), "),
        bold("ambassador-check"),
        roman("(1)"),
    ]);
    roff.to_writer(page)
}

/// listeners.yaml(5): each key with its path, from the table that parses the file.
fn file() -> Vec<u8> {
    let mut roff = Roff::new();
    roff.control("TH", ["listeners.yaml", "5", "", "", "ambassador"]);
    roff.control("SH", ["NAME"]).text([roman("listeners.yaml \u{2013} the configuration of ambassador(1)")]);
    roff.control("SH", ["DESCRIPTION"]);
    for paragraph in [
        "YAML. An unknown key, a duplicate name, a cluster that does not exist or a certificate that cannot be read is an error \
         that says where; ambassador-check(1) reports all of them in one run.",
        "Durations are written as 250ms, 5s or 1h30m, sizes as 64KiB. Relative paths are taken from the file's own folder. \
         ${NAME} and ${NAME:-default} take a value from the environment.",
    ] {
        roff.control("PP", []).text([roman(paragraph)]);
    }
    roff.control("SH", ["KEYS"]);
    for KeyDoc { path, takes, default, about } in config::key_docs() {
        let mut head: Vec<Inline> = vec![bold(path), roman("  "), italic(takes)];
        if let Some(default) = default {
            head.push(roman(format!("  [{default}]")));
        }
        roff.control("TP", []).text(head).text([roman(about)]);
    }
    roff.control("SH", ["SEE ALSO"]).text([
        bold("ambassador"),
        roman("(1), "),
        bold("ambassador-check"),
        roman("(1)"),
    ]);
    roff.to_roff().into_bytes()
}
