//! How a session ended, as a closed set, and which side ended it.
//!
//! One enum for sessions that relayed and for refusals, because the metric label and the access log
//! treat them alike. The texts for people are with the errors.

/// Why a session ended, or why a client got no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Completed,
    DownstreamReset,
    UpstreamReset,
    IdleTimeout,
    HalfCloseTimeout,
    MaxLifetime,
    Drained,
    EndpointDown,
    EndpointRemoved,
    ClosedByOperator,
    Rotated,
    KeyLimit,
    Denied,
    ListenerFull,
    CallerFull,
    ClusterFull,
    BreakerOpen,
    NoEndpoint,
    ConnectFailed,
    UpgradeFailed,
    TlsFailed,
    DeadlineExceeded,
    BadOpening,
    BadContext,
    DownstreamGone,
    UpstreamRefused,
    LoginFailed,
}

impl Outcome {
    /// Every outcome, in documented order; metrics resolve one handle for each at the start.
    pub const ALL: [Self; 27] = [
        Self::Completed,
        Self::DownstreamReset,
        Self::UpstreamReset,
        Self::IdleTimeout,
        Self::HalfCloseTimeout,
        Self::MaxLifetime,
        Self::Drained,
        Self::EndpointDown,
        Self::EndpointRemoved,
        Self::ClosedByOperator,
        Self::Rotated,
        Self::KeyLimit,
        Self::Denied,
        Self::ListenerFull,
        Self::CallerFull,
        Self::ClusterFull,
        Self::BreakerOpen,
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::UpgradeFailed,
        Self::TlsFailed,
        Self::DeadlineExceeded,
        Self::BadOpening,
        Self::BadContext,
        Self::DownstreamGone,
        Self::UpstreamRefused,
        Self::LoginFailed,
    ];

    /// Whether the client got no service: it was refused by a rule, or because no endpoint answered.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::Denied
            | Self::ListenerFull
            | Self::CallerFull
            | Self::ClusterFull
            | Self::BreakerOpen
            | Self::NoEndpoint
            | Self::ConnectFailed
            | Self::UpgradeFailed
            | Self::TlsFailed
            | Self::DeadlineExceeded
            | Self::BadOpening
            | Self::BadContext
            | Self::UpstreamRefused
            | Self::LoginFailed => true,
            Self::Completed
            | Self::DownstreamReset
            | Self::UpstreamReset
            | Self::IdleTimeout
            | Self::HalfCloseTimeout
            | Self::MaxLifetime
            | Self::Drained
            | Self::EndpointDown
            | Self::EndpointRemoved
            | Self::ClosedByOperator
            | Self::Rotated
            | Self::KeyLimit
            | Self::DownstreamGone => false,
        }
    }

    /// The label in metrics and in the access log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::DownstreamReset => "downstream_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::MaxLifetime => "max_lifetime",
            Self::Drained => "drained",
            Self::EndpointDown => "endpoint_down",
            Self::EndpointRemoved => "endpoint_removed",
            Self::ClosedByOperator => "closed_by_operator",
            Self::Rotated => "rotated",
            Self::KeyLimit => "key_limit",
            Self::Denied => "denied",
            Self::ListenerFull => "listener_full",
            Self::CallerFull => "caller_full",
            Self::ClusterFull => "cluster_full",
            Self::BreakerOpen => "breaker_open",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::UpgradeFailed => "upgrade_failed",
            Self::TlsFailed => "tls_failed",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::BadOpening => "bad_opening",
            Self::BadContext => "bad_context",
            Self::DownstreamGone => "downstream_gone",
            Self::UpstreamRefused => "upstream_refused",
            Self::LoginFailed => "login_failed",
        }
    }
}

/// The side that ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Downstream,
    Upstream,
    Ambassador,
}

impl Side {
    /// The word in `closed_by` of the access log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Ambassador => "ambassador",
        }
    }
}
