//! The first steps after a build: the demo, and the example file that ships.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{ambassador, demand, finish};

#[test]
fn the_demo_runs_by_itself_and_shows_new_sessions_going_to_the_other_upstream() {
    let finished = finish(ambassador().arg("demo").current_dir("/")).must_succeed();
    assert!(finished.stdout.contains("other upstream"), "{}", finished.stdout);
    assert!(
        finished.stdout.contains("http://127.0.0.1:"),
        "the status page is not named:\n{}",
        finished.stdout
    );
}

#[test]
fn the_shipped_example_loads_with_the_development_certificates() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("listeners.yaml");
    let copy = dir.path().join("listeners.yaml");
    fs::copy(shipped, &copy).expect("the shipped example");
    finish(ambassador().args(["demo", "--write-certs"]).arg(dir.path().join("certs"))).must_succeed();
    finish(ambassador().args(["check", "--config"]).arg(&copy)).must_succeed();
}

#[test]
fn what_the_protocols_pages_show_loads() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocols");
    let dir = tempfile::tempdir().expect("a temporary directory");
    finish(ambassador().args(["demo", "--write-certs"]).arg(dir.path().join("certs"))).must_succeed();
    let mut shown = 0;
    for page in fs::read_dir(pages).expect("the pages") {
        let page = page.expect("a page").path();
        let text = fs::read_to_string(&page).expect("a readable page");
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let file = dir.path().join("listeners.yaml");
            for name in block.split("secrets/").skip(1) {
                let name = name.split([' ', ',', '}', '\n']).next().unwrap_or_default();
                fs::create_dir_all(dir.path().join("secrets")).expect("a folder");
                fs::write(dir.path().join("secrets").join(name), "a secret").expect("a file for a secret");
            }
            // Some show a cluster alone.
            let cluster =
                block.strip_prefix("clusters:\n").and_then(|rest| rest.trim_start().split(':').next());
            let listener = cluster.map(|name| {
                format!("listeners: {{ app: {{ bind: 127.0.0.1:2, cluster: {name}, allow: anyone }} }}\n")
            });
            fs::write(&file, listener.unwrap_or_default() + block).expect("a file to check");
            let finished = finish(ambassador().args(["check", "--config"]).arg(&file));
            assert_eq!(finished.code, 0, "{}:\n{}", page.display(), finished.stderr);
            shown += 1;
        }
    }
    assert!(shown >= 7, "{shown} examples");
}

#[test]
fn no_private_key_is_shipped() {
    let certs = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs");
    // A developer's ignored files may be here; only files known to the version control are shipped.
    let listed = finish(Command::new(demand("git", "git")).arg("ls-files").current_dir(&certs));
    for file in listed.stdout.lines() {
        let text = fs::read(certs.join(file)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains("PRIVATE KEY"), "certs/{file} holds a private key");
    }
}
