//! One leader among the operator's replicas, by a Lease.
//!
//! A lease is taken when nobody holds it, or when it has not changed for its duration by *our* clock: clocks
//! of two machines are never compared. Every write carries the resource version that was read, so that of
//! two candidates one loses. It is given up on exit; the next one then takes over at once.
//!
//! A lease is advice only: a leader that was stopped for a while may not know yet that it lost it. What must
//! not happen twice is therefore guarded in the database and by preconditions, too.

use std::error::Error;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::apply::FIELD_MANAGER;

/// A lease that has not changed for this long is free.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops, well before anybody else may begin.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks, of the leader and of the others.
const RETRY: Duration = Duration::from_secs(2);
/// One call takes at most this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// One who would lead.
pub struct Candidate {
    leases: Api<Lease>,
    /// Of this process and no other, also after a restart in the same pod.
    identity: String,
    seen: Option<Seen>,
}

/// What was last read of the lease, and when it became so.
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    /// It is ours already.
    Renew,
    /// It was given up, or its holder is silent.
    Take,
    Wait,
}

/// The lease was lost: the controllers must stop.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("{0} leads now")]
    Taken(String),
    #[error("failed to renew the lease for {} s", RENEW_DEADLINE.as_secs())]
    Silent(#[source] Option<kube::Error>),
}

enum Round {
    Held,
    HeldBy(String),
    Failed(Option<kube::Error>),
}

impl Candidate {
    pub fn new(client: Client, namespace: &str, identity: String) -> Candidate {
        Candidate { leases: Api::namespaced(client, namespace), identity, seen: None }
    }

    /// Waits until the lease is ours. False when stopped before.
    pub async fn win(&mut self, stop: &CancellationToken) -> bool {
        let mut told = String::new();
        loop {
            match self.round().await {
                Round::Held => return true,
                Round::HeldBy(holder) if holder != told => {
                    info!("{holder} leads; this process stands by");
                    told = holder;
                }
                Round::HeldBy(_) => {}
                Round::Failed(error) => log_failure(error.as_ref()),
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Renews the lease until stopped, or until it is lost.
    ///
    /// # Errors
    /// Somebody else has it, or it could not be renewed in time.
    pub async fn hold(&mut self, stop: &CancellationToken) -> Result<(), Lost> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(RETRY) => {}
            }
            match self.round().await {
                Round::Held => renewed = Instant::now(),
                Round::HeldBy(holder) => return Err(Lost::Taken(holder)),
                Round::Failed(error) if renewed.elapsed() >= RENEW_DEADLINE => return Err(Lost::Silent(error)),
                Round::Failed(error) => log_failure(error.as_ref()),
            }
        }
    }

    /// Gives the lease up, if it is ours. When that fails it runs out by itself.
    pub async fn give_up(&mut self) {
        let Some(Seen { lease, since: _ }) = self.seen.take() else { return };
        if holder_of(&lease) != Some(self.identity.as_str()) {
            return;
        }
        let mut given = lease;
        if let Some(spec) = &mut given.spec {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match self.write(Step::Renew, given).await {
            Ok(_) => info!("gave the lease up"),
            Err(error) => log_failure(error.as_ref()),
        }
    }

    /// Looks at the lease once and does what is to be done.
    async fn round(&mut self) -> Round {
        let lease = match bounded(self.leases.get_opt(FIELD_MANAGER)).await {
            Ok(lease) => lease,
            Err(error) => return Round::Failed(error),
        };
        self.note(lease);
        let seen = self.seen.as_ref();
        let age = seen.map_or(Duration::ZERO, |seen| seen.since.elapsed());
        let lease = seen.map(|seen| &seen.lease);
        let step = decide(lease, &self.identity, age);
        if step == Step::Wait {
            return Round::HeldBy(lease.and_then(holder_of).unwrap_or_default().to_owned());
        }
        let next = self.next(step, lease);
        match self.write(step, next).await {
            Ok(written) => {
                self.note(Some(written));
                Round::Held
            }
            // Somebody was faster; the next look says who.
            Err(Some(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                Round::Failed(None)
            }
            Err(error) => Round::Failed(error),
        }
    }

    fn note(&mut self, lease: Option<Lease>) {
        let before = self.seen.take();
        self.seen = lease.map(|lease| match before {
            Some(seen) if seen.lease.resource_version() == lease.resource_version() => seen,
            _ => Seen { lease, since: Instant::now() },
        });
    }

    fn next(&self, step: Step, lease: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = lease.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let takes = step != Step::Renew;
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            acquire_time: if takes { Some(now.clone()) } else { before.acquire_time },
            renew_time: Some(now),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).expect("a small number")),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(takes)),
            ..LeaseSpec::default()
        };
        let metadata = match lease {
            Some(lease) => lease.metadata.clone(),
            None => ObjectMeta { name: Some(FIELD_MANAGER.to_owned()), ..ObjectMeta::default() },
        };
        Lease { metadata, spec: Some(spec) }
    }

    async fn write(&self, step: Step, lease: Lease) -> Result<Lease, Option<kube::Error>> {
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match step {
            Step::Create => bounded(self.leases.create(&parameters, &lease)).await,
            Step::Renew | Step::Take | Step::Wait => {
                bounded(self.leases.replace(FIELD_MANAGER, &parameters, &lease)).await
            }
        }
    }
}

/// What to do about a lease that has been as it is for `age`.
fn decide(lease: Option<&Lease>, identity: &str, age: Duration) -> Step {
    let Some(lease) = lease else { return Step::Create };
    let told = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let duration = told.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs);
    match holder_of(lease) {
        None => Step::Take,
        Some(holder) if holder == identity => Step::Renew,
        Some(_) if age >= duration => Step::Take,
        Some(_) => Step::Wait,
    }
}

fn holder_of(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// None as the error: no answer in time.
async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Option<kube::Error>> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(Some),
        Err(_) => Err(None),
    }
}

fn log_failure(error: Option<&kube::Error>) {
    match error {
        Some(error) => warn!(error = error as &dyn Error, "failed to read or write the lease"),
        None => warn!("failed to write the lease: somebody else wrote it, or the API server does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn held_by(holder: &str) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[rstest]
    #[case::there_is_none(None, 0, Step::Create)]
    #[case::nothing_was_ever_written(Some(Lease::default()), 0, Step::Take)]
    #[case::it_was_given_up(Some(held_by("")), 0, Step::Take)]
    #[case::it_is_ours(Some(held_by("me")), 60, Step::Renew)]
    #[case::its_holder_renews(Some(held_by("other")), 14, Step::Wait)]
    #[case::its_holder_is_silent(Some(held_by("other")), 15, Step::Take)]
    fn a_lease_is_taken_when_nobody_holds_it(
        #[case] lease: Option<Lease>,
        #[case] age_seconds: u64,
        #[case] expected: Step,
    ) {
        assert_eq!(decide(lease.as_ref(), "me", Duration::from_secs(age_seconds)), expected);
    }

    #[test]
    fn a_leader_stops_before_anybody_else_may_begin() {
        assert!(RENEW_DEADLINE + CALL_TIMEOUT <= DURATION);
    }
}
