//! The layout of `top`, from 80 columns to 200.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table, TableState};

use super::model::{InputMode, Model, SessionRow, per_second};
use crate::admin::status::{ClusterStatus, EndpointStatus, Status};
use crate::cli::show;
use crate::escape::is_control;

/// From this width on, sessions have columns for caller and cluster.
const WIDE: u16 = 110;
/// The rows of the head, the curve and the foot.
const HEAD: u16 = 2;
const CURVE: u16 = 2;
const FOOT: u16 = 1;

const GOOD: Style = Style::new().fg(Color::Green);
const WARN: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const SOFT: Style = Style::new().add_modifier(Modifier::DIM);
const TITLE: Style = Style::new().add_modifier(Modifier::REVERSED);

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Instant) {
    let area = frame.area();
    let rows = model.status.as_ref().map_or(0, |status| lines(status).len());
    // Clusters get up to two fifths of the remaining rows, title included.
    let room = area.height.saturating_sub(HEAD + CURVE + FOOT);
    let clusters = u16::try_from(rows + 1).unwrap_or(u16::MAX).min(room * 2 / 5);
    let [head, curve, clusters, sessions, foot] = Layout::vertical([
        Constraint::Length(HEAD),
        Constraint::Length(CURVE),
        Constraint::Length(clusters),
        Constraint::Min(0),
        Constraint::Length(FOOT),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head_lines(model, now)), head);
    draw_curve(frame, model, curve);
    if let Some(status) = &model.status {
        draw_clusters(frame, status, clusters);
    }
    draw_sessions(frame, model, sessions);
    frame.render_widget(Paragraph::new(foot_line(model)), foot);
    without_steering(frame);
}

/// Names and errors come from others: characters that reverse text or are invisible are shown as a box.
fn without_steering(frame: &mut Frame<'_>) {
    for cell in &mut frame.buffer_mut().content {
        if cell.symbol().contains(is_control) {
            cell.set_char(char::REPLACEMENT_CHARACTER);
        }
    }
}

fn head_lines(model: &Model, now: Instant) -> Vec<Line<'static>> {
    let mut first = vec![Span::raw("ambassador ")];
    match (&model.trouble, &model.status) {
        (Some(why), _) => {
            let ago =
                model.seen.map(|seen| show::span(now.saturating_duration_since(seen))).unwrap_or_default();
            first.push(Span::styled("does not answer", BAD));
            first.push(Span::raw(format!("; below is what it said {ago} ago; trying again: {why}")));
        }
        (None, Some(status)) => {
            let style = if status.state == "ready" { GOOD } else { WARN };
            first.push(Span::styled(status.state.replace('_', " "), style));
            let up = status.uptime_seconds.display_with(|up| show::span(seconds(up)));
            let version = show::version(&status.version);
            first.push(Span::raw(format!(
                "  pid {}, up {up}, version {version}, {}",
                status.pid, status.config
            )));
        }
        (None, None) => {}
    }
    let newest = |sum: fn(&crate::admin::Sample) -> f64| {
        per_second(&model.samples, sum).last().copied().unwrap_or(0.0)
    };
    let second = format!(
        "{} sessions  {:.1} connections/s  {:.1} refused/s  {}/s to, {}/s from the upstreams",
        model.count(),
        newest(|sample| sample.accepted as f64),
        newest(|sample| sample.refused as f64),
        show::bytes(newest(|sample| sample.sent_bytes as f64)),
        show::bytes(newest(|sample| sample.received_bytes as f64)),
    );
    vec![Line::from(first), Line::raw(second)]
}

/// Bytes per second, both ways, over the last minutes, the newest at the right.
fn draw_curve(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let traffic = per_second(&model.samples, |sample| (sample.sent_bytes + sample.received_bytes) as f64);
    let most = traffic.iter().copied().fold(0.0, f64::max);
    let [label, curve] = Layout::horizontal([Constraint::Length(18), Constraint::Min(0)]).areas(area);
    let words = vec![Line::raw("bytes, 15 min"), Line::raw(format!("max {}/s", show::bytes(most)))];
    frame.render_widget(Paragraph::new(words).style(SOFT), label);
    let wide = usize::from(curve.width);
    let shown: Vec<u64> =
        traffic[traffic.len().saturating_sub(wide)..].iter().map(|rate| *rate as u64).collect();
    frame.render_widget(Sparkline::default().data(&shown).style(GOOD), curve);
}

