//! What every controller is given.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, Resource};

use crate::databases::Databases;
use crate::events::Events;
use crate::reconcile::Backoffs;
use crate::telemetry::Metrics;

/// Where we look for objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    AllNamespaces,
    Namespace(String),
}

impl Scope {
    /// From `CURIO_WATCH_NAMESPACE`: one namespace, or nothing for all.
    pub fn parse(text: Option<&str>) -> Scope {
        match text.map(str::trim) {
            None | Some("") => Scope::AllNamespaces,
            Some(namespace) => Scope::Namespace(namespace.to_owned()),
        }
    }
}

/// A clone is the same.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub scope: Scope,
    pub databases: Databases,
    pub metrics: Metrics,
    pub events: Events,
    pub backoffs: Backoffs,
    /// The runner image of a CurioCluster that names none.
    pub runner_image: Option<String>,
}

impl Context {
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// All objects of a kind that we look after.
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug,
    {
        match &self.scope {
            Scope::AllNamespaces => Api::all(self.client.clone()),
            Scope::Namespace(namespace) => Api::namespaced(self.client.clone(), namespace),
        }
    }

    /// The objects of a kind in one namespace.
    pub fn of<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_namespace_means_all_of_them() {
        assert_eq!(Scope::parse(None), Scope::AllNamespaces);
        assert_eq!(Scope::parse(Some(" ")), Scope::AllNamespaces);
        assert_eq!(Scope::parse(Some("curio")), Scope::Namespace("curio".to_owned()));
    }
}
