//! The websocket: calls as over HTTP, and channels (`ChainNotify`), which are values sent without being
//! asked for until the request that opened them is cancelled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::table::ApiVersion;
use super::transport::Server;
use super::{Mode, Outcome, handle};
use crate::auth::Access;

/// Time between the server's pings, as a Lotus node has it.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Frames that may wait for a slow reader.
const WRITE_QUEUE: usize = 1024;

/// Serves one connection until it closes.
pub async fn serve(server: Server, access: Access, version: ApiVersion, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let (frames, mut queued) = mpsc::channel::<String>(WRITE_QUEUE);
    let node = server.node.clone();
    let mut hang_ups = node.hang_ups();
    let writer = tokio::spawn(async move {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.reset();
        loop {
            let message = tokio::select! {
                frame = queued.recv() => match frame {
                    Some(frame) => Message::text(frame),
                    None => break,
                },
                _ = ping.tick() => Message::Ping(Vec::new().into()),
            };
            node.answering().await;
            if sink.send(message).await.is_err() {
                break;
            }
        }
    });

    let mut connection =
        Connection { server, access: Arc::new(access), version, frames, channels: HashMap::new(), opened: 0 };
    let mut tasks = JoinSet::new();
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            _ = hang_ups.changed() => None,
        };
        let Some(Ok(message)) = message else { break };
        if let Message::Text(text) = message {
            connection.receive(&text, &mut tasks).await;
        }
        while tasks.try_join_next().is_some() {}
    }
    tasks.shutdown().await;
    drop(connection);
    writer.abort();
}

struct Connection {
    server: Server,
    access: Arc<Access>,
    version: ApiVersion,
    frames: mpsc::Sender<String>,
    /// Open channels by the id of the request that opened them, as JSON.
    channels: HashMap<String, CancellationToken>,
    opened: u64,
}

impl Connection {
    async fn receive(&mut self, text: &str, tasks: &mut JoinSet<()>) {
        // What cannot be read gets no answer here, unlike over HTTP.
        let Ok(request) = serde_json::from_str::<Value>(text) else { return };
        match request.get("method").and_then(Value::as_str) {
            Some("xrpc.cancel") => {
                if let Some(id) = request.pointer("/params/0")
                    && let Some(channel) = self.channels.remove(&id.to_string())
                {
                    channel.cancel();
                }
            }
            Some("Filecoin.ChainNotify") => {
                let Server { table, node } = self.server.clone();
                let outcome = handle(&table, &node, &self.access, self.version, Mode::Websocket, &request).await;
                if let Outcome::Channel { id } = outcome {
                    self.open_channel(id, tasks).await;
                }
            }
            _ => {
                let (server, access, version) = (self.server.clone(), self.access.clone(), self.version);
                let frames = self.frames.clone();
                tasks.spawn(async move {
                    let Server { table, node } = server;
                    let outcome = handle(&table, &node, &access, version, Mode::Websocket, &request).await;
                    if let Outcome::Answer { body, .. } = outcome {
                        // A connection that is gone has nobody to answer.
                        let _ = frames.send(format!("{body}\n")).await;
                    }
                });
            }
        }
    }

    /// Answers the channel's id, then sends head changes until cancelled.
    async fn open_channel(&mut self, id: Value, tasks: &mut JoinSet<()>) {
        self.opened += 1;
        let channel = self.opened;
        let cancelled = CancellationToken::new();
        self.channels.insert(id.to_string(), cancelled.clone());
        let answer = json!({ "id": id, "jsonrpc": "2.0", "result": channel });
        if self.frames.send(format!("{answer}\n")).await.is_err() {
            return;
        }
        let mut changes = self.server.node.chain().follow();
        let frames = self.frames.clone();
        tasks.spawn(async move {
            loop {
                let change = tokio::select! {
                    () = cancelled.cancelled() => break,
                    change = changes.recv() => match change {
                        Some(change) => change,
                        None => break,
                    },
                };
                let value = json!({ "jsonrpc": "2.0", "method": "xrpc.ch.val", "params": [channel, *change] });
                if frames.send(format!("{value}\n")).await.is_err() {
                    return;
                }
            }
            let close = json!({ "jsonrpc": "2.0", "method": "xrpc.ch.close", "params": [channel] });
            let _ = frames.send(format!("{close}\n")).await;
        });
    }
}
