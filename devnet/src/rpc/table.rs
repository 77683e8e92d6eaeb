//! The methods by name: how many parameters they take, who may call them, what answers them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;

use super::fault::Fault;
use super::params::{ParamError, Params};
use crate::auth::Permission;
use crate::node::Node;

/// Which endpoint a call came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    V0,
    V1,
}

/// Answer of a method.
pub type Answer = Result<Value, Fault>;

type Ready = Box<dyn FnOnce(Arc<Node>, ApiVersion) -> BoxFuture<'static, Answer> + Send>;
type Handler = Box<dyn Fn(&[Value]) -> Result<Ready, ParamError> + Send + Sync>;

/// One method.
pub struct Entry {
    pub permission: Permission,
    pub arity: usize,
    pub handler: Handler,
}

/// All methods.
#[derive(Default)]
pub struct Table {
    entries: HashMap<&'static str, Entry>,
}

/// Turns a result into JSON.
pub fn answer(value: impl Serialize) -> Answer {
    serde_json::to_value(value).map_err(|error| Fault::other(format!("the answer has no JSON form: {error}")))
}

impl Table {
    /// The method with this name (without `Filecoin.`).
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// A method that anyone may call, and that answers at once.
    pub fn read<P: Params>(&mut self, name: &'static str, method: fn(&Node, P) -> Answer) -> &mut Self {
        self.sync(name, Permission::Read, method)
    }

    /// A method that answers at once. It runs on a blocking thread: it may verify proofs.
    pub fn sync<P: Params>(
        &mut self,
        name: &'static str,
        permission: Permission,
        method: fn(&Node, P) -> Answer,
    ) -> &mut Self {
        self.insert(name, permission, move |node: Arc<Node>, _, params: P| async move {
            match tokio::task::spawn_blocking(move || method(&node, params)).await {
                Ok(answer) => answer,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => Err(Fault::other("the node is stopping")),
            }
        })
    }

    /// A method that may wait.
    pub fn insert<P: Params, F>(
        &mut self,
        name: &'static str,
        permission: Permission,
        method: impl Fn(Arc<Node>, ApiVersion, P) -> F + Clone + Send + Sync + 'static,
    ) -> &mut Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let handler: Handler = Box::new(move |values| {
            let params = P::read(values)?;
            let method = method.clone();
            Ok(Box::new(move |node, version| Box::pin(method(node, version, params))))
        });
        self.entries.insert(name, Entry { permission, arity: P::COUNT, handler });
        self
    }
}
