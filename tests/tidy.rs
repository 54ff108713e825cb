//! The project's rules that the compiler does not check: the layers of modules, what the pure modules may not contain,
//! where `unsafe`, the clock and entropy are allowed, which tests exist. docs/ARCHITECTURE.md has the reasons.
//!
//! Exceptions to a rule are in `ALLOWED`, with the reason.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[path = "tidy/named.rs"]
mod named;

/// Each module of `src/` and its layer. A file imports only from lower layers, or from its own module.
const LAYERS: &[(&str, u32)] = &[
    ("caller", 0),
    ("clock", 0),
    ("digest", 0),
    ("name", 0),
    ("nonce", 0),
    ("outcome", 0),
    ("quantity", 0),
    ("rsa", 0),
    ("escape", 0),
    ("sync", 0),
    ("sys", 0),
    ("alarm", 1),
    ("blocking", 1),
    ("head", 1),
    ("policy", 1),
    ("protocol", 1),
    ("xds", 1),
    ("drain", 2),
    ("metrics", 2),
    ("tls", 2),
    ("watch", 2),
    ("workers", 2),
    ("http", 3),
    ("credentials", 4),
    ("log", 4),
    ("relay", 4),
    ("cluster", 5),
    ("downstream", 5),
    ("dial", 6),
    ("discovery", 6),
    ("health", 7),
    ("session", 7),
    ("admin", 8),
    ("listener", 8),
    ("config", 9),
    ("daemon", 10),
    ("cli", 11),
];

/// Modules without effects.
const PURE: &[&str] = &["head", "policy", "protocol", "xds"];

/// Text that a pure module may not contain, and the rule.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "no runtime: effects are the driver's"),
    ("async ", "no async: bytes in, values out"),
    (".await", "no async: bytes in, values out"),
    ("std::net::", "no sockets: effects are the driver's"),
    ("std::io", "no I/O: effects are the driver's"),
    ("tracing", "no log: the caller reports what is returned"),
    ("metrics::", "no metrics: the caller reports what is returned"),
    ("Instant::now", "no clock: `now` is an argument"),
    ("SystemTime", "no clock: `now` is an argument"),
    ("Rng::new", "no entropy: the generator is an argument"),
    ("HashMap", "no hash order: a seed must replay"),
    ("HashSet", "no hash order: a seed must replay"),
];

/// Files that may read the wall clock, and for what: its steps must not affect anything else.
const WALL: &[(&str, &str)] = &[
    ("clock.rs", "where it is read"),
    ("cli/demo/mod.rs", "the name of a folder"),
    ("config/resolve/identity.rs", "a warning of a certificate's end"),
    ("credentials.rs", "the same, while it is in use"),
    ("credentials/login.rs", "whether a token has ended"),
    ("credentials/login/follow.rs", "when a token ends, which the server has said in seconds from now"),
    ("credentials/login/aws.rs", "the date of a signed token"),
    ("credentials/login/cloud.rs", "when a token ends"),
    ("http/mod.rs", "a pause that a server asks for by a date"),
    ("credentials/login/oauth2.rs", "the same, and the dates of a signed assertion"),
    ("credentials/login/oauth2/device.rs", "the same"),
    ("daemon/reload.rs", "a metric in seconds since 1970"),
    ("daemon/startup_log.rs", "the first lines of the log"),
    ("log/timestamp.rs", "the time of a line"),
    ("tls/endpoint.rs", "whether what a handshake was asked is still asked: lists and certificates end"),
    ("discovery/follow.rs", "a metric in seconds since 1970"),
    ("discovery/follow/keep.rs", "the age of what was kept on disk"),
    ("discovery/follow/report.rs", "a metric in seconds since 1970"),
    ("admin/status.rs", "the age of what was kept on disk"),
];

/// File names that say nothing about the content.
const EMPTY_NAMES: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "types", "constants", "manager", "misc"];

/// Exceptions: file, the text that is allowed there, the reason.
const ALLOWED: &[(&str, &str, &str)] = &[];

struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers; a `use` over several lines is joined on its first. Comments and inline tests
    /// do not count: `#[cfg(test)]` hides the declaration behind it, or a module to the end of the file.
    fn code(&self) -> Vec<(usize, String)> {
        let is_test_file =
            self.path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
        if is_test_file { Vec::new() } else { self.lines(false) }
    }

    /// The same, `with_tests` or without.
    fn lines(&self, with_tests: bool) -> Vec<(usize, String)> {
        let mut code: Vec<(usize, String)> = Vec::new();
        let mut lines = self.text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let line = line.split("//").next().unwrap_or_default();
            if line.trim() == "#[cfg(test)]" && !with_tests {
                let hidden = lines.next().map_or("", |(_, hidden)| hidden);
                if hidden.trim_end().ends_with('{') {
                    break;
                }
                continue;
            }
            match code.last_mut() {
                Some((_, open)) if is_open_use(open) => open.push_str(line.trim()),
                _ if line.trim().is_empty() => {}
                _ => code.push((index + 1, line.to_owned())),
            }
        }
        code
    }
}

