//! Clusters for tests: endpoints by address, and everything off that can be.

use std::net::SocketAddr;
use std::time::Duration;

use super::endpoint::Addresses;
use super::{DialSettings, EndpointSettings, EvictionSettings, OnEndpointLoss, Settings};
use crate::digest::Digester;
use crate::policy::{balance, eligibility, limits, retry};
use crate::protocol::{self, postgres};
use crate::{relay, sys};

/// A cluster with these endpoints.
pub(crate) fn settings(endpoints: &[&str]) -> Settings {
    let second = Duration::from_secs(1);
    let options = protocol::Options {
        scram_plus: postgres::ScramPlus::Auto,
        server_is_verified: false,
        rsa_key: None,
        signs_in: false,
        host_name: "localhost".into(),
        helo_name: None,
    };
    Settings {
        name: "up".into(),
        digest: Digester::default().digest(),
        tls_digest: Digester::default().digest(),
        protocol: protocol::named("tcp", &options).unwrap(),
        endpoints: endpoints.iter().map(|address| endpoint(address)).collect(),
        source: None,
        balance: balance::Policy::LeastConnections,
        tls: None,
        dial: DialSettings {
            connect_timeout: second,
            handshake_timeout: second,
            greeting_timeout: second,
            deadline: second,
            retry: retry::Settings { attempts: None, backoff_base: second, backoff_max: second },
            local_address: None,
            preconnect: None,
        },
        send_proxy: None,
        limits: limits::Settings {
            max_connections: 1000,
            max_pending: 1000,
            max_connections_per_endpoint: 1000,
        },
        queue_timeout: Duration::ZERO,
        takes_turns: false,
        breaker: None,
        outlier: None,
        retry_budget: None,
        hedge: None,
        hedges: false,
        panic: eligibility::Panic::All,
        slow_start: Duration::ZERO,
        eviction: EvictionSettings {
            on_unhealthy: OnEndpointLoss::Keep,
            on_removed: OnEndpointLoss::Keep,
            closing_time: Duration::from_secs(5),
        },
        drains_on_rotation: false,
        socket: sys::Options::NONE,
        session: relay::Settings { idle_timeout: None, half_close_timeout: None, max_lifetime: None },
        login: None,
        announce_caller: false,
        health_check: None,
    }
}

/// The endpoint with that address and port.
pub(crate) fn endpoint(address: &str) -> EndpointSettings {
    let known: SocketAddr = address.parse().unwrap();
    let (addresses, server_name) = (Addresses::one(known), known.ip().into());
    EndpointSettings { name: address.into(), addresses, host: None, weight: 1, priority: 0, server_name }
}
