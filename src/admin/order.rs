//! What is asked for on the control socket, read off a path. Names in it are percent-encoded where they have to be; an
//! endpoint's may have its slashes as they are.

use percent_encoding::percent_decode_str;

use crate::policy::slot::Admin;
use crate::session::{NoSessionId, SessionId};

/// Something that changes what the daemon does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    Reload,
    Drain,
    Close(SessionId),
    Endpoint { cluster: String, endpoint: String, admin: Admin },
}

/// Why a path is no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoOrder {
    #[error(
        "POST knows /reload, /drain, /sessions/ID/close and \
         /clusters/NAME/endpoints/ADDRESS/{{enable,drain,disable}}"
    )]
    Unknown,
    #[error("{0}")]
    Session(#[from] NoSessionId),
}

impl Order {
    pub(super) fn read(path: &str) -> Result<Self, NoOrder> {
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let parts: Vec<String> = path.split('/').skip(1).map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match &parts[..] {
            ["reload"] => Ok(Self::Reload),
            ["drain"] => Ok(Self::Drain),
            ["sessions", session, "close"] => Ok(Self::Close(session.parse()?)),
            ["clusters", cluster, "endpoints", endpoint @ .., order] if !endpoint.is_empty() => {
                let admin = match *order {
                    "enable" => Admin::Enabled,
                    "drain" => Admin::Draining,
                    "disable" => Admin::Disabled,
                    _ => return Err(NoOrder::Unknown),
                };
                Ok(Self::Endpoint { cluster: (*cluster).into(), endpoint: endpoint.join("/"), admin })
            }
            _ => Err(NoOrder::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_orders_or_say_why_not() {
        let endpoint = |endpoint: &str, admin| {
            Ok(Order::Endpoint { cluster: "orders".into(), endpoint: endpoint.into(), admin })
        };
        for (path, expected) in [
            ("/reload", Ok(Order::Reload)),
            ("/drain", Ok(Order::Drain)),
            ("/sessions/00000000000000ff/close", Ok(Order::Close("00000000000000ff".parse().unwrap()))),
            ("/sessions/ff/close", Err(NoOrder::Session(NoSessionId))),
            ("/sessions/00000000000000ff", Err(NoOrder::Unknown)),
            ("/clusters/orders/endpoints/10.0.0.1:1/enable", endpoint("10.0.0.1:1", Admin::Enabled)),
            ("/clusters/orders/endpoints/[::1]:1/drain", endpoint("[::1]:1", Admin::Draining)),
            ("/clusters/orders/endpoints/%5B::1%5D:1/drain", endpoint("[::1]:1", Admin::Draining)),
            ("/clusters/orders/endpoints/unix:/run/a/disable", endpoint("unix:/run/a", Admin::Disabled)),
            ("/clusters/orders/endpoints/unix:%2Frun%2Fa/disable", endpoint("unix:/run/a", Admin::Disabled)),
            ("/clusters/orders/endpoints/disable", Err(NoOrder::Unknown)),
            ("/clusters/orders/endpoints/10.0.0.1:1/close", Err(NoOrder::Unknown)),
            ("/reload/", Err(NoOrder::Unknown)),
            ("/", Err(NoOrder::Unknown)),
            ("", Err(NoOrder::Unknown)),
        ] {
            assert_eq!(Order::read(path), expected, "{path}");
        }
    }
}
