#!/bin/sh
# prometheus-client (the Rust crate of the Prometheus project) 0.25.0 writes label values as they are: neither `"` nor
# `\` is escaped, which both of Prometheus' text formats and OpenMetrics require. A unit of systemd whose name has a dash is
# written with a backslash (systemd-escape), so a label with its name is wrong in the output, without an error.
#
# Seen: `unit="system-backup\x2ddaily.slice"` instead of `\\x2d`, which the Python client's parser (prometheus_client 0.21.1)
# lets pass, and `unit="a "quoted" name"`, at which it stops. What we do: docs/DECISIONS.md, "Metrics belong to their objects".
# Needs cargo, python3 with venv, and the network. Fails if the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "labels"
version = "0.0.0"
edition = "2021"

[dependencies]
prometheus-client = "=0.25.0"
TOML
cat > src/main.rs <<'RUST'
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::{counter::Counter, family::Family};
use prometheus_client::registry::Registry;

fn main() {
    let value = std::env::args().nth(1).expect("a label's value");
    let mut registry = Registry::default();
    let family = Family::<Vec<(String, String)>, Counter>::default();
    registry.register("sessions", "Sessions by unit", family.clone());
    family.get_or_create(&vec![("unit".to_owned(), value)]).inc();
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes all");
    print!("{text}");
}
RUST
cargo build --quiet
python3 -m venv parser
parser/bin/pip install --quiet --disable-pip-version-check prometheus_client==0.21.1
failed=0
expect() { # value, the line that is expected
    ./target/debug/labels "$1" > text
    grep -qxF "$2" text || { echo "changed: for $1 it writes"; cat text; failed=1; }
    parser/bin/python -c '
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
try:
    values = [sample.labels["unit"] for family in parse(open("text").read()) for sample in family.samples]
    print("read back as it was" if values == [sys.argv[1]] else "read back as " + repr(values))
except ValueError as error:
    print("refused:", type(error).__name__)
' "$1" > verdict
    echo "$1: $(cat verdict)"
    grep -q "read back as it was" verdict && [ "$3" = broken ] && { echo "changed: it is read back"; failed=1; }
    return 0
}
expect 'plain.service' 'sessions_total{unit="plain.service"} 1' whole
expect 'system-backup\x2ddaily.slice' 'sessions_total{unit="system-backup\x2ddaily.slice"} 1' unescaped
expect 'a "quoted" name' 'sessions_total{unit="a "quoted" name"} 1' broken
exit "$failed"
