//! One query to the name servers: in which order they are asked, how often, and which answer counts.
//!
//! hickory sends it to one server: over UDP, or TCP if the answer does not fit. The choice between servers is made
//! here, because hickory-resolver 0.26.3 asks two at once and takes the first refusal for the answer, does not ask a
//! third in time, and gives up at a server that rejects EDNS, or waits in vain for its answer where the rejection has
//! no question section. Lacks a cache.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_resolver::Resolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;

use super::resolv_conf::{ResolvConf, ServerAddress};
use crate::alarm;
use crate::clock;
use crate::sync::Mutex;

#[derive(Debug)]
pub(super) struct Servers {
    each: Vec<Server>,
    attempts: u32,
    rotate: bool,
    /// Queries so far.
    asked: AtomicUsize,
}

/// One name server, with and without EDNS.
struct Server {
    /// `None`: resolv.conf does not ask for EDNS.
    edns: Option<Resolver<Sockets>>,
    bare: Resolver<Sockets>,
    /// It has answered a query without EDNS that it did not answer with EDNS.
    lacks_edns: AtomicBool,
    /// It did not answer, or could not be reached: until then it is asked last.
    last_until: Mutex<Option<Instant>>,
    timeout: Duration,
}

type Answer = Result<Lookup, NetError>;

/// How long a server may be silent until the next one is asked beside it, or the same one without EDNS. Shorter than
/// its whole timeout, which is 5 s by default: search lists multiply it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a server that did not answer is asked after the others.
const LAST_FOR: Duration = Duration::from_secs(30);

impl Servers {
    /// # Errors
    /// If hickory rejects the configuration.
    pub(super) fn new(conf: &ResolvConf) -> Result<Self, NetError> {
        let each = conf.servers.iter().map(|server| Server::new(*server, conf)).collect::<Result<_, _>>()?;
        Ok(Self { each, attempts: conf.attempts, rotate: conf.rotate, asked: AtomicUsize::new(0) })
    }

    /// Asks the servers until one gives a final answer. Bounded by resolv.conf: `timeout` for each server, `attempts`
    /// rounds over all servers.
    ///
    /// # Errors
    /// The most informative of their failures.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Answer {
        let start = if self.rotate { self.asked.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let mut answer = Err(NetError::NoConnections);
        for _ in 0..self.attempts {
            let order = self.order(start);
            answer = better(answer, self.ask_in_turn(&order, name, kind).await);
            if is_final(&answer) {
                break;
            }
        }
        answer
    }

    /// The order of resolv.conf, rotated by `start`; servers that did not answer lately are last.
    fn order(&self, start: usize) -> Vec<&Server> {
        let now = clock::now();
        let mut order: Vec<_> = self.each.iter().collect();
        let turned = start % order.len().max(1);
        order.rotate_left(turned);
        order.sort_by_key(|server| server.last_until().is_some_and(|until| now < until));
        order
    }

    /// Asks the first server; the next one as soon as that has failed, or beside it after `PATIENCE`.
    fn ask_in_turn<'a>(
        &'a self,
        order: &'a [&'a Server],
        name: &'a Name,
        kind: RecordType,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(async move {
            let Some((server, others)) = order.split_first() else { return Err(NetError::NoConnections) };
            let mut asked = pin!(server.ask(name, kind));
            let patience = clock::now() + PATIENCE.min(server.timeout / 2);
            match alarm::timeout_at(patience, &mut asked).await {
                Ok(answer) if is_final(&answer) => answer,
                Ok(answer) => better(answer, self.ask_in_turn(others, name, kind).await),
                Err(_) => {
                    server.goes_last();
                    first_final(asked, self.ask_in_turn(others, name, kind)).await
                }
            }
        })
    }
}

impl Server {
    fn new(address: ServerAddress, conf: &ResolvConf) -> Result<Self, NetError> {
        let mut options = ResolverOpts::default();
        // Retries, caching and /etc/hosts are ours.
        (options.timeout, options.attempts, options.cache_size) = (conf.timeout, 0, 0);
        options.use_hosts_file = ResolveHosts::Never;
        let resolver = |edns| {
            let server = if conf.use_vc { NameServerConfig::tcp } else { NameServerConfig::udp_and_tcp };
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server(address.ip)]);
            let sockets = Sockets { ours: TokioRuntimeProvider::default(), scope: address.scope };
            let mut options = options.clone();
            options.edns0 = edns;
            Resolver::builder_with_config(config, sockets).with_options(options).build()
        };
        Ok(Self {
            edns: conf.edns.then(|| resolver(true)).transpose()?,
            bare: resolver(false)?,
            lacks_edns: AtomicBool::new(false),
            last_until: Mutex::new(None),
            timeout: conf.timeout,
        })
    }

    fn last_until(&self) -> Option<Instant> {
        *self.last_until.lock()
    }

    fn goes_last(&self) {
        let until = clock::now() + LAST_FOR;
        *self.last_until.lock() = Some(until);
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Answer {
        let answer = match self.edns.as_ref().filter(|_| !self.lacks_edns.load(Ordering::Relaxed)) {
            Some(edns) => self.ask_with(edns, name, kind).await,
            None => self.bare.lookup(name.clone(), kind).await,
        };
        match &answer {
            Err(NetError::Timeout | NetError::Io(_) | NetError::NoConnections) => self.goes_last(),
            Ok(_) | Err(_) => *self.last_until.lock() = None,
        }
        answer
    }

    /// Asks with EDNS, and without it if the server does not support it (RFC 6891 section 7). Some servers reject EDNS
    /// in a message that cannot be told from a forged one, so silence leads to the second query too.
    async fn ask_with(&self, edns: &Resolver<Sockets>, name: &Name, kind: RecordType) -> Answer {
        let bare = async {
            let answer = self.bare.lookup(name.clone(), kind).await;
            if is_final(&answer) {
                self.lacks_edns.store(true, Ordering::Relaxed);
            }
            answer
        };
        let mut asked = pin!(edns.lookup(name.clone(), kind));
        match alarm::timeout_at(clock::now() + PATIENCE.min(self.timeout / 2), &mut asked).await {
            Ok(answer) if rejects_edns(&answer) => bare.await,
            Ok(answer) => answer,
            Err(_) => first_final(asked, bare).await,
        }
    }
}

