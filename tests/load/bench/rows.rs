//! What is measured, and what it came to.

use crate::bench::Scale;
use crate::bench::servers::Kind;

/// Rows that share their servers and what is stored in them.
#[derive(Debug)]
pub struct Group {
    pub name: &'static str,
    /// Arguments of the generator, while keys are stored and afterwards.
    pub arguments: Vec<String>,
    pub value_size: usize,
    /// Within TLS, with client certificates.
    pub tls: bool,
    pub rows: Vec<Row>,
}

/// One line of the report.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    pub arguments: Vec<&'static str>,
    pub servers: Vec<Kind>,
    /// What is compared is the time per key, not per request.
    pub per_key: bool,
    pub measure: Measure,
    /// The most that cache-node may take of memcached's time.
    pub goal: Option<f64>,
    /// The most that it may take of the floor's.
    pub floor_goal: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// As fast as it goes.
    Closed,
    /// At half of what memcached does in this row.
    HalfOfMemcached(&'static str),
    /// As that, while others shake hands, so many times a second.
    BesideHandshakes(&'static str, u32),
    /// As that, while the server's certificate is replaced again and again.
    AcrossReloads(&'static str),
}

pub const UNPIPELINED: &str = "unpipelined get/set";
pub const TLS_UNPIPELINED: &str = "TLS, unpipelined get/set";
pub const TLS_RATE: &str = "TLS, fixed rate";
pub const TLS_HANDSHAKES: &str = "TLS, fixed rate, 200 handshakes a second beside it";
pub const TLS_RELOADS: &str = "TLS, fixed rate, across reloads";
pub const PIPELINED: &str = "pipelined by 32, classic";
pub const THREAD: &str = "pipelined by 32, with a storage thread";
pub const PING: &str = "ping, unpipelined";
pub const PING_PIPELINED: &str = "ping, pipelined by 32";
pub const DEPTH: f64 = 32.0;

/// One run of one server.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Microseconds of the server's processor time.
    pub cpu_request: f64,
    pub cpu_key: f64,
    /// How busy the server was, in cores.
    pub core_share: f64,
    pub rate: f64,
    pub hit_ratio: f64,
    pub failed: f64,
    /// p50, p99 and p999 in microseconds.
    pub latency: [f64; 3],
}

/// The runs of one server in one row, or why there are none.
pub type Cell = Result<Vec<Sample>, String>;

#[derive(Debug)]
pub struct RowResult {
    pub row: Row,
    /// Requests a second, where they are fixed.
    pub rate: Option<f64>,
    pub cells: Vec<(Kind, Cell)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Microseconds a request, or a key where the row compares keys.
    Cpu,
    Rate,
    P50,
    P99,
    P999,
}

/// A median, and the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    /// None of nothing.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&least, &most) = (sorted.first()?, sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) };
        Some(Spread { least, median, most })
    }
}

impl RowResult {
    fn values(&self, kind: Kind, figure: Figure) -> Option<Vec<f64>> {
        let samples = self.cells.iter().find(|(of, _)| *of == kind)?.1.as_ref().ok()?;
        let value = |sample: &Sample| match figure {
            Figure::Cpu if self.row.per_key => sample.cpu_key,
            Figure::Cpu => sample.cpu_request,
            Figure::Rate => sample.rate,
            Figure::P50 => sample.latency[0],
            Figure::P99 => sample.latency[1],
            Figure::P999 => sample.latency[2],
        };
        Some(samples.iter().map(value).collect())
    }

    pub fn spread(&self, kind: Kind, figure: Figure) -> Option<Spread> {
        Spread::of(&self.values(kind, figure)?)
    }

    pub fn median(&self, kind: Kind, figure: Figure) -> Option<f64> {
        Some(self.spread(kind, figure)?.median)
    }

    /// One server's figure as a multiple of another's, run by run.
    pub fn ratio(&self, kind: Kind, to: Kind, figure: Figure) -> Option<Spread> {
        let (mine, theirs) = (self.values(kind, figure)?, self.values(to, figure)?);
        let ratios: Vec<f64> =
            mine.iter().zip(&theirs).filter(|(_, theirs)| **theirs > 0.0).map(|(mine, theirs)| mine / theirs).collect();
        Spread::of(&ratios)
    }

    /// Servers that could not do it, and why.
    pub fn absent(&self) -> impl Iterator<Item = (Kind, &str)> {
        self.cells.iter().filter_map(|(kind, cell)| Some((*kind, cell.as_ref().err()?.as_str())))
    }
}

