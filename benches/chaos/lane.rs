//! One proxy with its own endpoints, listener and folder, and, during a scenario, clients.
//!
//! Lacks the schedule: the stage commands all lanes at the same moment.
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::fleet::Endpoint;
use crate::load::{Diary, Load};
use crate::names::Names;
use crate::pki::Pki;
use crate::ports::Ports;
use crate::proxy::Proxy;
use crate::recipe::{Job, Target};
use crate::scenario::{Naming, Scenario};
use crate::schedule::{Act, Order};
use crate::variant::Variant;

/// A participating proxy: its variant, and the path of its program.
#[derive(Clone)]
pub(crate) struct Entrant {
    pub(crate) variant: Variant,
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// Common to all lanes and stages.
pub(crate) struct Ground {
    pub(crate) pki: Pki,
    /// Certificates of a CA that no proxy trusts.
    pub(crate) stranger: Pki,
    pub(crate) folder: PathBuf,
    pub(crate) seed: u64,
    ports: Mutex<Ports>,
}

pub(crate) struct Lane<'a> {
    pub(crate) entrant: &'a Entrant,
    ground: &'a Ground,
    scenario: &'a Scenario,
    number: u8,
    listen: SocketAddr,
    folder: PathBuf,
    /// Keys of the endpoints in the configuration.
    members: Vec<usize>,
    // Dropped before its endpoints, so that its end is not caused by theirs.
    proxy: Proxy,
    pub(crate) endpoints: Vec<Endpoint>,
    load: Option<Load>,
    /// Deaths of its endpoints.
    pub(crate) deaths: Vec<Death>,
}

/// When endpoints were killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    /// Until then all lived.
    pub(crate) from: Instant,
    /// From then on they were gone, with their connections.
    pub(crate) to: Instant,
}

impl Ground {
    pub(crate) fn prepare(folder: &Path, seed: u64) -> io::Result<Self> {
        let stranger = folder.join("stranger");
        fs::create_dir_all(&stranger)?;
        let (pki, stranger) = (Pki::make(folder)?, Pki::make(&stranger)?);
        Ok(Self { pki, stranger, folder: folder.to_owned(), seed, ports: Mutex::new(Ports::new()) })
    }

    fn free(&self) -> io::Result<SocketAddr> {
        self.ports.lock().expect("nobody panics with it").free()
    }
}

impl<'a> Lane<'a> {
    /// `number` is unique to this lane in its scenario.
    pub(crate) fn open(
        ground: &'a Ground,
        scenario: &'a Scenario,
        entrant: &'a Entrant,
        number: u8,
        names: Option<&Names>,
    ) -> io::Result<Self> {
        let folder = ground.folder.join(scenario.name).join(&entrant.variant.name);
        fs::create_dir_all(&folder)?;
        let endpoints = start_endpoints(ground, scenario, number)?;
        let listen = ground.free()?;
        let members: Vec<usize> = (0..scenario.shape.members).collect();
        if let Some(names) = names {
            for (key, endpoint) in endpoints.iter().enumerate() {
                if let (SocketAddr::V4(at), true) =
                    (endpoint.at, scenario.shape.naming == Naming::NameEach || key == 0)
                {
                    names.set(&name(scenario, number, key), *at.ip());
                }
            }
        }
        let job = Job {
            program: &entrant.program,
            variant: &entrant.variant,
            shape: &scenario.shape,
            listen,
            targets: targets(scenario, number, &endpoints, &members),
            pki: &ground.pki,
            resolver: names.map(|names| names.server),
            folder: &folder,
        };
        let proxy = Proxy::start(&job, names)?;
        Ok(Self {
            entrant,
            ground,
            scenario,
            number,
            listen,
            folder,
            members,
            proxy,
            endpoints,
            load: None,
            deaths: Vec::new(),
        })
    }

    pub(crate) fn begin(&mut self, at: Instant) {
        let scenario = self.scenario;
        self.load = Some(Load::start(self.listen, &scenario.shape, self.ground.seed, at, scenario.lasts));
    }

    pub(crate) fn act(&mut self, act: &Act, names: Option<&Names>) -> io::Result<()> {
        match act {
            Act::Tell(order, endpoints) => {
                let from = Instant::now();
                for &endpoint in endpoints {
                    self.endpoints[endpoint].tell(*order)?;
                }
                if *order == Order::Kill {
                    self.deaths.push(Death { from, to: Instant::now() });
                }
                for endpoint in &mut self.endpoints {
                    endpoint.recover()?;
                }
            }
            Act::Members(members) => {
                self.members.clone_from(members);
                let job = Job {
                    program: &self.entrant.program,
                    variant: &self.entrant.variant,
                    shape: &self.scenario.shape,
                    listen: self.listen,
                    targets: targets(self.scenario, self.number, &self.endpoints, &self.members),
                    pki: &self.ground.pki,
                    resolver: names.map(|names| names.server),
                    folder: &self.folder,
                };
                self.proxy.reload(&job, names)?;
            }
            Act::Rename(endpoint) => {
                if let (Some(names), SocketAddr::V4(at)) = (names, self.endpoints[*endpoint].at) {
                    names.set(&name(self.scenario, self.number, 0), *at.ip());
                }
            }
        }
        Ok(())
    }

    pub(crate) fn cpu(&mut self) -> Duration {
        self.proxy.cpu()
    }

    pub(crate) fn memory(&self) -> u64 {
        self.proxy.memory()
    }

    pub(crate) fn proxy_has_ended(&mut self) -> bool {
        self.proxy.has_ended()
    }

    /// The observations of its clients.
    pub(crate) fn finish(&mut self) -> Diary {
        self.load.take().map_or_else(Diary::default, Load::join)
    }
}

fn start_endpoints(ground: &Ground, scenario: &Scenario, number: u8) -> io::Result<Vec<Endpoint>> {
    let shape = &scenario.shape;
    let shared = ground.free()?;
    let mut endpoints = Vec::new();
    for key in 0..shape.endpoints {
        let at = match shape.naming {
            // A name resolves to addresses, and all of them have the same port.
            Naming::OneName => {
                let host = u8::try_from(key + 1).expect("a handful of endpoints");
                (Ipv4Addr::new(127, 0, 20 + number, host), shared.port()).into()
            }
            Naming::Addresses | Naming::NameEach => ground.free()?,
        };
        endpoints.push(Endpoint::start(key, at, shape.speech, &ground.pki, &ground.stranger)?);
    }
    for endpoint in &endpoints {
        endpoint.await_listening()?;
    }
    Ok(endpoints)
}

fn targets(scenario: &Scenario, number: u8, endpoints: &[Endpoint], members: &[usize]) -> Vec<Target> {
    let shape = &scenario.shape;
    let target = |key: usize| {
        let at = endpoints[key].at;
        let host = match shape.naming {
            Naming::Addresses => at.ip().to_string(),
            Naming::OneName | Naming::NameEach => name(scenario, number, key),
        };
        let priority = shape.priorities.get(key).copied().unwrap_or_default();
        Target { key, host, port: at.port(), weight: shape.weights.get(key).copied(), priority }
    };
    members.iter().map(|&key| target(key)).collect()
}

/// The address of an endpoint, in a lane of a scenario.
fn name(scenario: &Scenario, lane: u8, key: usize) -> String {
    format!("e{key}.v{lane}.{}.chaos.test", scenario.name)
}
