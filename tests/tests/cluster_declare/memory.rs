//! The container's limit is what is declared, and a full node stays under it.

use serde_json::json;
use tests::cluster::{small, with};
use tests::failure::Outcome;
use tests::process::Process;
use tests::scenario::scenario;

const MEBIBYTE: u64 = 1 << 20;

#[test]
fn a_node_filled_to_eviction_stays_under_its_limit() -> Outcome {
    scenario("memory", 1, async |s, _| {
        // As small as a node may be, with as many connections as that allows: the least slack there is.
        let tight = json!({"node": {"memory": "48Mi", "maxConnections": 4000}});
        s.declare("demo", with(small(1), tight)).await?;
        let node = s.settled("demo").await?.remove(0);
        let filled = s.use_client("fill.py", &["16"], &s.addresses("demo", 1)).await?;
        assert!(filled["evictions"].as_u64() > Some(0), "the node was not filled: {filled}");

        let status = s.node_status("demo", &node).await?;
        assert!(status.memory.cache_used <= status.memory.cache_limit, "{:?}", status.memory);
        assert!(status.memory.cache_used > status.memory.cache_limit / 2, "it is full: {:?}", status.memory);
        assert_eq!(status.requests.server_errors, 0, "nothing was refused for want of memory");
        let usage = Process::in_pod(&node.uid, "cache-node")?.usage()?;
        assert!(usage.resident_peak < 48 * MEBIBYTE, "{usage:?}");
        let after = s.settled("demo").await?.remove(0);
        assert_eq!((after.uid, after.restarts), (node.uid, 0), "a node over its limit is killed");
        Ok(())
    })
}
