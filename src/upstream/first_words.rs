//! A server's first words behind TLS: what turns a session away there is heard before the dial is over, so that another
//! endpoint can be tried, as where it is said before TLS.
//!
//! What is heard stays unread: the relay meets it as if nobody had looked. An end, an error and a silence say nothing
//! here; the relay judges those. Not looked at without TLS, where the client hears its server directly.

use std::future::poll_fn;
use std::time::Instant;

use crate::alarm;
use crate::protocol::{Protocol, TurnedAway};
use crate::relay::End;

use super::dial::Ready;

/// What the client has said, to make the server speak. `None`: nobody knows yet what it will say.
pub(super) type Opening<'a> = Option<&'a [u8]>;

/// Whether the dial waits for the server's first words: they come by themselves, or the client's opening asks for them.
pub(super) fn are_awaited(ready: &Ready, protocol: &dyn Protocol, opening: Opening<'_>) -> bool {
    let is_asked_for = match protocol.server_greets() {
        true => !ready.is_upgraded,
        false => opening.is_some_and(|opening| !opening.is_empty()),
    };
    matches!(ready.end, End::Tls(_)) && is_asked_for && protocol.may_turn_away_behind_tls()
}

/// Sends the opening to a server that waits for it, and waits until `until` for what the server says. The answer is how it
/// turns the session away; `None`: it does not, or has not yet.
pub(super) async fn turned_away(
    ready: &mut Ready,
    protocol: &dyn Protocol,
    opening: Opening<'_>,
    until: Instant,
) -> Option<TurnedAway> {
    let Ready { end, said, .. } = ready;
    let opening = opening.filter(|_| !protocol.server_greets()).unwrap_or_default();
    let heard = async {
        while *said < opening.len() {
            *said += poll_fn(|cx| end.poll_send(cx, &opening[*said..])).await.ok()?;
        }
        poll_fn(|cx| end.poll_sent(cx)).await.ok()?;
        poll_fn(|cx| end.poll_peek(cx, |first| protocol.turned_away_behind_tls(first))).await
    };
    alarm::before(until, heard).await.ok().flatten().map(TurnedAway::authenticated)
}
