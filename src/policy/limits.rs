//! Caps on a cluster's sessions and dials. They are exact: no burst exceeds them.
//!
//! They are what Envoy calls "circuit breakers": limits without memory. What opens and recovers is the breaker,
//! elsewhere.

/// The caps of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Sessions and dials together.
    pub max_connections: u32,
    /// Dials in flight, hedges included.
    pub max_pending: u32,
    /// Sessions and dials of one endpoint.
    pub max_connections_per_endpoint: u32,
}

/// The load of an endpoint or a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions that relay.
    pub sessions: u32,
    /// Dials that have not led to a session yet.
    pub dials: u32,
}

impl Load {
    /// Sessions and dials together, which `max_connections` bounds.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.sessions + self.dials
    }
}

/// The cap that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// As many sessions and dials as `max_connections` allows.
    #[error("the cluster has reached max_connections ({0})")]
    Connections(u32),
    /// As many dials as `max_pending` allows.
    #[error("the cluster has reached max_pending ({0})")]
    Pending(u32),
    /// `max_connections_per_endpoint`, on every eligible endpoint.
    #[error("every endpoint has reached max_connections_per_endpoint ({0})")]
    Endpoints(u32),
}

impl Settings {
    /// Whether the cluster has room for one more dial, by its total load.
    ///
    /// # Errors
    /// The cap that is reached.
    pub const fn admit(&self, cluster: Load) -> Result<(), LimitReached> {
        if cluster.total() >= self.max_connections {
            return Err(LimitReached::Connections(self.max_connections));
        }
        if cluster.dials >= self.max_pending {
            return Err(LimitReached::Pending(self.max_pending));
        }
        Ok(())
    }

    /// Whether an endpoint has room for one more dial.
    #[must_use]
    pub const fn endpoint_has_room(&self, endpoint: Load) -> bool {
        endpoint.total() < self.max_connections_per_endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cap_admits_exactly_its_number() {
        let caps = Settings { max_connections: 5, max_pending: 2, max_connections_per_endpoint: 3 };
        for (sessions, dials, expected) in [
            (0, 0, Ok(())),
            (4, 0, Ok(())),
            (5, 0, Err(LimitReached::Connections(5))),
            (3, 2, Err(LimitReached::Connections(5))),
            (0, 1, Ok(())),
            (0, 2, Err(LimitReached::Pending(2))),
        ] {
            assert_eq!(caps.admit(Load { sessions, dials }), expected, "{sessions} sessions, {dials} dials");
        }
        assert!(caps.endpoint_has_room(Load { sessions: 1, dials: 1 }));
        assert!(!caps.endpoint_has_room(Load { sessions: 1, dials: 2 }));
    }
}
