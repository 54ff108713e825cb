//! The clients of one proxy: threads with short sessions one after the other, and long sessions that send every 100 ms.
//!
//! A session is good once the first 16 bytes came back. A long session that is cut begins anew. Lacks an open loop: a
//! client that waits opens no further session, like an application's pool.
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::interrupt;
use crate::scenario::Shape;
use crate::speech::{ENOUGH, Login, MESSAGE, Speech};

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a session was not served.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Loss {
    Refused,
    Reset,
    /// Closed without an answer.
    Closed,
    Timeout,
    /// Other bytes arrived than were sent.
    Wrong,
    /// The endpoint was full.
    Full,
    /// The proxy refused in the protocol's own form.
    Told,
    /// The proxy reported that the endpoint went away.
    Broken,
}

impl Loss {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Wrong => "wrong",
            Self::Full => "full",
            Self::Told => "told",
            Self::Broken => "broken",
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all others break the connection")]
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::UnexpectedEof => Self::Closed,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Reset,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// Since the start of the scenario, like all moments here.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    /// The endpoint that answered.
    pub(crate) outcome: Result<usize, Loss>,
}

impl Opening {
    pub(crate) fn ended(&self) -> Duration {
        self.at + self.took
    }
}

/// A long session that ended early.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) at: Duration,
    pub(crate) loss: Loss,
}

/// The observations of the clients of a proxy.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    pub(crate) openings: Vec<Opening>,
    pub(crate) cuts: Vec<Cut>,
    /// The longest that a long session waited for an answer.
    pub(crate) stall: Duration,
    /// Bytes of the flood.
    pub(crate) sent: usize,
}

/// The address and the times of a client.
#[derive(Clone, Copy)]
struct Beat {
    proxy: SocketAddr,
    speech: Speech,
    from: Instant,
    to: Instant,
}

pub(crate) struct Load(Vec<JoinHandle<Diary>>);

impl Load {
    /// The load begins at `from`.
    pub(crate) fn start(proxy: SocketAddr, shape: &Shape, seed: u64, from: Instant, lasts: Duration) -> Self {
        let beat = Beat { proxy, speech: shape.speech, from, to: from + lasts };
        let (shorts, rest) = (shape.shorts, shape.rest);
        let mut threads: Vec<JoinHandle<Diary>> = Vec::new();
        for turn in 0..shorts {
            let begins = rest * u32::try_from(turn).unwrap_or_default() / 4;
            let mut rng = Rng::with_seed(seed ^ turn as u64);
            threads.push(thread::spawn(move || beat.shorts(begins, rest, &mut rng)));
        }
        for turn in 0..shape.longs {
            let begins = Duration::from_millis(20) * u32::try_from(turn).unwrap_or_default();
            let mut rng = Rng::with_seed(!seed ^ turn as u64);
            threads.push(thread::spawn(move || beat.longs(begins, &mut rng)));
        }
        if shape.flood > 0 {
            let bytes = shape.flood;
            threads.push(thread::spawn(move || beat.flood(bytes)));
        }
        Self(threads)
    }

    /// Waits for all of them; for the last session a little longer than the scenario lasts.
    pub(crate) fn join(self) -> Diary {
        let mut whole = Diary::default();
        for thread in self.0 {
            let part = thread.join().expect("a client does not panic");
            whole.openings.extend(part.openings);
            whole.cuts.extend(part.cuts);
            whole.stall = whole.stall.max(part.stall);
            whole.sent += part.sent;
        }
        whole.openings.sort_by_key(|opening| opening.at);
        whole
    }
}

impl Beat {
    fn goes_on(&self) -> bool {
        Instant::now() < self.to && !interrupt::came()
    }

    fn begin(&self, after: Duration) {
        sleep((self.from + after).saturating_duration_since(Instant::now()));
    }

    fn shorts(self, begins: Duration, rest: Duration, rng: &mut Rng) -> Diary {
        let mut diary = Diary::default();
        self.begin(begins);
        while self.goes_on() {
            // The stream closes here: a short session is over once it was answered.
            drop(self.open(rng, &mut diary));
            sleep(rest.mul_f64(0.5 + rng.f64()));
        }
        diary
    }

    fn longs(self, begins: Duration, rng: &mut Rng) -> Diary {
        let mut diary = Diary::default();
        self.begin(begins);
        while self.goes_on() {
            match self.open(rng, &mut diary) {
                Ok(stream) => self.keep(stream, rng, &mut diary),
                Err(_) => sleep(Duration::from_millis(100)),
            }
        }
        diary
    }

    fn keep(&self, mut stream: TcpStream, rng: &mut Rng, diary: &mut Diary) {
        while self.goes_on() {
            sleep(Duration::from_millis(100));
            let since = Instant::now();
            let answered = self.exchange(&mut stream, rng);
            diary.stall = diary.stall.max(since.elapsed());
            if let Err(loss) = answered {
                diary.cuts.push(Cut { at: self.from.elapsed(), loss });
                return;
            }
        }
    }

    fn open(&self, rng: &mut Rng, diary: &mut Diary) -> Result<TcpStream, Loss> {
        let (at, since) = (self.from.elapsed(), Instant::now());
        let opened = self.connect().and_then(|mut stream| Ok((self.exchange(&mut stream, rng)?, stream)));
        let outcome = opened.as_ref().map(|(endpoint, _)| *endpoint).map_err(|loss| *loss);
        diary.openings.push(Opening { at, took: since.elapsed(), outcome });
        opened.map(|(_, stream)| stream)
    }

    fn connect(&self) -> Result<TcpStream, Loss> {
        let dialled = TcpStream::connect_timeout(&self.proxy, PATIENCE).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        let mut stream = dialled.map_err(|error| Loss::of(&error))?;
        match self.speech.log_in(&mut stream) {
            Ok(Login::Done) => Ok(stream),
            Ok(Login::Refused) => Err(Loss::Told),
            Ok(Login::Broken) => Err(Loss::Broken),
            Err(error) => Err(Loss::of(&error)),
        }
    }

    /// The endpoint that answered.
    fn exchange(&self, stream: &mut TcpStream, rng: &mut Rng) -> Result<usize, Loss> {
        let mut message = [0; MESSAGE];
        rng.fill(&mut message);
        let answering = self.speech.answering();
        let mut answer = vec![0; answering.len() + 1 + MESSAGE];
        let said = stream.write_all(&[self.speech.asking(), &message].concat());
        said.and_then(|()| stream.read_exact(&mut answer)).map_err(|error| Loss::of(&error))?;
        let (head, body) = answer.split_at(answering.len());
        match body.split_first() {
            Some((&ENOUGH, _)) => Err(Loss::Full),
            Some((key, echoed)) if head == answering && *echoed == message && key.is_ascii_digit() => {
                Ok(usize::from(key - b'0'))
            }
            _ => Err(Loss::Wrong),
        }
    }

    /// Writes as much as the other side takes, and reads nothing.
    fn flood(self, bytes: usize) -> Diary {
        let mut diary = Diary::default();
        self.begin(Duration::from_secs(2));
        let Ok(mut stream) = self.connect() else { return diary };
        if stream.set_nonblocking(true).is_err() {
            return diary;
        }
        let chunk = [b'x'; 65_536];
        while self.goes_on() {
            match stream.write(&chunk[..chunk.len().min(bytes - diary.sent)]) {
                Ok(sent) if diary.sent + sent < bytes => diary.sent += sent,
                Ok(sent) => {
                    diary.sent += sent;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(20)),
                Err(_) => break,
            }
        }
        while self.goes_on() {
            sleep(Duration::from_millis(200));
        }
        diary
    }
}
