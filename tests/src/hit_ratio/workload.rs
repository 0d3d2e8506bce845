//! Workloads: objects and requests, drawn from the parameters of a production cluster.

use crate::failure::{Failure, Outcome};
use crate::hit_ratio::clusters::Cluster;
use crate::hit_ratio::random::{Random, Zipf};

/// When a run begins, in unix seconds.
pub const START: u64 = 1_800_000_000;
/// Of the requests, the part that fills the caches before misses are counted.
const WARM_UP: f64 = 0.4;
/// Sizes are log-normal; their standard deviation is this times their mean.
const SPREAD: f64 = 0.4;
/// Sizes are cut off at this times their mean.
const LARGEST: f64 = 8.0;
/// A value this long can be counted up, in as many digits.
const LONGEST_COUNTER: u32 = 19;
/// Key lengths are even within this of their mean.
const KEY_SPREAD: f64 = 0.2;
/// A key is unique by so many hexadecimal digits at its end.
const KEY_DIGITS: usize = 8;
/// The clock moves in steps of this share of the shortest TTL.
const CLOCK_STEPS: u32 = 20;

/// Which cluster is modelled, and how large.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The cluster's number in the table.
    pub cluster: u32,
    /// Objects that live at a time, out of all that the cluster has.
    pub objects: u32,
    /// Requests of a run.
    pub requests: u32,
    /// What it stands for.
    pub stands_for: &'static str,
}

/// The clusters that are modelled: of those whose row is complete and whose requests can miss, the ones that differ most.
pub const PLANS: [Plan; 12] = [
    plan(12, 200_000, 1_500_000, "medium values, TTL 5 min, four writes to a read, nearly even popularity"),
    plan(13, 60_000, 1_200_000, "large values, TTL 5 min, more writes than reads"),
    plan(14, 600_000, 3_000_000, "long keys, deletes, TTL 1 d"),
    plan(19, 1_000_000, 3_000_000, "small values, low alpha, TTLs spread over an hour about 7 h"),
    plan(22, 1_600_000, 3_000_000, "counters of 4 bytes, low alpha, TTLs 30 min to 1 d"),
    plan(25, 2_000_000, 3_000_000, "tiny values, TTL 30 d, gets and cas"),
    plan(26, 150_000, 1_200_000, "large values, TTLs of a minute to ten"),
    plan(29, 300_000, 2_500_000, "medium values, high alpha, TTLs 1 h and 2 h"),
    plan(37, 10_000, 600_000, "very large values, TTLs mostly 20 s, up to 2 h"),
    plan(40, 800_000, 3_000_000, "small values, half of the requests write, TTL 8 h"),
    plan(42, 60_000, 1_500_000, "large values, highest alpha, TTLs 5 min to 6 h"),
    plan(45, 1_200_000, 2_500_000, "shortest keys, low alpha, adds, TTL 15 d"),
];

const fn plan(cluster: u32, objects: u32, requests: u32, stands_for: &'static str) -> Plan {
    Plan { cluster, objects, requests, stands_for }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A read; where it misses, the client stores the object.
    Get,
    /// A write, whatever was there.
    Set,
    /// A write if nothing was there.
    Add,
    /// A write if the object was there: what is left of a `cas` that succeeds.
    Replace,
    /// A removal.
    Delete,
    /// A counter is counted up; where it is not there, the client adds it.
    Increment,
}

impl Operation {
    fn named(name: &str) -> Outcome<Operation> {
        Ok(match name {
            "get" | "gets" => Operation::Get,
            "set" => Operation::Set,
            "add" => Operation::Add,
            "cas" => Operation::Replace,
            "delete" => Operation::Delete,
            "incr" => Operation::Increment,
            _ => return Err(Failure::new(format!("workloads do not know the operation {name:?}"))),
        })
    }
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The object's place in [`Workload::objects`].
    pub object: u32,
    /// What is asked for.
    pub operation: Operation,
}

/// One object: whenever it is stored, it has the same size and the same TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Bytes of the key.
    pub key: u8,
    /// Bytes of the value.
    pub value: u32,
    /// Seconds.
    pub ttl: u32,
}

impl Object {
    /// Keys and values: what the application stores, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::from(self.key) + u64::from(self.value)
    }
}

/// A run's objects and requests.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What it is drawn from.
    pub cluster: Cluster,
    /// The objects; the most popular is the first.
    pub objects: Vec<Object>,
    /// The requests, in order.
    pub requests: Vec<Request>,
    /// Requests a second: as many an object as in production.
    pub rate: f64,
    /// The clock moves in steps of so many seconds.
    pub step: u64,
    /// The first request that counts.
    pub measured_from: usize,
    /// No value is longer, in bytes.
    pub largest_value: u32,
}

