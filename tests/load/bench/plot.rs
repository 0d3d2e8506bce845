//! The ratios as a picture.

use std::error::Error;
use std::path::Path;

use plotters::prelude::{
    ChartBuilder, Color, IntoDrawingArea, IntoLogRange, PathElement, RGBColor, Rectangle, SVGBackend, WHITE,
};

use crate::bench::report::Findings;
use crate::bench::rows::{Figure, Measure, Spread};
use crate::bench::servers::Kind;

const WIDTH: u32 = 900;
const ROW: u32 = 44;
const AROUND: u32 = 130;
const MET: RGBColor = RGBColor(0x2c, 0xa0, 0x2c);
const MISSED: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const GOAL: RGBColor = RGBColor(0x33, 0x33, 0x33);
const EVEN: RGBColor = RGBColor(0x88, 0x88, 0x88);
const LOWEST: f64 = 0.02;

/// Draws each row's ratio of cache-node's processor time to memcached's: a bar, its spread, and a mark at the goal.
///
/// # Errors
/// Where the file cannot be written.
pub fn ratios(file: &Path, findings: &Findings) -> Result<(), Box<dyn Error>> {
    let bars: Vec<(&str, Spread, Option<f64>)> = findings
        .rows
        .iter()
        .filter(|result| result.row.measure == Measure::Closed)
        .filter_map(|result| {
            let ratio = result.ratio(Kind::Node, Kind::Memcached, Figure::Cpu)?;
            Some((result.row.name, ratio, result.row.goal))
        })
        .collect();
    let height = AROUND + ROW * bars.len() as u32;
    let root = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let most = bars.iter().map(|(_, ratio, _)| ratio.most).fold(1.5, f64::max);
    let rows = bars.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption("cache-node's processor time per request, memcached's being 1", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(260)
        .build_cartesian_2d((LOWEST..most * 1.1).log_scale(), 0.0..rows)?;
    let name = |y: &f64| {
        let at = (rows - y).floor();
        bars.get(at.max(0.0) as usize).map_or("", |(name, ..)| name).to_owned()
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len() * 2 + 1)
        .y_label_formatter(&|y| if (y.fract() - 0.5).abs() < 0.01 { name(y) } else { String::new() })
        .x_labels(6)
        .x_label_formatter(&|x| format!("{x:.2}"))
        .x_desc("ratio (the black mark is the goal)")
        .draw()?;
    for (index, (_, ratio, goal)) in bars.iter().enumerate() {
        let middle = rows - index as f64 - 0.5;
        let color = if goal.is_some_and(|goal| ratio.median > goal) { MISSED } else { MET };
        let bar =
            Rectangle::new([(LOWEST, middle - 0.3), (ratio.median.max(LOWEST), middle + 0.3)], color.mix(0.7).filled());
        let spread = PathElement::new(vec![(ratio.least.max(LOWEST), middle), (ratio.most, middle)], GOAL);
        chart.draw_series([bar])?;
        chart.draw_series([spread])?;
        if let Some(goal) = goal {
            let mark = vec![(*goal, middle - 0.42), (*goal, middle + 0.42)];
            chart.draw_series([PathElement::new(mark, GOAL.stroke_width(3))])?;
        }
    }
    chart.draw_series([PathElement::new(vec![(1.0, 0.0), (1.0, rows)], EVEN)])?;
    root.present()?;
    Ok(())
}
