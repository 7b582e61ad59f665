//! The throughput ratios as an SVG bar chart: one group of bars per row, a direct connection is the line at 1.

use std::fmt::Write as _;

use crate::{
    report::{Metric, Report, RowReport},
    rows::{Rival, Workload},
    spread::Spread,
};

/// The chart of all rows of closed-loop pgbench.
pub(crate) fn render(report: &Report) -> String {
    let rows: Vec<&RowReport> =
        report.rows.iter().filter(|row| matches!(row.workload, Workload::Closed { .. })).collect();
    let tallest = rows.iter().flat_map(|row| BARS.iter().filter_map(|bar| bar.spread(row))).map(|spread| spread.max);
    let chart = Chart { groups: rows.len(), top: tallest.fold(1.0, f64::max).min(TOP_MAX) };
    let mut svg = chart.frame(&report_line(report));
    for (group, row) in rows.iter().enumerate() {
        svg += &chart.group(group, row);
    }
    svg + &chart.line_of_direct() + "</svg>\n"
}

/// One bar of each group.
struct Bar {
    rival: Rival,
    colour: &'static str,
}

impl Bar {
    fn spread(&self, row: &RowReport) -> Option<Spread> {
        row.ratio(Metric::Tps, self.rival, Rival::Direct)
    }
}

/// The plane of the chart: where a ratio and a group are in pixels.
struct Chart {
    groups: usize,
    /// The greatest ratio shown in full; what is above it is cut off and known by its figure.
    top: f64,
}

impl Chart {
    fn width(&self) -> f64 {
        // The title wants some width, too.
        LEFT + self.groups.max(7) as f64 * GROUP + RIGHT
    }

    fn y(&self, ratio: f64) -> f64 {
        TOP + PLOT * (1.0 - ratio.min(self.top * 1.02) / (self.top * 1.08))
    }

    fn frame(&self, subtitle: &str) -> String {
        let (width, height, bottom) = (self.width(), TOP + PLOT + BOTTOM, self.y(0.0));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        svg += &text(LEFT, 26.0, "start", "17", "Throughput through a pooler, compared with a direct connection");
        svg += &text(LEFT, 46.0, "start", "11", subtitle);
        let mut x = LEFT;
        for bar in &BARS {
            let _ = writeln!(svg, "<rect x=\"{x}\" y=\"58\" width=\"12\" height=\"12\" fill=\"{}\"/>", bar.colour);
            svg += &text(x + 18.0, 68.0, "start", "12", bar.rival.name());
            x += 100.0;
        }
        svg += &text(x, 68.0, "start", "11", "bar: median over rounds; whisker: least to greatest");
        for tick in 0..=(self.top / TICK) as u32 {
            let ratio = f64::from(tick) * TICK;
            let y = self.y(ratio);
            svg += &line([LEFT, y, width - RIGHT, y], "#ddd", "1");
            svg += &text(LEFT - 8.0, y + 4.0, "end", "11", &format!("{ratio:.2}"));
        }
        svg + &line([LEFT, bottom, width - RIGHT, bottom], "#222", "1")
    }

    fn group(&self, group: usize, row: &RowReport) -> String {
        let left = LEFT + group as f64 * GROUP;
        let middle = left + GROUP / 2.0;
        let mut svg = String::new();
        for (i, bar) in BARS.iter().enumerate() {
            let x = middle + (i as f64 - BARS.len() as f64 / 2.0) * BAR;
            svg += &bar.spread(row).map_or_else(
                || text(x + BAR / 2.0, self.y(0.0) - 4.0, "middle", "10", "none"),
                |spread| self.bar(x, bar.colour, spread),
            );
        }
        let (mode, clients) = row.name.split_once(", ").unwrap_or((&row.name, ""));
        svg += &text(middle, self.y(0.0) + 18.0, "middle", "12", clients);
        svg + &text(middle, self.y(0.0) + 34.0, "middle", "11", mode)
    }

    fn bar(&self, x: f64, colour: &str, Spread { median, min, max }: Spread) -> String {
        let (y, middle) = (self.y(median), x + BAR / 2.0);
        let height = self.y(0.0) - y;
        let mut svg = format!(
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n",
            x + 1.0,
            BAR - 2.0
        );
        svg += &line([middle, self.y(min), middle, self.y(max)], "#222", "1");
        for end in [min, max] {
            svg += &line([middle - 4.0, self.y(end), middle + 4.0, self.y(end)], "#222", "1");
        }
        let beyond = if median > self.top { " ↑" } else { "" };
        svg + &text(middle, self.y(max) - 5.0, "middle", "10", &format!("{median:.2}{beyond}"))
    }

    fn line_of_direct(&self) -> String {
        let y = self.y(1.0);
        let end = self.width() - RIGHT;
        line([LEFT, y, end, y], "#b22", "1.5") + &text(end + 6.0, y + 4.0, "start", "11", "direct")
    }
}

fn report_line(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "pgbench -S, {} cores, Linux {}, {}, {}, {}",
        machine.cores, machine.kernel, machine.postgres, machine.pgbouncer, machine.tigger
    )
}

fn line([x1, y1, x2, y2]: [f64; 4], colour: &str, width: &str) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\n"
    )
}

fn text(x: f64, y: f64, anchor: &str, size: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{content}</text>\n")
}

const BARS: [Bar; 2] =
    [Bar { rival: Rival::Tigger, colour: "#e07b00" }, Bar { rival: Rival::PgBouncer, colour: "#3b74b4" }];
/// With a thousand clients of its own PostgreSQL slows down so much that a pooler is many times faster.
const TOP_MAX: f64 = 2.0;
const TICK: f64 = 0.25;
// Pixels.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 90.0;
const PLOT: f64 = 280.0;
const BOTTOM: f64 = 50.0;
const GROUP: f64 = 104.0;
const BAR: f64 = 40.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::Machine, report::tests::row_report, rows::ROWS};

    fn chart(rates: [f64; 3]) -> String {
        let rows = ROWS[..11].iter().map(|row| row_report(row, &[rates])).collect();
        let machine = Machine { tigger: "Tigger <1> & more".to_owned(), ..Machine::default() };
        render(&Report { machine, quick: false, background_percent: None, rows })
    }

    #[test]
    fn every_closed_row_has_a_bar_per_pooler() {
        let svg = chart([100.0, 90.0, 60.0]);
        assert_eq!(svg.matches(">0.90<").count(), 10);
        assert_eq!(svg.matches(">0.60<").count(), 10);
        assert!(svg.contains("Tigger &lt;1> &amp; more"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn the_plane_has_room_for_the_tallest_bar() {
        let chart = Chart { groups: 1, top: 1.5 };
        assert!(chart.y(1.5) > TOP && chart.y(1.0) > chart.y(1.5));
        assert!(chart.y(99.0) > TOP, "cut off, not outside");
        assert!((chart.y(0.0) - (TOP + PLOT)).abs() < 1e-9);
    }

    #[test]
    fn a_rival_without_figures_leaves_a_word() {
        let report = Report {
            machine: Machine::default(),
            quick: false,
            background_percent: None,
            rows: vec![RowReport::new(&ROWS[0], Vec::new())],
        };
        assert_eq!(render(&report).matches(">none<").count(), 2);
    }
}