/// A row of the table of clusters.
struct ClusterRow<'a> {
    cluster: &'a str,
    endpoint: Cow<'a, str>,
    word: String,
    style: Style,
    sessions: String,
    why: &'a str,
}

/// For each cluster, what is wrong with it as a whole, then its endpoints.
fn lines(status: &Status) -> Vec<ClusterRow<'_>> {
    status.clusters.iter().flat_map(|cluster| troubles(cluster).chain(endpoints(cluster))).collect()
}

/// In words that fit into the columns.
fn troubles(cluster: &ClusterStatus) -> impl Iterator<Item = ClusterRow<'_>> {
    let (state, what) = match cluster.breaker.as_deref() {
        Some("open" | "half_open") => ("down", "for a server"),
        _ => ("full", "for room"),
    };
    let full = (cluster.waiting > 0).then(|| (state, format!("{} wait {what}", cluster.waiting), ""));
    let desperate = match &*cluster.mode {
        "panic" => Some(("panic", "all down, all used".into(), "")),
        "despite_ejection" => Some(("desperate", "all ejected, all used".into(), "")),
        _ => None,
    };
    let none = cluster.endpoints.is_empty().then(|| ("no endpoint", String::new(), ""));
    let unfound = cluster
        .discovery
        .iter()
        .filter_map(|origin| Some(("search failing", origin.name.clone(), origin.last_error.as_deref()?)));
    let all = full.into_iter().chain(desperate).chain(none).chain(unfound);
    all.map(|(word, endpoint, why)| ClusterRow {
        cluster: &cluster.name,
        endpoint: endpoint.into(),
        word: word.into(),
        style: BAD,
        sessions: String::new(),
        why,
    })
}

fn endpoints(cluster: &ClusterStatus) -> impl Iterator<Item = ClusterRow<'_>> {
    cluster.endpoints.iter().map(|endpoint| {
        let (word, style) = condition(cluster, endpoint);
        ClusterRow {
            cluster: &cluster.name,
            endpoint: endpoint.name.as_str().into(),
            word,
            style,
            sessions: endpoint.sessions.to_string(),
            why: why(endpoint),
        }
    })
}

/// Where not all fit, those in trouble come first.
fn draw_clusters(frame: &mut Frame<'_>, status: &Status, area: Rect) {
    let mut all = lines(status);
    let room = usize::from(area.height.saturating_sub(1));
    let title = if all.len() > room {
        all.sort_by_key(|line| line.style == GOOD);
        format!("CLUSTER ({room}/{})", all.len())
    } else {
        "CLUSTER".to_owned()
    };
    let rows = all.into_iter().take(room).map(|line| {
        Row::new([
            Cell::from(line.cluster.to_owned()),
            Cell::from(line.endpoint.into_owned()),
            Cell::from(line.word).style(line.style),
            number(&line.sessions),
            Cell::from(line.why.to_owned()),
        ])
    });
    let widths = [
        Constraint::Length(if area.width < WIDE { 14 } else { 24 }),
        Constraint::Length(if area.width < WIDE { 21 } else { 40 }),
        Constraint::Length(17),
        Constraint::Length(8),
        Constraint::Min(0),
    ];
    let head = Row::new([
        Cell::from(title),
        Cell::from("ENDPOINT"),
        Cell::from("STATE"),
        number("SESSIONS"),
        Cell::from("WHY"),
    ]);
    frame.render_widget(Table::new(rows, widths).header(head.style(TITLE)), area);
}

