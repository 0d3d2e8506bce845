//! Latencies as a picture.

use std::error::Error;
use std::path::Path;

use hdrhistogram::Histogram;
use plotters::prelude::{ChartBuilder, IntoDrawingArea, IntoLogRange, LineSeries, RGBColor, SVGBackend, WHITE};

const SIZE: (u32, u32) = (800, 480);
/// The line's colour.
const LINE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const POINTS: u32 = 400;
/// Beyond this share of all requests there are too few to draw.
const LAST: f64 = 0.999_99;

/// Draws latency by quantile into an SVG file: the axis is stretched towards the slowest, as is usual for HdrHistograms.
///
/// # Errors
/// Where the file cannot be written.
pub fn latencies(file: &Path, title: &str, histogram: &Histogram<u64>) -> Result<(), Box<dyn Error>> {
    // A quantile q is drawn at 1 / (1 - q): 50 % at 2, 99 % at 100, 99.9 % at 1000.
    let last = 1.0 / (1.0 - LAST);
    let at = |step: u32| last.powf(f64::from(step) / f64::from(POINTS));
    let point = |x: f64| (x, (histogram.value_at_quantile(1.0 - 1.0 / x) as f64 / 1e3).max(0.1));
    let points: Vec<(f64, f64)> = (0..=POINTS).map(|step| point(at(step))).collect();
    let lowest = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let highest = points.iter().map(|point| point.1).fold(1.0, f64::max);
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d((1.0..last).log_scale(), (lowest / 1.2..highest * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("share of requests that were as fast")
        .y_desc("latency, microseconds")
        .x_label_formatter(&|x| quantile(*x))
        .draw()?;
    chart.draw_series(LineSeries::new(points, LINE))?;
    root.present()?;
    Ok(())
}

fn quantile(x: f64) -> String {
    let percent = (1.0 - 1.0 / x) * 100.0;
    let digits = (x.log10().floor() as usize).saturating_sub(2);
    format!("{percent:.digits$} %")
}

#[cfg(test)]
mod tests {
    use super::{latencies, quantile};
    use hdrhistogram::Histogram;

    #[test]
    fn a_plot_is_an_svg_with_its_title() {
        let mut histogram = Histogram::new_with_bounds(100, 1_000_000_000, 3).unwrap();
        (1..=100_000u64).for_each(|n| histogram.record(n * 1000).unwrap());
        let file = std::env::temp_dir().join(format!("load-plot-{}.svg", std::process::id()));
        latencies(&file, "a title", &histogram).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(text.contains("<svg") && text.contains("a title") && text.contains("polyline"), "{text}");
    }

    #[test]
    fn the_axis_is_in_percent() {
        assert_eq!([1.0, 10.0, 100.0, 1000.0, 10_000.0].map(quantile), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }
}