fn is_open_use(line: &str) -> bool {
    let begins = ["use ", "pub use ", "pub(super) use ", "pub(crate) use "];
    begins.iter().any(|begin| line.trim_start().starts_with(begin)) && !line.contains(';')
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).expect("it was found there").to_path_buf();
                let first = relative.components().next().expect("a path has a first part");
                let module = first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
                let text = std::fs::read_to_string(&path).expect("a source is UTF-8");
                found.push(Source { path: relative, module, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "found only {} files under {}", found.len(), root.display());
    found
}

fn layer(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// The paths that a line names behind `crate::` or `super::`, those of a group one by one.
fn paths(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in line.match_indices(start).filter(|(at, _)| !line[..*at].ends_with("super::")) {
            spread(String::new(), &line[at..], &mut found);
        }
    }
    found
}

/// Adds the paths at the beginning of `text`, each behind `path`; returns what follows them.
fn spread<'a>(path: String, text: &'a str, found: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        while !rest.is_empty() && !rest.starts_with('}') {
            rest = spread(path.clone(), rest, found);
            // Not the comma alone: an item may end in ` as other`.
            rest = rest[rest.find([',', '}']).unwrap_or(rest.len())..].trim_start_matches(',').trim_start();
        }
        return rest.strip_prefix('}').unwrap_or(rest);
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let path = path + &text[..end];
    match text[end..].strip_prefix("::") {
        Some(rest) => spread(path + "::", rest, found),
        None => {
            found.push(path);
            &text[end..]
        }
    }
}

