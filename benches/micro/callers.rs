//! Lookup of the owner of a connection over loopback: the query to the kernel, which is most of the cost of
//! identifying a caller. A session does it once, at its opening, if the configuration or the log needs it
//! (docs/CALLERS.md).

use std::net::{TcpListener, TcpStream};

use ambassador::internals::sys::socket_owner;
use criterion::Criterion;

pub(crate) fn bench(criterion: &mut Criterion) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).expect("a connection");
    let _accepted = listener.accept().expect("the other end");
    let from = client.local_addr().expect("an address");
    criterion.bench_function("callers/socket_owner", |bencher| {
        bencher.iter(|| socket_owner(from, address).expect("the kernel answers").expect("it is ours"));
    });
}
