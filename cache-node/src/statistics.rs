//! The answers to `stats`, in the names that memcached's users know.
//!
//! What memcached has and a segment store does not is left out rather than made up. Where memcached has a slab class there
//! is a TTL bucket here, because both group items: its pages are segments, and its chunks are items of the mean size.

use std::fmt::Display;
use std::fs;
use std::io::Write;

use memcache::{MAX_KEY_LENGTH, Reply};
use segcache::Cache;

use crate::kind::Kind;
use crate::listener::BACKLOG;
use crate::metrics::Metrics;
use crate::watch::MOST_PENDING;

/// Connections that `stats conns` names; the others are counted.
const MOST_CONNECTIONS: usize = 256;
/// Ticks of the kernel's clock in a second, as `/proc` counts processor time.
const TICKS: u64 = 100;

/// The answer to `stats` with this argument; none for an argument that does not exist.
#[must_use]
pub fn answer(of: &[u8], cache: &Cache, metrics: &Metrics) -> Option<Vec<u8>> {
    let first = of.split(|byte| *byte == b' ').next().unwrap_or_default();
    let mut list = List(Vec::new());
    match first {
        b"" => general(&mut list, cache, metrics),
        b"settings" => settings(&mut list, metrics),
        b"items" => items(&mut list, cache),
        b"slabs" => segments(&mut list, cache),
        b"sizes" | b"sizes_disable" => list.add("sizes_status", "disabled"),
        b"sizes_enable" => {
            list.add("sizes_status", "error");
            list.add("sizes_error", "sizes are not counted here");
        }
        b"conns" => connections(&mut list, metrics),
        b"reset" => {
            metrics.reset();
            return Some(Reply::Reset.text().to_vec());
        }
        _ => return None,
    }
    let mut text = list.0;
    text.extend_from_slice(Reply::End.text());
    Some(text)
}

struct List(Vec<u8>);

impl List {
    fn add(&mut self, name: &str, value: impl Display) {
        // Writing to a vector cannot fail.
        let written = write!(self.0, "STAT {name} {value}\r\n");
        debug_assert!(written.is_ok());
    }

    fn add_of(&mut self, class: usize, name: &str, value: impl Display) {
        self.add(&format!("{class}:{name}"), value);
    }
}

fn general(list: &mut List, cache: &Cache, metrics: &Metrics) {
    let now = metrics.clock.now();
    list.add("pid", std::process::id());
    list.add("uptime", now.since(metrics.started) / 1_000_000);
    list.add("time", now.seconds());
    list.add("version", version!());
    list.add("pointer_size", usize::BITS);
    if let Some([user, system]) = processor_time() {
        list.add("rusage_user", user);
        list.add("rusage_system", system);
    }
    connection_counts(list, metrics);
    command_counts(list, metrics);
    let watch = metrics.watch.figures();
    list.add("log_watchers", watch.watchers);
    list.add("log_watcher_sent", watch.sent);
    list.add("log_watcher_skipped", watch.skipped);
    list.add("log_worker_dropped", watch.lost);
    let counters = cache.counters();
    list.add("limit_maxbytes", counters.budget);
    list.add("bytes", counters.item_bytes);
    list.add("curr_items", counters.items);
    list.add("total_items", counters.stored);
    list.add("evictions", counters.evicted);
    list.add("expired", counters.expired);
    list.add("direct_reclaims", counters.stalled);
    list.add("hash_bytes", counters.index_bytes);
    list.add("hash_is_expanding", 0);
    list.add("slab_global_page_pool", counters.segments_free);
    list.add("buffer_bytes", metrics.budget.used());
    list.add("buffer_limit", metrics.budget.limit());
}

fn connection_counts(list: &mut List, metrics: &Metrics) {
    let totals = metrics.totals_since_reset();
    list.add("max_connections", metrics.config.max_connections);
    list.add("curr_connections", metrics.open());
    list.add("total_connections", totals.accepted);
    list.add("rejected_connections", totals.refused);
    list.add("idle_kicks", totals.idle_closed);
    list.add("accepting_conns", 1);
    list.add("threads", metrics.config.workers);
    list.add("bytes_read", totals.bytes_in);
    list.add("bytes_written", totals.bytes_out);
}

fn command_counts(list: &mut List, metrics: &Metrics) {
    let totals = metrics.totals_since_reset();
    let (get, gat) = (totals.of(Kind::Get), totals.of(Kind::GetAndTouch));
    let (touch, delete, cas) = (totals.of(Kind::Touch), totals.of(Kind::Delete), totals.of(Kind::Cas));
    let (increment, decrement) = (totals.of(Kind::Increment), totals.of(Kind::Decrement));
    let stores = [Kind::Set, Kind::Add, Kind::Replace, Kind::Append, Kind::Prepend, Kind::Cas];
    list.add("cmd_get", get.hits + get.misses + gat.hits + gat.misses);
    list.add("cmd_set", stores.iter().map(|kind| totals.of(*kind).requests).sum::<u64>());
    list.add("cmd_flush", totals.of(Kind::Flush).requests);
    list.add("cmd_touch", touch.requests + gat.hits + gat.misses);
    list.add("get_hits", get.hits + gat.hits);
    list.add("get_misses", get.misses + gat.misses);
    list.add("delete_hits", delete.hits);
    list.add("delete_misses", delete.misses);
    list.add("incr_hits", increment.hits);
    list.add("incr_misses", increment.misses);
    list.add("decr_hits", decrement.hits);
    list.add("decr_misses", decrement.misses);
    list.add("cas_hits", cas.hits);
    list.add("cas_misses", cas.misses);
    list.add("cas_badval", cas.conflicts);
    list.add("touch_hits", touch.hits + gat.hits);
    list.add("touch_misses", touch.misses + gat.misses);
    list.add("server_errors", totals.server_errors);
}

