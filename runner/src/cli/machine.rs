//! `curio machine`: the machines of the cluster.

use chrono::Utc;
use clap::Subcommand;
use curio_harmony::machines::{self, MachineRow, MachineState};

use super::output::{Output, Table, ago, bytes, number, text};
use super::{APPLICATION, CliError, Database};

#[derive(Debug, Subcommand)]
pub(super) enum MachineCommand {
    /// List the machines, with what they have and what they run.
    List,
}

pub(super) async fn execute(place: &Database, output: Output, command: MachineCommand) -> Result<(), CliError> {
    let MachineCommand::List = command;
    let db = place.open(APPLICATION).await?;
    let machines = machines::list(&db).await?;
    output.show(&machines, || table(&machines).render("no machine has registered yet; start one with `curio run`"));
    Ok(())
}

fn table(machines: &[MachineRow]) -> Table {
    let now = Utc::now();
    let mut table = Table::new([
        text("MACHINE").shrinks_to(12),
        text("STATE"),
        text("ADDRESS").shrinks_to(15),
        number("CPU"),
        number("RAM"),
        number("GPU"),
        number("RUNS"),
        text("SEEN"),
        text("UP SINCE"),
        text("LAYERS").shrinks_to(10),
    ]);
    for machine in machines {
        table.row([
            machine.name.clone(),
            state_word(machine).to_owned(),
            machine.address.clone(),
            machine.cpu.to_string(),
            bytes(u64::try_from(machine.ram_bytes).unwrap_or(0)),
            devices(machine.gpu_milli),
            machine.running.to_string(),
            ago(now, machine.last_contact),
            ago(now, machine.started_at),
            machine.layers.join(","),
        ]);
    }
    table
}

/// The state; a machine that is up and takes nothing new is cordoned.
fn state_word(machine: &MachineRow) -> &'static str {
    match (machine.state, machine.cordoned_at) {
        (MachineState::Up, Some(_)) => "cordoned",
        (state, _) => state.as_str(),
    }
}

/// Thousandths of a device as devices.
fn devices(milli: i32) -> String {
    if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{:.1}", f64::from(milli) / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::MAX_WIDTH;

    #[test]
    fn a_machine_with_long_names_fits() {
        let machine = MachineRow {
            id: 1,
            name: "sealing-pool-eu-central-0.curio-runners.filecoin.svc".to_owned(),
            incarnation: 3,
            address: "sealing-pool-eu-central-0.curio-runners.filecoin.svc.cluster.local:12300".to_owned(),
            cpu: 128,
            ram_bytes: 1 << 40,
            gpu_milli: 1500,
            kinds: vec!["SDR".to_owned()],
            layers: vec!["seal".to_owned(); 30],
            labels: Vec::new(),
            version: "0.1.0".to_owned(),
            started_at: Utc::now() - chrono::Duration::days(300),
            last_contact: Utc::now(),
            contact_age_s: 0.0,
            running: 12,
            state: MachineState::Up,
            instance: "e1a5a1f0-6a55-4f37-8a3c-0d6a3d4bde0b".to_owned(),
            process_started_at: Some(Utc::now()),
            cordoned_at: Some(Utc::now()),
        };
        assert_eq!(state_word(&machine), "cordoned");
        let text = table(&[machine]).render("none");
        assert!(text.lines().all(|line| line.chars().count() <= MAX_WIDTH), "{text}");
    }
}
