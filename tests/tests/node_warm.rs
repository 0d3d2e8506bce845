//! Items that outlive their node: on a memory file system and in a file, after a clean end and after a kill.

use std::path::{Path, PathBuf};
use std::{fs, thread};

use std::time::Duration;

use tests::crash;
use tests::ensure;
use tests::failure::Outcome;
use tests::node::{MODES, Node, argument, eventually, folder, http, run_to_end};

/// A memory file system that every Linux has.
const MEMORY: &str = "/dev/shm";
/// Rounds in which a node is killed; the soak tests have many more.
const ROUNDS: u64 = 20;

/// A directory for a volume, which goes with the test.
struct Place(PathBuf);

impl Place {
    fn in_memory(name: &str) -> Place {
        Place(Path::new(MEMORY).join(format!("gannet-node-warm-{}-{name}", std::process::id())))
    }

    fn in_files() -> Outcome<Place> {
        Ok(Place(folder()?))
    }

    fn storage(&self, lines: &str) -> String {
        format!("drainDelay: 0s\nstorage:\n  directory: {}\n{lines}", self.0.display())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn recovery(node: &Node) -> Outcome<config::Recovery> {
    let (_, status) = http(node.admin, "GET", "/status")?;
    let status: config::Status = serde_json::from_str(&status)?;
    let storage = status.storage.ok_or_else(|| tests::failure::Failure::new("no storage in the status"))?;
    storage.recovery.ok_or_else(|| tests::failure::Failure::new("no recovery in the status"))
}

#[test]
fn items_outlive_a_clean_end_and_a_kill() -> Outcome {
    for (index, (_, mode)) in MODES.into_iter().enumerate() {
        for (place, medium) in [
            (Place::in_memory(&format!("outlive-{index}")), config::Medium::Memory),
            (Place::in_files()?, config::Medium::File),
        ] {
            for signal in ["TERM", "KILL"] {
                let lines = place.storage(mode);
                let mut node = Node::start(&lines)?;
                let mut client = node.client()?;
                client.expect(b"set kept 7 0 5\r\nvalue\r\n", b"STORED\r\n")?;
                client.expect(b"set brief 0 1000 5\r\nvalue\r\n", b"STORED\r\n")?;
                client.expect(b"set gone 0 0 5\r\nvalue\r\ndelete gone\r\n", b"STORED\r\nDELETED\r\n")?;
                node.signal(signal)?;
                let status = node.wait()?;
                ensure!(signal == "KILL" || status.success(), "ends with {status}: {}", node.log());
                let mut node = Node::start(&lines)?;
                let mut client = node.client()?;
                client.expect(b"get kept gone\r\n", b"VALUE kept 7 5\r\nvalue\r\nEND\r\n")?;
                client.expect(b"get brief\r\n", b"VALUE brief 0 5\r\nvalue\r\nEND\r\n")?;
                let recovery = recovery(&node)?;
                ensure!(recovery.medium == medium && recovery.items == 2, "{recovery:?}");
                ensure!(recovery.cold.is_none() && recovery.from_snapshot == (signal == "TERM"), "{recovery:?}");
                client.expect(b"flush_all\r\n", b"OK\r\n")?;
                node.signal("KILL")?;
                node.wait()?;
                Node::start(&lines)?.client()?.expect(b"get kept brief\r\n", b"END\r\n")?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_volume_that_cannot_be_read_is_overwritten_or_refused_as_configured() -> Outcome {
    let place = Place::in_files()?;
    fs::write(place.0.join("gannet.volume"), vec![b'x'; 100_000])?;
    let file = place.0.join("node.yaml");
    fs::write(&file, place.storage("  onMismatch: Refuse\n"))?;
    let (status, log) = run_to_end(&["--config", argument(&file)])?;
    ensure!(!status.success() && log.contains("gannet.volume: the file is not a volume"), "{status}: {log}");
    ensure!(fs::metadata(place.0.join("gannet.volume"))?.len() == 100_000, "the file was changed");
    let node = Node::start(&place.storage(""))?;
    let recovery = recovery(&node)?;
    ensure!(recovery.cold.is_some_and(|reason| reason.contains("not a volume")), "{}", node.log());
    Ok(())
}

#[test]
fn a_node_that_was_away_for_too_long_starts_cold() -> Outcome {
    let place = Place::in_memory("away");
    let lines = place.storage("  maxAbsence: 1s\n");
    let mut node = Node::start(&lines)?;
    node.client()?.expect(b"set key 0 0 5\r\nvalue\r\n", b"STORED\r\n")?;
    node.signal("KILL")?;
    node.wait()?;
    // More than a second behind the last tick, whenever in its second that was.
    thread::sleep(Duration::from_millis(2500));
    let node = Node::start(&lines)?;
    node.client()?.expect(b"get key\r\n", b"END\r\n")?;
    ensure!(recovery(&node)?.cold.is_some_and(|reason| reason.contains("away for")), "{}", node.log());
    Ok(())
}

#[test]
fn a_volume_on_the_wrong_medium_or_of_another_node_is_refused() -> Outcome {
    let place = Place::in_memory("refused");
    fs::create_dir_all(&place.0)?;
    let file = place.0.join("node.yaml");
    let run = |lines: &str| {
        fs::write(&file, format!("listen: 127.0.0.1:0\n{}", place.storage(lines)))?;
        run_to_end(&["--config", argument(&file)])
    };
    // More than the memory file system may ever have.
    let (status, log) = run("  capacity: 100Gi\n")?;
    ensure!(!status.success() && log.contains("no room for"), "{status}: {log}");
    let (status, log) = run("  medium: PersistentMemory\n")?;
    ensure!(!status.success() && log.contains("on Memory, and must be on PersistentMemory"), "{status}: {log}");
    let _node = Node::start(&place.storage(""))?;
    let (status, log) = run("")?;
    ensure!(!status.success() && log.contains("another process has this volume"), "{status}: {log}");
    Ok(())
}

#[test]
fn a_volume_that_is_to_outlive_the_machine_is_flushed() -> Outcome {
    for (place, holds) in
        [(Place::in_memory("flush"), config::Durability::None), (Place::in_files()?, config::Durability::Interval)]
    {
        let lines = place.storage("  durability: Interval\n  flushInterval: 100ms\n");
        let mut node = Node::start(&lines)?;
        node.client()?.expect(b"set key 0 0 5\r\nvalue\r\n", b"STORED\r\n")?;
        eventually(|| {
            let (_, status) = http(node.admin, "GET", "/status")?;
            let status: config::Status = serde_json::from_str(&status)?;
            let flushes = status.storage.map_or(0, |storage| storage.flushes);
            ensure!(flushes > 1, "{flushes} flushes");
            Ok(())
        })?;
        ensure!(recovery(&node)?.durability == holds, "{:?}", recovery(&node)?);
        node.signal("TERM")?;
        ensure!(node.wait()?.success(), "{}", node.log());
        let node = Node::start(&lines)?;
        ensure!(recovery(&node)?.from_snapshot, "{}", node.log());
    }
    Ok(())
}

#[test]
fn what_is_acknowledged_always_outlives_the_machine_where_the_medium_can_do_that() -> Outcome {
    for (_, mode) in MODES {
        for (place, holds) in
            [(Place::in_memory("always"), config::Durability::None), (Place::in_files()?, config::Durability::Always)]
        {
            let lines = place.storage(&format!("  durability: Always\n{mode}"));
            let mut node = Node::start(&lines)?;
            ensure!(recovery(&node)?.durability == holds, "{:?}", recovery(&node)?);
            let flushes = || -> Outcome<u64> { Ok(node.status()?.storage.map_or(0, |storage| storage.flushes)) };
            let before = flushes()?;
            let mut client = node.client()?;
            client.expect(b"set key 0 0 5\r\nvalue\r\n", b"STORED\r\n")?;
            let after_one = flushes()?;
            ensure!((after_one > before) == (holds == config::Durability::Always), "{before}, {after_one}");
            // One flush is for all that came with it, however many that are.
            let requests = "set key 0 0 5 noreply\r\nother\r\n".repeat(400);
            client.expect(format!("{requests}get key\r\n").as_bytes(), b"VALUE key 0 5\r\nother\r\nEND\r\n")?;
            let after_many = flushes()?;
            ensure!(after_many < after_one + 200, "{after_one}, {after_many}");
            node.signal("KILL")?;
            node.wait()?;
            Node::start(&lines)?.client()?.expect(b"get key\r\n", b"VALUE key 0 5\r\nother\r\nEND\r\n")?;
        }
    }
    Ok(())
}

#[test]
fn a_volume_is_written_in_the_format_that_is_asked_for() -> Outcome {
    let place = Place::in_memory("format");
    for (lines, format) in [("", 1), ("  volumeFormat: 1\n", 1)] {
        let node = Node::start(&place.storage(lines))?;
        let storage = node.status()?.storage.ok_or_else(|| tests::failure::Failure::new("no storage in the status"))?;
        ensure!(storage.volume_format == format, "{storage:?}");
    }
    let file = place.0.join("node.yaml");
    fs::write(&file, format!("listen: 127.0.0.1:0\n{}", place.storage("  volumeFormat: 2\n")))?;
    let (status, log) = run_to_end(&["--config", argument(&file)])?;
    let says =
        log.contains("format version 2 cannot be written: this release writes versions 1 to 1; set volumeFormat");
    ensure!(!status.success() && says, "{status}: {log}");
    Ok(())
}

#[test]
fn a_volume_that_fails_ends_the_node_and_the_next_one_starts_cold() -> Outcome {
    let place = Place::in_files()?;
    let lines = place.storage("");
    let mut node = Node::start(&lines)?;
    let mut client = node.client()?;
    client.expect(b"set key 0 0 5\r\nvalue\r\n", b"STORED\r\n")?;
    // As a disk that cannot be read any more, the file has nothing where the item was.
    fs::File::options().write(true).open(place.0.join("gannet.volume"))?.set_len(0)?;
    client.send(b"get key\r\n")?;
    let status = node.wait()?;
    ensure!(status.code() == Some(74), "ends with {status}");
    node.wait_for_log("cannot read or write the volume any more")?;
    let node = Node::start(&lines)?;
    node.client()?.expect(b"get key\r\n", b"END\r\n")?;
    ensure!(recovery(&node)?.cold.is_some_and(|reason| reason.contains("SIGBUS")), "{}", node.log());
    Ok(())
}

#[test]
fn whenever_a_node_is_killed_it_has_what_it_acknowledged() -> Outcome {
    for place in [Place::in_memory("crash"), Place::in_files()?] {
        for durability in ["", "  durability: Always\n"] {
            crash::rounds(&place.0, durability, ROUNDS, 1)?;
            fs::remove_dir_all(&place.0)?;
        }
    }
    Ok(())
}