/// The first final answer; if neither is final, the better one.
async fn first_final(one: impl Future<Output = Answer>, other: impl Future<Output = Answer>) -> Answer {
    let (mut one, mut other) = (pin!(one), pin!(other));
    tokio::select! {
        biased;
        answer = &mut one => match is_final(&answer) {
            true => answer,
            false => better(answer, other.await),
        },
        answer = &mut other => match is_final(&answer) {
            true => answer,
            false => better(one.await, answer),
        },
    }
}

/// Whether no other server needs to be asked: the answer has records, or says that there are none.
fn is_final(answer: &Answer) -> bool {
    match answer {
        Ok(_) => true,
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
        }
        Err(_) => false,
    }
}

/// BADVERS and TSIG's BADSIG are one number, 16, which hickory-proto 0.26.3 reads as the latter; we sign nothing.
fn rejects_edns(answer: &Answer) -> bool {
    use ResponseCode::{BADSIG, BADVERS, FormErr, NotImp};
    matches!(answer, Err(NetError::Dns(DnsError::ResponseCode(FormErr | NotImp | BADVERS | BADSIG))))
}

/// A final answer ranks before a refusal, a refusal before an error, an error before a timeout; of equals the first.
fn better(one: Answer, other: Answer) -> Answer {
    let rank = |answer: &Answer| match answer {
        _ if is_final(answer) => 0,
        Err(NetError::Dns(_)) => 1,
        Err(NetError::Timeout) => 3,
        Err(NetError::NoConnections) => 4,
        _ => 2,
    };
    if rank(&other) < rank(&one) { other } else { one }
}

/// tokio's sockets, but with the interface of a link-local server, and with UDP sockets connected to their server, so
/// that the kernel reports at once when no process listens there.
#[derive(Clone)]
struct Sockets {
    ours: TokioRuntimeProvider,
    scope: u32,
}

impl Sockets {
    fn scoped(&self, mut server: SocketAddr) -> SocketAddr {
        if let SocketAddr::V6(v6) = &mut server {
            v6.set_scope_id(self.scope);
        }
        server
    }
}

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.ours.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = io::Result<Self::Tcp>> + Send>> {
        self.ours.connect_tcp(self.scoped(server), bind, timeout)
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<UdpSocket>> + Send>> {
        let server = self.scoped(server);
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            socket.connect(server).await?;
            Ok(socket)
        })
    }
}

/// Omits hickory's state.
impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("lacks_edns", &self.lacks_edns).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::net::NoRecords;
    use hickory_resolver::proto::op::Query;

    use super::*;

    fn code(code: ResponseCode) -> Answer {
        if matches!(code, ResponseCode::NXDomain | ResponseCode::NoError) {
            Err(NoRecords::new(Box::new(Query::default()), code).into())
        } else {
            Err(NetError::Dns(DnsError::ResponseCode(code)))
        }
    }

    fn shown(answer: &Answer) -> String {
        answer.as_ref().map_or_else(ToString::to_string, |_| String::new())
    }

    #[test]
    fn what_tells_more_is_the_answer() {
        use ResponseCode::{NXDomain, Refused, ServFail};
        let timeout = || Err(NetError::Timeout);
        let unreachable = || Err(NetError::from(io::Error::other("no way")));
        for (one, other, is_one) in [
            (code(NXDomain), code(Refused), true),
            (code(Refused), code(NXDomain), false),
            (code(ServFail), code(Refused), true),
            (timeout(), code(Refused), false),
            (timeout(), unreachable(), false),
            (timeout(), Err(NetError::NoConnections), true),
        ] {
            let expected = shown(if is_one { &one } else { &other });
            assert_eq!(shown(&better(one, other)), expected);
        }
    }

    #[test]
    fn names_that_do_not_exist_are_answers_and_refusals_are_none() {
        for (response, expected) in [
            (ResponseCode::NXDomain, true),
            (ResponseCode::NoError, true),
            (ResponseCode::ServFail, false),
            (ResponseCode::Refused, false),
            (ResponseCode::NotImp, false),
        ] {
            assert_eq!(is_final(&code(response)), expected, "{response}");
        }
        assert!(rejects_edns(&code(ResponseCode::BADVERS)) && !rejects_edns(&code(ResponseCode::ServFail)));
    }
}
