//! What the demo prints of its attacks: a line each, a table of all, and whether every attack was met.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::paint::Paint;

/// What the guard did to the process that attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Denied,
    Killed,
}

/// What happened to Node-RED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    KeptRunning,
    Killed,
    /// For another reason than the guard.
    Ended,
}

impl Fate {
    fn text(self) -> &'static str {
        match self {
            Self::KeptRunning => "kept running",
            Self::Killed => "killed, restarted",
            Self::Ended => "ended, restarted",
        }
    }
}

/// What happened to the file, key or address that was attacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// No harm: what there is to say of it.
    None(&'static str),
    /// The file was put back this long after the attack.
    Restored(Duration),
    /// The attack has succeeded: its harm.
    Harm(String),
}

impl Effect {
    fn text(&self) -> String {
        match self {
            Self::None(text) => (*text).to_owned(),
            Self::Restored(time) if time.as_millis() < 1 => "restored in < 1 ms".to_owned(),
            Self::Restored(time) if time.as_millis() < 1000 => format!("restored in {} ms", time.as_millis()),
            Self::Restored(time) => format!("restored in {:.1} s", time.as_secs_f64()),
            Self::Harm(text) => text.clone(),
        }
    }
}

/// One attack and its end.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What was tried, in at most [`TITLE`] characters.
    pub(super) title: &'static str,
    /// What the journal has; `None` when it has no record of the attack.
    pub(super) verdict: Option<Verdict>,
    pub(super) node_red: Fate,
    pub(super) effect: Effect,
    /// The number of the record in the journal.
    pub(super) sequence: Option<u64>,
}

/// Widths of columns: with their gaps they fill a line of 80 characters.
const TITLE: usize = 29;
const OUTCOME: usize = 7;
const NODE_RED: usize = 17;

impl Row {
    /// Why the attack was not met.
    fn failure(&self) -> Option<String> {
        match (&self.effect, self.verdict) {
            (Effect::Harm(harm), _) => Some(harm.clone()),
            (_, None) => Some("the journal has no record of it".to_owned()),
            _ => None,
        }
    }

    fn outcome(&self) -> &'static str {
        match (&self.effect, self.verdict) {
            _ if self.failure().is_some() => "NOT MET",
            (Effect::Restored(_), _) => "healed",
            (_, Some(Verdict::Killed)) => "killed",
            _ => "denied",
        }
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        if self.failure().is_some() { paint.red(text) } else { paint.green(text) }
    }

    /// The beginning of the attack's line, printed before it is played.
    pub(super) fn beginning(number: usize, title: &str) -> String {
        format!("{number}. {title}: ")
    }

    /// The rest of the line.
    pub(super) fn end(&self, paint: Paint) -> String {
        format!("Node-RED {}; {}", self.node_red.text(), self.paint(paint, &self.effect.text()))
    }
}

/// All attacks as a table.
pub(super) fn table(rows: &[Row], paint: Paint) -> String {
    let cells = |number: &str, title: &str, outcome: &str, node_red: &str| {
        format!("{number:<2}{title:<TITLE$}  {outcome:<OUTCOME$}  {node_red:<NODE_RED$}  ")
    };
    let mut text = paint.bold(&format!("{}target", cells("", "attack", "outcome", "Node-RED")));
    for (index, row) in rows.iter().enumerate() {
        let line = cells(&(index + 1).to_string(), row.title, row.outcome(), row.node_red.text());
        let line = line.replacen(row.outcome(), &row.paint(paint, row.outcome()), 1);
        text.push('\n');
        text.push_str(&line);
        text.push_str(&row.effect.text());
    }
    text
}

