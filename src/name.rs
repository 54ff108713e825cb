//! Names from the configuration, as types that cannot be confused.
//!
//! A name is cheap to clone (it is shared) and is never parsed again after `config` made it.

use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as it was written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// A key of `listeners`.
    ListenerName
}
name! {
    /// A key of `clusters`.
    ClusterName
}
name! {
    /// An endpoint as written in the file: `host:port`.
    EndpointName
}
name! {
    /// A key of `identities`, or the cluster's own name for an identity given in place.
    IdentityName
}
