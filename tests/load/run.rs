//! A run: connect, store the keys, warm up, measure.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::driver::Driver;
use crate::options::{Options, Parts};
use crate::plan::{Progress, Shared, Window};
use crate::servers::Servers;
use crate::tally::Tally;
use crate::usage::Usage;

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// What was counted while keys were stored.
    pub fill: Option<Tally>,
    pub tally: Tally,
    /// What the server's process used before and after.
    pub usage: Option<(Usage, Usage)>,
    pub notes: Vec<String>,
}

/// Threads say how far they are.
enum Message {
    Ready(Box<Option<Tally>>),
    Done(Box<Tally>),
    Failed(io::Error),
}

const TICK: Duration = Duration::from_millis(100);
/// Between the order to begin and the beginning, so that all threads have it in time.
const LEAD: u64 = 20_000_000;

/// Does what the options say.
///
/// # Errors
/// Where they contradict each other, or a server cannot be reached.
pub fn run(options: &Options) -> io::Result<Measured> {
    let Parts { keyspace, shape, settings, notes } = options.parts().map_err(io::Error::other)?;
    raise_file_limit(settings.connections * options.servers.len())?;
    let servers = Servers::resolve(options.servers.clone())?;
    let scripts = shape.scripts(&options.servers, &keyspace).map_err(io::Error::other)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let threads = settings.threads;
    let (start, progress) = (Instant::now(), Progress::default());
    let shared = Arc::new(Shared { keyspace, servers, scripts, settings, start, stop, progress });
    let (to_main, messages) = mpsc::channel();
    let (mut windows, mut handles) = (Vec::new(), Vec::new());
    for index in 0..threads {
        let (to_thread, window) = mpsc::channel();
        windows.push(to_thread);
        let (shared, to_main, fills) = (shared.clone(), to_main.clone(), options.fills());
        let thread = thread::Builder::new().name(format!("load-{index}"));
        handles.push(thread.spawn(move || work(&shared, index, fills, &window, &to_main))?);
    }
    drop(to_main);
    let measured = conduct(options, &shared, &messages, &windows);
    shared.stop.store(true, Ordering::Relaxed);
    drop(windows);
    for handle in handles {
        handle.join().map_err(|_| io::Error::other("a thread of the load generator failed"))?;
    }
    Ok(Measured { notes, ..measured? })
}

/// One thread, from its first connection to its last reply.
fn work(shared: &Arc<Shared>, index: usize, fills: bool, window: &Receiver<Window>, to_main: &Sender<Message>) {
    // Where nobody listens any more, the run has failed elsewhere.
    let tell = |message| to_main.send(message).is_ok();
    let prepared = (|| {
        let mut driver = Driver::new(shared.clone(), index)?;
        driver.connect()?;
        let filled = if fills { Some(driver.fill()?) } else { None };
        Ok((driver, filled))
    })();
    let mut driver = match prepared {
        Ok((driver, filled)) => {
            tell(Message::Ready(Box::new(filled)));
            driver
        }
        Err(error) => {
            tell(Message::Failed(error));
            return;
        }
    };
    let Ok(window) = window.recv() else { return };
    tell(driver.load(window).map_or_else(Message::Failed, |tally| Message::Done(Box::new(tally))));
}

/// Has the threads begin together, and collects what they counted.
fn conduct(
    options: &Options,
    shared: &Shared,
    messages: &Receiver<Message>,
    windows: &[Sender<Window>],
) -> io::Result<Measured> {
    let bar = Bar::new(options, shared);
    let mut fill: Option<Tally> = None;
    for _ in windows {
        match next(messages, || bar.show("storing keys", 0))? {
            Message::Ready(filled) => {
                if let Some(filled) = *filled {
                    match &mut fill {
                        Some(all) => all.add(filled),
                        None => fill = Some(filled),
                    }
                }
            }
            Message::Failed(error) => return Err(error),
            Message::Done(_) => return Err(io::Error::other("a thread ended before it began")),
        }
    }
    let begin = shared.now() + LEAD;
    let from = begin + options.warmup.0.as_nanos() as u64;
    let until = from + options.measured().as_nanos() as u64;
    for window in windows {
        window.send(Window { begin, from, until }).map_err(|_| io::Error::other("a thread has ended"))?;
    }
    let usage = || options.measure.map(Usage::of).transpose();
    wait(shared, from, || bar.show("warming up", 0));
    let before = usage()?;
    wait(shared, until, || bar.show("measuring", shared.now().saturating_sub(from)));
    let after = usage()?;
    let mut tally: Option<Tally> = None;
    for _ in windows {
        match next(messages, || bar.show("waiting for the last replies", until - from))? {
            Message::Done(done) => match &mut tally {
                Some(all) => all.add(*done),
                None => tally = Some(*done),
            },
            Message::Failed(error) => return Err(error),
            Message::Ready(_) => return Err(io::Error::other("a thread began twice")),
        }
    }
    bar.clear();
    let tally = tally.ok_or_else(|| io::Error::other("no thread has counted anything"))?;
    Ok(Measured { fill, tally, usage: before.zip(after), notes: Vec::new() })
}

fn next(messages: &Receiver<Message>, tick: impl Fn()) -> io::Result<Message> {
    loop {
        match messages.recv_timeout(TICK) {
            Ok(message) => return Ok(message),
            Err(RecvTimeoutError::Timeout) => tick(),
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("a thread ended without a word")),
        }
    }
}

fn wait(shared: &Shared, until: u64, tick: impl Fn()) {
    while !shared.stop.load(Ordering::Relaxed) {
        let left = Duration::from_nanos(until.saturating_sub(shared.now()));
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(TICK));
        tick();
    }
}

