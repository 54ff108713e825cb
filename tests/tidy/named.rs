//! References to tests: those that the documents name exist, and ignored ones are run by `scripts/test-matrix`. A name
//! is `module::…::function`, as `cargo test` prints it.
//!
//! Reads sources as text, as rustfmt formats them; it knows no macro that makes tests out of a name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every test of `src/` and of the behaviour tests by its full name, with the reason of its `#[ignore = …]`.
fn tests() -> BTreeMap<String, Test> {
    let mut found = BTreeMap::new();
    for root in ["src", "tests/behaviour"] {
        for path in files(root, "rs") {
            let text = read(&path);
            let relative = path.strip_prefix(root).expect("it was found there").with_extension("");
            let mut module: Vec<String> =
                relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
            module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
            for (name, line, ignored) in tests_of(&text, &module.join("::")) {
                found.insert(name, Test { path: path.clone(), line, ignored });
            }
        }
    }
    assert!(found.len() > 900, "found only {} tests", found.len());
    found
}

struct Test {
    path: PathBuf,
    line: usize,
    ignored: Option<String>,
}

/// The tests of one file that is this module: name, line, and why it is ignored.
fn tests_of(text: &str, module: &str) -> Vec<(String, usize, Option<String>)> {
    let mut found = Vec::new();
    // Open modules in the file, with the line that closes each.
    let mut open: Vec<(String, String)> = Vec::new();
    let (mut is_test, mut ignored) = (false, None);
    for (index, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        open.pop_if(|(_, end)| line == end);
        if let Some(name) = code.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            open.push((name.to_owned(), format!("{indent}}}")));
        } else if code == "#[test]" || code.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(why) = code.strip_prefix("#[ignore") {
            ignored = Some(why.trim_matches([' ', '=', '"', ']']).to_owned());
        } else if let Some((_, rest)) = code.split_once("fn ").filter(|_| is_test && !code.starts_with("//"))
        {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let path = [module].into_iter().chain(open.iter().map(|(name, _)| name.as_str()));
            let path: Vec<_> = path.filter(|part| !part.is_empty()).chain([name.as_str()]).collect();
            found.push((path.join("::"), index + 1, ignored.take()));
            is_test = false;
        }
    }
    found
}

/// Files below `root` with this extension, in order.
fn files(root: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is readable") {
            let path = entry.expect("the folder is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|its| its == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the file is UTF-8")
}

/// The text between backticks in a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Names of tests in a document, with their lines: text in backticks in the column `test` of a table, and, in
/// documents about behaviour alone, every path of at least two parts in lower case. A cell of the column without a
/// name says `by hand`; any other is returned as an empty name.
fn names(text: &str, any_path: bool) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut is_of_tests = false;
    for (index, line) in text.lines().enumerate() {
        let last =
            line.strip_suffix('|').and_then(|row| Some(row.strip_prefix('|')?.rsplit_once('|')?.1.trim()));
        match last {
            Some("test") => is_of_tests = true,
            Some(cell) if is_of_tests && !cell.trim_matches('-').is_empty() => {
                found.extend(spans(cell).map(|name| (index + 1, name)));
                if spans(cell).next().is_none() && cell != "by hand" {
                    found.push((index + 1, ""));
                }
            }
            Some(_) => {}
            None => is_of_tests = false,
        }
        if any_path && !is_of_tests {
            let paths = spans(line).filter(|span| {
                span.contains("::")
                    && span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
            });
            // Addresses such as `::1`.
            let paths = paths.filter(|span| {
                span.split("::").all(|part| part.starts_with(|c: char| c.is_ascii_lowercase()))
            });
            found.extend(paths.map(|name| (index + 1, name)));
        }
    }
    found
}

