//! Suggests the name that was probably meant by an unknown one.

/// Longer names are not compared: the distance costs the product of the lengths.
const LONGEST: usize = 64;

/// The known name that is nearest, if it is near enough.
pub(super) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if typed.len() > LONGEST {
        return None;
    }
    let typed = folded(typed);
    // A third of the letters may be wrong, but at least one.
    let near = (typed.chars().count() / 3).max(1);
    let distance = |name: &str| strsim::damerau_levenshtein(&typed, &folded(name));
    known
        .into_iter()
        .filter(|name| name.len() <= LONGEST)
        .map(|name| (distance(name), name))
        .filter(|(distance, _)| *distance <= near)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `; did you mean …?`, or nothing.
pub(super) fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(typed, known).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Case, and `-` for `_`, are the most common slips and do not count.
pub(super) fn folded(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_none() {
        let known = ["timeout", "attempts", "deadline", "max_connections", "ca", "key"];
        for (typed, expected) in [
            ("tiemout", Some("timeout")),
            ("attempt", Some("attempts")),
            ("Max-Connections", Some("max_connections")),
            ("cA", Some("ca")),
            ("kay", Some("key")),
            ("xyz", None),
            ("retries", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), expected, "{typed}");
        }
        assert_eq!(nearest(&"timeout".repeat(1000), known), None);
    }
}
