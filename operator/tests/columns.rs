//! `kubectl get` of each kind fits a terminal of 80 columns.

use curio_operator::generate::definitions;

/// What kubectl puts between columns.
const GAP: usize = 3;
const TERMINAL: usize = 80;

/// The widest values of a provider of some size: a six-digit miner, thousands of sectors, pools named after the profiles, and
/// kubectl's longest age.
const WIDEST: [(&str, &[&str]); 3] = [
    ("CurioCluster", &["production", "False", "999", "99999", "99999", "9999", "7m59s"]),
    ("RunnerPool", &["sealing-large", "production", "999", "999", "999", "999", "7m59s"]),
    ("SealingSector", &["f01234-12345", "f01234", "12345", "PreCommit", "9999", "sealing-0", "9", "7m59s"]),
];

#[test]
fn the_columns_of_every_kind_fit_the_terminal() {
    for (definition, (kind, values)) in definitions().iter().zip(WIDEST) {
        assert_eq!(definition.spec.names.kind, kind);
        let columns = definition.spec.versions[0].additional_printer_columns.iter().flatten();
        let narrow =
            columns.filter(|column| column.priority.unwrap_or_default() == 0).map(|column| column.name.as_str());
        let titles: Vec<&str> = std::iter::once("Name").chain(narrow).collect();
        assert_eq!(titles.len(), values.len(), "{kind} has columns {titles:?}");
        let widths: Vec<usize> = titles.iter().zip(values).map(|(title, value)| title.len().max(value.len())).collect();
        let line = widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
        assert!(line <= TERMINAL, "{kind} needs {line} columns: {titles:?} with {widths:?}");
    }
}
