//! Looks names up in `/etc/hosts`, then asks the name servers of `/etc/resolv.conf`; both files are read again when
//! they have changed.
//!
//! It decides which names are tried for a short one, what an answer means, and when one family's answer is enough for
//! now. Lacks nsswitch.conf: the order is always `files dns`.

use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::Hosts;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use nix::net::if_::if_nametoindex;

use super::name::{Family, FamilyAnswer, NameAnswer};
use super::resolv_conf::ResolvConf;
use super::servers::Servers;
use super::srv::SrvRecord;
use crate::alarm;
use crate::clock;
use crate::sync::Mutex;

/// One for all clusters. It spawns tasks on the runtime it is used on, which must not be a worker's: its timers are
/// tokio's.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    loaded: Mutex<Option<Arc<Loaded>>>,
}

/// The contents of the two files.
#[derive(Debug)]
struct Loaded {
    stamps: [Option<FileVersion>; 2],
    conf: ResolvConf,
    servers: Result<Servers, String>,
    hosts: Hosts,
}

/// A host's addresses as known now, and those that are still to come.
pub(super) struct AddressAnswer {
    pub(super) reply: NameAnswer,
    /// Resolves to the whole reply again, with the family that has no answer yet.
    pub(super) late: Option<(Family, Late)>,
}

/// Completes at the latest when the attempts at all servers of resolv.conf are used up.
pub(super) type Late = Pin<Box<dyn Future<Output = NameAnswer> + Send>>;

/// Identifies the version of a file that was read.
#[derive(Debug, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

/// Why a query has no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The name does not exist (NXDOMAIN), and so has no records of any type.
    NoSuchName(String),
    /// The name has no records of that type.
    Absent(String),
    /// No server gave a usable answer.
    Failed(String),
}

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// Bytes read of either file; the rest is ignored.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// How long one family's answer waits for the other's (RFC 8305 section 3: "Resolution Delay"). Here IPv6 waits as
/// well: a host with one address of each family is one endpoint, which would otherwise be replaced by another a moment
/// later.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// How long an answer from `/etc/hosts` holds; a lookup there costs no packet.
const HOSTS_TTL: Duration = Duration::from_secs(5);

impl Resolver {
    /// Every address of a host, or those of one family.
    pub(super) async fn addresses(&self, host: &str, only: Option<Family>) -> AddressAnswer {
        let loaded = self.loaded();
        let Ok(name) = Name::from_ascii(host) else {
            let words = || FamilyAnswer::Failed("it is no host name".into());
            return AddressAnswer::now(words(), words());
        };
        match (loaded.in_hosts(&name), only) {
            (Some(reply), _) => AddressAnswer { reply, late: None },
            (None, None) => loaded.ask_for_addresses(&name).await,
            (None, Some(family)) => loaded.ask_for_one_family(&name, family).await,
        }
    }

    /// Every address of a server that is asked for something, or why there is none.
    pub(super) async fn addresses_of(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let AddressAnswer { reply, late } = self.addresses(host, None).await;
        let reply = match late {
            Some((_, late)) if !reply.has_found() => late.await,
            _ => reply,
        };
        reply.found().map_err(|error| format!("{host}: {error}"))
    }

    /// The SRV records of a service, and for how long they hold.
    pub(super) async fn service(&self, service: &str) -> Result<(Vec<SrvRecord>, Duration), NoAnswer> {
        let loaded = self.loaded();
        let name = Name::from_ascii(service).map_err(|_| NoAnswer::Failed("it is no name".into()))?;
        loaded.ask_for_service(&name).await
    }

    fn loaded(&self) -> Arc<Loaded> {
        let stamps = [RESOLV_CONF, HOSTS].map(|path| FileVersion::of(Path::new(path)));
        let mut loaded = self.loaded.lock();
        match &*loaded {
            Some(loaded) if loaded.stamps == stamps => Arc::clone(loaded),
            _ => Arc::clone(loaded.insert(Arc::new(Loaded::read(stamps)))),
        }
    }
}

const NO_ANSWER: &str = "no name server of /etc/resolv.conf answered in time";

impl FileVersion {
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

impl AddressAnswer {
    const fn now(v4: FamilyAnswer, v6: FamilyAnswer) -> Self {
        Self { reply: NameAnswer { v4, v6 }, late: None }
    }
}

impl Loaded {
    fn read(stamps: [Option<FileVersion>; 2]) -> Self {
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let scope = |interface: &str| interface.parse().ok().or_else(|| if_nametoindex(interface).ok());
        let conf = ResolvConf::parse(&read(RESOLV_CONF), &hostname, scope);
        if !conf.doubts.is_empty() {
            let doubts = conf.doubts.join("; ");
            tracing::warn!(file = RESOLV_CONF, doubts, "unknown settings are skipped");
        }
        let mut hosts = Hosts::default();
        // Malformed lines are skipped, as other resolvers do.
        let _ = hosts.read_hosts_conf(&read(HOSTS)[..]);
        let servers = Servers::new(&conf).map_err(|error| error.to_string());
        Self { stamps, conf, servers, hosts }
    }

