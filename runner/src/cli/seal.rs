//! `curio seal start`: queue new sectors, empty or with pieces.

use clap::{Args, Subcommand};
use curio_chain::types::TipSetKey;
use curio_chain::{Cid, Client, address};
use serde_json::json;

use super::args::{LayerArgs, parse_bytes};
use super::output::{Output, bytes};
use super::{APPLICATION, CliError, Database};
use crate::seal::start::{StartPiece, StartRequest, start};
use crate::settings::{self, Asker, Process};

#[derive(Debug, Subcommand)]
pub(super) enum SealCommand {
    /// Queue new sectors of a miner actor; the cluster's machines seal them.
    Start(StartArgs),
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Address of the miner actor, such as f01000.
    #[arg(long, value_name = "ADDRESS")]
    actor: String,
    /// Queue the sectors at once. There is no other way yet, and it must be said.
    #[arg(long, required = true)]
    now: bool,
    /// How many sectors.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Size that the miner's sectors must have, such as 32GiB; checked before anything is queued.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    sector_size: Option<u64>,
    /// Committed capacity: sectors without client data. The default without --piece.
    #[arg(long, conflicts_with = "piece")]
    cc: bool,
    /// Data for the first sector: a file or an http(s) URL; several are laid in this order. Runners
    /// must be able to read it under the same name.
    #[arg(long, value_name = "FILE|URL")]
    piece: Vec<String>,
    /// Piece CID that the data must have, in the order of --piece.
    #[arg(long, value_name = "CID", requires = "piece")]
    piece_cid: Vec<Cid>,
    #[command(flatten)]
    layers: LayerArgs,
}

pub(super) async fn execute(place: &Database, output: Output, command: SealCommand) -> Result<(), CliError> {
    let SealCommand::Start(args) = command;
    let request = request(&args)?;
    let db = place.open(APPLICATION).await?;
    let settings = settings::load(&db, &args.layers.names()).await?;
    let chain = settings::chain_client(&settings.config, &Process, Asker::Person)?;
    if let Some(size) = args.sector_size {
        check_size(&chain, &args.actor, size).await?;
    }
    let prover = settings::prover()?;
    let http = reqwest::Client::new();
    let sectors = start(&db, &chain, &prover, &http, request).await?;

    output.show(&json!({ "sectors": sectors }), || {
        let names: Vec<String> = sectors.iter().map(|sector| format!("{}:{}", sector.miner, sector.number)).collect();
        let many = if names.len() == 1 { "sector" } else { "sectors" };
        format!("queued {many} {}; watch with `curio sector list`", names.join(", "))
    });
    Ok(())
}

/// Refuses when the miner's sectors have another size. An actor that cannot be asked is left to `start`,
/// which says what is wrong with it.
async fn check_size(chain: &Client, actor: &str, wanted: u64) -> Result<(), CliError> {
    let Ok(address) = address::parse(actor) else { return Ok(()) };
    let Ok(info) = chain.state_miner_info(&address, &TipSetKey::HEAD).await else { return Ok(()) };
    if info.sector_size == wanted {
        return Ok(());
    }
    Err(CliError::refused(format!(
        "sectors of {actor} have {}, not {}; leave --sector-size out, or name another miner with --actor",
        bytes(info.sector_size),
        bytes(wanted)
    )))
}

fn request(args: &StartArgs) -> Result<StartRequest, CliError> {
    if args.piece_cid.len() > args.piece.len() {
        return Err(CliError::refused(format!(
            "there are {} --piece-cid for {} --piece; give one for each piece, in the same order, or none",
            args.piece_cid.len(),
            args.piece.len()
        )));
    }
    let mut cids = args.piece_cid.iter();
    let pieces = args.piece.iter().map(|data| StartPiece {
        data: data.clone(),
        piece_cid: cids.next().copied(),
        raw_size: None,
        keep: true,
    });
    Ok(StartRequest { actor: args.actor.clone(), count: args.count, pieces: pieces.collect() })
}
