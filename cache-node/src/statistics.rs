//! The answers to `stats`, in the names that memcached's users know.

use std::io::Write;

use memcache::Reply;
use segcache::Cache;

use crate::kind::Kind;
use crate::metrics::Metrics;

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
        b"sizes" => list.add("sizes_status", "disabled"),
        b"conns" => list.add("open", metrics.open()),
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
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a vector cannot fail.
        let written = write!(self.0, "STAT {name} {value}\r\n");
        debug_assert!(written.is_ok());
    }
}

fn general(list: &mut List, cache: &Cache, metrics: &Metrics) {
    let totals = metrics.totals_since_reset();
    let counters = cache.counters();
    let now = metrics.clock.now();
    list.add("pid", std::process::id());
    list.add("uptime", now.since(metrics.started) / 1_000_000);
    list.add("time", now.seconds());
    list.add("version", version!());
    list.add("pointer_size", usize::BITS);
    list.add("max_connections", metrics.config.max_connections);
    list.add("curr_connections", metrics.open());
    list.add("total_connections", totals.accepted);
    list.add("rejected_connections", totals.refused);
    list.add("idle_kicks", totals.idle_closed);
    let (get, gat) = (totals.of(Kind::Get), totals.of(Kind::GetAndTouch));
    let (touch, delete, cas) = (totals.of(Kind::Touch), totals.of(Kind::Delete), totals.of(Kind::Cas));
    let stores = [Kind::Set, Kind::Add, Kind::Replace, Kind::Append, Kind::Prepend, Kind::Cas];
    list.add("cmd_get", get.hits + get.misses);
    list.add("cmd_set", stores.iter().map(|kind| totals.of(*kind).requests).sum::<u64>());
    list.add("cmd_flush", totals.of(Kind::Flush).requests);
    list.add("cmd_touch", touch.requests + gat.hits + gat.misses);
    list.add("get_hits", get.hits + gat.hits);
    list.add("get_misses", get.misses + gat.misses);
    list.add("delete_hits", delete.hits);
    list.add("delete_misses", delete.misses);
    list.add("incr_hits", totals.of(Kind::Increment).hits);
    list.add("incr_misses", totals.of(Kind::Increment).misses);
    list.add("decr_hits", totals.of(Kind::Decrement).hits);
    list.add("decr_misses", totals.of(Kind::Decrement).misses);
    list.add("cas_hits", cas.hits);
    list.add("cas_misses", cas.misses);
    list.add("cas_badval", cas.conflicts);
    list.add("touch_hits", touch.hits + gat.hits);
    list.add("touch_misses", touch.misses + gat.misses);
    list.add("bytes_read", totals.bytes_in);
    list.add("bytes_written", totals.bytes_out);
    list.add("limit_maxbytes", counters.budget);
    list.add("accepting_conns", 1);
    list.add("threads", metrics.config.workers);
    list.add("bytes", counters.item_bytes);
    list.add("curr_items", counters.items);
    list.add("total_items", counters.stored);
    list.add("evictions", counters.evicted);
    list.add("expired", counters.expired);
    list.add("server_errors", totals.server_errors);
    list.add("buffer_bytes", metrics.budget.used());
    list.add("buffer_limit", metrics.budget.limit());
}

fn settings(list: &mut List, metrics: &Metrics) {
    let config = &metrics.config;
    list.add("maxbytes", config.memory.0);
    list.add("maxconns", config.max_connections);
    list.add("tcpport", config.listen.port());
    list.add("udpport", 0);
    list.add("inter", config.listen.ip());
    list.add("evictions", if config.eviction == config::Eviction::None { "off" } else { "on" });
    list.add("eviction_policy", format_args!("{:?}", config.eviction));
    list.add("num_threads", config.workers);
    list.add("idle_timeout", config.idle_timeout.0.as_secs());
    list.add("item_size_max", config.max_item_size.0);
    list.add("buffer_memory", config.buffer_memory.0);
    list.add("drain_delay", config.drain_delay);
    list.add("cas_enabled", "yes");
    list.add("flush_enabled", "yes");
    list.add("shutdown_command", "no");
}

/// A TTL bucket stands where memcached has a slab class: both group items, ours by how long they live.
fn items(list: &mut List, cache: &Cache) {
    for (index, bucket) in cache.ttl_buckets().enumerate() {
        let class = index + 1;
        list.add(&format!("items:{class}:number"), bucket.items);
        list.add(&format!("items:{class}:mem_requested"), bucket.item_bytes);
        list.add(&format!("items:{class}:segments"), bucket.segments);
        list.add(&format!("items:{class}:shortest_ttl"), bucket.shortest.map_or(-1, i64::from));
    }
}

fn segments(list: &mut List, cache: &Cache) {
    let counters = cache.counters();
    list.add("segment_size", counters.segment_size);
    list.add("segments_used", counters.segments_used);
    list.add("segments_free", counters.segments_free);
    list.add("index_bytes", counters.index_bytes);
    list.add("metadata_bytes", counters.metadata_bytes);
    list.add("active_slabs", cache.ttl_buckets().count());
    list.add("total_malloced", counters.segment_bytes + counters.index_bytes + counters.metadata_bytes);
}
