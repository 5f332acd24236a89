//! A network before an S3 server on which everything goes wrong that can.

use std::collections::{BTreeMap, VecDeque};
use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::chance::Chance;

mod message;

use message::{Answer, Request};

/// What happens to a request or to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The answer comes late.
    Late,
    /// The connection ends before the request is passed on.
    Unsent,
    /// The request is passed on, and the connection ends without its answer.
    Unanswered,
    /// As [`Fault::Unsent`], by a reset.
    Reset,
    /// As [`Fault::Unanswered`], by a reset.
    ResetUnanswered,
    /// Nothing is answered for a second or two, then the connection ends.
    Silent,
    /// The connection ends in the middle of the answer.
    Cut,
    /// 503 `SlowDown`, with `Retry-After` (S3 API reference, "Error responses").
    Busy,
    /// 500 `InternalError`.
    Broken,
    /// The request is passed on twice, and the second answer comes.
    Twice,
    /// The answer is 200 and holds an error, as S3 answers when it fails after it began to answer.
    ErrorWithin,
    /// The body of an answer ends early, and its length is given to match.
    Short,
    /// A bit of an object is another.
    Altered,
    /// The answer is another request's.
    Anothers,
}

impl Fault {
    /// Those that a client can tell from a success.
    pub const PLAIN: [Fault; 10] = [
        Fault::Late,
        Fault::Unsent,
        Fault::Unanswered,
        Fault::Reset,
        Fault::ResetUnanswered,
        Fault::Silent,
        Fault::Cut,
        Fault::Busy,
        Fault::Broken,
        Fault::Twice,
    ];
    /// Answers that look like successes and are wrong.
    pub const LIES: [Fault; 4] = [
        Fault::ErrorWithin,
        Fault::Short,
        Fault::Altered,
        Fault::Anothers,
    ];
}

/// Passes requests on to a server, most of them.
#[derive(Debug)]
pub struct Trouble {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    upstream: String,
    chance: Chance,
    weather: Mutex<Weather>,
}

#[derive(Debug, Default)]
struct Weather {
    /// How far the store is away.
    delay: Duration,
    percent: u64,
    faults: Vec<Fault>,
    /// Those whose turn comes before any comes again.
    due: Vec<Fault>,
    happened: BTreeMap<Fault, u64>,
    /// What was answered lately, to be answered to others.
    answers: VecDeque<(Request, Answer)>,
}

/// How many answers are kept to be mistaken for others.
const KEPT: usize = 24;
/// And of what size at most.
const KEPT_SIZE: usize = 2 << 20;

impl Trouble {
    /// Before the server at `endpoint`, `http://host:port`; nothing goes wrong until it is told to.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn before(endpoint: &str) -> Trouble {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            upstream: endpoint.trim_start_matches("http://").to_owned(),
            chance: Chance::new(),
            weather: Mutex::default(),
        });
        let shared = state.clone();
        // It ends with the process of the test.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || while state.serve(&client).is_some() {});
            }
        });
        Trouble { address, state }
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on so many of a hundred requests meet one of these faults, if it can happen to them.
    pub fn set(&self, percent: u64, faults: &[Fault]) {
        let mut weather = self.state.weather();
        weather.percent = percent;
        weather.faults = faults.to_vec();
        weather.due.clear();
    }

    /// From now on every request takes so much longer.
    pub fn set_delay(&self, delay: Duration) {
        self.state.weather().delay = delay;
    }

    /// From now on nothing goes wrong.
    pub fn calm(&self) {
        self.set(0, &[]);
    }

    /// How often each fault has happened.
    #[must_use]
    pub fn happened(&self) -> BTreeMap<Fault, u64> {
        self.state.weather().happened.clone()
    }
}

