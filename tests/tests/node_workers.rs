//! The node's threads: where they run, what happens when one is overloaded or stuck, and what they say about slow commands.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, MODES, Node, eventually, http, run_to_end};

#[test]
fn threads_run_on_the_processors_that_they_are_pinned_to() -> Outcome {
    let first = allowed(std::process::id(), std::process::id())?;
    let first = first.split([',', '-']).next().unwrap_or_default();
    let node = Node::start(&format!("workers: 2\npinning: [{first}]\n"))?;
    node.client()?.expect(b"mn\r\n", b"MN\r\n")?;
    for (name, pinned) in [("worker-0", true), ("worker-1", true), ("storage", true), ("listener", false)] {
        let allowed = allowed(node.id(), thread_of(&node, name)?)?;
        let everywhere = self::allowed(std::process::id(), std::process::id())?;
        ensure!(allowed == if pinned { first } else { &everywhere }, "{name} may run on {allowed}");
    }
    let unpinned = Node::start("workers: 2\n")?;
    let everywhere = allowed(std::process::id(), std::process::id())?;
    let worker = allowed(unpinned.id(), thread_of(&unpinned, "worker-1")?)?;
    ensure!(worker == everywhere, "without pinning, a worker may only run on {worker}");
    Ok(())
}

#[test]
fn a_processor_that_is_not_there_is_refused() -> Outcome {
    let folder = tests::node::folder()?;
    let file = folder.join("cache-node.yaml");
    fs::write(&file, "version: 1\nlisten: 127.0.0.1:0\npinning: [1023]\n")?;
    let (status, log) = run_to_end(&["--config", tests::node::argument(&file)])?;
    fs::remove_dir_all(folder)?;
    ensure!(status.code() == Some(1), "it ends with {status}");
    ensure!(log.contains("pinning: processor 1023 is not one"), "{log}");
    Ok(())
}

