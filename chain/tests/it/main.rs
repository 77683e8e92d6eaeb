//! The client against a fake node that answers what a Lotus node was recorded to answer.

mod fake_node;
mod fixtures;
mod messages;
mod notify;
mod recorded;
mod transport;