/// The modules that a line names behind `crate::`.
fn imports(line: &str) -> Vec<String> {
    let mut found: Vec<_> = paths(line)
        .iter()
        .filter_map(|path| path.strip_prefix("crate::")?.split("::").next().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .collect();
    found.dedup();
    found
}

/// The path of a file's module: `session/mod.rs` is `session`.
fn module_of(file: &Path) -> Vec<String> {
    let file = file.with_extension("");
    let mut module: Vec<_> = file.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    module.pop_if(|last| last == "mod");
    module
}

/// The file that a path of a line in `ours` leads to; `files`: the modules of all.
fn file_of(path: &str, ours: &[String], files: &BTreeSet<Vec<String>>) -> Vec<String> {
    let mut file = if path.starts_with("super") { ours.to_vec() } else { Vec::new() };
    for part in path.split("::") {
        match part {
            "crate" => {}
            "super" => drop(file.pop()),
            _ => {
                file.push(part.to_owned());
                if !files.contains(&file) {
                    file.pop();
                    break;
                }
            }
        }
    }
    file
}

/// Two files, as what lies side by side in one folder: themselves, or the folders that they are in. `None`: one is the
/// other, or the file of a folder that the other is in.
fn side_by_side(ours: &[String], theirs: &[String]) -> Option<(String, String)> {
    let shared = ours.iter().zip(theirs).take_while(|(our, their)| our == their).count();
    let name = |module: &[String]| module.get(..=shared).map(|module| module.join("/"));
    Some((name(ours)?, name(theirs)?))
}

/// Every breach of `rule` in one message, so that one run shows all.
fn check(rule: &str, breaches: impl Iterator<Item = (PathBuf, usize, String)>) {
    let mut message = String::new();
    for (path, line, what) in breaches {
        let allowed = ALLOWED.iter().any(|(file, text, _)| path == Path::new(file) && what.contains(text));
        if !allowed {
            let _ = writeln!(message, "src/{}:{line}: {what}", path.display());
        }
    }
    assert!(message.is_empty(), "{rule}\n{message}");
}

#[test]
fn every_module_has_a_layer() {
    let unknown = sources().into_iter().filter(|source| {
        !["lib", "main"].contains(&source.module.as_str()) && layer(&source.module).is_none()
    });
    check("a module of src/ is missing in LAYERS", unknown.map(|source| (source.path, 1, source.module)));
}

#[test]
fn a_file_imports_only_from_lower_layers_or_its_own_module() {
    let sources = sources();
    let breaches = sources.iter().filter(|source| layer(&source.module).is_some()).flat_map(|source| {
        source.lines(true).into_iter().flat_map(move |(number, line)| {
            imports(&line).into_iter().filter_map(move |imported| {
                let (ours, theirs) = (layer(&source.module)?, layer(&imported)?);
                let wrong = imported != source.module && theirs >= ours;
                let what = format!("{} (layer {ours}) imports {imported} (layer {theirs})", source.module);
                wrong.then(|| (source.path.clone(), number, what))
            })
        })
    });
    check("imports go downwards, in tests too; siblings on one layer do not know each other", breaches);
}

/// What a file imports by the file of its room does not count, nor what a folder's file imports of those in it.
#[test]
fn what_lies_side_by_side_imports_in_no_circle() {
    let sources = sources();
    let files: BTreeSet<_> = sources.iter().map(|source| module_of(&source.path)).collect();
    let mut steps = BTreeSet::new();
    for source in &sources {
        let ours = module_of(&source.path);
        for (number, line) in source.code() {
            let theirs = paths(&line).into_iter().map(|path| file_of(&path, &ours, &files));
            let beside = theirs.filter_map(|theirs| side_by_side(&ours, &theirs));
            steps.extend(beside.map(|(from, to)| (from, to, source.path.clone(), number)));
        }
    }
    let leads_back = |from: &str, to: &str| {
        let mut reached = BTreeSet::from([to]);
        loop {
            let known = reached.len();
            let next = steps.iter().filter(|(begin, ..)| reached.contains(begin.as_str()));
            let next: Vec<_> = next.map(|(_, end, ..)| end.as_str()).collect();
            reached.extend(next);
            if reached.len() == known {
                return reached.contains(from);
            }
        }
    };
    let breaches = steps.iter().filter(|(from, to, ..)| leads_back(from, to));
    check(
        "of the files and folders in one folder none imports another that imports it, directly or round about",
        breaches.map(|(from, to, path, number)| {
            (path.clone(), *number, format!("{from} imports {to}, which leads back to it"))
        }),
    );
}

#[test]
fn pure_modules_decide_and_do_nothing_else() {
    let sources = sources();
    let pure = sources.iter().filter(|source| PURE.contains(&source.module.as_str()));
    let breaches = pure.flat_map(|source| {
        source.code().into_iter().flat_map(move |(number, line)| {
            IMPURE
                .iter()
                .filter(move |(word, _)| line.contains(word))
                .map(move |(word, why)| (source.path.clone(), number, format!("`{word}`: {why}")))
        })
    });
    check("head, policy and protocol are pure", breaches);
}

#[test]
fn the_wall_clock_moves_nothing() {
    let sources = sources();
    let others = sources.iter().filter(|source| !WALL.iter().any(|(file, _)| source.path.ends_with(file)));
    let breaches = others.flat_map(|source| {
        source
            .code()
            .into_iter()
            .filter(|(_, line)| line.contains("clock::wall") || line.contains("SystemTime::now"))
            .map(|(number, line)| (source.path.clone(), number, line.trim().to_owned()))
    });
    check(
        "the wall clock is for what is listed in WALL; durations and deadlines are of `clock::now`",
        breaches,
    );
}

#[test]
fn unsafe_lives_in_sys() {
    let sources = sources();
    let breaches = sources.iter().filter(|source| source.module != "sys").flat_map(|source| {
        source
            .code()
            .into_iter()
            .filter(|(_, line)| {
                line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
            })
            .map(|(number, line)| (source.path.clone(), number, line.trim().to_owned()))
    });
    check("`unsafe` appears only in sys", breaches);
}

#[test]
fn only_config_knows_yaml() {
    let sources = sources();
    let breaches = sources.iter().filter(|source| source.module != "config").flat_map(|source| {
        source
            .code()
            .into_iter()
            .filter(|(_, line)| line.contains("serde_saphyr"))
            .map(|(number, line)| (source.path.clone(), number, line.trim().to_owned()))
    });
    check("modules declare their Settings; config alone reads YAML", breaches);
}

#[test]
fn metric_names_exist_once() {
    let sources = sources();
    let breaches =
        sources.iter().filter(|source| !source.path.ends_with("metrics/names.rs")).flat_map(|source| {
            source
                .code()
                .into_iter()
                .filter(|(_, line)| line.contains("\"ambassador_"))
                .map(|(number, line)| (source.path.clone(), number, line.trim().to_owned()))
        });
    check("metric names live in metrics/names.rs", breaches);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//!"));
    check("a file opens with `//!`", silent.map(|source| (source.path, 1, "no head comment".into())));
}

#[test]
fn file_names_mean_something() {
    let empty = sources().into_iter().filter(|source| {
        let stem = source.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        EMPTY_NAMES.contains(&stem.as_str())
    });
    check("a name says what is inside", empty.map(|source| (source.path, 1, "says nothing".into())));
}

#[test]
fn the_code_reader_skips_tests_and_joins_imports() {
    let text = "#[cfg(test)]\nmod tests;\nuse crate::{\n    a,\n    b,\n};\nfn f() {} // crate::c\n#[cfg(test)]\nmod t {\nuse crate::d;\n}\n";
    let source = Source { path: "x.rs".into(), module: "x".into(), text: text.into() };
    let code = source.code();
    assert_eq!(code, [(3, "use crate::{a,b,};".to_owned()), (7, "fn f() {} ".to_owned())]);
    assert_eq!(imports(&code[0].1), ["a", "b"]);
}

#[test]
fn the_import_reader_reads_both_forms() {
    assert_eq!(imports("use crate::relay::End;"), ["relay"]);
    assert_eq!(imports("use crate::{relay, sys::{A, B}, tls};"), ["relay", "sys", "tls"]);
    assert_eq!(imports("fn f(x: &crate::session::Route) -> crate::sys::Pipe"), ["session", "sys"]);
    assert!(imports("use super::x;").is_empty());
}

#[test]
fn the_path_reader_finds_the_file() {
    let read = "pub(in crate::a) use super::{b::{self, C as D}, e};";
    assert_eq!(paths(read), ["crate::a", "super::b::self", "super::b::C", "super::e"]);
    let files = ["a", "a/b", "a/b/c", "a/d", "e"].map(|file| module_of(Path::new(file)));
    let file = |path| file_of(path, &files[2], &files.clone().into()).join("/");
    assert_eq!(
        ["super::C", "super::super::d::X", "crate::e::f::g", "crate::a"].map(file),
        ["a/b", "a/d", "e", "a"]
    );
    let beside = |ours: usize, theirs: usize| side_by_side(&files[ours], &files[theirs]);
    assert_eq!(beside(2, 3), Some(("a/b".into(), "a/d".into())));
    assert_eq!([beside(2, 1), beside(0, 3), beside(1, 1)], [None, None, None]);
}

/// The words of LEXICON.md's first columns, in lower case: nouns of the code, and whole names of types.
fn lexicon() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/LEXICON.md");
    let text = std::fs::read_to_string(path).expect("docs/LEXICON.md is there");
    let rows = text.lines().filter(|line| line.starts_with('|'));
    // Names in backticks count anywhere in a row.
    let words = rows.flat_map(|row| {
        let first = row.split('|').nth(1).unwrap_or_default().to_owned();
        let named = row.split('`').skip(1).step_by(2).map(str::to_owned);
        std::iter::once(first).chain(named)
    });
    words
        .flat_map(|words| {
            words.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect::<Vec<_>>()
        })
        .filter(|word| !word.is_empty())
        .collect()
}