impl Workload {
    /// Draws the workload of a plan; `scale` is a factor to its objects and requests.
    ///
    /// # Errors
    /// Where the table lacks something of the cluster.
    pub fn draw(plan: &Plan, scale: f64, seed: u64) -> Outcome<Workload> {
        let cluster = Cluster::of(plan.cluster)?;
        let shares = cluster.operations.iter();
        let operations: Vec<(Operation, f64)> =
            shares.map(|(name, share)| Ok((Operation::named(name)?, *share))).collect::<Outcome<_>>()?;
        let counts = operations.iter().any(|(operation, _)| *operation == Operation::Increment);
        let mut random = Random::new(seed ^ u64::from(plan.cluster) << 32);
        let largest = (f64::from(cluster.value_size) * LARGEST) as u32;
        let largest_value = if counts { largest.min(LONGEST_COUNTER) } else { largest };
        let count = scaled(plan.objects, scale);
        let objects: Vec<Object> = (0..count).map(|_| object(&cluster, largest_value, &mut random)).collect();
        let zipf = Zipf::new(count, cluster.zipf_alpha);
        let requests: Vec<Request> = (0..scaled(plan.requests, scale))
            .map(|_| Request {
                object: zipf.draw(&mut random),
                operation: random.choose(&operations).unwrap_or(Operation::Get),
            })
            .collect();
        let shortest = cluster.ttls.iter().map(|(ttl, _)| *ttl).min().unwrap_or(1);
        Ok(Workload {
            rate: cluster.rate * f64::from(count) / cluster.objects(),
            step: u64::from((shortest / CLOCK_STEPS).max(1)),
            measured_from: (requests.len() as f64 * WARM_UP) as usize,
            largest_value,
            cluster,
            objects,
            requests,
        })
    }

    /// What the clock says at a request, in unix seconds.
    #[must_use]
    pub fn time(&self, request: usize) -> u64 {
        let seconds = (request as f64 / self.rate) as u64;
        START + seconds - seconds % self.step
    }

    /// The seconds that the whole run takes on its own clock.
    #[must_use]
    pub fn duration(&self) -> u64 {
        (self.requests.len() as f64 / self.rate) as u64
    }

    /// Puts the key of an object into `key`.
    pub fn write_key(&self, object: u32, key: &mut Vec<u8>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let length = usize::from(self.objects[object as usize].key);
        key.clear();
        key.extend_from_slice(b"object:");
        key.resize(length - KEY_DIGITS, b'-');
        // A factor that is odd gives every object a number of its own.
        let number = object.wrapping_mul(0x9e37_79b1);
        key.extend((0..KEY_DIGITS).rev().map(|digit| DIGITS[(number >> (4 * digit)) as usize & 0xf]));
    }
}

fn scaled(count: u32, scale: f64) -> u32 {
    ((f64::from(count) * scale) as u32).max(1)
}

fn object(cluster: &Cluster, largest_value: u32, random: &mut Random) -> Object {
    let size = random.log_normal(f64::from(cluster.value_size), SPREAD).round() as u32;
    let key = f64::from(cluster.key_size) * (1.0 + KEY_SPREAD * (2.0 * random.fraction() - 1.0));
    Object {
        key: key.round().clamp(KEY_DIGITS as f64, 250.0) as u8,
        value: size.clamp(1, largest_value),
        ttl: random.choose(&cluster.ttls).unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::{Operation, PLANS, START, Workload};
    use std::collections::HashSet;

    #[test]
    fn every_plan_has_the_parameters_of_its_cluster() {
        for plan in &PLANS {
            let workload = Workload::draw(plan, 0.05, 1).unwrap();
            let cluster = &workload.cluster;
            let count = workload.objects.len() as f64;
            let keys: f64 = workload.objects.iter().map(|object| f64::from(object.key)).sum::<f64>() / count;
            let values: f64 = workload.objects.iter().map(|object| f64::from(object.value)).sum::<f64>() / count;
            assert!((keys / f64::from(cluster.key_size) - 1.0).abs() < 0.05, "cluster {} {keys}", plan.cluster);
            assert!((values / f64::from(cluster.value_size) - 1.0).abs() < 0.1, "cluster {} {values}", plan.cluster);
            for (ttl, _) in &cluster.ttls {
                assert!(workload.objects.iter().any(|object| object.ttl == *ttl), "cluster {} {ttl}", plan.cluster);
            }
            let reads = workload.requests.iter().filter(|request| request.operation == Operation::Get).count() as f64;
            let published: f64 =
                cluster.operations.iter().filter(|(name, _)| name.starts_with("get")).map(|(_, share)| share).sum();
            let all: f64 = cluster.operations.iter().map(|(_, share)| share).sum();
            assert!(
                (reads / workload.requests.len() as f64 - published / all).abs() < 0.01,
                "cluster {}",
                plan.cluster
            );
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_another() {
        let draw = |seed| Workload::draw(&PLANS[3], 0.01, seed).unwrap();
        assert_eq!(draw(1).requests, draw(1).requests);
        assert_eq!(draw(1).objects, draw(1).objects);
        assert_ne!(draw(1).requests, draw(2).requests);
    }

    #[test]
    fn keys_are_unique_and_as_long_as_they_should_be() {
        let workload = Workload::draw(&PLANS[2], 0.01, 1).unwrap();
        let mut keys = HashSet::new();
        for object in 0..workload.objects.len() as u32 {
            let mut key = Vec::new();
            workload.write_key(object, &mut key);
            assert_eq!(key.len(), usize::from(workload.objects[object as usize].key));
            assert!(keys.insert(key));
        }
    }

    #[test]
    fn the_clock_goes_in_steps_at_the_rate_of_the_cluster() {
        let workload = Workload::draw(&PLANS[6], 0.1, 1).unwrap();
        assert_eq!((workload.step, workload.time(0)), (3, START));
        let last = workload.time(workload.requests.len());
        assert!(
            last > START + 500 && (last - START).is_multiple_of(3) && last - START <= workload.duration(),
            "{last}"
        );
    }
}
