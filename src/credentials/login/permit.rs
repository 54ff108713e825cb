//! Permission for one login with a credential, and what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{IssuedLogin, LoginCredential};
use crate::clock;
use crate::protocol::{AllowedMechanisms, ClientCredentials};

/// Permission for one login. Dropped without a verdict, it was abandoned.
#[derive(Debug)]
pub(crate) struct LoginPermit {
    credential: Arc<LoginCredential>,
    issued: Arc<IssuedLogin>,
    is_trial: bool,
    is_shown: AtomicBool,
    has_ended: bool,
}

impl LoginPermit {
    pub(super) const fn new(
        credential: Arc<LoginCredential>,
        issued: Arc<IssuedLogin>,
        is_trial: bool,
    ) -> Self {
        Self { credential, issued, is_trial, has_ended: false, is_shown: AtomicBool::new(false) }
    }

    /// Whether no server has accepted the credential yet: it is then shown once, to one endpoint.
    #[must_use]
    pub(crate) const fn is_trial(&self) -> bool {
        self.is_trial
    }

    /// The secret goes to a server from now on, which may count what comes of it.
    pub(crate) fn note_shown(&self) {
        self.is_shown.store(true, Ordering::Relaxed);
    }

    /// Whether the secret went to a server.
    #[must_use]
    pub(crate) fn is_shown(&self) -> bool {
        self.is_shown.load(Ordering::Relaxed)
    }

    /// Whether it is a permit of that credential.
    #[must_use]
    pub(crate) fn is_of(&self, credential: &Arc<LoginCredential>) -> bool {
        Arc::ptr_eq(&self.credential, credential)
    }

    /// What may carry the secret.
    #[must_use]
    pub(crate) fn mechanisms(&self) -> &AllowedMechanisms {
        &self.credential.mechanisms
    }

    /// Whom the client is held to.
    #[must_use]
    pub(crate) fn client(&self) -> Option<Arc<dyn ClientCredentials>> {
        self.credential.client().map(|client| Arc::clone(client) as Arc<dyn ClientCredentials>)
    }

    /// The content to sign in with.
    #[must_use]
    pub(crate) const fn issued(&self) -> &Arc<IssuedLogin> {
        &self.issued
    }

    /// The server has answered, and the answer is not about the credential.
    pub(crate) fn give_back(mut self) {
        self.credential.state.lock().gate.abandon(self.issued.generation);
        self.end(self.is_trial);
    }

    /// The server has accepted it.
    pub(crate) fn accept(mut self) {
        let mut state = self.credential.state.lock();
        let is_news = !state.gate.is_accepted(self.issued.generation);
        state.gate.accept(self.issued.generation);
        state.has_asked_anew = false;
        drop(state);
        self.end(is_news);
    }

    /// The server has rejected it, with these words.
    pub(crate) fn reject(mut self, words: &str) {
        let mut state = self.credential.state.lock();
        state.gate.reject(self.issued.generation, words, clock::now());
        // A token may have been revoked before its time. Once: each one is new to the gate, and a server that rejects
        // them all must not be asked with one after the other.
        if self.issued.expires.is_some() && !state.has_asked_anew {
            state.has_asked_anew = true;
            self.credential.want(&mut state);
        }
        drop(state);
        self.end(true);
    }

    /// `is_news`: others may wait for what has come of it. Not for each session: that would wake whoever watches the content.
    fn end(&mut self, is_news: bool) {
        self.has_ended = true;
        if is_news {
            self.credential.changed.send_replace(());
        }
    }
}

impl Drop for LoginPermit {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut state = self.credential.state.lock();
            match self.is_trial && self.is_shown() {
                // Servers delay the answer to a wrong password; a client that does not wait for it must not try it again and
                // again.
                true => state.gate.reject(self.issued.generation, UNANSWERED, clock::now()),
                false => state.gate.abandon(self.issued.generation),
            }
            drop(state);
            self.end(self.is_trial);
        }
    }
}

/// Why a credential is paused whose only login ended without an answer.
const UNANSWERED: &str = "the first login with this credential ended before the server had answered";
