//! How many tasks of a kind one runner of a pool does at a time: what the limit says, else what fits into what the
//! runner has.

use curio_core::Resources;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What a runner has, as far as its pool says; none where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub cpu: Option<u32>,
    pub ram_bytes: Option<u64>,
    /// Whole devices.
    pub gpus: u32,
}

impl Room {
    /// From a container's resources; a limit says more than a request. A share of a core counts as none.
    pub fn of(resources: Option<&ResourceRequirements>, gpus: u32) -> Room {
        let amount = |name: &str| {
            let ResourceRequirements { limits, requests, claims: _ } = resources?;
            [limits, requests].into_iter().flatten().find_map(|amounts| amounts.get(name)).and_then(parse)
        };
        Room {
            cpu: amount("cpu").map(|cores| cores as u32),
            ram_bytes: amount("memory").map(|bytes| bytes as u64),
            gpus,
        }
    }

    /// Tasks of this cost that fit, at least one: a runner is made to do what its pool says. A resource that the
    /// task needs and the pool does not speak of leaves it at one.
    fn fits(&self, cost: &Resources) -> u32 {
        let by = |have: Option<u64>, need: u64| match (have, need) {
            (_, 0) => u64::from(u32::MAX),
            (Some(have), need) => have / need,
            (None, _) => 1,
        };
        let Resources { cpu, ram_bytes, gpu_milli } = *cost;
        let fitting = by(self.cpu.map(u64::from), cpu.into())
            .min(by(self.ram_bytes, ram_bytes))
            .min(by(Some(u64::from(self.gpus) * 1000), gpu_milli.into()));
        u32::try_from(fitting).unwrap_or(u32::MAX).max(1)
    }
}

/// Tasks of a kind that one runner does at a time. `limit` is 0 where only the resources limit.
pub fn per_runner(limit: u32, cost: Option<&Resources>, room: &Room) -> u32 {
    /// Of tasks that take next to nothing, such as sending a message: some are done before a runner is there.
    const LIGHT: u32 = 64;
    match (limit, cost) {
        (0, None) => LIGHT,
        (0, Some(cost)) => room.fits(cost),
        (limit, _) => limit,
    }
}

/// A quantity as Kubernetes writes it, as a plain number: `500m` is 0.5, `1Ki` is 1024.
fn parse(quantity: &Quantity) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        // `1E` is an exa, `1E3` an exponent, which the plain parse below has taken already.
        ("E", 1e18),
    ];
    let text = quantity.0.trim();
    let plain = text.parse().ok().map(|number: f64| (number, 1.0));
    let (number, factor) = plain.or_else(|| {
        let (suffix, factor) = SUFFIXES.into_iter().find(|(suffix, _)| text.ends_with(suffix))?;
        Some((text.strip_suffix(suffix)?.parse().ok()?, factor))
    })?;
    (number.is_finite() && number >= 0.0).then_some(number * factor)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use curio_core::resources::GIB;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2", Some(2.0))]
    #[case("100m", Some(0.1))]
    #[case("64Gi", Some(64.0 * 1_073_741_824.0))]
    #[case("1.5k", Some(1500.0))]
    #[case("1e3", Some(1000.0))]
    #[case("1E", Some(1e18))]
    #[case("", None)]
    #[case("-1", None)]
    #[case("many", None)]
    fn quantities_are_read_as_kubernetes_writes_them(#[case] text: &str, #[case] expected: Option<f64>) {
        assert_eq!(parse(&Quantity(text.to_owned())), expected);
    }

    const SDR: Resources = Resources { cpu: 4, ram_bytes: 64 * GIB, gpu_milli: 0 };
    const SNARK: Resources = Resources { cpu: 1, ram_bytes: 0, gpu_milli: 1000 };

    #[rstest]
    #[case::a_limit_decides(3, Some(&SDR), Room::default(), 3)]
    #[case::nothing_known_is_one(0, Some(&SDR), Room::default(), 1)]
    #[case::the_scarcest_decides(0, Some(&SDR), Room { cpu: Some(32), ram_bytes: Some(200 * GIB), gpus: 0 }, 3)]
    #[case::too_little_is_still_one(0, Some(&SDR), Room { cpu: Some(0), ram_bytes: Some(GIB), gpus: 0 }, 1)]
    #[case::a_device_each(0, Some(&SNARK), Room { cpu: Some(8), ram_bytes: None, gpus: 2 }, 2)]
    #[case::light_work(0, None, Room::default(), 64)]
    fn capacity_is_the_limit_or_what_fits(
        #[case] limit: u32,
        #[case] cost: Option<&Resources>,
        #[case] room: Room,
        #[case] expected: u32,
    ) {
        assert_eq!(per_runner(limit, cost, &room), expected);
    }

    #[test]
    fn a_limit_says_more_than_a_request() {
        let amounts = |cpu: &str| Some(BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned()))]));
        let resources = ResourceRequirements { limits: amounts("8"), requests: amounts("500m"), claims: None };
        assert_eq!(Room::of(Some(&resources), 1), Room { cpu: Some(8), ram_bytes: None, gpus: 1 });
        assert_eq!(Room::of(None, 0), Room::default());
    }
}