/// The name of the type that a line declares with `pub` or `pub(…)`.
fn public_type(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(inside) => inside.split_once(')')?.1,
        None => rest,
    };
    let rest = rest.trim_start();
    let rest = rest.strip_prefix("unsafe ").unwrap_or(rest);
    let rest = ["struct ", "enum ", "trait "].iter().find_map(|kind| rest.strip_prefix(kind))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// `SessionTable` → `Table`.
fn last_word(name: &str) -> &str {
    let start = name.char_indices().rev().find(|(_, c)| c.is_uppercase()).map_or(0, |(index, _)| index);
    &name[start..]
}

#[test]
fn every_public_types_noun_is_in_the_lexicon() {
    let known = lexicon();
    let is_known = |word: &str| {
        let word = word.to_lowercase();
        let singular = word.strip_suffix("ies").map(|stem| format!("{stem}y"));
        let endings = ["es", "s"].iter().filter_map(|ending| word.strip_suffix(ending)).map(str::to_owned);
        known.contains(&word) || singular.into_iter().chain(endings).any(|word| known.contains(&word))
    };
    let unknown = sources().into_iter().flat_map(|source| {
        let named = source.code().into_iter().filter_map(|(number, line)| {
            let name = public_type(&line)?;
            // A macro has none yet: `$name`.
            let wrong = !name.is_empty() && !is_known(name) && !is_known(last_word(name));
            wrong.then(|| (number, format!("`{name}`: neither it nor `{}`", last_word(name))))
        });
        named.map(|(number, what)| (source.path.clone(), number, what)).collect::<Vec<_>>()
    });
    check("docs/LEXICON.md has the noun of every public type", unknown);
}

#[test]
fn the_readers_of_types_read_each_form() {
    assert_eq!(public_type("pub struct SessionTable {"), Some("SessionTable"));
    assert_eq!(public_type("    pub(in crate::cluster) enum Phase {"), Some("Phase"));
    assert_eq!(public_type("pub(super) trait Leg: Send {"), Some("Leg"));
    assert_eq!(public_type("struct Private;"), None);
    assert_eq!(public_type("pub fn structure() {"), None);
    assert_eq!([last_word("SessionTable"), last_word("Phase")], ["Table", "Phase"]);
}
