//! Asks the name servers of `/etc/resolv.conf`, after `/etc/hosts`; both are read again when they have changed.
//!
//! hickory speaks DNS. Which names are tried for a short one, and what an answer means, is decided here, because that is
//! where it does otherwise than the C library: it adds the host's own domain, and lets one family's failure hide the other's
//! answer. Nothing of nsswitch.conf but `files dns` is followed.

use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use super::name::{Half, Reply};
use super::srv::SrvRecord;
use crate::alarm;
use crate::clock;

/// One for all clusters. It spawns on the runtime it is used on, which is not a worker's: its timers are tokio's.
#[derive(Debug, Default)]
pub struct Resolver {
    loaded: Mutex<Option<Arc<Loaded>>>,
}

/// What the two files say.
#[derive(Debug)]
struct Loaded {
    stamps: [Option<Stamp>; 2],
    dns: Result<TokioResolver, String>,
    search: Search,
    hosts: Hosts,
}

/// By which a file is known to be the one that was read.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

/// How a short name is made a whole one (resolv.conf(5)).
#[derive(Debug)]
struct Search {
    domains: Vec<Name>,
    ndots: usize,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// There is nothing of that kind.
    Absent(String),
    /// Nobody knows.
    Failed(String),
}

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// No more of either file is read.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// Over all servers, attempts and names of one question.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long what `/etc/hosts` says counts; a look at it costs no packet.
const HOSTS_TTL: Duration = Duration::from_secs(5);

impl Resolver {
    /// Every address of a host.
    pub(super) async fn addresses(&self, host: &str) -> Reply {
        let failed = |words: &str| Reply { v4: Half::Failed(words.into()), v6: Half::Failed(words.into()) };
        let loaded = self.loaded();
        let Ok(name) = Name::from_ascii(host) else { return failed("it is no host name") };
        if let Some(reply) = loaded.in_hosts(&name) {
            return reply;
        }
        let asked = alarm::before(clock::now() + TIMEOUT, loaded.ask_for_addresses(&name)).await;
        asked.unwrap_or_else(|_| failed(NO_ANSWER))
    }

    /// The records of a service, and for how long they hold.
    pub(super) async fn service(&self, service: &str) -> Result<(Vec<SrvRecord>, Duration), Unanswered> {
        let loaded = self.loaded();
        let name = Name::from_ascii(service).map_err(|_| Unanswered::Failed("it is no name".into()))?;
        let asked = alarm::before(clock::now() + TIMEOUT, loaded.ask_for_service(&name)).await;
        asked.unwrap_or_else(|_| Err(Unanswered::Failed(NO_ANSWER.into())))
    }

    fn loaded(&self) -> Arc<Loaded> {
        let stamps = [RESOLV_CONF, HOSTS].map(|path| Stamp::of(Path::new(path)));
        let mut loaded = self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*loaded {
            Some(loaded) if loaded.stamps == stamps => Arc::clone(loaded),
            _ => Arc::clone(loaded.insert(Arc::new(Loaded::read(stamps)))),
        }
    }
}

const NO_ANSWER: &str = "no name server of /etc/resolv.conf answered in time";

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        })
    }
}

impl Loaded {
    fn read(stamps: [Option<Stamp>; 2]) -> Self {
        let (config, options) = servers(&read(RESOLV_CONF));
        let search = Search { domains: config.search().to_vec(), ndots: options.ndots };
        let mut hosts = Hosts::default();
        // A line that makes no sense is skipped, as everybody does.
        let _ = hosts.read_hosts_conf(&read(HOSTS)[..]);
        Self { stamps, dns: client(&config, options), search, hosts }
    }

    fn in_hosts(&self, name: &Name) -> Option<Reply> {
        let half = |kind| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), kind))?;
            let addresses: Vec<_> = found.answers().iter().filter_map(address).collect();
            (!addresses.is_empty()).then_some(Half::Found(addresses, HOSTS_TTL))
        };
        let absent = || Half::Absent(format!("{HOSTS} has no address for it"));
        match (half(RecordType::A), half(RecordType::AAAA)) {
            (None, None) => None,
            (v4, v6) => Some(Reply { v4: v4.unwrap_or_else(absent), v6: v6.unwrap_or_else(absent) }),
        }
    }

    /// The first whole name that has an address, or that nobody knows about, counts: it may be the one that was meant.
    async fn ask_for_addresses(&self, name: &Name) -> Reply {
        let mut first = None;
        for candidate in self.search.candidates(name) {
            let (v4, v6) =
                tokio::join!(self.ask(&candidate, RecordType::A), self.ask(&candidate, RecordType::AAAA));
            let reply = Reply { v4: half(v4), v6: half(v6) };
            if !matches!(reply, Reply { v4: Half::Absent(_), v6: Half::Absent(_) }) {
                return reply;
            }
            first.get_or_insert(reply);
        }
        let absent = || Half::Absent("it is no host name".into());
        first.unwrap_or_else(|| Reply { v4: absent(), v6: absent() })
    }

    async fn ask_for_service(&self, name: &Name) -> Result<(Vec<SrvRecord>, Duration), Unanswered> {
        let mut first = None;
        for candidate in self.search.candidates(name) {
            match self.ask(&candidate, RecordType::SRV).await {
                Ok((records, ttl)) => return Ok((records.iter().filter_map(service).collect(), ttl)),
                Err(absent @ Unanswered::Absent(_)) => drop(first.get_or_insert(absent)),
                Err(failed @ Unanswered::Failed(_)) => return Err(failed),
            }
        }
        Err(first.unwrap_or_else(|| Unanswered::Absent("it is no name".into())))
    }

    /// The records of an answer, those of aliases on the way included, and the least of their TTLs.
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<(Vec<Record>, Duration), Unanswered> {
        let dns = self.dns.as_ref().map_err(|words| Unanswered::Failed(words.clone()))?;
        let lookup = dns.lookup(name.clone(), kind).await.map_err(|error| explain(&error, kind))?;
        let records = lookup.answers().to_vec();
        let ttl = records.iter().map(|record| record.ttl).min().unwrap_or_default();
        if records.iter().any(|record| record.record_type() == kind) {
            Ok((records, Duration::from_secs(ttl.into())))
        } else {
            Err(Unanswered::Absent(absent(kind)))
        }
    }
}

