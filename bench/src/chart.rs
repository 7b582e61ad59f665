//! The throughput ratios as an SVG bar chart: a panel per section, in it a group of bars per row; a direct connection is
//! the line at 1.

mod panel;

use self::panel::{Bar, Panel};
use crate::{
    report::{Report, RowReport},
    scenario::{Rival, Section},
};

/// The chart of all rows of closed-loop pgbench.
pub(crate) fn render(report: &Report) -> String {
    let mut panels = Vec::new();
    let mut top = HEAD;
    for section in [Section::UserPath, Section::BothLocal, Section::OtherHosts] {
        let rows: Vec<&RowReport> = report.rows_of(section).filter(|row| row.scenario.workload.is_closed()).collect();
        if !rows.is_empty() {
            panels.push(Panel::new(section.title(), top, rows, &BARS));
            top += Panel::HEIGHT;
        }
    }
    let width = panels.iter().map(Panel::width).fold(WIDTH_MIN, f64::max);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{top}\" viewBox=\"0 0 {width} {top}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"{width}\" height=\"{top}\" fill=\"#fff\"/>\n"
    );
    svg += &text(LEFT, 26.0, "start", 17, "Throughput compared with a direct connection over TCP");
    svg += &text(LEFT, 46.0, "start", 11, &report_line(report));
    svg += &text(LEFT, 62.0, "start", 11, "bar: median over rounds; whisker: least to greatest");
    for panel in &panels {
        svg += &panel.render();
    }
    svg + "</svg>\n"
}

fn report_line(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "pgbench, {} cores, Linux {}, {}, {}, {}",
        machine.cores, machine.kernel, machine.postgres, machine.pgbouncer, machine.tigger
    )
}

fn line([x1, y1, x2, y2]: [f64; 4], colour: &str, width: f64) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\n"
    )
}

fn text(x: f64, y: f64, anchor: &str, size: u32, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{content}</text>\n")
}

/// All but direct connections over TCP, which the others are compared with.
const BARS: [Bar; 5] = [
    Bar { rival: Rival::DirectUnix, colour: "#8a8a8a" },
    Bar { rival: Rival::Tigger, colour: "#e07b00" },
    Bar { rival: Rival::TiggerUser, colour: "#f3bd7a" },
    Bar { rival: Rival::PgBouncer, colour: "#3b74b4" },
    Bar { rival: Rival::PgBouncerUnix, colour: "#93b8de" },
];
// Pixels.
const LEFT: f64 = 60.0;
const HEAD: f64 = 70.0;
/// For the title and the programs' versions.
const WIDTH_MIN: f64 = 760.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::tests,
        rows::{ROWS, Row},
    };

    #[test]
    fn every_closed_row_has_a_bar_per_rival() {
        let mut report = tests::report(
            |rival| match rival {
                Rival::Tigger => 130.0,
                Rival::TiggerUser => 90.0,
                Rival::PgBouncer => 60.0,
                _ => 100.0,
            },
            0,
            0,
        );
        report.machine.tigger = "Tigger <1> & more".to_owned();
        let svg = render(&report);
        // As many as there are rows with each rival.
        let has = |row: &&Row, rival| row.scenario.workload.is_closed() && row.rivals.contains(&rival);
        let bars = |rival| ROWS.iter().filter(|row| has(row, rival)).count();
        let expected = [Rival::Tigger, Rival::TiggerUser, Rival::PgBouncer].map(bars);
        assert_eq!([">1.30<", ">0.90<", ">0.60<"].map(|figure| svg.matches(figure).count()), expected);
        assert!(svg.contains("Tigger &lt;1> &amp; more"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_rival_without_figures_leaves_a_word() {
        let mut report = tests::report(|_| 1.0, 0, 0);
        report.rows = vec![RowReport::new(&ROWS[0], None)];
        assert_eq!(render(&report).matches(">none<").count(), 2);
    }
}