    fn in_hosts(&self, name: &Name) -> Option<NameAnswer> {
        let half = |kind| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), kind))?;
            let addresses: Vec<_> = found.answers().iter().filter_map(address).collect();
            (!addresses.is_empty()).then_some(FamilyAnswer::Found(addresses, HOSTS_TTL))
        };
        let absent = || FamilyAnswer::Absent(format!("{HOSTS} has no address for it"));
        match (half(RecordType::A), half(RecordType::AAAA)) {
            (None, None) => None,
            (v4, v6) => Some(NameAnswer { v4: v4.unwrap_or_else(absent), v6: v6.unwrap_or_else(absent) }),
        }
    }

    /// The first candidate counts that has an address, or whose query failed: it may be the one that was meant.
    async fn ask_for_addresses(self: &Arc<Self>, name: &Name) -> AddressAnswer {
        let mut first = None;
        for candidate in self.conf.candidates(name) {
            let answered = self.ask_for_both(candidate).await;
            if !matches!(
                answered.reply,
                NameAnswer { v4: FamilyAnswer::Absent(_), v6: FamilyAnswer::Absent(_) }
            ) {
                return answered;
            }
            first.get_or_insert(answered);
        }
        let absent = || FamilyAnswer::Absent("it is no host name".into());
        first.unwrap_or_else(|| AddressAnswer::now(absent(), absent()))
    }

    /// Resolves one family of a name while the query for the other one is still in flight.
    async fn ask_for_one_family(self: &Arc<Self>, name: &Name, family: Family) -> AddressAnswer {
        let mut half = FamilyAnswer::Absent("it is no host name".into());
        for candidate in self.conf.candidates(name) {
            half = self.family(candidate, family).await.half();
            if !matches!(half, FamilyAnswer::Absent(_)) {
                break;
            }
        }
        AddressAnswer { reply: NameAnswer::of(family, half, FamilyAnswer::Pending), late: None }
    }

    /// Queries both families of an absolute name; if one has addresses, the other may come late.
    async fn ask_for_both(self: &Arc<Self>, name: Name) -> AddressAnswer {
        let mut v4 = self.family(name.clone(), Family::V4);
        if self.conf.no_aaaa {
            return AddressAnswer::now(v4.await.without_others(), FamilyAnswer::Absent(String::new()));
        }
        let mut v6 = self.family(name, Family::V6);
        let (family, said) = if self.conf.single_request {
            (Family::V4, (&mut v4).await)
        } else {
            tokio::select! {
                said = &mut v4 => (Family::V4, said),
                said = &mut v6 => (Family::V6, said),
            }
        };
        let mut other = if family == Family::V4 { v6 } else { v4 };
        // A name that does not exist has no records of any type (RFC 8020), though some servers answer NXDOMAIN to AAAA
        // alone (RFC 4074 section 4.2).
        let is_nowhere = family == Family::V4 && matches!(said, FamilyLookup::NoSuchName(_));
        let half = said.half();
        if !is_nowhere && !matches!(half, FamilyAnswer::Found(..)) {
            let other = other.await.half();
            return AddressAnswer { reply: NameAnswer::of(family, half, other), late: None };
        }
        match alarm::timeout_at(clock::now() + RESOLUTION_DELAY, &mut other).await {
            Ok(other) => AddressAnswer { reply: NameAnswer::of(family, half, other.half()), late: None },
            Err(_) if is_nowhere => {
                AddressAnswer { reply: NameAnswer::of(family, half.clone(), half), late: None }
            }
            Err(_) => {
                let reply = NameAnswer::of(family, half.clone(), FamilyAnswer::Pending);
                let late = Box::pin(async move { NameAnswer::of(family, half, other.await.half()) });
                AddressAnswer { reply, late: Some((family.other(), late)) }
            }
        }
    }

    fn family(
        self: &Arc<Self>,
        name: Name,
        family: Family,
    ) -> Pin<Box<dyn Future<Output = FamilyLookup> + Send>> {
        let loaded = Arc::clone(self);
        let kind = if family == Family::V4 { RecordType::A } else { RecordType::AAAA };
        Box::pin(async move {
            match loaded.ask(&name, kind).await {
                Ok((records, ttl)) => {
                    FamilyLookup::Half(FamilyAnswer::Found(records.iter().filter_map(address).collect(), ttl))
                }
                Err(NoAnswer::NoSuchName(words)) => FamilyLookup::NoSuchName(words),
                Err(NoAnswer::Absent(words)) => FamilyLookup::Half(FamilyAnswer::Absent(words)),
                Err(NoAnswer::Failed(words)) => FamilyLookup::Half(FamilyAnswer::Failed(words)),
            }
        })
    }

    async fn ask_for_service(&self, name: &Name) -> Result<(Vec<SrvRecord>, Duration), NoAnswer> {
        let mut first = None;
        for candidate in self.conf.candidates(name) {
            match self.ask(&candidate, RecordType::SRV).await {
                Ok((records, ttl)) => return Ok((records.iter().filter_map(service).collect(), ttl)),
                Err(failed @ NoAnswer::Failed(_)) => return Err(failed),
                Err(absent) => drop(first.get_or_insert(absent)),
            }
        }
        Err(first.unwrap_or_else(|| NoAnswer::Absent("it is no name".into())))
    }

    /// The records of an answer, including the aliases on the way, and the least of their TTLs.
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<(Vec<Record>, Duration), NoAnswer> {
        let servers = self.servers.as_ref().map_err(|words| NoAnswer::Failed(words.clone()))?;
        let lookup = servers.ask(name, kind).await.map_err(|error| explain(&error, name, kind))?;
        let records = lookup.answers().to_vec();
        let ttl = records.iter().map(|record| record.ttl).min().unwrap_or_default();
        if records.iter().any(|record| record.record_type() == kind) {
            Ok((records, Duration::from_secs(ttl.into())))
        } else {
            Err(NoAnswer::Absent(absent(kind)))
        }
    }
}

