//! How the screen looks. Draws what [`State`] holds, and knows nothing else.

use std::time::SystemTime;

use bytesize::ByteSize;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table, TableState};

use super::state::State;
use crate::api::status_sentence;
use crate::engine::handle::View;

const KEYS: &str = "↑↓ choose  e shell  l logs  s stop  a start  r restart  p pause  q quit";

/// Draws all of it.
pub fn draw(frame: &mut Frame, state: &State) {
    let height = frame.area().height;
    let list = u16::try_from(state.views.len()).unwrap_or(u16::MAX).saturating_add(2);
    let [head, table, tail, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(list.min(height.saturating_sub(6).max(4))),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let running = state.views.iter().filter(|view| view.pid > 0).count();
    let late = if state.is_stale { "the engine does not answer   " } else { "" };
    let count = state.views.len();
    let said = format!("{count} containers, {running} running   {late}{}", state.said);
    frame.render_widget(Line::from(said), head);
    let mut chosen = TableState::default().with_selected(Some(state.place()));
    frame.render_stateful_widget(containers(state), table, &mut chosen);
    frame.render_widget(log(state, tail.height), tail);
    frame.render_widget(Line::styled(KEYS, Style::new().fg(Color::DarkGray)), foot);
}

fn containers(state: &State) -> Table<'_> {
    let now = SystemTime::now();
    let rows = state.views.iter().map(|view| {
        let used = state.uses.get(&view.name).cloned();
        let shown =
            |text: fn(&super::state::Use) -> String| used.as_ref().map(text).unwrap_or_default();
        Row::new([
            view.name.to_string(),
            status_sentence(view, now),
            shown(|used| format!("{:5.1}%", used.cpu)),
            shown(|used| ByteSize(used.memory).to_string()),
            shown(|used| format!("{}/s", ByteSize(used.read as u64))),
            shown(|used| format!("{}/s", ByteSize(used.written as u64))),
            shown(|used| used.pids.to_string()),
            view.restarts.to_string(),
            view.health.clone().unwrap_or_default(),
        ])
        .style(style(view))
    });
    let widths = [
        Constraint::Min(12),
        Constraint::Min(24),
        Constraint::Length(7),
        Constraint::Length(10),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(5),
        Constraint::Length(8),
        Constraint::Length(9),
    ];
    let titles =
        ["NAME", "STATUS", "   CPU", "MEMORY", "READ", "WRITTEN", "PIDS", "RESTARTS", "HEALTH"];
    Table::new(rows, widths)
        .header(Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

/// Red is what needs a person, yellow what is about to change, grey what rests.
fn style(view: &View) -> Style {
    let sick = view.health.as_deref() == Some("unhealthy");
    let colour = match view.state.as_str() {
        _ if view.manifest_error.is_some() || view.error.is_some() || sick => Color::Red,
        "restarting" | "paused" | "removing" => Color::Yellow,
        "running" => Color::Reset,
        _ => Color::DarkGray,
    };
    Style::new().fg(colour)
}

fn log(state: &State, height: u16) -> Paragraph<'_> {
    let title = state.chosen().map(|view| format!(" {} ", view.name)).unwrap_or_default();
    let room = usize::from(height.saturating_sub(1));
    let skip = state.tail.len().saturating_sub(room);
    let lines: Vec<Line> = state.tail[skip..]
        .iter()
        .map(|(stderr, text)| {
            let colour = if *stderr { Color::Red } else { Color::Reset };
            Line::from(Span::styled(text.as_str(), Style::new().fg(colour)))
        })
        .collect();
    Paragraph::new(lines).block(Block::new().borders(Borders::TOP).title(title))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn view(name: &str, state: &str) -> View {
        serde_json::from_value(serde_json::json!({
            "name": name, "kept": name, "id": "ab", "state": state, "detail": null,
            "pid": if state == "running" { 7 } else { 0 },
            "manifest": {}, "source": null, "manifest-error": null, "error": null,
            "restarts": 3, "created": {"secs_since_epoch": 0, "nanos_since_epoch": 0},
            "started": null, "finished": null, "exit-code": 0, "oom-killed": false,
            "stopped-by-hand": false, "health": "healthy",
        }))
        .unwrap()
    }

    #[test]
    fn containers_and_the_log_of_the_chosen_one_are_seen_on_any_screen() {
        let mut state = State::default();
        state.views = vec![view("db", "running"), view("web", "exited")];
        state.choose(1);
        state.tail = (0..50).map(|n| (n % 2 == 0, format!("line {n}"))).collect();
        for (width, height) in [(120, 20), (40, 8), (10, 3), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &state)).unwrap();
            if width == 120 {
                let text = terminal.backend().to_string();
                for wanted in ["2 containers, 1 running", "db", "healthy", " web ", "line 49"] {
                    assert!(text.contains(wanted), "{wanted}: {text}");
                }
            }
        }
    }
}
