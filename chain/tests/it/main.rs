//! The client against a fake node that answers what a Lotus node was recorded to answer.

mod election;
mod fake_node;
mod fixtures;
mod messages;
mod notify;
mod post_messages;
mod recorded;
mod transport;
