//! Selection of rows and scenarios by pattern.
//!
//! Lacks character classes and escapes: such names need none.

/// Whether `name` matches `glob`: `*` stands for any run of characters, `?` for one.
pub(crate) fn matches(glob: &str, name: &str) -> bool {
    let Some(first) = glob.chars().next() else { return name.is_empty() };
    let rest = &glob[first.len_utf8()..];
    let mut tail = name.chars();
    match first {
        '*' => matches(rest, name) || (tail.next().is_some() && matches(glob, tail.as_str())),
        '?' => tail.next().is_some() && matches(rest, tail.as_str()),
        letter => tail.next() == Some(letter) && matches(rest, tail.as_str()),
    }
}