/// Progress, on a terminal.
struct Bar<'a> {
    bar: ProgressBar,
    shared: &'a Shared,
}

impl<'a> Bar<'a> {
    fn new(options: &Options, shared: &'a Shared) -> Bar<'a> {
        let bar =
            if options.quiet { ProgressBar::hidden() } else { ProgressBar::new(options.measured().as_millis() as u64) };
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {elapsed} {msg}") {
            bar.set_style(style);
        }
        Bar { bar, shared }
    }

    fn show(&self, what: &str, measured: u64) {
        let Progress { replies, failures } = &self.shared.progress;
        let (replies, failures) = (replies.load(Ordering::Relaxed), failures.load(Ordering::Relaxed));
        self.bar.set_position(measured / 1_000_000);
        self.bar.set_message(format!("{what}: {replies} replies, {failures} failures"));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Every connection is an open file, and the usual limit is 1024.
///
/// # Errors
/// In words, where this user may not have as many.
pub fn raise_file_limit(connections: usize) -> io::Result<()> {
    /// For everything that is no connection.
    const OTHERS: u64 = 100;
    let needed = connections as u64 + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }));
    raised.map_err(|error| {
        io::Error::other(format!(
            "{needed} open files are needed: {error}; raise the limit (ulimit -n) or use fewer --connections"
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;
    use std::time::{Duration, Instant};

    use clap::Parser;

    use super::{Measured, run};
    use crate::options::Options;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    /// A server on a free port, each connection in a thread of its own.
    fn serve(connection: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, connection) = (stream.unwrap(), connection.clone());
                thread::spawn(move || connection(stream));
            }
        });
        address
    }

    /// Answers each line with `reply`, after `before` has looked at its number.
    fn answer(stream: TcpStream, reply: &[u8], before: impl Fn(usize) -> bool) {
        let mut writer = stream.try_clone().unwrap();
        for (index, line) in BufReader::new(stream).lines().enumerate() {
            if line.is_err() || !before(index) || writer.write_all(reply).is_err() {
                return;
            }
        }
    }

    fn load(address: SocketAddr, arguments: &str) -> Measured {
        let server = format!("load --quiet --no-fill --keys 100 --server {address} {arguments}");
        run(&Arguments::parse_from(server.split(' ')).options).unwrap()
    }

    /// A server that stops once for 300 ms: of 1000 requests a second, hundreds were due meanwhile, and waited.
    #[test]
    fn an_open_loop_charges_a_stall_to_what_was_due_in_it() {
        const STALL: Duration = Duration::from_millis(300);
        let stalls = |index| {
            if index == 200 {
                thread::sleep(STALL);
            }
            true
        };
        let address = serve(move |stream| answer(stream, b"END\r\n", stalls));
        let open = "-c 1 --mix get --rate 1000 --duration 800ms --warmup 0s";
        let latency = load(address, open).tally.latency();
        let slow = |least: u64| {
            latency.iter_recorded().filter(|v| v.value_iterated_to() >= least).map(|v| v.count_at_value()).sum::<u64>()
        };
        assert!(latency.len() >= 790, "{} requests", latency.len());
        assert!(slow(100_000_000) >= 150, "{} waited for 100 ms", slow(100_000_000));
        // A closed loop sends nothing meanwhile, and shows one slow request: that is the omission.
        let closed = load(address, "-c 1 --mix get --duration 800ms --warmup 0s").tally.latency();
        let slowest = closed.iter_recorded().filter(|v| v.value_iterated_to() >= 290_000_000);
        assert!(slowest.map(|v| v.count_at_value()).sum::<u64>() >= 1);
    }

    #[test]
    fn lost_connections_are_counted_and_made_again() {
        let address = serve(|stream| answer(stream, b"END\r\n", |index| index < 20));
        let errors = load(address, "-c 2 --mix get --duration 300ms --warmup 0s").tally.errors;
        assert!(errors.disconnects >= 2 && errors.reconnects >= 1, "{errors:?}");
        assert_eq!(errors.lost, errors.disconnects, "each was lost with its one request");
        let errors = load(address, "-c 2 --mix get --duration 300ms --warmup 0s --reconnect never").tally.errors;
        assert_eq!((errors.disconnects, errors.reconnects), (2, 0));
    }

    #[test]
    fn a_server_that_does_not_answer_is_given_up() {
        let address = serve(|mut stream| assert!(stream.read_to_end(&mut Vec::new()).is_ok()));
        let began = Instant::now();
        let errors = load(address, "-c 1 --mix get --duration 400ms --warmup 0s --timeout 50ms").tally.errors;
        assert!(errors.timeouts >= 1 && errors.lost >= 1, "{errors:?}");
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn wrong_values_are_found() {
        let address = serve(|stream| answer(stream, b"VALUE 00000001...... 0 3\r\nabc\r\nEND\r\n", |_| true));
        let errors =
            load(address, "-c 1 --keys 1 --mix get --duration 100ms --warmup 0s --reconnect never").tally.errors;
        assert_eq!(errors.violations, 1);
        let text = errors.texts.keys().next().unwrap();
        assert!(text.contains("get 00000000...... was answered by VALUE 00000001......"), "{text}");
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let arguments = format!("load --quiet --connect-timeout 100ms --server {closed}");
        let error = run(&Arguments::parse_from(arguments.split(' ')).options).unwrap_err().to_string();
        assert!(error.contains(&closed.to_string()) && error.contains("is the server running"), "{error}");
    }
}
