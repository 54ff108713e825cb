//! What a start uses: what the source says, or what was kept on disk.

use std::net::SocketAddr;
use std::path::Path;

use fastrand::Rng;
use rustls::pki_types::ServerName;

use super::super::DiscoveryServices;
use super::*;
use crate::alarm;
use crate::cluster::{
    Address, Addresses, Cluster, ControlPlane, EndpointSettings as Settings, Host, OriginKind, RemoteAnswer,
    RemoteProgress, RemoteQuery, RemoteQuestion, RemoteReads, RemoteRequest, RemoteSource, Target, fixture,
};
use crate::discovery::kept::KeptFile;
use crate::discovery::source_update::{RemoteResult, SourceUpdate};
use crate::http::HttpUrl;
use crate::tls::Roots;

/// Nobody answers it; the tests tell what the source says.
#[derive(Debug)]
struct Silent;

impl RemoteQuery for Silent {
    fn request(&mut self, _: Option<&str>) -> RemoteRequest {
        RemoteRequest::get("/".into(), None, RemoteReads::Whole, std::time::Duration::from_secs(1))
    }

    fn take(&mut self, _: &RemoteAnswer<'_>) -> Result<RemoteProgress, String> {
        Err("nobody answers".into())
    }

    fn reset(&mut self) {}
}

fn source(name: &str, accepts_empty: bool) -> Source {
    let servers = vec![HttpUrl::at_socket("/nowhere/at/all".into())];
    Source::Remote(RemoteSource {
        kind: OriginKind::Consul,
        name: name.into(),
        control_plane: ControlPlane { servers, roots: Roots::WebPki, token: None }.into(),
        accepts_empty,
        server_name: String::new(),
        question: RemoteQuestion::Http(std::sync::Arc::new(|| Box::new(Silent))),
    })
}

fn services(folder: &Path) -> DiscoveryServices {
    let services = DiscoveryServices::default();
    services.keep.set(Some(folder.to_owned()));
    services
}

fn started(source: Source, services: DiscoveryServices) -> Following {
    let settings = crate::cluster::Settings { source: Some(source), ..fixture::settings(&[]) };
    begun(Cluster::new(settings, Rng::with_seed(1)), services)
}

fn begun(cluster: std::sync::Arc<Cluster>, services: DiscoveryServices) -> Following {
    let mut following = Following::new(cluster, services, Rng::with_seed(2)).unwrap();
    following.begin_keeping();
    following.apply_endpoints();
    following
}

fn file(folder: &Path, following: &Following) -> KeptFile {
    let settings = following.cluster.settings();
    KeptFile::new(folder, &settings.name, settings.source.as_ref().unwrap().identity().unwrap())
}

fn on_disk(address: &str) -> Settings {
    let address: SocketAddr = address.parse().unwrap();
    Settings {
        name: (&*address.to_string()).into(),
        addresses: Addresses::one(address),
        host: None,
        weight: 1,
        priority: 0,
        server_name: ServerName::from(address.ip()),
    }
}

fn says(addresses: &[&str]) -> RemoteResult {
    let target = |address: &&str| {
        let address: SocketAddr = address.parse().unwrap();
        let server_name = ServerName::from(address.ip());
        let address = Address { host: Host::Ip(address.ip()), port: address.port() };
        Target { address, weight: 1, priority: 0, server_name }
    };
    Some(SourceUpdate::Targets(addresses.iter().map(target).collect(), None))
}

fn fails() -> RemoteResult {
    Some(SourceUpdate::Error("no leader".into()))
}

/// As the task does it after an answer, until nothing is read or written any more.
async fn hear(following: &mut Following, result: RemoteResult) {
    following.take_remote(result);
    loop {
        following.apply_endpoints();
        following.keep();
        let soon = clock::now() + std::time::Duration::from_millis(200);
        let Some(keeping) = following.keeping.as_mut().filter(|keeping| keeping.is_busy()) else { return };
        let Ok(event) = alarm::timeout_at(soon, keeping.event()).await else { panic!("the disk is slow") };
        following.take_keep_event(event);
    }
}

fn members(following: &Following) -> Vec<String> {
    let endpoints = following.cluster.endpoints();
    endpoints.iter().map(|endpoint| endpoint.settings().name.to_string()).collect()
}

const NEW: &str = "10.0.0.1:1";
const OLD: &str = "10.0.0.2:2";

