//! The configuration loader against any text: no panic, and every refusal has a place in the file.
#![no_main]

use std::path::Path;

use ambassador::internals::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let environment = |name: &str| (name == "SET").then(|| "value".to_owned());
    if let Err(mistakes) = Config::parse(text, Path::new("/nonexistent/listeners.yaml"), &environment) {
        assert!(!mistakes.to_string().is_empty());
    }
});
