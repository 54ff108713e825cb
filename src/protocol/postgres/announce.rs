//! The caller's unit in `application_name`, where `pg_stat_activity` and the server's log show it.
//!
//! The unit is the last word of the name, in brackets, and is never shortened: the server keeps 63 bytes (NAMEDATALEN),
//! and the name before the unit is cut. If the client gives no name, the unit stands alone. If it sets its name in
//! `options`, nothing is changed, because the parameter would override that.

use super::OPENING_MAX;
use super::be_u32;

/// The bytes that the server keeps of the name.
const NAME_MAX: usize = 63;
/// The room left for a unit in `[` and `]`.
const UNIT_MAX: usize = NAME_MAX - 2;
const NAME: &[u8] = b"application_name";
/// Where the parameters begin, behind length and version.
const PARAMETERS: usize = 8;

/// Puts the unit into a StartupMessage. Any other packet, and bytes after it, stay as they are.
pub(super) fn announce(opening: &mut Vec<u8>, unit: &str) {
    let Some(length) = be_u32(opening, 0).map(|length| length as usize) else { return };
    let Some(parameters) = opening.get(PARAMETERS..length).and_then(Parameters::read) else { return };
    if parameters.sets_name_in_options {
        return;
    }
    let unit = &unit[..unit.len().min(UNIT_MAX)];
    let (at, name) = match parameters.name {
        Some((from, to)) => {
            (PARAMETERS + from..PARAMETERS + to, named(&opening[PARAMETERS + from..PARAMETERS + to], unit))
        }
        // Before the final NUL.
        None => (length - 1..length - 1, [NAME, b"\0", &named(b"", unit), b"\0"].concat()),
    };
    let announced = length - at.len() + name.len();
    if announced > OPENING_MAX {
        return;
    }
    opening.splice(at, name);
    let announced = u32::try_from(announced).expect("a startup packet is bounded");
    opening[..4].copy_from_slice(&announced.to_be_bytes());
}

/// `name [unit]` in 63 bytes.
fn named(name: &[u8], unit: &str) -> Vec<u8> {
    let bracketed = format!("[{unit}]");
    let room = NAME_MAX - bracketed.len();
    if name.is_empty() || room < 2 {
        return bracketed.into_bytes();
    }
    let mut kept = name.len().min(room - 1);
    // Not within a character of UTF-8.
    while kept > 0 && name.get(kept).is_some_and(|byte| byte & 0xc0 == 0x80) {
        kept -= 1;
    }
    [&name[..kept], b" ", bracketed.as_bytes()].concat()
}

/// The parameters `name\0value\0 … \0`, as far as they matter here.
#[derive(Default)]
struct Parameters {
    /// The position of the value of the last `application_name`, the one that counts.
    name: Option<(usize, usize)>,
    sets_name_in_options: bool,
}

impl Parameters {
    /// `None`: malformed, which the server will report.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut read = Self::default();
        let mut at = 0;
        loop {
            let name = text(bytes, at)?;
            at += name.len() + 1;
            if name.is_empty() {
                return (at == bytes.len()).then_some(read);
            }
            let value = text(bytes, at)?;
            if name == NAME {
                read.name = Some((at, at + value.len()));
            }
            read.sets_name_in_options |=
                name == b"options" && value.windows(NAME.len()).any(|part| part.eq_ignore_ascii_case(NAME));
            at += value.len() + 1;
        }
    }
}

fn text(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut body = vec![0, 3, 0, 0];
        for (name, value) in parameters {
            body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap();
        [&length.to_be_bytes()[..], &body].concat()
    }

    #[track_caller]
    fn check(parameters: &[(&str, &str)], unit: &str, expected: &[(&str, &str)]) {
        let mut opening = startup(parameters);
        opening.extend_from_slice(b"behind");
        announce(&mut opening, unit);
        let expected = [startup(expected), b"behind".to_vec()].concat();
        assert_eq!(String::from_utf8_lossy(&opening), String::from_utf8_lossy(&expected));
        assert_eq!(opening, expected);
    }

    #[test]
    fn the_unit_is_the_last_word_of_the_name() {
        let user = ("user", "app");
        let name = |value| ("application_name", value);
        check(&[user, name("psql")], "a.service", &[user, name("psql [a.service]")]);
        check(&[name("psql"), user], "a.service", &[name("psql [a.service]"), user]);
        check(&[user, name("")], "a.service", &[user, name("[a.service]")]);
        check(&[user], "a.service", &[user, name("[a.service]")]);
        check(&[name("x"), name("y")], "a.service", &[name("x"), name("y [a.service]")]);
    }

    #[test]
    fn the_name_gives_way_to_the_unit() {
        fn name(value: &str) -> (&str, &str) {
            ("application_name", value)
        }
        let long = "n".repeat(80);
        check(&[name(&long)], "a.service", &[name(&format!("{} [a.service]", "n".repeat(51)))]);
        check(&[name(&"é".repeat(40))], "a.service", &[name(&format!("{} [a.service]", "é".repeat(25)))]);
        let unit = format!("{}.service", "u".repeat(90));
        check(&[name("psql")], &unit, &[name(&format!("[{}]", "u".repeat(61)))]);
        for length in 0..80 {
            for units in 0..80 {
                assert!(named(&vec![b'n'; length], &"u".repeat(units.min(UNIT_MAX))).len() <= NAME_MAX);
            }
        }
    }

    #[test]
    fn what_is_no_startup_or_names_itself_otherwise_stays_as_it_is() {
        let named_in_options = startup(&[("user", "app"), ("options", "-c Application_Name=mine")]);
        let full = startup(&[("user", &"u".repeat(OPENING_MAX - 20))]);
        let whole = startup(&[("user", "app")]);
        let unended = [&[0, 0, 0, 15, 0, 3, 0, 0], &b"user\0ap"[..]].concat();
        let early_end = startup(&[("user", "app"), ("", "")]);
        for opening in
            [named_in_options, full, whole[..10].to_vec(), unended, early_end, Vec::new(), vec![0; 8]]
        {
            let mut announced = opening.clone();
            announce(&mut announced, "a.service");
            assert_eq!(announced, opening);
        }
    }

    #[test]
    fn no_bytes_whatever_make_it_panic() {
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let mut bytes = startup(&[("user", "app"), ("application_name", "psql")]);
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            announce(&mut bytes, "a.service");
        }
    }
}
