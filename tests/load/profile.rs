//! Workloads modelled on production clusters, from the table of measured parameters that Twitter published with "A large
//! scale analysis of hundreds of in-memory cache clusters at Twitter" (Yang, Yue and Rashmi, OSDI '20): mean sizes, shares of
//! commands, TTLs, and popularity. They are no replay: sizes are drawn around the means.

use crate::distribution::{Popularity, Size};
use crate::request::Kind;
use crate::ttl::Ttl;
use crate::workload::Mix;

/// The table has no more than the mean of the values' sizes; a log-normal shape of this deviation stands for the rest.
const VALUE_SIGMA: f64 = 0.7;

/// One cluster's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pub key_size: Size,
    pub value_size: Size,
    pub popularity: Popularity,
    pub mix: Mix,
    pub ttl: Ttl,
    /// Commands of the cluster that are asked for by others here.
    pub replaced: Vec<String>,
}

impl Profile {
    /// The row `cluster` (such as `cluster4`) of the table.
    ///
    /// # Errors
    /// In words, where there is no such row or it lacks what is needed.
    pub fn parse(table: &str, cluster: &str) -> Result<Profile, String> {
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let header = table.lines().map(cells).find(|cells| cells.iter().any(|cell| cell == "cluster"));
        let header = header.ok_or("the file has no table with a column called cluster")?;
        let rows: Vec<_> = table.lines().map(cells).filter(|row| row.len() == header.len()).collect();
        let row = rows.iter().find(|row| row.get(1).is_some_and(|name| name == cluster));
        let row = row.ok_or_else(|| format!("{cluster}: the table has no such cluster"))?;
        let cell = |name: &str| {
            let column = header.iter().position(|cell| cell == name);
            let found = column.and_then(|column| row.get(column)).filter(|cell| !cell.starts_with('N'));
            found.cloned().ok_or_else(|| format!("{cluster}: the table gives no {name}"))
        };
        let number = |name: &str| -> Result<usize, String> {
            let text = cell(name)?;
            text.parse().map_err(|_| format!("{cluster}: {name} {text} is not a whole number"))
        };
        let (mix, replaced) = commands(&cell("operation")?)?;
        // Where the popularity was not measured, or is 0, all keys are alike.
        let alpha = cell("Zipf alpha").ok().and_then(|alpha| alpha.parse().ok()).unwrap_or(0.0);
        Ok(Profile {
            key_size: Size::Fixed(number("key size")?),
            value_size: Size::LogNormal { mean: number("value size")?, sigma: VALUE_SIGMA },
            popularity: Popularity::Zipf { alpha },
            mix,
            ttl: cell("common TTL")?.parse()?,
            replaced,
        })
    }
}

/// `get:0.93 set:0.07`; what is missing to 1 is gets, which the table leaves out where it rounds.
fn commands(text: &str) -> Result<(Mix, Vec<String>), String> {
    let (mut mix, mut replaced, mut rest) = (Vec::new(), Vec::new(), 1.0);
    for part in text.split_whitespace() {
        let share = part.split_once(':').and_then(|(name, share)| Some((name, share.parse::<f64>().ok()?)));
        let (name, share) = share.ok_or_else(|| format!("{part}: not a command and its share"))?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or_else(|| {
            replaced.push(format!("{name} by set"));
            Kind::Set
        });
        rest -= share;
        mix.push((kind, share));
    }
    if rest > 0.005 {
        mix.push((Kind::Get, rest));
    }
    Ok((Mix(mix), replaced))
}

#[cfg(test)]
mod tests {
    use super::Profile;
    use crate::distribution::{Popularity, Size};
    use crate::request::Kind;

    const TABLE: &str = "\
|  cluster    | key size  | value size  | common TTL | operation  | Zipf alpha  |
|:---------:  |:--------: |:----------: |:---------: |:---------: |:----------: |
|  cluster4   |    67     |    2439     | 60s:0.39, 1h:0.61, | get:0.93 set:0.07 | 1.1004 |
|  cluster5   |    N/A    |     N/A     | N/A | N/A | NA |
| cluster11   |    24     |     170     | 5d:0.97, 20s:0.03, | get:0.96 add:0.02 gets:0.01 cas:0.01 | NA |
";

    #[test]
    fn a_row_is_a_workload() {
        let profile = Profile::parse(TABLE, "cluster4").unwrap();
        assert_eq!(profile.key_size, Size::Fixed(67));
        assert_eq!(profile.value_size, Size::LogNormal { mean: 2439, sigma: 0.7 });
        assert_eq!(profile.popularity, Popularity::Zipf { alpha: 1.1004 });
        assert_eq!(profile.mix.0, [(Kind::Get, 0.93), (Kind::Set, 0.07)]);
        assert_eq!(profile.ttl.to_string(), "60s:0.39, 1h:0.61,");
        assert!(profile.replaced.is_empty());
    }

    #[test]
    fn what_is_not_spoken_is_replaced_and_said() {
        let profile = Profile::parse(TABLE, "cluster11").unwrap();
        assert_eq!(profile.replaced, ["cas by set"]);
        assert_eq!(profile.mix.0.last(), Some(&(Kind::Set, 0.01)));
        assert_eq!(profile.popularity, Popularity::Zipf { alpha: 0.0 });
    }

    #[test]
    fn rows_without_figures_are_refused() {
        assert_eq!(Profile::parse(TABLE, "cluster5").unwrap_err(), "cluster5: the table gives no operation");
        assert_eq!(Profile::parse(TABLE, "cluster99").unwrap_err(), "cluster99: the table has no such cluster");
        assert!(Profile::parse("", "cluster1").unwrap_err().contains("no table"));
    }
}