/// The answer for one family.
enum FamilyLookup {
    /// The name does not exist (NXDOMAIN).
    NoSuchName(String),
    Half(FamilyAnswer),
}

impl FamilyLookup {
    fn half(self) -> FamilyAnswer {
        match self {
            Self::NoSuchName(words) => FamilyAnswer::Absent(words),
            Self::Half(half) => half,
        }
    }

    /// Converts the answer for IPv4 where IPv6 is not queried.
    fn without_others(self) -> FamilyAnswer {
        match self {
            Self::Half(FamilyAnswer::Absent(words)) => FamilyAnswer::Absent(format!(
                "{words} of IPv4, and `options no-aaaa` of {RESOLV_CONF} lets nobody ask for others"
            )),
            Self::Half(_) | Self::NoSuchName(_) => self.half(),
        }
    }
}

impl ResolvConf {
    /// The absolute names to try for a name. A name that ends in a dot is absolute. Others are tried as they are: first
    /// if they have at least `ndots` dots, else last.
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
        let below: Vec<_> = self.search.iter().filter_map(below).collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let is_first = dots >= self.ndots || name.is_localhost();
        let is_last = !is_first && (dots > 0 || below.is_empty() || !self.no_tld_query);
        let first = is_first.then(|| whole.clone());
        let all = first.into_iter().chain(below).chain(is_last.then_some(whole));
        let mut candidates = Vec::new();
        for candidate in all {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }
}

fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A file that cannot be read counts as empty.
    let _ = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes));
    bytes
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
fn explain(error: &NetError, name: &Name, kind: RecordType) -> NoAnswer {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            // Where hickory followed an alias, the query that failed names the alias's target.
            let target = Some(none.query.name()).filter(|target| *target != name && !target.is_root());
            let describe = |words: String| match target {
                Some(target) => {
                    format!("it is an alias of {}: {words}", target.to_ascii().trim_end_matches('.'))
                }
                None => words,
            };
            match none.response_code {
                ResponseCode::NXDomain => NoAnswer::NoSuchName(describe("the name does not exist".into())),
                ResponseCode::NoError => NoAnswer::Absent(describe(absent(kind))),
                code => refused(code),
            }
        }
        NetError::Dns(DnsError::ResponseCode(code)) => refused(*code),
        NetError::Timeout => NoAnswer::Failed(NO_ANSWER.into()),
        NetError::NoConnections | NetError::Busy => {
            NoAnswer::Failed("no name server of /etc/resolv.conf can be reached".into())
        }
        NetError::Io(error) => NoAnswer::Failed(format!("cannot ask a name server: {error}")),
        other => NoAnswer::Failed(other.to_string()),
    }
}

fn refused(code: ResponseCode) -> NoAnswer {
    NoAnswer::Failed(format!("the name server answered \"{code}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(resolv_conf: &str, name: &str) -> Vec<String> {
        let conf = ResolvConf::parse(resolv_conf.as_bytes(), "web1", |_| None);
        conf.candidates(&Name::from_ascii(name).unwrap()).iter().map(Name::to_ascii).collect()
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
            ("nameserver 127.0.0.1\nsearch .\n", "db.x", &["db.x."]),
            ("search a.test\noptions no-tld-query\n", "db", &["db.a.test."]),
            ("search a.test\noptions no-tld-query\n", "db.x", &["db.x.", "db.x.a.test."]),
            ("options no-tld-query\n", "db", &["db."]),
            ("search a.test\noptions ndots:0\n", "db", &["db.", "db.a.test."]),
        ] {
            assert_eq!(candidates(resolv_conf, name), expected, "{resolv_conf:?} {name}");
        }
    }
}