/// The processor time that the process has used, in user mode and in the kernel.
fn processor_time() -> Option<[String; 2]> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, which may hold anything, ends with the last bracket.
    let mut words = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut seconds = || {
        let ticks: u64 = words.next()?.parse().ok()?;
        Some(format!("{}.{:06}", ticks / TICKS, ticks % TICKS * (1_000_000 / TICKS)))
    };
    Some([seconds()?, seconds()?])
}

fn settings(list: &mut List, metrics: &Metrics) {
    let config = &metrics.config;
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    list.add("maxbytes", config.memory.0);
    list.add("maxconns", config.max_connections);
    list.add("tcpport", config.listen.port());
    list.add("udpport", 0);
    list.add("inter", config.listen.ip());
    list.add("evictions", if config.eviction == config::Eviction::None { "off" } else { "on" });
    list.add("eviction_policy", format_args!("{:?}", config.eviction));
    list.add("domain_socket", "NULL");
    list.add("shutdown_command", yes(config.admin_commands));
    list.add("num_threads", config.workers);
    list.add("storage_thread", format_args!("{:?}", config.storage_thread));
    list.add("detail_enabled", "no");
    list.add("cas_enabled", "yes");
    list.add("tcp_backlog", BACKLOG);
    list.add("binding_protocol", "ascii");
    list.add("auth_enabled_sasl", "no");
    list.add("auth_enabled_ascii", "no");
    list.add("item_size_max", config.max_item_size.0);
    list.add("key_size_max", MAX_KEY_LENGTH);
    list.add("flush_enabled", "yes");
    list.add("dump_enabled", "yes");
    list.add("lru_crawler", "no");
    list.add("lru_maintainer_thread", "no");
    list.add("slab_reassign", "no");
    list.add("slab_automove", 0);
    list.add("track_sizes", "no");
    list.add("idle_timeout", config.idle_timeout.0.as_secs());
    list.add("drain_delay", config.drain_delay);
    list.add("buffer_memory", config.buffer_memory.0);
    list.add("watcher_logbuf_size", MOST_PENDING);
    list.add("ssl_enabled", "no");
}

fn items(list: &mut List, cache: &Cache) {
    for (index, bucket) in cache.ttl_buckets().enumerate() {
        let class = format!("items:{}", index + 1);
        list.add(&format!("{class}:number"), bucket.items);
        list.add(&format!("{class}:mem_requested"), bucket.item_bytes);
        list.add(&format!("{class}:shortest_ttl"), bucket.shortest.map_or(-1, i64::from));
        list.add(&format!("{class}:segments"), bucket.segments);
    }
}

fn segments(list: &mut List, cache: &Cache) {
    let counters = cache.counters();
    let mut classes = 0;
    for (index, bucket) in cache.ttl_buckets().enumerate() {
        classes = index + 1;
        list.add_of(classes, "chunk_size", bucket.item_bytes / bucket.items.max(1));
        list.add_of(classes, "chunks_per_page", bucket.items / u64::from(bucket.segments.max(1)));
        list.add_of(classes, "total_pages", bucket.segments);
        list.add_of(classes, "total_chunks", bucket.items);
        list.add_of(classes, "used_chunks", bucket.items);
        list.add_of(classes, "free_chunks", 0);
        list.add_of(classes, "mem_requested", bucket.item_bytes);
    }
    list.add("active_slabs", classes);
    list.add("total_malloced", counters.segment_bytes + counters.index_bytes + counters.metadata_bytes);
    list.add("segment_size", counters.segment_size);
    list.add("segments_used", counters.segments_used);
    list.add("segments_free", counters.segments_free);
    list.add("index_bytes", counters.index_bytes);
    list.add("metadata_bytes", counters.metadata_bytes);
}

fn connections(list: &mut List, metrics: &Metrics) {
    let now = metrics.clock.now();
    let (first, more) = metrics.connections.first(MOST_CONNECTIONS);
    for (place, connection) in first {
        list.add_of(place, "addr", format_args!("tcp:{}", connection.client));
        list.add_of(place, "listen_addr", format_args!("tcp:{}", metrics.config.listen));
        list.add_of(place, "state", connection.state());
        list.add_of(place, "secs_since_last_cmd", connection.silent_seconds(now));
    }
    if more > 0 {
        list.add("more_connections", more);
    }
}
