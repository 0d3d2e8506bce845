//! The plot: one panel a workload, misses over memory.

use std::path::Path;

use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Text};
use plotters::prelude::SVGBackend;
use plotters::series::LineSeries;
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, WHITE};
use segcache::Eviction;

use crate::failure::{Failure, Outcome};
use crate::hit_ratio::results::{Contender, Results, Run};

const COLUMNS: usize = 3;
const PANEL: (u32, u32) = (380, 250);
const LEGEND: u32 = 46;

/// Colours that stay apart for the colour-blind (Okabe and Ito), the engine's default the boldest.
const LINES: [(Contender, RGBColor, u32); 6] = [
    (Contender::Engine(Eviction::Random), RGBColor(204, 121, 167), 1),
    (Contender::Engine(Eviction::Fifo), RGBColor(230, 159, 0), 1),
    (Contender::Lru, RGBColor(0, 0, 0), 2),
    (Contender::Memcached, RGBColor(213, 94, 0), 2),
    (Contender::Engine(Eviction::S3Fifo), RGBColor(86, 180, 233), 2),
    (Contender::Engine(Eviction::Merge), RGBColor(0, 114, 178), 3),
];
const UNAVOIDABLE: RGBColor = RGBColor(150, 150, 150);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the plot into an SVG file.
///
/// # Errors
/// Where the file cannot be written.
pub fn draw(results: &Results, file: &Path) -> Outcome {
    let rows = results.runs.len().div_ceil(COLUMNS).max(1);
    let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * rows as u32 + LEGEND);
    let root = SVGBackend::new(file, size).into_drawing_area();
    drawn(root.fill(&WHITE))?;
    let (head, body) = root.split_vertically(LEGEND);
    legend(&head)?;
    for (run, panel) in results.runs.iter().zip(body.split_evenly((rows, COLUMNS))) {
        draw_run(run, &panel)?;
    }
    drawn(root.present())
}

/// The errors of the plot's library are of its backend's type, which says nothing more.
fn drawn<T, E: std::error::Error>(result: Result<T, E>) -> Outcome<T> {
    result.map_err(|error| Failure::new(format!("the plot cannot be drawn: {error}")))
}

fn legend(area: &Area<'_>) -> Outcome {
    let font = ("sans-serif", 14).into_font();
    let entries = LINES.iter().rev().map(|(contender, colour, width)| (contender.name(), *colour, *width));
    for (place, (name, colour, width)) in entries.chain([("unavoidable", UNAVOIDABLE, 1)]).enumerate() {
        let left = 24 + 150 * place as i32;
        drawn(area.draw(&PathElement::new(vec![(left, 28), (left + 26, 28)], colour.stroke_width(width))))?;
        drawn(area.draw(&Text::new(name, (left + 32, 20), font.clone())))?;
    }
    Ok(())
}

fn draw_run(run: &Run, area: &Area<'_>) -> Outcome {
    let points = |contender: Contender| -> Vec<(f64, f64)> {
        let sizes = run.sizes.iter();
        sizes.filter_map(|size| Some((f64::from(size.share), size.cell(contender)?.percent()))).collect()
    };
    let most = LINES.iter().flat_map(|(contender, ..)| points(*contender)).map(|point| point.1).fold(0.1, f64::max);
    let title = format!("cluster {}: misses in % of the reads", run.cluster);
    let mut chart = drawn(
        ChartBuilder::on(area)
            .caption(title, ("sans-serif", 14))
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..105.0, 0.0..most * 1.05),
    )?;
    drawn(
        chart
            .configure_mesh()
            .x_labels(6)
            .y_labels(5)
            .x_desc("memory in % of the working set")
            .light_line_style(WHITE)
            .label_style(("sans-serif", 11))
            .draw(),
    )?;
    let floor = vec![(0.0, run.unavoidable), (105.0, run.unavoidable)];
    drawn(chart.draw_series(LineSeries::new(floor, UNAVOIDABLE)))?;
    for (contender, colour, width) in LINES {
        let points = points(contender);
        let style = ShapeStyle::from(colour).stroke_width(width);
        drawn(chart.draw_series(LineSeries::new(points.iter().copied(), style)))?;
        drawn(chart.draw_series(points.iter().map(|point| Circle::new(*point, width + 1, colour.filled()))))?;
    }
    Ok(())
}
