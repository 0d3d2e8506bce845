//! The commands that are about the node and not about an item.

use memcache::{Command, Rejection, Reply, Streams, write_number};
use segcache::{Cache, Cursor, Deadline, Item};

use crate::buffers::{OUTPUT_LIMIT, Output};
use crate::execute::{Context, Flow, server_error, write};
use crate::kind::Kind;
use crate::statistics;
use crate::watch::{Escaped, Ticket};

/// Records that one step of a dump looks at: what lies dead in between must not hold everyone up.
const DUMP_RECORDS: usize = 4096;
/// A dumped item's line beside three times its key.
const DUMP_FRAME: usize = 160;
/// The smallest memory limit that memcached takes, in MiB.
const LEAST_MEMORY: u64 = 8;
/// What a list of nodes has around it at most.
const LIST_FRAME: usize = 64;

/// What a connection becomes.
pub struct Future<'a> {
    /// It ends when its replies have been sent.
    pub quit: &'a mut bool,
    /// It watches when its replies have been sent.
    pub watch: &'a mut Option<Ticket>,
}

/// Answers a command that is about the node. `done` is how far a dump has come.
pub fn perform(
    command: Command,
    input: &[u8],
    done: &mut usize,
    future: Future<'_>,
    output: &mut Output<'_>,
    cache: &Cache,
    context: Context<'_>,
) -> Flow {
    let Context { counters, metrics } = context;
    let allowed = metrics.config.admin_commands;
    let flow = match command {
        Command::Version => write(concat!("VERSION ", version!(), "\r\n").as_bytes(), output),
        Command::Stats { of } => match statistics::answer(of.of(input), cache, metrics) {
            Some(text) => write(&text, output),
            None => return refuse(Rejection::Unknown, output, context),
        },
        Command::Verbosity { level, noreply } => {
            if allowed {
                metrics.control.set_verbosity(level);
            }
            answer(Reply::Ok, noreply, output)
        }
        Command::MemoryLimit { megabytes, noreply } if allowed => {
            answer(memory_limit(u64::from(megabytes), cache), noreply, output)
        }
        Command::MemoryLimit { .. } => return refuse(Rejection::Unknown, output, context),
        Command::Shutdown { .. } if !allowed => return refuse(Rejection::ShutdownDisabled, output, context),
        Command::Shutdown { has_known_mode: false } => return refuse(Rejection::BadShutdown, output, context),
        Command::Shutdown { has_known_mode: true } => {
            metrics.control.shut_down();
            *future.quit = true;
            Flow::Done
        }
        Command::Watch { streams } => watch(streams, future, output, context),
        Command::Discover => match &metrics.discovery {
            Some(discovery) => match discovery.list(metrics.clock.now()) {
                Some(list) => send_list(&list, output),
                None => write(server_error(Reply::NoNodes, counters).text(), output),
            },
            None => return refuse(Rejection::Unknown, output, context),
        },
        Command::Dump => dump(done, output, cache),
        Command::Quit => {
            *future.quit = true;
            Flow::Done
        }
        // All others are about items.
        _ => Flow::Done,
    };
    if flow == Flow::Done {
        counters.request(Kind::Service);
    }
    flow
}

fn answer(reply: Reply, noreply: bool, output: &mut Output<'_>) -> Flow {
    if noreply { Flow::Done } else { write(reply.text(), output) }
}

fn refuse(rejection: Rejection, output: &mut Output<'_>, context: Context<'_>) -> Flow {
    context.counters.request(Kind::Invalid);
    write(rejection.text(), output)
}

/// The cache has the memory that it was given at the start, for as long as it lives: another limit is not possible.
fn memory_limit(megabytes: u64, cache: &Cache) -> Reply {
    match megabytes {
        0..LEAST_MEMORY => Reply::MemoryTooSmall,
        _ if megabytes == cache.counters().budget >> 20 => Reply::Ok,
        _ => Reply::MemoryFixed,
    }
}

/// The thread that serves watchers greets those that are let in.
fn watch(streams: Streams, future: Future<'_>, output: &mut Output<'_>, context: Context<'_>) -> Flow {
    *future.watch = context.metrics.watch.admit(streams);
    if future.watch.is_some() { Flow::Done } else { write(Reply::TooManyWatchers.text(), output) }
}

fn send_list(list: &[u8], output: &mut Output<'_>) -> Flow {
    let Some(out) = output.room(list.len() + LIST_FRAME) else { return Flow::Pause };
    out.extend_from_slice(b"CONFIG cluster 0 ");
    write_number(out, list.len() as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(list);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(Reply::End.text());
    Flow::Done
}

/// Every item but for its value, as many as the output has room for.
fn dump(done: &mut usize, output: &mut Output<'_>, cache: &Cache) -> Flow {
    let cursor = Cursor::of(*done as u64);
    let next = cache.walk(cursor, DUMP_RECORDS, |key, item| {
        let room = if output.length() < OUTPUT_LIMIT { output.room(3 * key.len() + DUMP_FRAME) } else { None };
        room.map(|out| dump_item(key, item, out)).is_some()
    });
    match next {
        Some(next) => {
            *done = next.number() as usize;
            Flow::Pause
        }
        None => {
            // Where there is no room for the end now, nothing is shown twice.
            *done = usize::MAX;
            write(Reply::End.text(), output)
        }
    }
}

fn dump_item(key: &[u8], item: &Item<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"key=");
    Escaped(key).write(out);
    out.extend_from_slice(b" exp=");
    match item.deadline {
        Deadline::Never => out.extend_from_slice(b"-1"),
        Deadline::At(last) => write_number(out, last),
    }
    out.extend_from_slice(b" cas=");
    write_number(out, item.cas);
    out.extend_from_slice(if item.hit_before { b" fetch=yes" } else { b" fetch=no" });
    out.extend_from_slice(b" size=");
    write_number(out, (key.len() + item.value.len()) as u64);
    out.push(b'\n');
}
