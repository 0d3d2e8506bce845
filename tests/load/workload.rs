//! Which requests go where, decided before the clock runs.

use std::str::FromStr;

use crate::distribution::{KeySampler, Popularity};
use crate::keyspace::Keyspace;
use crate::random::{Random, mix};
use crate::request::Kind;

/// Shares of the kinds of requests, by weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix(pub Vec<(Kind, f64)>);

impl Mix {
    fn draw(&self, random: &mut Random) -> Kind {
        let total: f64 = self.0.iter().map(|(_, weight)| weight).sum();
        let mut at = random.unit() * total;
        for &(kind, weight) in &self.0 {
            at -= weight;
            if at <= 0.0 {
                return kind;
            }
        }
        self.0.last().map_or(Kind::Get, |&(kind, _)| kind)
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let names = || Kind::ALL.map(Kind::name).join(", ");
        let mut mix = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = kind.ok_or_else(|| format!("{name}: not a kind of request; there are {}", names()))?;
            let weight: Option<f64> = weight.parse().ok().filter(|weight| (0.0..=1e6).contains(weight));
            mix.push((kind, weight.ok_or_else(|| format!("{part}: write a weight, such as get=90,set=10"))?));
        }
        if mix.iter().all(|&(_, weight)| weight == 0.0) {
            return Err(format!("{text}: every weight is 0"));
        }
        Ok(Mix(mix))
    }
}

/// What one server is sent: the same steps over and over, long enough that every key's turn comes.
#[derive(Debug)]
pub struct Script {
    pub kinds: Vec<Kind>,
    pub ids: Vec<u32>,
    /// The server's keys, to be stored at first.
    pub fill: Vec<u32>,
    /// Its share of all requests, 0 to 1.
    pub share: f64,
}

const KINDS: usize = 1 << 16;
const SHORTEST: usize = 1 << 16;
const LONGEST: usize = 1 << 22;
/// Points of each server on the ring: the more, the evener.
const POINTS: u64 = 160;

/// What a workload is drawn from.
#[derive(Clone, Debug)]
pub struct Shape {
    pub keys: u32,
    pub popularity: Popularity,
    pub mix: Mix,
    /// Keys of one multi-get.
    pub multiget: usize,
    pub seed: u64,
}

impl Shape {
    /// The scripts of these servers.
    ///
    /// # Errors
    /// In words, where a server has too few keys.
    pub fn scripts(&self, servers: &[String], keyspace: &Keyspace) -> Result<Vec<Script>, String> {
        let mut random = Random::new(self.seed);
        let mut kinds = || (0..KINDS).map(|_| self.mix.draw(&mut random)).collect::<Vec<_>>();
        let mut scripts: Vec<Script> =
            servers.iter().map(|_| Script { kinds: kinds(), ids: Vec::new(), fill: Vec::new(), share: 0.0 }).collect();
        let ring = Ring::new(servers);
        let route = |id| if servers.len() == 1 { 0 } else { ring.server(keyspace.key(id).bytes()) };
        for id in 0..self.keys {
            scripts[route(id)].fill.push(id);
        }
        let sampler = KeySampler::new(self.popularity, self.keys);
        let length = (2 * self.keys as usize).clamp(SHORTEST, LONGEST);
        for _ in 0..length {
            let id = sampler.draw(&mut random);
            scripts[route(id)].ids.push(id);
        }
        for (script, server) in scripts.iter_mut().zip(servers) {
            if script.ids.len() < self.multiget.max(1) {
                let found = script.ids.len();
                return Err(format!("{server} is asked for {found} keys in all: use more --keys, or fewer servers"));
            }
            script.share = script.ids.len() as f64 / length as f64;
        }
        Ok(scripts)
    }
}

/// Keys to servers, so that a server more or less moves few keys. It is a ring like ketama's, but no client's own.
struct Ring(Vec<(u64, usize)>);

impl Ring {
    fn new(servers: &[String]) -> Ring {
        let points = servers.iter().enumerate().flat_map(|(index, server)| {
            let name = hash(server.as_bytes());
            (0..POINTS).map(move |point| (mix(name ^ mix(point)), index))
        });
        let mut points: Vec<_> = points.collect();
        points.sort_unstable();
        Ring(points)
    }

    fn server(&self, key: &[u8]) -> usize {
        let hash = hash(key);
        let next = self.0.partition_point(|&(point, _)| point < hash);
        self.0.get(next).or(self.0.first()).map_or(0, |&(_, server)| server)
    }
}

/// FNV-1a, finished so that its high bits differ too.
fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

#[cfg(test)]
mod tests {
    use super::{Mix, Script, Shape};
    use crate::distribution::{Popularity, Size};
    use crate::keyspace::Keyspace;
    use crate::request::Kind;

    fn scripts(servers: &[&str]) -> Vec<Script> {
        let keyspace = Keyspace::new("", &Size::Fixed(14), &Size::Fixed(10), false).unwrap();
        let mix = "get=90,set=10".parse().unwrap();
        let shape = Shape { keys: 30_000, popularity: Popularity::Uniform, mix, multiget: 1, seed: 1 };
        let servers: Vec<String> = servers.iter().map(|&server| server.to_owned()).collect();
        shape.scripts(&servers, &keyspace).unwrap()
    }

    #[test]
    fn kinds_have_their_shares() {
        let script = &scripts(&["a:1"])[0];
        let sets = script.kinds.iter().filter(|&&kind| kind == Kind::Set).count() as f64 / script.kinds.len() as f64;
        assert!((0.095..0.105).contains(&sets), "{sets}");
        assert_eq!(script.fill.len(), 30_000);
        assert!((script.share - 1.0).abs() < 1e-9);
    }

    #[test]
    fn every_key_has_one_server_and_a_server_less_moves_only_its_own() {
        let three = scripts(&["a:1", "b:1", "c:1"]);
        let mut all: Vec<u32> = three.iter().flat_map(|script| script.fill.iter().copied()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..30_000).collect::<Vec<_>>());
        for script in &three {
            assert!((0.2..0.5).contains(&script.share), "{}", script.share);
            assert!(script.ids.iter().all(|id| script.fill.binary_search(id).is_ok()));
        }
        let two = scripts(&["a:1", "b:1"]);
        for (before, after) in three.iter().zip(&two) {
            assert!(before.fill.iter().all(|id| after.fill.binary_search(id).is_ok()));
        }
    }

    #[test]
    fn a_mix_is_refused_in_words() {
        assert_eq!("get".parse::<Mix>(), Ok(Mix(vec![(Kind::Get, 1.0)])));
        assert!("gte=1".parse::<Mix>().unwrap_err().starts_with("gte: not a kind of request; there are get, gets"));
        assert!("get=x".parse::<Mix>().unwrap_err().contains("write a weight"));
        assert!("get=0".parse::<Mix>().unwrap_err().contains("every weight is 0"));
    }
}
