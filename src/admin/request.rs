//! Parses the path of a control request. Names in it are percent-encoded where necessary; an endpoint's name may have
//! its slashes as they are.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use tracing::level_filters::LevelFilter;

use crate::log::LEVELS;
use crate::policy::endpoint_state::Admin;
use crate::quantity::duration;
use crate::session::{NoSessionId, SessionId};

/// A request that changes what the daemon does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ControlRequest {
    Reload,
    Drain,
    Close(SessionId),
    Endpoint { cluster: String, endpoint: String, admin: Admin },
    LogLevel { level: LevelFilter, lasting: Option<Duration> },
}

/// Why a path is no control request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ControlRequestError {
    #[error(
        "POST knows /reload, /drain, /log?level=LEVEL&for=DURATION, /sessions/ID/close and \
         /clusters/NAME/endpoints/ADDRESS/{{enable,drain,disable}}"
    )]
    Unknown,
    #[error("a level is one of error, warn, info, debug, trace, off: /log?level=debug")]
    Level,
    #[error("`for` {0}")]
    Lasting(&'static str),
    #[error("{0}")]
    Session(#[from] NoSessionId),
}

impl ControlRequest {
    pub(super) fn read(path: &str, query: Option<&str>) -> Result<Self, ControlRequestError> {
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let parts: Vec<String> = path.split('/').skip(1).map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match &parts[..] {
            ["reload"] => Ok(Self::Reload),
            ["drain"] => Ok(Self::Drain),
            ["log"] => Self::log_level(query.unwrap_or_default()),
            ["sessions", session, "close"] => Ok(Self::Close(session.parse()?)),
            ["clusters", cluster, "endpoints", endpoint @ .., order] if !endpoint.is_empty() => {
                let admin = match *order {
                    "enable" => Admin::Enabled,
                    "drain" => Admin::Draining,
                    "disable" => Admin::Disabled,
                    _ => return Err(ControlRequestError::Unknown),
                };
                Ok(Self::Endpoint { cluster: (*cluster).into(), endpoint: endpoint.join("/"), admin })
            }
            _ => Err(ControlRequestError::Unknown),
        }
    }

    fn log_level(query: &str) -> Result<Self, ControlRequestError> {
        let given = |name: &str| {
            let pair = |pair: &'_ str| {
                pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
            };
            query.split('&').find_map(pair)
        };
        let word = given("level").ok_or(ControlRequestError::Level)?;
        let level = LEVELS.iter().find(|(known, _)| *known == word).map(|(_, level)| *level);
        let lasting =
            given("for").map(|text| duration(&text)).transpose().map_err(ControlRequestError::Lasting)?;
        if lasting.is_some_and(|lasting| lasting > LASTING_MAX) {
            return Err(ControlRequestError::Lasting("is more than a year"));
        }
        Ok(Self::LogLevel { level: level.ok_or(ControlRequestError::Level)?, lasting })
    }
}

/// Adding it to the clock cannot overflow.
const LASTING_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_orders_or_say_why_not() {
        let endpoint = |endpoint: &str, admin| {
            Ok(ControlRequest::Endpoint { cluster: "orders".into(), endpoint: endpoint.into(), admin })
        };
        for (path, expected) in [
            ("/reload", Ok(ControlRequest::Reload)),
            ("/drain", Ok(ControlRequest::Drain)),
            (
                "/sessions/00000000000000ff/close",
                Ok(ControlRequest::Close("00000000000000ff".parse().unwrap())),
            ),
            ("/sessions/ff/close", Err(ControlRequestError::Session(NoSessionId))),
            ("/sessions/00000000000000ff", Err(ControlRequestError::Unknown)),
            ("/clusters/orders/endpoints/10.0.0.1:1/enable", endpoint("10.0.0.1:1", Admin::Enabled)),
            ("/clusters/orders/endpoints/[::1]:1/drain", endpoint("[::1]:1", Admin::Draining)),
            ("/clusters/orders/endpoints/%5B::1%5D:1/drain", endpoint("[::1]:1", Admin::Draining)),
            ("/clusters/orders/endpoints/unix:/run/a/disable", endpoint("unix:/run/a", Admin::Disabled)),
            ("/clusters/orders/endpoints/unix:%2Frun%2Fa/disable", endpoint("unix:/run/a", Admin::Disabled)),
            ("/clusters/orders/endpoints/disable", Err(ControlRequestError::Unknown)),
            ("/clusters/orders/endpoints/10.0.0.1:1/close", Err(ControlRequestError::Unknown)),
            ("/reload/", Err(ControlRequestError::Unknown)),
            ("/", Err(ControlRequestError::Unknown)),
            ("", Err(ControlRequestError::Unknown)),
        ] {
            assert_eq!(ControlRequest::read(path, None), expected, "{path}");
        }
    }

    #[test]
    fn a_level_is_a_word_and_may_last_for_a_while() {
        let order = |query| ControlRequest::read("/log", Some(query));
        let level = |level, lasting| Ok(ControlRequest::LogLevel { level, lasting });
        assert_eq!(order("level=debug"), level(LevelFilter::DEBUG, None));
        assert_eq!(order("for=10m&level=off"), level(LevelFilter::OFF, Some(Duration::from_secs(600))));
        for wrong in ["", "level=", "level=5", "level=DEBUG", "for=1s"] {
            assert_eq!(order(wrong), Err(ControlRequestError::Level), "{wrong}");
        }
        assert!(matches!(order("level=info&for=10"), Err(ControlRequestError::Lasting(_))));
        assert!(matches!(order("level=info&for=9999d"), Err(ControlRequestError::Lasting(_))));
    }
}