impl State {
    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request; `None` when the connection is over.
    fn serve(&self, client: &TcpStream) -> Option<()> {
        let request = Request::read(&mut BufReader::new(client), client)?;
        let delay = self.weather().delay;
        thread::sleep(delay);
        let fault = self.draw(&request);
        match fault {
            Some(Fault::Unsent) => return self.end(client, Fault::Unsent),
            Some(Fault::Reset) => return self.reset(client, Fault::Reset),
            Some(Fault::Silent) => {
                thread::sleep(Duration::from_secs(1) + self.chance.milliseconds(1000));
                return self.end(client, Fault::Silent);
            }
            Some(Fault::Busy) => {
                self.count(Fault::Busy);
                let busy = Answer::error("503 Slow Down", "SlowDown", &["Retry-After: 1"]);
                return busy.write(client);
            }
            Some(Fault::Broken) => {
                self.count(Fault::Broken);
                return Answer::error("500 Internal Server Error", "InternalError", &[])
                    .write(client);
            }
            _ => {}
        }
        let mut answer = request.pass_on(&self.upstream)?;
        if fault == Some(Fault::Twice) {
            answer = request.pass_on(&self.upstream)?;
        }
        match fault {
            Some(Fault::Unanswered) => return self.end(client, Fault::Unanswered),
            Some(Fault::ResetUnanswered) => return self.reset(client, Fault::ResetUnanswered),
            Some(Fault::Cut) if !answer.body.is_empty() => {
                let end = self.chance.number(0..answer.body.len() as u64);
                answer.write_part(client, usize::try_from(end).expect("64 bits"));
                return self.end(client, Fault::Cut);
            }
            Some(fault) => self.distort(fault, &request, &mut answer),
            None => {}
        }
        if fault.is_none() {
            self.keep(&request, &answer);
        }
        answer.write(client)
    }

    /// Each fault in turn, in an order of chance.
    fn draw(&self, request: &Request) -> Option<Fault> {
        let mut weather = self.weather();
        if !self.chance.happens(weather.percent) {
            return None;
        }
        if weather.due.is_empty() {
            weather.due = weather.faults.clone();
        }
        let can_happen = |fault: &Fault| match fault {
            Fault::Altered => request.is_get_of_object(),
            Fault::Cut | Fault::ErrorWithin | Fault::Short | Fault::Anothers => request.is_get(),
            _ => true,
        };
        let possible: Vec<usize> = (0..weather.due.len())
            .filter(|&index| can_happen(&weather.due[index]))
            .collect();
        if possible.is_empty() {
            return None;
        }
        let index = *self.chance.one_of(&possible);
        Some(weather.due.swap_remove(index))
    }

    fn distort(&self, fault: Fault, request: &Request, answer: &mut Answer) {
        match fault {
            Fault::Late => thread::sleep(self.chance.milliseconds(800)),
            Fault::Twice => {}
            Fault::ErrorWithin if answer.is_success() => {
                *answer = Answer::error("200 OK", "InternalError", &[]);
            }
            Fault::Short if answer.is_success() && !answer.body.is_empty() => {
                let end = self.chance.number(0..answer.body.len() as u64);
                answer.shorten(usize::try_from(end).expect("64 bits"));
            }
            Fault::Altered if answer.is_success() && !answer.body.is_empty() => {
                let bit = self.chance.number(0..answer.body.len() as u64 * 8);
                let byte = usize::try_from(bit / 8).expect("64 bits");
                answer.body[byte] ^= 1 << (bit % 8);
            }
            Fault::Anothers if answer.is_success() => {
                let weather = self.weather();
                let others: Vec<&Answer> = weather
                    .answers
                    .iter()
                    .filter(|(other, theirs)| {
                        other.is_like(request) && theirs.status() == answer.status()
                    })
                    .map(|(_, theirs)| theirs)
                    .collect();
                if others.is_empty() {
                    return;
                }
                *answer = (*self.chance.one_of(&others)).clone();
            }
            _ => return,
        }
        self.count(fault);
    }

    fn keep(&self, request: &Request, answer: &Answer) {
        if !request.is_get() || !answer.is_success() || answer.body.len() > KEPT_SIZE {
            return;
        }
        let mut weather = self.weather();
        weather
            .answers
            .push_back((request.without_body(), answer.clone()));
        if weather.answers.len() > KEPT {
            weather.answers.pop_front();
        }
    }

    fn count(&self, fault: Fault) {
        *self.weather().happened.entry(fault).or_default() += 1;
    }

    fn end(&self, client: &TcpStream, fault: Fault) -> Option<()> {
        self.count(fault);
        let _ = client.shutdown(std::net::Shutdown::Both);
        None
    }

    /// With nothing left to linger for, closing a socket resets the connection (socket(7)).
    fn reset(&self, client: &TcpStream, fault: Fault) -> Option<()> {
        self.count(fault);
        let _ = socket2::SockRef::from(client).set_linger(Some(Duration::ZERO));
        None
    }
}
