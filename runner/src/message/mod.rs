//! Messages to the chain: an outbox that is written with the row which asks ([`outbox`]), the tasks that
//! sign and push ([`send`]), the watcher that learns what became of them ([`watch`]) and raises the price of those that do not
//! land ([`replace`]), what they are for ([`purpose`]), and which key pays ([`payer`]).

pub mod outbox;
pub mod payer;
pub mod purpose;
mod replace;
pub mod send;
pub mod watch;
