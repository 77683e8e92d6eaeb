//! Messages to the chain: an outbox that is written with the row which asks ([`outbox`]), the task that
//! signs and pushes ([`send`]), the watcher that learns what became of them ([`watch`]), and which key
//! pays ([`payer`]).

pub mod outbox;
pub mod payer;
pub mod send;
pub mod watch;