/// Files of Rust that a document names, with their lines.
fn sources(text: &str) -> Vec<(usize, &str)> {
    let words = |line| -> Vec<&str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_/.-".contains(c);
        str::split(line, move |c| !is_part(c)).collect()
    };
    let is_one =
        |word: &&str| (word.starts_with("src/") || word.starts_with("tests/")) && word.ends_with(".rs");
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(index, line)| words(line).into_iter().filter(is_one).map(move |word| (index + 1, word)))
        .collect()
}

#[test]
fn the_tests_that_documents_name_exist() {
    let tests = tests();
    let mut breaches = Vec::new();
    for path in files("docs", "md") {
        let text = read(&path);
        let any_path = path.starts_with("docs/protocols") || path.ends_with("CREDENTIALS.md");
        for (line, name) in names(&text, any_path).into_iter().filter(|(_, name)| !tests.contains_key(*name))
        {
            let function = format!("::{}", name.rsplit("::").next().unwrap_or_default());
            let alike: Vec<_> =
                tests.keys().filter(|known| !name.is_empty() && known.ends_with(&function)).collect();
            breaches.push(format!(
                "{}:{line}: no test has the full name `{name}`; of that function: {alike:?}",
                path.display()
            ));
        }
        for (line, source) in sources(&text).into_iter().filter(|(_, source)| !Path::new(source).exists()) {
            breaches.push(format!("{}:{line}: there is no {source}", path.display()));
        }
    }
    assert!(
        breaches.is_empty(),
        "documents name tests in full, and only those that exist\n{}",
        breaches.join("\n")
    );
}

/// Scenario: a client that Debian lacks had a test that named `scripts/test-matrix`, none of whose filters picked it:
/// it never ran.
#[test]
fn whatever_the_suite_leaves_out_is_run_by_the_matrix() {
    let script = read(Path::new("scripts/test-matrix"));
    // NAME SUITE DIRECTORIES FILTERS PACKAGES…
    let lines =
        script.lines().filter_map(|line| line.strip_prefix("    '")).map(|line| line.split([' ', '\'']));
    let filters: BTreeMap<_, _> = lines
        .filter_map(|mut words| Some((words.next()?, words.nth(2)?.split(',').collect::<Vec<_>>())))
        .collect();
    assert!(filters.contains_key("clients"), "the matrix is not where it was: {filters:?}");
    let left_out = tests().into_iter().filter_map(|(name, test)| Some((name, test.ignored.clone()?, test)));
    let breaches: Vec<_> = left_out
        .filter(|(name, why, _)| {
            let line = why.rsplit_once("scripts/test-matrix ").map_or("", |(_, line)| line);
            !filters.get(line).is_some_and(|filters| filters.iter().any(|filter| name.contains(filter)))
        })
        .map(|(name, why, test)| format!("{}:{}: {name}: {why:?}", test.path.display(), test.line))
        .collect();
    assert!(breaches.is_empty(), "no line of scripts/test-matrix runs these\n{}", breaches.join("\n"));
}

#[test]
fn the_reader_of_names_reads_columns_paths_and_nested_modules() {
    let text = "`a::b`, `::1`, `A::b` and src/a.rs\n\n| x | test |\n|---|---|\n| `y` | `c::d`, `e` |\n| `z` | by hand |\n| | - no |\n\n`g`\n";
    assert_eq!(names(text, true), [(1, "a::b"), (5, "c::d"), (5, "e"), (7, "")]);
    assert_eq!(names(text, false), [(5, "c::d"), (5, "e"), (7, "")]);
    assert_eq!(sources(text), [(1, "src/a.rs")]);
    let code = "#[test]\n#[ignore = \"why\"]\nfn a() {}\nfn b() {}\nmod m {\n    #[tokio::test]\n    async fn c() {\n    }\n}\n#[test]\nfn d() {}\n";
    let why = Some("why".to_owned());
    assert_eq!(
        tests_of(code, "x::y"),
        [
            ("x::y::a".to_owned(), 3, why),
            ("x::y::m::c".to_owned(), 7, None),
            ("x::y::d".to_owned(), 11, None)
        ]
    );
}
