//! The participants: each proxy in its common configurations.
//!
//! Lacks the configurations: those are in `recipe`.
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::brand::Brand;
use crate::scenario::{Scenario, Shape};

#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) brand: Brand,
    /// With active health checks.
    pub(crate) checks: bool,
    /// Lines of YAML for ambassador's cluster.
    pub(crate) extra: String,
    /// Another build than the one at hand.
    pub(crate) program: Option<PathBuf>,
}

impl Variant {
    /// All but those that are asked for by --tuned and --build.
    pub(crate) fn all() -> Vec<Self> {
        let new = |name: &str, brand, checks| Self {
            name: name.to_owned(),
            brand,
            checks,
            extra: String::new(),
            program: None,
        };
        vec![
            new("ambassador", Brand::Ambassador, false),
            new("ambassador-checks", Brand::Ambassador, true),
            new("haproxy-checks", Brand::Haproxy, true),
            new("haproxy", Brand::Haproxy, false),
            new("envoy-checks", Brand::Envoy, true),
            new("envoy", Brand::Envoy, false),
            new("nginx", Brand::Nginx, false),
        ]
    }

    /// `NAME=FILE`: an ambassador whose cluster has the lines of the file, too.
    pub(crate) fn tuned(said: &str) -> io::Result<Self> {
        let (name, file) = pair(said)?;
        let text = fs::read_to_string(file).map_err(|error| io::Error::other(format!("{file}: {error}")))?;
        let extra = text.lines().map(|line| format!("    {line}\n")).collect();
        Ok(Self { name: name.to_owned(), brand: Brand::Ambassador, checks: false, extra, program: None })
    }

    /// `NAME=PROGRAM`: an ambassador of another build.
    pub(crate) fn of_build(said: &str) -> io::Result<Self> {
        let (name, program) = pair(said)?;
        let program = Some(PathBuf::from(program));
        Ok(Self {
            name: name.to_owned(),
            brand: Brand::Ambassador,
            checks: false,
            extra: String::new(),
            program,
        })
    }

    /// Its program, or in words why there is none.
    pub(crate) fn program(&self) -> io::Result<PathBuf> {
        self.program.clone().map_or_else(|| self.brand.program(), Ok)
    }

    pub(crate) fn plays(&self, scenario: &Scenario) -> bool {
        self.brand == Brand::Ambassador || (!scenario.shape.is_ours_alone() && self.can(&scenario.shape))
    }

    /// nginx has a slow start only in its commercial edition.
    fn can(&self, shape: &Shape) -> bool {
        self.brand != Brand::Nginx || !shape.slow_start
    }
}

fn pair(said: &str) -> io::Result<(&str, &str)> {
    said.split_once('=').ok_or_else(|| io::Error::other(format!("{said:?} is not NAME=FILE")))
}