/// Fails with the attacks that were not met.
pub(super) fn decide(rows: &[Row]) -> Result<()> {
    let failures: Vec<_> = rows
        .iter()
        .enumerate()
        .filter_map(|(index, row)| Some(format!("attack {} ({}): {}", index + 1, row.title, row.failure()?)))
        .collect();
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{} of {} attacks not met: {}", failures.len(), rows.len(), failures.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::attack;

    fn row(title: &'static str, verdict: Option<Verdict>, node_red: Fate, effect: Effect) -> Row {
        Row { title, verdict, node_red, effect, sequence: Some(7) }
    }

    fn healed() -> Row {
        let effect = Effect::Restored(Duration::from_millis(23));
        row("file node writes settings.js", Some(Verdict::Killed), Fate::Killed, effect)
    }

    fn denied() -> Row {
        let effect = Effect::None(attack::NO_PACKET);
        row("UDP to a forbidden address", Some(Verdict::Denied), Fate::KeptRunning, effect)
    }

    fn killed() -> Row {
        row("file-in node reads a key", Some(Verdict::Killed), Fate::Killed, Effect::None(attack::NOT_READ))
    }

    #[test]
    fn a_line_says_what_was_tried_and_what_happened_to_node_red_and_to_the_target() {
        let line = |row: &Row| Row::beginning(1, row.title) + &row.end(Paint::PLAIN);
        assert_eq!(line(&healed()), "1. file node writes settings.js: Node-RED killed, restarted; restored in 23 ms");
        assert_eq!(line(&denied()), "1. UDP to a forbidden address: Node-RED kept running; no packet arrived");
    }

    #[test]
    fn every_line_and_row_fits_into_80_columns() {
        let effects = [
            Effect::None(attack::INTACT),
            Effect::None(attack::NOT_READ),
            Effect::None(attack::NO_PACKET),
            Effect::Restored(Duration::ZERO),
            Effect::Restored(Duration::from_millis(999)),
            Effect::Restored(Duration::from_millis(59_940)),
        ];
        for title in attack::TITLES {
            for fate in [Fate::KeptRunning, Fate::Killed, Fate::Ended] {
                for effect in &effects {
                    let row = row(title, Some(Verdict::Killed), fate, effect.clone());
                    let line = Row::beginning(6, title) + &row.end(Paint::PLAIN);
                    assert!(line.len() <= 80, "{}: {line}", line.len());
                    let table = table(&[row], Paint::PLAIN);
                    assert!(table.lines().all(|line| line.len() <= 80), "{table}");
                }
            }
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_attack_with_its_outcome() {
        let text = table(&[healed(), killed(), denied()], Paint::PLAIN);
        let expected = [
            "  attack                         outcome  Node-RED           target",
            "1 file node writes settings.js   healed   killed, restarted  restored in 23 ms",
            "2 file-in node reads a key       killed   killed, restarted  key not read",
            "3 UDP to a forbidden address     denied   kept running       no packet arrived",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn colour_changes_no_letter() {
        let rows = [healed(), row("rename over settings.js", None, Fate::KeptRunning, Effect::Harm("gone".into()))];
        let coloured = table(&rows, Paint::COLOURED);
        assert!(coloured.contains("\u{1b}[32mhealed\u{1b}[0m") && coloured.contains("\u{1b}[31mNOT MET\u{1b}[0m"));
        let mut plain = coloured;
        for code in ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[31m", "\u{1b}[32m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, table(&rows, Paint::PLAIN));
    }

    #[test]
    fn only_attacks_that_were_all_met_are_a_success() {
        decide(&[healed(), killed(), denied()]).unwrap();
        let harmed =
            row("rename over settings.js", Some(Verdict::Killed), Fate::Killed, Effect::Harm("replaced".into()));
        let unseen = Row { verdict: None, ..denied() };
        assert_eq!(
            decide(&[healed(), harmed.clone(), denied()]).unwrap_err().to_string(),
            "1 of 3 attacks not met: attack 2 (rename over settings.js): replaced"
        );
        let both = decide(&[unseen.clone(), harmed.clone()]).unwrap_err().to_string();
        assert!(
            both.starts_with("2 of 2") && both.contains("attack 1 (UDP to a forbidden address): the journal has no")
        );
        for failed in [harmed, unseen] {
            assert_eq!(failed.outcome(), "NOT MET");
        }
    }
}
