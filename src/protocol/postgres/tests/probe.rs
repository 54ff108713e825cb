//! A probe's conversation.

use super::*;

fn error(sqlstate: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0Mwords of the server\0\0");
    let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
    [&b"E"[..], &length, fields.as_bytes()].concat()
}

/// A probe's result if the server sends these bytes and then closes.
fn probed(server: &[u8], chunk: usize) -> Result<ProbeStep, ProbeError> {
    let mut probe = StartupProbe::default();
    for bytes in server.chunks(chunk) {
        match probe.receive(bytes) {
            Ok(ProbeStep::Incomplete) => {}
            verdict => return verdict,
        }
    }
    probe.receive(&[])
}

#[test]
fn a_probe_is_a_startup_message_of_its_own() {
    let sent = StartupProbe::default().begin();
    assert_eq!(sent, startup(&[("user", "ambassador_probe"), ("database", "postgres")]));
}

#[test]
fn a_probe_judges_by_the_first_message() {
    let notice = b"N\0\0\0\x06hi".to_vec();
    let serves = || Ok(ProbeStep::Serves { goodbye: Vec::new() });
    for chunk in [1, 4, 1000] {
        for server in [
            offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
            OK.to_vec(),
            b"R\0\0\0\x0c\0\0\0\x05salt".to_vec(),
            [notice.clone(), OK.to_vec()].concat(),
            [b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0".to_vec(), OK.to_vec()].concat(),
            error("28000"),
            error("28P01"),
            error("3D000"),
            error("08P01"),
            error("53300"),
        ] {
            assert_eq!(probed(&server, chunk), serves(), "{server:?}");
        }
        for (server, words) in [
            (error("57P03"), "takes no connections now (SQLSTATE 57P03)"),
            (error("57P01"), "shutting down (SQLSTATE 57P01)"),
            (error("XX000"), "with an error (SQLSTATE XX000)"),
            (error("53200"), "with an error (SQLSTATE 53200)"),
            (error("5320"), "not PostgreSQL"),
            (error("<b>:)"), "not PostgreSQL"),
            (b"E\0\0\0\x05\0".to_vec(), "not PostgreSQL"),
            (b"R\0\0\0\x04".to_vec(), "not PostgreSQL"),
            (b"E\xff\xff\xff\xff".to_vec(), "not PostgreSQL"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "not PostgreSQL"),
            (Vec::new(), "closed the connection"),
            (notice.clone(), "closed the connection"),
            (OK[..4].to_vec(), "closed the connection"),
            (error("57P03")[..9].to_vec(), "closed the connection"),
        ] {
            let ProbeError(told) = probed(&server, chunk).unwrap_err();
            assert!(told.contains(words), "{server:?}: {told}");
            assert!(!told.contains("words of the server"), "{told}");
        }
    }
}

/// Endless notices are read and dropped; the driver bounds their number.
#[test]
fn a_probe_holds_no_more_than_one_message() {
    let mut probe = StartupProbe::default();
    let notices = b"N\0\0\0\x06hi".repeat(9000);
    for _ in 0..10 {
        assert_eq!(probe.receive(&notices), Ok(ProbeStep::Incomplete));
        assert!(probe.held.len() < 7);
    }
}
