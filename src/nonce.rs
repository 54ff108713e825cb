//! Unpredictable bytes for logins, from the system. Decisions do not use them: those have a seed (docs/ARCHITECTURE.md).

/// Bytes that were not given before.
///
/// # Panics
/// If the system has no random bytes.
#[must_use]
pub(crate) fn fresh<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes of the system");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_equal() {
        assert_ne!(fresh::<18>(), fresh::<18>());
    }
}