#[tokio::test]
async fn a_start_uses_what_is_kept_only_where_the_source_says_nothing_that_is_believed() {
    let none: &[&str] = &[];
    let table = [
        // What comes first, whether something is kept, and whether nothing is believed: what is used, and whether that is an error.
        ("good", says(&[NEW]), true, false, &[NEW][..], false),
        ("good, nothing is believed", says(&[NEW]), true, true, &[NEW], false),
        ("good, none kept", says(&[NEW]), false, false, &[NEW], false),
        ("good, none kept, nothing is believed", says(&[NEW]), false, true, &[NEW], false),
        ("failed", fails(), true, false, &[OLD], true),
        ("failed, nothing is believed", fails(), true, true, &[OLD], true),
        ("failed, none kept", fails(), false, false, none, true),
        ("failed, none kept, nothing is believed", fails(), false, true, none, true),
        ("none", says(&[]), true, false, &[OLD], true),
        ("none, none kept", says(&[]), false, false, none, false),
        ("none, nothing is believed", says(&[]), true, true, none, false),
        ("none, none kept, nothing is believed", says(&[]), false, true, none, false),
    ];
    let run = alarm::drive(async {
        for (what, first, is_kept, accepts_empty, expected, is_error) in table {
            let folder = tempfile::tempdir().unwrap();
            let mut following = started(source("orders", accepts_empty), services(folder.path()));
            if is_kept {
                file(folder.path(), &following).write(&[on_disk(OLD)], clock::wall()).unwrap();
            }
            assert!(!following.cluster.discovery().is_settled, "{what}: sessions wait");
            hear(&mut following, first).await;
            let status = following.cluster.discovery();
            assert_eq!(members(&following), expected, "{what}");
            assert!(status.is_settled, "{what}");
            assert_eq!(status.origins[0].error.is_some(), is_error, "{what}");
            assert_eq!(status.kept.is_some(), expected == [OLD], "{what}");
            // Whatever it was, what the source says afterwards is used and kept.
            hear(&mut following, says(&["10.0.0.3:3"])).await;
            assert_eq!(
                (members(&following), following.cluster.discovery().kept),
                (vec!["10.0.0.3:3".into()], None)
            );
        }
    });
    run.await.unwrap();
}

#[tokio::test]
async fn a_reload_carries_over_what_is_still_true() {
    let run = alarm::drive(async {
        for (name, still_kept) in [("orders", true), ("invoices", false)] {
            let folder = tempfile::tempdir().unwrap();
            let services = services(folder.path());
            let mut before = started(source("orders", false), services.clone());
            file(folder.path(), &before).write(&[on_disk(OLD)], clock::wall()).unwrap();
            hear(&mut before, fails()).await;
            let settings =
                crate::cluster::Settings { source: Some(source(name, false)), ..fixture::settings(&[]) };
            let mut after = begun(before.cluster.with_settings(settings), services);
            assert_eq!(members(&after), [OLD], "known endpoints stay until the new source has answered");
            assert_eq!(after.cluster.discovery().kept.is_some(), still_kept, "{name}");
            // Nothing is believed only against endpoints that are the source's own.
            hear(&mut after, says(&[])).await;
            assert_eq!(members(&after).is_empty(), !still_kept, "{name}");
            hear(&mut after, says(&[NEW])).await;
            assert_eq!((members(&after), after.cluster.discovery().kept), (vec![NEW.to_owned()], None));
        }
    });
    run.await.unwrap();
}

/// What could not be written was not tried again before something changed.
#[tokio::test]
async fn a_write_that_fails_is_tried_again() {
    let run = alarm::drive(async {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let mut following = started(source("orders", false), services(&missing));
        hear(&mut following, says(&[NEW])).await;
        let due = following.keep().expect("it comes back");
        assert!(due > clock::now() + std::time::Duration::from_secs(20), "not at once");
        std::fs::create_dir(&missing).unwrap();
        let keeping = following.keeping.as_mut().unwrap();
        let known = KnownEndpoints {
            endpoints: &following.applied,
            unresolved: &BTreeSet::new(),
            confirmed: clock::now(),
        };
        keeping.keep(known, due, clock::wall());
        keeping.event().await;
        assert!(file(&missing, &following).read().unwrap().is_some());
    });
    run.await.unwrap();
}
