//! systemd's descriptor store (`FileDescriptorStoreMax=` of systemd.service(5)): it keeps listening sockets with their
//! queues over a restart or a crash, and the snapshot over a restart.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::admin::AdminState;
use crate::sys::{ListeningSocket, Role};

use super::snapshot;
use crate::daemon::notify;

/// Whether systemd keeps descriptors for us, as FDSTORE says.
pub(in crate::daemon) fn is_available() -> bool {
    let most = std::env::var("FDSTORE").ok().and_then(|most| most.parse::<u32>().ok());
    most.is_some_and(|most| most > 0) && std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Has systemd keep these sockets instead of those before. They go on listening when we stop.
pub(in crate::daemon) fn store_sockets(
    sockets: &[(Arc<ListeningSocket>, Role)],
    kept: &mut BTreeSet<String>,
) {
    if !is_available() {
        return;
    }
    // The snapshot was for this process.
    notify::send_with_descriptors(
        &format!("FDSTOREREMOVE=1\nFDNAME={}", Role::Snapshot.to_descriptor()),
        &[],
    );
    for name in std::mem::take(kept) {
        notify::send_with_descriptors(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }
    // Those of a socket unit are kept by systemd already.
    for (listening, role) in sockets.iter().filter(|(_, role)| !matches!(role, Role::Systemd(_))) {
        let name = role.to_descriptor();
        if notify::send_with_descriptors(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[listening.as_fd()])
        {
            listening.set_handed_on(true);
            kept.insert(name);
        }
    }
}

/// Has systemd keep a snapshot for the process that it starts next.
pub(in crate::daemon) fn store_snapshot(admin_state: &AdminState) {
    if !is_available() {
        return;
    }
    match snapshot::write(admin_state) {
        Ok(snapshot) => {
            let name = Role::Snapshot.to_descriptor();
            notify::send_with_descriptors(
                &format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"),
                &[snapshot.as_fd()],
            );
        }
        Err(error) => tracing::warn!(%error, "cannot store the state for the next process"),
    }
}
