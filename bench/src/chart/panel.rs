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
        let legend = LEFT + self.bars.len() as f64 * LEGEND;
        legend.max(self.end() + RIGHT)
    }

    pub(super) fn render(&self) -> String {
        let mut svg = text(LEFT, self.y + 24.0, "start", 14, self.title);
        for (i, bar) in self.bars.iter().enumerate() {
            let (x, y) = (LEFT + i as f64 * LEGEND, self.y + 34.0);
            svg += &format!("<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{}\"/>\n", bar.colour);
            svg += &text(x + 18.0, y + 10.0, "start", 12, bar.rival.name());
        }
        svg += &self.axes();
        let groups =
            || self.rows.iter().zip(0..).map(|(row, group)| (row, LEFT + f64::from(group) * self.group_width()));
        for (row, left) in groups() {
            svg += &self.group(left, row);
        }
        let (y, end) = (self.at(1.0), self.end());
        svg += &line([LEFT, y, end, y], "#b22", 1.5);
        svg += &text(end + 6.0, y + 4.0, "start", 11, "direct");
        // Over the line, which would strike them out.
        svg += "<g paint-order=\"stroke\" stroke=\"#fff\" stroke-width=\"3\">\n";
        for (row, left) in groups() {
            svg += &self.figures(left, row);
        }
        svg + "</g>\n"
    }

    /// Where the axis of groups ends.
    fn end(&self) -> f64 {
        LEFT + self.rows.len() as f64 * self.group_width()
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
        let end = self.end();
        let mut svg = String::new();
        for tick in 0..=(self.ratio_max / TICK) as u32 {
            let ratio = f64::from(tick) * TICK;
            let y = self.at(ratio);
            svg += &line([LEFT, y, end, y], if tick == 0 { "#222" } else { "#ddd" }, 1.0);
            svg += &text(LEFT - 8.0, y + 4.0, "end", 11, &format!("{ratio:.2}"));
        }
        svg
    }

    /// The bars of a group with their left edges and what they show.
    fn bars(&self, left: f64, row: &RowReport) -> impl Iterator<Item = (&'a Bar, f64, Option<Spread>)> {
        let bars: Vec<&Bar> = self.bars.iter().copied().filter(|bar| row.rivals.contains(&bar.rival)).collect();
        let first = left + (self.group_width() - bars.len() as f64 * BAR) / 2.0;
        bars.into_iter().zip(0..).map(move |(bar, i)| (bar, first + f64::from(i) * BAR, bar.spread(row)))
    }

    fn group(&self, left: f64, row: &RowReport) -> String {
        let (middle, bottom) = (left + self.group_width() / 2.0, self.at(0.0));
        let bars = self.bars(left, row);
        let mut svg: String = bars.filter_map(|(bar, x, spread)| Some(self.bar(x, bar.colour, spread?))).collect();
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
        svg
    }

    /// The median above each bar.
    fn figures(&self, left: f64, row: &RowReport) -> String {
        let figure = |(_, x, spread): (&Bar, f64, Option<Spread>)| {
            let (y, figure) = match spread {
                None => (self.at(0.0), "none".to_owned()),
                Some(Spread { median, max, .. }) if median > self.ratio_max => (self.at(max), format!("{median:.2}↑")),
                Some(Spread { median, max, .. }) => (self.at(max), format!("{median:.2}")),
            };
            text(x + BAR / 2.0, y - 5.0, "middle", 10, &figure)
        };
        self.bars(left, row).map(figure).collect()
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