impl Search {
    /// A name that ends in a dot is whole. Others are tried as they are first if they have enough dots, else last.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut whole = name.clone();
        whole.set_fqdn(true);
        if name.is_fqdn() {
            return vec![whole];
        }
        let below = |domain: &Name| {
            let mut candidate = name.clone().append_domain(domain).ok()?;
            candidate.set_fqdn(true);
            Some(candidate)
        };
        let mut candidates: Vec<_> = self.domains.iter().filter_map(below).collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let at = if dots >= self.ndots || name.is_localhost() { 0 } else { candidates.len() };
        candidates.insert(at, whole);
        candidates
    }
}

fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    // One that cannot be read says nothing.
    let _ = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes));
    bytes
}

/// Without any server in it, the one on this host is meant (resolv.conf(5)).
fn servers(resolv_conf: &[u8]) -> (ResolverConfig, ResolverOpts) {
    let with_local = || [resolv_conf, b"\nnameserver 127.0.0.1\n"].concat();
    system_conf::parse_resolv_conf(resolv_conf)
        .or_else(|_| system_conf::parse_resolv_conf(with_local()))
        .unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default()))
}

fn client(config: &ResolverConfig, mut options: ResolverOpts) -> Result<TokioResolver, String> {
    // We know for how long we know what.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    let only_servers = ResolverConfig::from_parts(None, Vec::new(), config.name_servers().to_vec());
    TokioResolver::builder_with_config(only_servers, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| error.to_string())
}

fn half(asked: Result<(Vec<Record>, Duration), Unanswered>) -> Half {
    match asked {
        Ok((records, ttl)) => Half::Found(records.iter().filter_map(address).collect(), ttl),
        Err(Unanswered::Absent(words)) => Half::Absent(words),
        Err(Unanswered::Failed(words)) => Half::Failed(words),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the types of all records; not ours")]
const fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(ip) => Some(IpAddr::V4(ip.0)),
        RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
        _ => None,
    }
}

fn service(record: &Record) -> Option<SrvRecord> {
    let RData::SRV(service) = &record.data else { return None };
    Some(SrvRecord {
        priority: service.priority,
        weight: service.weight,
        port: service.port,
        target: service.target.to_ascii(),
    })
}

fn absent(kind: RecordType) -> String {
    let what = if kind == RecordType::SRV { "SRV record" } else { "address" };
    format!("it has no {what}")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
fn explain(error: &NetError, kind: RecordType) -> Unanswered {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Unanswered::Absent("the name does not exist".into()),
            ResponseCode::NoError => Unanswered::Absent(absent(kind)),
            code => refused(code),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => refused(*code),
        NetError::Timeout => Unanswered::Failed(NO_ANSWER.into()),
        NetError::NoConnections | NetError::Busy => {
            Unanswered::Failed("no name server of /etc/resolv.conf can be reached".into())
        }
        NetError::Io(error) => Unanswered::Failed(format!("cannot ask a name server: {error}")),
        other => Unanswered::Failed(other.to_string()),
    }
}

fn refused(code: ResponseCode) -> Unanswered {
    Unanswered::Failed(format!("the name server answered \"{code}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(resolv_conf: &str, name: &str) -> Vec<String> {
        let (config, options) = servers(resolv_conf.as_bytes());
        let search = Search { domains: config.search().to_vec(), ndots: options.ndots };
        search.candidates(&Name::from_ascii(name).unwrap()).iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn short_names_are_searched_for_as_resolv_conf_says() {
        let two = "nameserver 127.0.0.1\nsearch a.test b.test\n";
        let three = "nameserver 127.0.0.1\nsearch a.test\noptions ndots:3\n";
        for (resolv_conf, name, expected) in [
            (two, "db", &["db.a.test.", "db.b.test.", "db."][..]),
            (two, "db.x", &["db.x.", "db.x.a.test.", "db.x.b.test."]),
            (two, "db.x.", &["db.x."]),
            (two, "db.", &["db."]),
            (two, "localhost", &["localhost.", "localhost.a.test.", "localhost.b.test."]),
            (three, "db.x.y", &["db.x.y.a.test.", "db.x.y."]),
            (three, "db.x.y.z", &["db.x.y.z.", "db.x.y.z.a.test."]),
            ("nameserver 127.0.0.1\ndomain c.test\n", "db", &["db.c.test.", "db."]),
            ("nameserver 127.0.0.1\n", "db", &["db."]),
            ("nameserver 127.0.0.1\nsearch .\n", "db.x", &["db.x.", "db.x."]),
        ] {
            assert_eq!(candidates(resolv_conf, name), expected, "{resolv_conf:?} {name}");
        }
    }

    #[test]
    fn without_a_server_the_one_on_this_host_is_asked() {
        for text in ["", "search a.test\n", "# nothing\n"] {
            let (config, _) = servers(text.as_bytes());
            let servers: Vec<_> = config.name_servers().iter().map(|server| server.ip).collect();
            assert_eq!(servers, [IpAddr::from([127, 0, 0, 1])], "{text:?}");
        }
        assert_eq!(candidates("search a.test\n", "db"), ["db.a.test.", "db."]);
    }
}