/// Why an endpoint gets no sessions, the most important reason first; the page has the same order.
fn condition(cluster: &ClusterStatus, endpoint: &EndpointStatus) -> (String, Style) {
    let breaker = cluster.breaker.as_deref().filter(|state| *state != "closed");
    match (endpoint.state.as_str(), endpoint.health.as_str(), &endpoint.ejected, breaker) {
        (state @ ("removed" | "draining" | "disabled"), ..) => (state.to_owned(), WARN),
        (_, _, Some(ejected), _) if ejected.on_trial => ("on trial".into(), WARN),
        (_, _, Some(ejected), _) => {
            let left = seconds(ejected.seconds_left);
            (format!("ejected {}", show::span(left)), BAD)
        }
        (_, "unhealthy", ..) => ("unhealthy".into(), BAD),
        (_, _, None, Some(breaker)) => (format!("breaker {}", breaker.replace('_', " ")), BAD),
        _ if endpoint.last_error.is_some() => ("failing".into(), WARN),
        (_, "undecided", ..) => ("not probed yet".into(), GOOD),
        (_, "healthy", ..) => ("healthy".into(), GOOD),
        _ => ("in use".into(), GOOD),
    }
}

fn why(endpoint: &EndpointStatus) -> &str {
    let ejected = endpoint.ejected.as_ref().map(|ejected| ejected.fault.as_str());
    let words = endpoint.health_error.as_deref().or(ejected).or(endpoint.last_error.as_deref());
    words.unwrap_or_default()
}

fn draw_sessions(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let wide = area.width >= WIDE;
    let visible = model.visible();
    let title = match visible.len() {
        shown if shown == model.count() => "SESSION".to_owned(),
        shown => format!("SESSION ({shown}/{})", model.count()),
    };
    let names = if wide {
        ["LISTENER", "CLUSTER", "ENDPOINT", "CALLER"].as_slice()
    } else {
        &["LISTENER", "ENDPOINT"]
    };
    let mut head = vec![Cell::from(title)];
    head.extend(names.iter().map(|name| Cell::from(*name)));
    head.extend(["AGE", "SENT", "RECEIVED", "RATE"].map(number));
    let mut widths = vec![Constraint::Length(16)];
    widths.extend(if wide {
        [Constraint::Fill(2), Constraint::Fill(2), Constraint::Fill(3), Constraint::Fill(3)].as_slice()
    } else {
        &[Constraint::Length(10), Constraint::Fill(1)]
    });
    widths.extend([6, 8, 8, 10].map(Constraint::Length));
    let rows = visible.iter().map(|live| row(live, wide));
    let table = Table::new(rows, widths)
        .header(Row::new(head).style(TITLE))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(model.position());
    frame.render_stateful_widget(table, area, &mut state);
}

fn row(live: &SessionRow, wide: bool) -> Row<'static> {
    let session = &live.session;
    let mut cells = vec![Cell::from(session.session.clone()), Cell::from(session.listener.clone())];
    if wide {
        cells.push(Cell::from(session.cluster.clone().unwrap_or_default()));
    }
    cells.push(Cell::from(session.endpoint.clone().unwrap_or_else(|| "dialling".into())));
    if wide {
        cells.push(Cell::from(show::caller(session.caller.as_ref())));
    }
    cells.extend([
        number(&session.age_ms.display_with(|age| show::span(Duration::from_millis(age)))),
        number(&session.sent_bytes.display_with(|count| show::bytes(count as f64))),
        number(&session.received_bytes.display_with(|count| show::bytes(count as f64))),
        number(&format!("{}/s", show::bytes(live.rate))),
    ]);
    Row::new(cells)
}

/// Any number from a daemon becomes a valid duration.
fn seconds(count: f64) -> Duration {
    Duration::try_from_secs_f64(count.max(0.0)).unwrap_or_default()
}

fn number(text: &str) -> Cell<'static> {
    Cell::from(Line::raw(text.to_owned()).alignment(Alignment::Right))
}

fn foot_line(model: &Model) -> Line<'static> {
    match &model.mode {
        InputMode::Asking(session) => {
            Line::styled(format!("close session {session}? y: yes, any other key: no"), WARN)
        }
        InputMode::Filtering => {
            Line::raw(format!("filter: {}_  (Enter keeps it, Escape clears it)", model.filter))
        }
        InputMode::Browsing => match &model.note {
            Some(note) => Line::styled(note.clone(), WARN),
            None => {
                let filter = match model.filter.as_str() {
                    "" => "/ filter".to_owned(),
                    filter => format!("/ filter: {filter}"),
                };
                let sort = model.sort.label();
                Line::styled(
                    format!("q quit  s sort: {sort}  {filter}  \u{2191}\u{2193} choose  k close session"),
                    SOFT,
                )
            }
        },
    }
}
