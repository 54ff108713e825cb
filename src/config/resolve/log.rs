//! Section `log`.

use std::path::PathBuf;

use super::SettingsBuilder;
use crate::config::mistakes::{SourceLocation, quoted};
use crate::config::raw::Section;
use crate::config::suggest::did_you_mean;
use crate::log::{Format, LEVELS, LogTarget, Output, Settings, accepts};
use crate::policy::sampling::Sampling;

/// The socket of journald, by systemd-journald.service(8).
const JOURNAL: &str = "/run/systemd/journal/socket";

impl SettingsBuilder<'_> {
    pub(super) fn log(&mut self, root: &Section) -> Option<Settings> {
        let log = root.section("log")?;
        let level = log.choice("level", &LEVELS);
        let events = self.log_target(log, &Output::Stderr);
        let of_events = events.as_ref().map_or(&Output::Stderr, |events| &events.output);
        let access = match log.section("access") {
            Some(access) => self.log_target(access, of_events),
            None => Some(LogTarget { output: of_events.clone(), format: None }),
        };
        let (events, mut access) = (events?, access?);
        // Access records have the events' format, unless they go to the journal.
        if !matches!(access.output, Output::Journal(_)) {
            access.format = access.format.or(events.format);
        }
        Some(Settings { level: level?, events, access })
    }

    /// Which sessions of a listener leave access records: by its own setting, else by the common
    /// one.
    pub(super) fn records(&mut self, root: &Section, listener: &Section) -> Option<Option<Sampling>> {
        let (section, key) = if listener.is_given("access_log") {
            (listener, "access_log")
        } else {
            (root.section("log")?, "access")
        };
        match section.section(key) {
            Some(records) => self.sampling(records).map(Some),
            None => Some(section.boolean(key)?.then_some(Sampling::ALL)),
        }
    }

    fn sampling(&mut self, records: &Section) -> Option<Sampling> {
        let share = records.ratio("sample")?;
        if !records.is_given("slower_than") {
            return Some(Sampling::new(share, None));
        }
        let sampling = Sampling::new(share, Some(records.duration("slower_than")?));
        if share >= 1.0 {
            let at = records.at("slower_than");
            // `log.access` is read for each listener, so it may have been reported.
            if !self.findings.mistakes.iter().any(|(known, _)| known.path == at.path) {
                self.findings
                    .mistake(&at, "is about what `sample` leaves out, and there is no `sample` below 1");
            }
            return None;
        }
        Some(sampling)
    }

    fn log_target(&mut self, section: &Section, default: &Output) -> Option<LogTarget> {
        let formats = [("text", Format::Text), ("json", Format::Json)];
        let format = if section.is_given("format") {
            section.choice("format", &formats).map(Some)
        } else {
            Some(None)
        };
        let output = match section.optional_text("output")? {
            Some(text) => self.output(text, &section.at("output")),
            None => Some(default.clone()),
        };
        let (format, output) = (format?, output?);
        if format.is_some() && matches!(output, Output::Journal(_)) {
            let message = "journald gets fields, which have no format; leave `format` out";
            self.findings.mistake(&section.at("format"), message);
            return None;
        }
        Some(LogTarget { output, format })
    }

    fn output(&mut self, text: &str, at: &SourceLocation) -> Option<Output> {
        let output = match text {
            "stderr" => Output::Stderr,
            "stdout" => Output::Stdout,
            "journald" => Output::Journal(PathBuf::from(JOURNAL)),
            _ => match text.strip_prefix("journald:") {
                Some(path) => Output::Journal(self.path(path)),
                None if text.contains('/') => Output::File(super::absolute(&self.path(text))),
                None => {
                    let advice = did_you_mean(text, ["stderr", "stdout", "journald"]);
                    let message = format!(
                        "{} is not stderr, stdout or journald{advice}; for a file beside this one write \
                         ./{}",
                        quoted(text),
                        text.escape_default()
                    );
                    self.findings.mistake(at, message);
                    return None;
                }
            },
        };
        if let Output::File(path) = &output {
            self.require_writable(path, at)?;
        }
        if let Err(error) = accepts(&output) {
            self.findings.mistake(at, format!("nothing can be written to {output}: {error}"));
            return None;
        }
        Some(output)
    }
}
