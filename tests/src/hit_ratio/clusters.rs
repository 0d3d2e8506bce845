//! The published parameters of production clusters.

use crate::failure::{Failure, Outcome};

/// Twitter's table, CC BY 4.0; `tests/data/README.md` names its source.
const TABLE: &str = include_str!("../../data/twitter-2020Mar-stats.md");
const COLUMNS: usize = 14;
const MEGABYTE: f64 = 1e6;

/// One production cluster, as far as a workload is drawn from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its number in the table.
    pub number: u32,
    /// The mean length of a key, in bytes.
    pub key_size: u32,
    /// The mean length of a value, in bytes.
    pub value_size: u32,
    /// Requests a second.
    pub rate: f64,
    /// Keys and values of the objects that live at a time, in bytes.
    pub working_set: f64,
    /// Times to live in seconds, with their shares of the writes.
    pub ttls: Vec<(u32, f64)>,
    /// Operations with their shares of the requests.
    pub operations: Vec<(String, f64)>,
    /// The exponent of the keys' popularity.
    pub zipf_alpha: f64,
    /// The share of reads that missed in production.
    pub production_miss_ratio: f64,
}

impl Cluster {
    /// The cluster of this number.
    ///
    /// # Errors
    /// Where the table has no such cluster, or not all that a workload needs of it.
    pub fn of(number: u32) -> Outcome<Cluster> {
        let name = format!("cluster{number}");
        let row = TABLE
            .lines()
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
            .find(|cells| cells.first() == Some(&name.as_str()))
            .ok_or_else(|| Failure::new(format!("the table of production clusters has no {name}")))?;
        Cluster::parse(number, &row).map_err(|failure| failure.while_doing(format!("{name} in the table of clusters")))
    }

    fn parse(number: u32, cells: &[&str]) -> Outcome<Cluster> {
        let [_, miss_ratio, _, key, value, rate, _, _, _, ttls, _, working_set, operations, alpha] =
            cells.first_chunk::<COLUMNS>().ok_or_else(|| Failure::new(format!("{} columns", cells.len())))?;
        Ok(Cluster {
            number,
            key_size: figure(key)? as u32,
            value_size: figure(value)? as u32,
            rate: figure(rate)? * 1000.0,
            working_set: figure(working_set)? * MEGABYTE,
            ttls: shares(ttls, ',')?
                .into_iter()
                .map(|(ttl, share)| Ok((seconds(ttl)?, share)))
                .collect::<Outcome<_>>()?,
            operations: shares(operations, ' ')?.into_iter().map(|(name, share)| (name.to_owned(), share)).collect(),
            zipf_alpha: figure(alpha)?,
            production_miss_ratio: figure(miss_ratio)?,
        })
    }

    /// Keys and values of an object, in bytes, on average.
    #[must_use]
    pub fn object_size(&self) -> f64 {
        f64::from(self.key_size + self.value_size)
    }

    /// How many objects live at a time.
    #[must_use]
    pub fn objects(&self) -> f64 {
        self.working_set / self.object_size()
    }
}

fn figure(cell: &str) -> Outcome<f64> {
    cell.parse().map_err(|_| Failure::new(format!("{cell:?} is no number")))
}

/// `name:share` pairs.
fn shares(cell: &str, separator: char) -> Outcome<Vec<(&str, f64)>> {
    let pairs = cell.split(separator).map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, share) =
                pair.split_once(':').ok_or_else(|| Failure::new(format!("{pair:?} is no name and share")))?;
            Ok((name, figure(share)?))
        })
        .collect()
}

/// A duration such as `20s`, `1.8h` or `92.6d`.
fn seconds(text: &str) -> Outcome<u32> {
    let unknown = || Failure::new(format!("{text:?} is no time to live"));
    let unit = match text.chars().next_back() {
        Some('s') => 1.0,
        Some('h') => 3600.0,
        Some('d') => 86_400.0,
        _ => return Err(unknown()),
    };
    let number = text.get(..text.len() - 1).ok_or_else(unknown)?;
    Ok((figure(number)? * unit).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::{Cluster, TABLE};

    #[test]
    fn a_row_is_read_in_full() {
        let cluster = Cluster::of(24).unwrap();
        assert_eq!((cluster.key_size, cluster.value_size, cluster.rate), (32, 699, 5290.0));
        assert_eq!(cluster.ttls, [(1_209_600, 0.71), (60, 0.19), (2_592_000, 0.03), (86_400, 0.02), (3600, 0.02)]);
        assert_eq!(cluster.operations, [("get".to_owned(), 0.99)]);
        assert_eq!((cluster.zipf_alpha, cluster.working_set), (1.3726, 5_071e6));
        let cluster = Cluster::of(27).unwrap();
        assert_eq!(cluster.ttls[0], (8_000_640, 0.28));
        assert_eq!(Cluster::of(36).unwrap().operations.len(), 4);
    }

    #[test]
    fn every_row_is_read_or_says_what_it_lacks() {
        let mut readable = 0;
        for number in 1..=54 {
            assert!(TABLE.contains(&format!("|  cluster{number} ")) || TABLE.contains(&format!("| cluster{number} ")));
            match Cluster::of(number) {
                Ok(cluster) => {
                    readable += 1;
                    assert!(!cluster.ttls.is_empty() && !cluster.operations.is_empty(), "{cluster:?}");
                }
                Err(failure) => assert!(failure.to_string().contains("N"), "{failure}"),
            }
        }
        assert!(readable >= 48, "{readable}");
        assert!(Cluster::of(55).is_err());
    }
}
