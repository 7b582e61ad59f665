//! One panel of the chart: axes, legend and a group of bars per row.

use super::{LEFT, line, text};
use crate::{
    report::{Metric, RowReport},
    scenario::Rival,
    spread::Spread,
};

/// One bar of each group.
pub(super) struct Bar {
    pub(super) rival: Rival,
    pub(super) colour: &'static str,
}

impl Bar {
    fn spread(&self, row: &RowReport) -> Option<Spread> {
        row.ratio(Metric::Tps, self.rival, Rival::Direct)
    }
}

/// The plane: where a ratio and a group are in pixels.
pub(super) struct Panel<'a> {
    title: &'a str,
    /// Of the panel in the chart.
    y: f64,
    rows: Vec<&'a RowReport>,
    bars: Vec<&'a Bar>,
    /// The greatest ratio shown in full; what is above it is cut off and known by its figure.
    ratio_max: f64,
}

impl<'a> Panel<'a> {
    pub(super) const HEIGHT: f64 = ABOVE + PLOT + BELOW;

    pub(super) fn new(title: &'a str, y: f64, rows: Vec<&'a RowReport>, bars: &'a [Bar]) -> Self {
        let bars: Vec<&Bar> =
            bars.iter().filter(|bar| rows.iter().any(|row| row.rivals.contains(&bar.rival))).collect();
        let spreads = rows.iter().flat_map(|row| bars.iter().filter_map(|bar| bar.spread(row)));
        let ratio_max = spreads.map(|spread| spread.max).fold(1.0, f64::max).min(RATIO_MAX);
        Self { title, y, rows, bars, ratio_max }
    }

    pub(super) fn width(&self) -> f64 {
        let groups = self.rows.len() as f64 * self.group_width();
        LEFT + groups.max(self.bars.len() as f64 * LEGEND) + RIGHT
    }

    pub(super) fn render(&self) -> String {
        let mut svg = text(LEFT, self.y + 24.0, "start", 14, self.title);
        for (i, bar) in self.bars.iter().enumerate() {
            let (x, y) = (LEFT + i as f64 * LEGEND, self.y + 34.0);
            svg += &format!("<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{}\"/>\n", bar.colour);
            svg += &text(x + 18.0, y + 10.0, "start", 12, bar.rival.name());
        }
        svg += &self.axes();
        for (group, row) in self.rows.iter().enumerate() {
            svg += &self.group(LEFT + group as f64 * self.group_width(), row);
        }
        let (y, end) = (self.at(1.0), self.width() - RIGHT);
        svg + &line([LEFT, y, end, y], "#b22", 1.5) + &text(end + 6.0, y + 4.0, "start", 11, "direct")
    }

    fn group_width(&self) -> f64 {
        // The text below a group wants some width, too.
        (self.bars.len() as f64 * BAR + GAP).max(GROUP_MIN)
    }

    /// Where a ratio is.
    fn at(&self, ratio: f64) -> f64 {
        self.y + ABOVE + PLOT * (1.0 - ratio.min(self.ratio_max * 1.02) / (self.ratio_max * 1.08))
    }

    fn axes(&self) -> String {
        let end = self.width() - RIGHT;
        let mut svg = String::new();
        for tick in 0..=(self.ratio_max / TICK) as u32 {
            let ratio = f64::from(tick) * TICK;
            let y = self.at(ratio);
            svg += &line([LEFT, y, end, y], if tick == 0 { "#222" } else { "#ddd" }, 1.0);
            svg += &text(LEFT - 8.0, y + 4.0, "end", 11, &format!("{ratio:.2}"));
        }
        svg
    }

    fn group(&self, left: f64, row: &RowReport) -> String {
        let bars: Vec<&Bar> = self.bars.iter().copied().filter(|bar| row.rivals.contains(&bar.rival)).collect();
        let (middle, bottom) = (left + self.group_width() / 2.0, self.at(0.0));
        let mut svg = String::new();
        for (i, bar) in bars.iter().enumerate() {
            let x = middle + (i as f64 - bars.len() as f64 / 2.0) * BAR;
            svg += &bar.spread(row).map_or_else(
                || text(x + BAR / 2.0, bottom - 4.0, "middle", 10, "none"),
                |spread| self.bar(x, bar.colour, spread),
            );
        }
        let workload = row.scenario.workload.to_string();
        let (transaction, clients) = workload.split_once(", ").unwrap_or((&workload, ""));
        let labels = match row.scenario.group.placement() {
            None => [clients, transaction],
            Some(_) => [row.scenario.group.name(), &workload],
        };
        svg += &text(middle, bottom + 18.0, "middle", 12, labels[0]);
        svg + &text(middle, bottom + 34.0, "middle", 11, labels[1])
    }

    fn bar(&self, x: f64, colour: &str, Spread { median, min, max }: Spread) -> String {
        let (y, middle) = (self.at(median), x + BAR / 2.0);
        let (left, width, height) = (x + 1.0, BAR - 2.0, self.at(0.0) - y);
        let mut svg = format!(
            "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n"
        );
        svg += &line([middle, self.at(min), middle, self.at(max)], "#222", 1.0);
        for end in [min, max] {
            svg += &line([middle - 4.0, self.at(end), middle + 4.0, self.at(end)], "#222", 1.0);
        }
        let beyond = if median > self.ratio_max { "↑" } else { "" };
        svg + &text(middle, self.at(max) - 5.0, "middle", 10, &format!("{median:.2}{beyond}"))
    }
}

/// With a thousand clients of its own PostgreSQL slows down so much that a pooler is many times faster.
const RATIO_MAX: f64 = 2.5;
const TICK: f64 = 0.25;
// Pixels.
const RIGHT: f64 = 60.0;
const ABOVE: f64 = 66.0;
const PLOT: f64 = 220.0;
const BELOW: f64 = 50.0;
const BAR: f64 = 32.0;
const GAP: f64 = 24.0;
const GROUP_MIN: f64 = 90.0;
/// Width of an entry of the legend.
const LEGEND: f64 = 140.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plane_has_room_for_the_tallest_bar() {
        let panel = Panel { title: "", y: 100.0, rows: Vec::new(), bars: Vec::new(), ratio_max: 1.5 };
        assert!(panel.at(1.5) > 100.0 + ABOVE && panel.at(1.0) > panel.at(1.5));
        assert!(panel.at(99.0) > 100.0 + ABOVE, "cut off, not outside");
        assert!((panel.at(0.0) - (100.0 + ABOVE + PLOT)).abs() < 1e-9);
    }
}
