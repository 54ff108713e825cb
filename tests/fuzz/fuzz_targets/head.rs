//! The readers of heads with any bytes: no panic, bounded memory, and the same result however the bytes are split; a
//! header that was read can be written and read again.
#![no_main]

use ambassador::internals::head::connect::RequestReader;
use ambassador::internals::head::proxy::{ProxyAddresses, ProxyCommand, Extensions, HeaderReader, AddressPair, V2_LEAST, write_v1, write_v2};
use ambassador::internals::head::{Progress, HeadReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let header = read(HeaderReader::default(), input, usize::MAX);
    assert_eq!(header, read(HeaderReader::default(), input, 1));
    if let Some(Ok((header, _))) = header {
        let unique_id = header.unique_id.as_deref().and_then(|id| std::str::from_utf8(id).ok());
        let extensions = Extensions { authority: header.authority.as_deref(), unique_id, ..Extensions::default() };
        if let ProxyCommand::Proxied(ProxyAddresses::Tcp { source, destination }) = header.command {
            let pair = AddressPair::new(source, destination);
            let command = ProxyCommand::Proxied(ProxyAddresses::Tcp { source: pair.source, destination: pair.destination });
            for most in [V2_LEAST, 256, usize::MAX] {
                let written = write_v2(pair, &extensions, most);
                assert!(written.len() <= most);
                let again = read(HeaderReader::default(), &written, usize::MAX).expect("whole").expect("a header");
                assert_eq!(again.0.command, command);
            }
            let again = read(HeaderReader::default(), &write_v1(pair), 1).expect("whole").expect("a header");
            assert_eq!(again.0.command, command);
        }
    }
    let request = read(RequestReader::default(), input, usize::MAX);
    assert_eq!(request, read(RequestReader::default(), input, 1));
    if let Some(Ok((request, _))) = request {
        let _ = request.which(&["orders", "billing"].into_iter());
        assert!(request.context.is_none_or(|context| context.to_string().len() <= 2048));
    }
});

/// The result, and how many bytes are left to the session; `None`: more bytes are needed.
fn read<R: HeadReader>(mut reader: R, bytes: &[u8], portion: usize) -> Option<Result<(R::Head, usize), R::Error>> {
    let mut seen = 0;
    for part in bytes.chunks(portion.min(bytes.len().max(1))) {
        match reader.receive(part) {
            Ok(Progress::Incomplete) => seen += part.len(),
            Ok(Progress::Whole { head, taken }) => {
                assert!(taken > 0 && taken <= part.len());
                return Some(Ok((head, bytes.len() - seen - taken)));
            }
            Err(error) => return Some(Err(error)),
        }
    }
    None
}
