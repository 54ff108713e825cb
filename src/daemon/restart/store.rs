//! Listening sockets in systemd's hands, so that a restart, or a crash, loses neither them nor who waits in their queues
//! (`FileDescriptorStoreMax=` of systemd.service(5)); and what we know, so that a restart does not lose that either.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::sys::{ListeningSocket, Role};

use super::snapshot;
use crate::daemon::active_config::ActiveConfig;
use crate::daemon::notify;

/// Whether systemd keeps descriptors for us: it says so in FDSTORE.
pub(in crate::daemon) fn is_available() -> bool {
    let most = std::env::var("FDSTORE").ok().and_then(|most| most.parse::<u32>().ok());
    most.is_some_and(|most| most > 0) && std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Gives systemd these sockets, and takes back those of before. What it keeps goes on when we stop.
pub(in crate::daemon) fn store_sockets(
    sockets: &[(Arc<ListeningSocket>, Role)],
    kept: &mut BTreeSet<String>,
) {
    if !is_available() {
        return;
    }
    // Whoever left it there is us now.
    notify::send_with_descriptors(
        &format!("FDSTOREREMOVE=1\nFDNAME={}", Role::Snapshot.to_descriptor()),
        &[],
    );
    for name in std::mem::take(kept) {
        notify::send_with_descriptors(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }
    // Those of a socket unit are systemd's already.
    for (listening, role) in sockets.iter().filter(|(_, role)| !matches!(role, Role::Systemd(_))) {
        let name = role.to_descriptor();
        if notify::send_with_descriptors(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[listening.as_fd()])
        {
            listening.set_handed_on(true);
            kept.insert(name);
        }
    }
}

/// Gives systemd what we know, for whom it starts next.
pub(in crate::daemon) fn store_snapshot(active: &ActiveConfig) {
    if !is_available() {
        return;
    }
    match snapshot::write(active) {
        Ok(snapshot) => {
            let name = Role::Snapshot.to_descriptor();
            notify::send_with_descriptors(
                &format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"),
                &[snapshot.as_fd()],
            );
        }
        Err(error) => tracing::warn!(%error, "cannot leave what is known here to the next process"),
    }
}
