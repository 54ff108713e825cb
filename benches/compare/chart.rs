//! The findings as an SVG bar chart for the README: each row's costs against its best peer's.
//!
//! Lacks scripts, fonts and links: one self-contained picture. A bar that would leave the picture is cut off; like
//! every bar it shows its figure.
use std::fmt::Write as _;

use crate::findings::{Findings, RowFindings};
use crate::peer::Peer;
use crate::table::short;

const LABELS: f64 = 190.0;
/// The width of a cost equal to the best peer's.
const UNIT: f64 = 240.0;
/// In units, the length at which bars are cut off.
const CUT: f64 = 2.2;
const BAR: f64 = 11.0;
const GAP: f64 = 12.0;
const TOP: f64 = 96.0;
const WIDTH: f64 = LABELS + UNIT * CUT + 130.0;

pub(crate) fn of(findings: &Findings) -> String {
    let mut rows: Vec<&RowFindings> = findings.rows.iter().filter(|found| found.row.is_headline()).collect();
    if rows.is_empty() {
        rows = findings.rows.iter().collect();
    }
    let mut body = String::new();
    let mut y = TOP;
    for found in rows {
        y = group(&mut body, found, y) + GAP;
    }
    let height = y + 34.0;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="#fff"/>
<text x="12" y="22" font-size="15" font-weight="bold">Cost of one unit of work, best peer = 1 (less is better)</text>
"##
    );
    legend(&mut svg, findings);
    let line = LABELS + UNIT;
    line_at(&mut svg, line, height - 30.0);
    svg += &body;
    let words = escape(&findings.machine.words());
    write(&mut svg, format_args!(r##"<text x="12" y="{}" fill="#666">{words}</text>"##, height - 12.0));
    svg + "</svg>\n"
}

fn legend(svg: &mut String, findings: &Findings) {
    let (mut x, mut y) = (12.0, 38.0);
    for entrant in &findings.entrants {
        let name = match entrant.peer {
            Peer::Floor => "floor (bare epoll relay)".to_owned(),
            Peer::FloorSplice => "floor (bare splice)".to_owned(),
            Peer::HaproxySplice => "HAProxy, splice".to_owned(),
            Peer::HaproxyTuned => "HAProxy, tuned".to_owned(),
            Peer::NginxTuned => "nginx, tuned".to_owned(),
            Peer::Ambassador | Peer::Haproxy | Peer::Nginx | Peer::Envoy | Peer::Stunnel => {
                entrant.version.clone()
            }
        };
        // The width of a letter is a guess: text cannot be measured here.
        let width = 34.0 + 6.0 * name.chars().count() as f64;
        if x + width > WIDTH {
            (x, y) = (12.0, y + 17.0);
        }
        let fill = colour(entrant.peer);
        write(svg, format_args!(r#"<rect x="{x}" y="{y}" width="10" height="10" fill="{fill}"/>"#));
        write(svg, format_args!(r#"<text x="{}" y="{}">{}</text>"#, x + 14.0, y + 9.0, escape(&name)));
        x += width;
    }
}

fn line_at(svg: &mut String, x: f64, bottom: f64) {
    let top = TOP - 8.0;
    write(
        svg,
        format_args!(
            r##"<line x1="{x}" y1="{top}" x2="{x}" y2="{bottom}" stroke="#999" stroke-dasharray="3 3"/>"##
        ),
    );
    write(
        svg,
        format_args!(
            r##"<text x="{x}" y="{}" text-anchor="middle" fill="#666">best peer</text>"##,
            top - 3.0
        ),
    );
}

/// Draws one row's bars from `y` down and returns the lower end.
fn group(body: &mut String, found: &RowFindings, mut y: f64) -> f64 {
    let Some(best) = found.best_peer().or_else(|| found.floor()) else { return y };
    let (name, unit) = (escape(&found.row.name), escape(found.row.unit()));
    write(body, format_args!(r#"<text x="12" y="{}" font-weight="bold">{name}</text>"#, y + 9.0));
    write(body, format_args!(r##"<text x="12" y="{}" fill="#666">{unit}</text>"##, y + 22.0));
    let top = y;
    for cell in &found.cells {
        let Some(figure) = cell.figure(&found.row) else { continue };
        let ratio = figure / best;
        let length = (ratio.min(CUT) * UNIT).max(1.0);
        let fill = colour(cell.peer);
        let words = if ratio > CUT { format!("{} →", short(figure)) } else { short(figure) };
        write(
            body,
            format_args!(
                r#"<rect x="{LABELS}" y="{y:.1}" width="{length:.1}" height="{}" fill="{fill}"/>"#,
                BAR - 1.0
            ),
        );
        write(
            body,
            format_args!(
                r#"<text x="{:.1}" y="{:.1}" font-size="10">{words}</text>"#,
                LABELS + length + 4.0,
                y + 9.0
            ),
        );
        y += BAR;
    }
    y.max(top + 26.0)
}

fn colour(peer: Peer) -> &'static str {
    match peer {
        Peer::Floor => "#c9c9c9",
        Peer::FloorSplice => "#a8a8a8",
        Peer::Ambassador => "#d1495b",
        Peer::Haproxy => "#30638e",
        Peer::HaproxySplice => "#6fa8d6",
        Peer::HaproxyTuned => "#a9cbe6",
        Peer::Nginx => "#3a9a5b",
        Peer::NginxTuned => "#93cfa7",
        Peer::Envoy => "#8d6cab",
        Peer::Stunnel => "#d9a441",
    }
}

fn write(svg: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(svg, "{line}").expect("a String takes everything");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