/// The processors that a thread may run on, as the kernel writes them.
fn allowed(process: u32, thread: u32) -> Outcome<String> {
    let status = fs::read_to_string(format!("/proc/{process}/task/{thread}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Ok(line.ok_or_else(|| Failure::new("the kernel does not say Cpus_allowed_list"))?.trim().to_owned())
}

/// The thread of this name, which it gives itself.
fn thread_of(node: &Node, name: &str) -> Outcome<u32> {
    let mut found = 0;
    eventually(|| {
        found = thread_now(node, name)?;
        Ok(())
    })?;
    Ok(found)
}

fn thread_now(node: &Node, name: &str) -> Outcome<u32> {
    for entry in fs::read_dir(format!("/proc/{}/task", node.id()))? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("comm"))?.trim_end() == name {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    Err(Failure::new(format!("the node has no thread {name}")))
}

/// All busy connections are one worker's: some of them move, and no reply is lost or changed on the way.
#[test]
fn busy_connections_move_to_the_worker_that_has_nothing_to_do() -> Outcome {
    const CONNECTIONS: usize = 32;
    const DRIVERS: usize = 2;
    let node = Node::start("workers: 2\n")?;
    // The listener gives each worker every second one.
    let clients = (0..CONNECTIONS).map(|_| node.client()).collect::<Outcome<Vec<Client>>>()?;
    for worker in ["0", "1"] {
        node.wait_for_metric(&connections(worker), |open| open == CONNECTIONS as f64 / 2.0)?;
    }
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    for (number, client) in clients.into_iter().enumerate() {
        if number % 2 == 0 { busy.push(client) } else { idle.push(client) }
    }
    let enough = AtomicBool::new(false);
    let moved = thread::scope(|scope| {
        let drivers: Vec<_> = busy
            .chunks_mut(CONNECTIONS / 2 / DRIVERS)
            .enumerate()
            .map(|(driver, clients)| {
                let enough = &enough;
                scope.spawn(move || keep_busy(driver, clients, enough))
            })
            .collect();
        let moved = node.wait_for_metric("gannet_connections_moved_total", |moved| moved >= 2.0);
        enough.store(true, Ordering::Relaxed);
        for driver in drivers {
            driver.join().map_err(|_| Failure::new("a driver panicked"))??;
        }
        moved
    })?;
    let now = |worker| node.metric(&connections(worker));
    eventually(|| {
        let (first, second) = (now("0")?, now("1")?);
        ensure!(first + second == CONNECTIONS as f64, "{first} and {second} connections of {CONNECTIONS}");
        ensure!(first != second, "{moved} were moved, and each worker still has {first}");
        Ok(())
    })?;
    for client in busy.iter_mut().chain(&mut idle) {
        client.expect(b"mn\r\n", b"MN\r\n")?;
    }
    ensure!(node.metric("gannet_connections_accepted_total")? == CONNECTIONS as f64, "a move counts as a connection");
    Ok(())
}

fn connections(worker: &str) -> String {
    format!("gannet_worker_connections{{worker=\"{worker}\"}}")
}

fn keep_busy(driver: usize, clients: &mut [Client], enough: &AtomicBool) -> Outcome {
    // Few, so that the work is in receiving and sending, and not in the cache.
    const AT_ONCE: usize = 2;
    let mut round = 0_u64;
    while !enough.load(Ordering::Relaxed) {
        round += 1;
        for (number, client) in clients.iter_mut().enumerate() {
            let key = format!("{driver}-{number}-{round}");
            let request = format!("set k{driver}-{number} 0 0 {}\r\n{key}\r\n", key.len());
            client.send(
                &[request.as_bytes(), &format!("get k{driver}-{number}\r\n").as_bytes().repeat(AT_ONCE)].concat(),
            )?;
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let key = format!("{driver}-{number}-{round}");
            let value = format!("VALUE k{driver}-{number} 0 {}\r\n{key}\r\nEND\r\n", key.len());
            client.expect_answer(&[b"STORED\r\n", &value.as_bytes().repeat(AT_ONCE)[..]].concat())?;
        }
    }
    Ok(())
}

/// A thread that does not come round any more: a debugger holds it, which is as good as an endless loop.
#[test]
fn a_stuck_thread_is_reported_by_its_name() -> Outcome {
    let threads = [("worker-0", "serving thread 0"), ("storage", "serving thread 2"), ("listener", "the listener")];
    let mut stuck = Vec::new();
    for (thread, name) in threads {
        let node = Node::start("workers: 2\n")?;
        ensure!(http(node.health, "GET", "/livez")?.0 == 200, "a node whose threads run is not live");
        stuck.push((Held::new(thread_of(&node, thread)?)?, node, name));
    }
    for (held, node, name) in stuck {
        eventually(|| {
            let (status, text) = http(node.health, "GET", "/livez")?;
            ensure!(status == 503 && text.contains(name), "{name} is stuck, and /livez answers {status}: {text}");
            Ok(())
        })?;
        drop(held);
        eventually(|| {
            let (status, text) = http(node.health, "GET", "/livez")?;
            ensure!(status == 200, "all threads run again, and /livez answers {status}: {text}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A thread that is held for as long as this lives. A process with a held thread cannot even be killed in full, so the
/// thread must be let go before its node is dropped.
struct Held(Pid);

impl Held {
    fn new(thread: u32) -> Outcome<Held> {
        let thread = Pid::from_raw(i32::try_from(thread)?);
        ptrace::seize(thread, ptrace::Options::empty())?;
        let held = Held(thread);
        ptrace::interrupt(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = ptrace::detach(self.0, None) {
            eprintln!("thread {} is not let go: {error}", self.0);
        }
    }
}

#[test]
fn slow_commands_are_counted_and_some_of_them_logged() -> Outcome {
    /// So many look-ups take longer than a millisecond on any machine.
    const KEYS: usize = 30_000;
    const REQUESTS: usize = 40;
    const MOST_LINES_A_SECOND: usize = 10;
    /// On a busy machine something else, the cache's own upkeep say, is slow too now and then.
    const OTHERS: usize = 20;
    for (name, mode) in MODES {
        let node = Node::start(&format!("{mode}slowCommand: 1ms\n"))?;
        let keys: String = (0..KEYS).map(|key| format!(" no\x01ne{key}")).collect();
        let (mut watcher, mut client) = (node.client()?, node.client()?);
        watcher.expect(b"watch slowcmds\r\n", b"OK\r\n")?;
        let address = client.stream().local_addr()?.to_string();
        for _ in 0..REQUESTS {
            client.expect(format!("get{keys}\r\n").as_bytes(), b"END\r\n")?;
        }
        let mut told = watcher.line()?;
        for _ in 0..OTHERS {
            if told.contains(" cmd=get ") {
                break;
            }
            told = watcher.line()?;
        }
        ensure!(told.contains("type=slow_command cmd=get key=no%01ne0 us="), "{name}: watchers are told \"{told}\"");
        let line = node.wait_for_log("slow command command=\"get\"")?;
        for word in ["WARN", "get", "no\\x01ne0", &address, "others=0", "left_out="] {
            ensure!(line.contains(word), "{name}: {word} is not in \"{line}\"");
        }
        node.wait_for_metric("gannet_slow_commands_total", |slow| slow >= REQUESTS as f64)?;
        let log = node.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("slow command")).collect();
        let left_out: usize = lines.iter().map(|line| number(line, "left_out=")).sum::<Outcome<usize>>()?;
        // Read after the log, so nothing that the log shows can be missing in it.
        let slow = node.metric("gannet_slow_commands_total")? as usize;
        ensure!(lines.len() + left_out <= slow, "{name}: {left_out} left out of {slow}: {log}");
        let mut seconds: Vec<&str> = lines.iter().filter_map(|line| line.split('.').next()).collect();
        seconds.dedup();
        let most = MOST_LINES_A_SECOND * (seconds.len() + 1);
        ensure!(lines.len() <= most, "{name}: {} lines in {} seconds", lines.len(), seconds.len());
        println!("{name}: {slow} slow commands, {} lines in {} seconds", lines.len(), seconds.len());
    }
    let node = Node::start("")?;
    node.client()?.expect(b"mn\r\n", b"MN\r\n")?;
    ensure!(node.metric("gannet_slow_commands_total")? == 0.0, "without a limit, something is slow");
    Ok(())
}

fn number(line: &str, name: &str) -> Outcome<usize> {
    let text = line.split_whitespace().find_map(|word| word.strip_prefix(name));
    Ok(text.ok_or_else(|| Failure::new(format!("no {name} in {line}")))?.parse()?)
}
