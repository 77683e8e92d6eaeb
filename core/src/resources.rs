//! What a machine has and what a task costs.

use serde::{Deserialize, Serialize};

/// Processor cores, memory and graphics devices. Declarations: nothing here enforces them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Whole cores.
    pub cpu: u32,
    /// Bytes of memory.
    pub ram_bytes: u64,
    /// Thousandths of a graphics device; 1000 is one whole device.
    pub gpu_milli: u32,
}

/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;

/// The resource of which there was too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shortage {
    Cpu,
    Ram,
    Gpu,
}

impl Resources {
    /// How many tasks of `cost` fit, up to `limit`; when none fits, the first resource that is short.
    pub fn fits(&self, cost: &Resources, limit: u32) -> Result<u32, Shortage> {
        let by = |have: u64, need: u64| have.checked_div(need).unwrap_or(limit.into());
        let cpu = by(self.cpu.into(), cost.cpu.into());
        let ram = by(self.ram_bytes, cost.ram_bytes);
        let gpu = by(self.gpu_milli.into(), cost.gpu_milli.into());
        if cpu == 0 && cost.cpu > 0 {
            return Err(Shortage::Cpu);
        }
        if ram == 0 && cost.ram_bytes > 0 {
            return Err(Shortage::Ram);
        }
        if gpu == 0 && cost.gpu_milli > 0 {
            return Err(Shortage::Gpu);
        }
        Ok(u32::try_from(cpu.min(ram).min(gpu).min(limit.into())).unwrap_or(limit))
    }

    /// Takes `cost` away `count` times, down to nothing.
    pub fn minus(&self, cost: &Resources, count: u32) -> Resources {
        Resources {
            cpu: self.cpu.saturating_sub(cost.cpu.saturating_mul(count)),
            ram_bytes: self.ram_bytes.saturating_sub(cost.ram_bytes.saturating_mul(count.into())),
            gpu_milli: self.gpu_milli.saturating_sub(cost.gpu_milli.saturating_mul(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDR: Resources = Resources { cpu: 4, ram_bytes: 64 * GIB, gpu_milli: 0 };

    #[test]
    fn a_task_is_refused_when_ram_is_one_byte_short() {
        let free = Resources { cpu: 32, ram_bytes: 64 * GIB - 1, gpu_milli: 0 };
        assert_eq!(free.fits(&SDR, 8), Err(Shortage::Ram));
    }

    #[test]
    fn the_scarcest_resource_decides_how_many_fit() {
        let free = Resources { cpu: 9, ram_bytes: 1024 * GIB, gpu_milli: 0 };
        assert_eq!(free.fits(&SDR, 8), Ok(2));
        assert_eq!(free.fits(&SDR, 1), Ok(1));
        assert_eq!(free.minus(&SDR, 2), Resources { cpu: 1, ram_bytes: 896 * GIB, gpu_milli: 0 });
    }
}