/// All rows, in the order in which they are measured.
pub fn groups(scale: &Scale) -> Vec<Group> {
    let all = [Kind::Memcached, Kind::Node, Kind::Floor];
    let caches = [Kind::Memcached, Kind::Node];
    let arguments = |keys: u32, value: &str, more: &[&str]| {
        let mut arguments: Vec<String> = ["--connections", "50", "--keys", &keys.to_string(), "--value-size", value]
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        arguments
    };
    let large = |name, row, value, bytes: usize, goal| Group {
        name,
        arguments: arguments((scale.large / bytes) as u32, value, &[]),
        value_size: bytes,
        tls: false,
        rows: vec![Row { goal: Some(goal), ..Row::new(row, &[], &caches) }],
    };
    vec![
        Group {
            name: "values of 100 bytes",
            arguments: arguments(scale.keys, "100", &[]),
            value_size: 100,
            tls: false,
            rows: vec![
                Row { goal: Some(0.87), floor_goal: Some(1.15), ..Row::new(UNPIPELINED, &[], &all) },
                Row { goal: Some(0.09), floor_goal: Some(2.5), ..Row::new(PIPELINED, &["--pipeline", "32"], &all) },
                Row {
                    goal: Some(0.09),
                    floor_goal: Some(2.5),
                    ..Row::new("pipelined by 32, meta", &["--pipeline", "32", "--protocol", "meta"], &all)
                },
                Row {
                    goal: Some(0.45),
                    per_key: true,
                    ..Row::new("multi-get of 50, per key", &["--mix", "multiget", "--multiget", "50"], &caches)
                },
                Row { measure: Measure::HalfOfMemcached(UNPIPELINED), ..Row::new("fixed rate", &[], &all) },
                Row::new(THREAD, &["--pipeline", "32"], &[Kind::Node, Kind::NodeThread, Kind::NodeTwo]),
                Row::new(PING, &[], &[Kind::Node, Kind::NodePing, Kind::Floor]),
                Row::new(PING_PIPELINED, &["--pipeline", "32"], &[Kind::Node, Kind::NodePing, Kind::Floor]),
            ],
        },
        Group {
            name: "sliding sessions",
            arguments: arguments(scale.keys, "100", &["--ttl", "30m"]),
            value_size: 100,
            tls: false,
            rows: vec![Row {
                goal: Some(0.9),
                ..Row::new("touch and gat on sliding sessions", &["--mix", "gat=50,touch=50"], &caches)
            }],
        },
        Group {
            name: "TLS with client certificates",
            arguments: arguments(scale.keys, "100", &[]),
            value_size: 100,
            tls: true,
            rows: vec![
                Row { goal: Some(0.85), ..Row::new(TLS_UNPIPELINED, &[], &caches) },
                Row { goal: Some(0.10), ..Row::new("TLS, pipelined by 32", &["--pipeline", "32"], &caches) },
                Row { measure: Measure::HalfOfMemcached(TLS_UNPIPELINED), ..Row::new(TLS_RATE, &[], &caches) },
                Row {
                    measure: Measure::BesideHandshakes(TLS_UNPIPELINED, 200),
                    ..Row::new(TLS_HANDSHAKES, &[], &caches)
                },
                Row { measure: Measure::AcrossReloads(TLS_UNPIPELINED), ..Row::new(TLS_RELOADS, &[], &[Kind::Node]) },
            ],
        },
        large("values of 4 KiB", "values of 4 KiB, unpipelined", "4Ki", 4 << 10, 0.95),
        large("values of 64 KiB", "values of 64 KiB, unpipelined", "64Ki", 64 << 10, 1.0),
        large("values of 512 KiB", "values of 512 KiB, unpipelined", "512Ki", 512 << 10, 1.0),
    ]
}

impl Row {
    fn new(name: &'static str, arguments: &[&'static str], servers: &[Kind]) -> Row {
        Row {
            name,
            arguments: arguments.to_vec(),
            servers: servers.to_vec(),
            per_key: false,
            measure: Measure::Closed,
            goal: None,
            floor_goal: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Row, RowResult, Sample, Spread};
    use crate::bench::servers::Kind;

    fn sample(cpu: f64) -> Sample {
        let (core_share, rate, hit_ratio) = (1.0, 1.0, 1.0);
        Sample { cpu_request: cpu, cpu_key: cpu / 50.0, core_share, rate, hit_ratio, failed: 0.0, latency: [0.0; 3] }
    }

    #[test]
    fn ratios_are_taken_run_by_run() {
        // The machine slows down by half between the runs: the ratio is that of each run.
        let runs = |times: [f64; 3]| Ok(times.map(sample).to_vec());
        let cells = vec![(Kind::Memcached, runs([4.0, 8.0, 8.0])), (Kind::Node, runs([2.0, 4.0, 5.0]))];
        let result = RowResult { row: Row::new("x", &[], &[]), rate: None, cells };
        let ratio = result.ratio(Kind::Node, Kind::Memcached, Figure::Cpu).unwrap();
        assert_eq!(ratio, Spread { least: 0.5, median: 0.5, most: 0.625 });
        assert_eq!(result.ratio(Kind::Node, Kind::Floor, Figure::Cpu), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_ones() {
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of(&[]), None);
    }
}
